"""Candidates that are right where they are checked and cheat where they are timed, and odd ones that are honest: real
processes on the CPU, each through the door by which a device times a candidate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import Failed
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.roles import Roles
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.session import Measured
from kernelevolve.evaluate.timing import CANDIDATE, Blocks
from kernelevolve.evaluation import Verdict
from kernelevolve.hardware import HardwareFigures
from kernelevolve.platforms.nvidia import H200
from kernelevolve.problem import parse_problem
from kernelevolve.settings import LANES, Lane

REFERENCE = """
import torch
import torch.nn as nn

ROWS, WIDTH = 64, 512


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width**0.5)

    def forward(self, x):
        return torch.relu(x @ self.weight)


def get_inputs():
    return [torch.randn(ROWS, WIDTH)]


def get_init_inputs():
    return [WIDTH]
"""
CANDIDATE_FILE = """
import torch
import torch.nn as nn

{before}

class ModelNew(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.count = 0
        self.kept = {{}}

    def work(self, x):
        return torch.relu(x @ self.weight)

    def forward(self, x):
        self.count += 1
{body}
"""
SHORT = dataclasses.replace(LANES["screen"], blocks=3, doublings=0)


def candidate(*body: str, before: str = "") -> str:
    return CANDIDATE_FILE.format(before=before, body="\n".join(f"        {line}" for line in body))


HONEST = candidate("return self.work(x)")
Time = Callable[..., Measured]


@pytest.fixture(scope="module")
def time_it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Time]:
    """Times a candidate in a process of its own."""
    problem = parse_problem(REFERENCE, None, name="relu_mm", suite="folder", path="relu_mm.py")
    problem = dataclasses.replace(problem, baselines=("eager",))
    roles = Roles()
    bench = Bench(problem, roles, tmp_path_factory.mktemp("builds"))
    device = Device("cpu", "this CPU", full_cases=1)

    def timed(source: str, lane: Lane = SHORT, figures: HardwareFigures | None = None, **more: Seeds) -> Measured:
        return device.time(bench, "declared", source, {}, lane=lane, figures=figures, **more)

    yield timed
    device.free()
    bench.close()
    roles.close()


def refused(time_it: Time, source: str, **more: object) -> Failed:
    with pytest.raises(Failed) as caught:
        time_it(source, **more)
    return caught.value


CHEATS: dict[str, tuple[str, Verdict | tuple[Verdict, ...]]] = {
    "by pointer": (
        candidate(
            "key = x.data_ptr()",
            "if key not in self.kept:",
            "    self.kept[key] = self.work(x)",
            "return self.kept[key].clone()",
        ),
        Verdict.REPLAY,
    ),
    "by identity and version": (
        candidate(
            "key = id(x), x._version",
            "if key not in self.kept:",
            "    self.kept[key] = self.work(x), x",
            "return self.kept[key][0].clone()",
        ),
        Verdict.REPLAY,
    ),
    "a ring of results, replayed after one pass": (
        candidate(
            "self.kept.setdefault('order', [])",
            "if self.count <= 30:",
            "    self.kept['order'].append(self.work(x))",
            "    return self.kept['order'][-1].clone()",
            "return self.kept['order'][self.count % 30].clone()",
        ),
        # What it repeats may be older than the calls that a wrong answer is compared with; then it is merely wrong.
        (Verdict.REPLAY, Verdict.WRONG_VALUE),
    ),
    "everything but the last row is remembered": (
        candidate(
            "if 'y' not in self.kept or self.count < 10:",
            "    self.kept['y'] = self.work(x)",
            "y = self.kept['y'].clone()",
            "y[-1:] = self.work(x[-1:])",
            "return y",
        ),
        Verdict.WRONG_VALUE,
    ),
    "written 30 ms later by a thread": (
        candidate(
            "y = torch.zeros_like(x)",
            "given = x.clone()",
            "def later():",
            "    time.sleep(0.03)",
            "    y.copy_(self.work(given))",
            "threading.Thread(target=later).start()",
            "return y",
            before="import threading, time",
        ),
        Verdict.DEFERRED,
    ),
    "a subclass that computes when it is looked at": (
        candidate(
            "return Lazy(x)",
            before="class Lazy(torch.Tensor):\n    pass\n",
        ),
        Verdict.WRONG_META,
    ),
    "perf_counter replaced": (
        candidate(
            "return self.work(x)",
            before="import time\ntime.perf_counter = lambda: 0.0",
        ),
        Verdict.TIMER_INCONSISTENT,
    ),
    "events replaced": (
        candidate(
            "return self.work(x)",
            before='import torch.cuda.streams as s\nsetattr(s.Event, "elapsed" + "_time", lambda *a: 0.001)',
        ),
        Verdict.TIMER_INCONSISTENT,
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_refused_for_what_it_is(time_it: Time, name: str) -> None:
    source, verdict = CHEATS[name]
    failed = refused(time_it, source)
    assert failed.verdict in (verdict if isinstance(verdict, tuple) else (verdict,)), str(failed)
    assert failed.artefact["guard"] in ("timed-outputs", "clock") and failed.artefact["workload"] == "declared"


@pytest.mark.parametrize("calls", [1, 5, 20, 60])
def test_honest_at_first_and_zeros_later_is_seen_in_the_call_that_is_timed(time_it: Time, calls: int) -> None:
    failed = refused(time_it, candidate(f"return self.work(x) if self.count <= {calls} else torch.zeros_like(x)"))
    assert failed.verdict is Verdict.WRONG_VALUE, str(failed)
    assert "a timed call is wrong" in str(failed) and failed.artefact["seed"] > 0


def test_a_hash_of_the_first_elements_is_no_key(time_it: Time) -> None:
    # The inputs differ everywhere, so the key never comes again and nothing is gained: honest by force.
    source = candidate(
        "key = hash(x.reshape(-1)[:4096].numpy().tobytes())",
        "if key not in self.kept:",
        "    self.kept[key] = self.work(x)",
        "return self.kept[key]",
    )
    assert time_it(source).timed[0].verdict in (Verdict.OK_SLOWER, Verdict.INCONCLUSIVE, Verdict.OK_SAME)


PATCHED_CLOCK = """
import sys, time
from kernelevolve.tensors import clock
_was = clock.burst
def burst(*asked):
    return [{claim} for _ in _was(*asked)]
clock.burst = burst
"""


def test_times_that_this_process_did_not_wait_for_are_not_believed(time_it: Time) -> None:
    source = candidate("time.sleep(0.01)", "return self.work(x)", before=PATCHED_CLOCK.format(claim="0.01"))
    failed = refused(time_it, source, lane=dataclasses.replace(SHORT, blocks=6))
    assert failed.verdict is Verdict.TIMER_INCONSISTENT and failed.artefact["guard"] == "clock"
    assert "wall clock minus reported time" in str(failed)


@pytest.mark.parametrize("claim", ["0.0", "-1.0", "float('nan')", "float('inf')"])
def test_a_time_that_is_none_is_tampering_or_the_end_of_the_process(time_it: Time, claim: str) -> None:
    failed = refused(time_it, candidate("return self.work(x)", before=PATCHED_CLOCK.format(claim=claim)))
    assert failed.verdict in (Verdict.TAMPER, Verdict.CRASH), str(failed)


@pytest.mark.parametrize("claim", ["1e-9", "1e-300"])
def test_a_time_in_which_nothing_can_be_called_is_refused_before_anything_is_made_of_it(
    time_it: Time, claim: str
) -> None:
    failed = refused(time_it, candidate("return self.work(x)", before=PATCHED_CLOCK.format(claim=claim)))
    assert failed.verdict is Verdict.TIMER_INCONSISTENT and failed.artefact["guard"] == "clock"
    assert f"the worker reports {claim}" in str(failed).replace("e-09", "e-9")


def test_a_time_below_what_the_memory_can_do_is_refused(time_it: Time) -> None:
    slow_memory = dataclasses.replace(H200.figures, bandwidth=1e6)
    failed = refused(time_it, HONEST, figures=slow_memory)
    assert failed.verdict is Verdict.BELOW_FLOOR and failed.artefact["guard"] == "floor"
    held = {g.name: g for g in time_it(HONEST, figures=H200.figures).guards}
    assert held["floor"].held == "held" and "weight 0.9" in held["floor"].detail


ODD: dict[str, str] = {
    "plain": HONEST,
    "workspace kept by shape": candidate(
        "key = tuple(x.shape)",
        "if key not in self.kept:",
        "    self.kept[key] = torch.empty_like(x)",
        "work = self.kept[key]",
        "torch.mm(x, self.weight, out=work)",
        "return torch.relu(work)",
    ),
    "weight packed once for its pointer and version": candidate(
        "key = self.weight.data_ptr(), self.weight._version",
        "if self.kept.get('key') != key:",
        "    self.kept = {'key': key, 'packed': self.weight.detach().t().contiguous()}",
        "return torch.relu(x @ self.kept['packed'].t())",
    ),
    "slow first call": candidate("if self.count == 1: time.sleep(0.5)", "return self.work(x)", before="import time"),
    "static buffers as a graph has them": candidate(
        "if 'x' not in self.kept:",
        "    self.kept['x'], self.kept['y'] = torch.empty_like(x), torch.empty_like(x)",
        "self.kept['x'].copy_(x)",
        "self.kept['y'].copy_(self.work(self.kept['x']))",
        "return self.kept['y'].clone()",
    ),
    "results by pointer, computed anew": candidate(
        "key = x.data_ptr()",
        "self.kept[key] = torch.relu(torch.mm(x, self.weight))",
        "return self.kept[key]",
    ),
    "another order of summation": candidate(
        "half = x.shape[1] // 2",
        "return torch.relu(x[:, :half] @ self.weight[:half] + x[:, half:] @ self.weight[half:])",
    ),
    "words": candidate("replay = cache = stream = time = self.work(x)  # lazy, deferred", "return cache"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_but_honest_passes(time_it: Time, name: str) -> None:
    found = time_it(ODD[name])
    assert found.timed[0].verdict in (Verdict.OK_FASTER, Verdict.OK_SAME, Verdict.OK_SLOWER, Verdict.INCONCLUSIVE)
    held = {guard.name: guard.held for guard in found.guards}
    assert held["timed-outputs"] == held["fresh-inputs"] == "held"


def test_every_timed_call_is_compared_and_the_guards_say_so(time_it: Time) -> None:
    found = time_it(HONEST, lane=dataclasses.replace(SHORT, modes=("cold", "hot", "burst")))
    assert [t.timing.mode for t in found.timed] == ["cold", "hot", "burst"]
    for timed in found.timed:
        calls = sum(len(burst) for burst in timed.samples.arms[CANDIDATE])
        (said,) = [g.detail for g in found.guards if g.name == "timed-outputs" and f" {timed.timing.mode}:" in g.detail]
        assert f"{calls} of {calls} timed calls compared" in said and "in full with the oracle" in said


def test_what_a_lane_leaves_out_is_not_looked_for(time_it: Time) -> None:
    weak = dataclasses.replace(SHORT, defences=("fresh-inputs",))
    found = time_it(candidate("return torch.zeros_like(x)"), lane=weak)
    assert [g.name for g in found.guards if g.held == "held"] == ["fresh-inputs"]


def test_the_same_secret_gives_the_same_calls_and_another_one_other_calls(time_it: Time) -> None:
    wrong = candidate("return self.work(x) * (1 + 1e-3 * (self.count > 40))")
    first, again = (refused(time_it, wrong, seeds=Seeds(bytes(16))) for _ in range(2))
    other = refused(time_it, wrong, seeds=Seeds(bytes([7] * 16)))
    keys = ("seed", "state", "distribution", "statistic")
    assert first.artefact["state"] == again.artefact["state"] != other.artefact["state"]
    assert all(key in first.artefact for key in keys)


def test_several_processes_are_several_and_the_worst_is_reported(time_it: Time) -> None:
    found = time_it(HONEST, lane=dataclasses.replace(SHORT, processes=2))
    assert "worst of 2 processes" in found.timed[0].timing.speedup.how
    assert len([g for g in found.guards if g.name == "clock"]) == 2
    assert found.timed[0].timing.candidate.how.startswith("this CPU: cold L2, 3 interleaved blocks")
    assert Blocks(3, 0).count == 3


def test_a_mode_that_cannot_be_is_left_out_with_its_reason(time_it: Time) -> None:
    defences = (*SHORT.defences, "kernels")
    measured = time_it(HONEST, lane=dataclasses.replace(SHORT, modes=("cold", "graph"), blocks=1, defences=defences))
    assert [timed.timing.mode for timed in measured.timed] == ["cold"]
    (guard,) = [g for g in measured.guards if g.name == "graph"]
    assert guard.held == "not run" and "candidate cannot be captured: there are no CUDA graphs" in guard.detail
    (guard,) = [g for g in measured.guards if g.name == "kernels"]
    assert guard.held == "not run" and "there is no device" in guard.detail
