"""A device after a crash: asked, asked again, quarantined; with a fake device."""

from __future__ import annotations

import pytest

from kernelevolve.errors import SeatLost
from kernelevolve.evaluate.asking import Failed
from kernelevolve.evaluate.health import Health, suspect
from kernelevolve.evaluation import Verdict


class Asked:
    """A device that answers what it is told to, in order."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.names = list(answers), []

    def __call__(self, device: str) -> str:
        self.names.append(device)
        return self.answers.pop(0)


def fails(health: Health, verdict: Verdict) -> None:
    with health.watched():
        raise Failed(verdict, "worker child ended by SIGABRT (illegal memory access)")


@pytest.mark.parametrize("answers", [("",), ("illegal address", "")], ids=["well", "well again"])
def test_a_device_that_computes_leaves_the_fault_with_the_candidate(answers: tuple[str, ...]) -> None:
    asked = Asked(*answers)
    with pytest.raises(Failed, match="illegal memory"):
        fails(Health("cuda:1", asked, wait=0), Verdict.CRASH)
    assert asked.names == ["cuda:1"] * len(answers)


@pytest.mark.parametrize("verdict", [Verdict.CRASH, Verdict.TIMEOUT, Verdict.OOM])
def test_a_device_that_fails_twice_is_quarantined_and_nothing_is_scored(verdict: Verdict) -> None:
    health = Health("cuda:0", Asked("illegal address", "no answer within 10 s"), wait=0)
    with pytest.raises(SeatLost, match=r"cuda:0 is quarantined.*illegal memory.*no answer within 10 s"):
        fails(health, verdict)
    ran = []
    with pytest.raises(SeatLost, match="quarantined"), health.watched():
        ran.append(1)
    assert not ran


@pytest.mark.parametrize("verdict", [Verdict.WRONG_VALUE, Verdict.POLICY, Verdict.COMPILE_ERROR])
def test_a_wrong_result_is_no_reason_to_ask(verdict: Verdict) -> None:
    asked = Asked()
    with pytest.raises(Failed):
        fails(Health("cuda:0", asked, wait=0), verdict)
    with Health("cuda:0", asked).watched():
        pass
    assert not asked.names


@pytest.mark.parametrize("verdict", [Verdict.CRASH, Verdict.TIMEOUT, Verdict.OOM, Verdict.MEM_RACE])
def test_a_crash_is_looked_into_whatever_it_is_called_in_the_end(verdict: Verdict) -> None:
    inner = Failed(verdict, "it crashed")
    outer = Failed(Verdict.GENERALIZATION, "at a size that is not declared")
    assert suspect(inner) and not suspect(outer) and not suspect(Failed(Verdict.WRONG_VALUE, "wrong"))
    outer.__cause__ = inner
    assert suspect(outer)
