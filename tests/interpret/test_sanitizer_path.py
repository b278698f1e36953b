"""The whole way of the guard `sanitizer` on the CPU: a sealed child, a stand-in for the tool that starts a real second
process with the candidate in it, its report, the guard."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelevolve.evaluate import sanitizer
from kernelevolve.evaluate.asking import Failed, Trial
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.roles import Roles
from kernelevolve.evaluation import Verdict
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Case

REFERENCE = """
import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x)


def get_inputs():
    return [torch.randn(16, 16)]


def get_init_inputs():
    return []
"""
CANDIDATE = """
import torch


class ModelNew(torch.nn.Module):
    def forward(self, x):
        {body}
"""
# Writes what it was asked beside its report, runs the rest of its command line, and reports what it is told to.
STAND_IN = """#!{python}
import os, pathlib, subprocess, sys
arguments = sys.argv[1:]
log = pathlib.Path(arguments[arguments.index("--log-file") + 1])
tool = arguments[arguments.index("--tool") + 1]
command = arguments[arguments.index({python!r}):]
{before}
status = subprocess.call(command) if {runs} else 0
print("the stand-in ran", command, status)
log.write_text({report!r}.replace("TOOL", tool).replace("STATUS", str(status)))
"""
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
BAD = (
    "========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 4 bytes\n"
    "=========     at some_kernel+0x10 in candidate.py:9\n========= ERROR SUMMARY: 2 errors\n"
)
HONEST = CANDIDATE.format(body="return torch.relu(x)")
Look = Callable[..., list[tuple[str, str, str]]]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    roles = Roles(seal=False)  # the stand-in lies where a sealed child sees nothing
    made = Bench(
        parse_problem(REFERENCE, None, name="r", suite="folder", path="r.py"), roles, tmp_path_factory.mktemp("b")
    )
    yield made
    made.close()
    roles.close()


@pytest.fixture
def look(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """What the guard reports with one tool, and one that reports `report`."""
    monkeypatch.setattr(sanitizer, "TOOLS", ("memcheck",))

    def looked(report: str, source: str = HONEST, before: str = "", runs: bool = False) -> list[tuple[str, str, str]]:
        binary = tmp_path / "compute-sanitizer"
        binary.write_text(STAND_IN.format(python=sys.executable, report=report, before=before, runs=runs))
        binary.chmod(0o755)
        said: list[tuple[str, str, str]] = []
        trial = Trial(source, {}, bench.full("declared"), "cpu", {})
        sanitizer.sanitize(
            bench, trial, [Case(5)], lambda name, held, detail="": said.append((name, held, detail)), binary=str(binary)
        )
        return said

    return looked


def test_a_clean_report_of_a_real_second_process_holds(look: Look) -> None:
    ((name, held, detail),) = look(CLEAN, runs=True)
    assert (name, held) == ("sanitizer", "held"), detail
    assert "memcheck found nothing in its kernels" in detail


def test_the_candidate_was_called_in_there(look: Look) -> None:
    ((_, held, detail),) = look("", CANDIDATE.format(body="raise KeyError('called under the tool')"), runs=True)
    assert held == "not run" and "called under the tool" in detail


def test_a_finding_is_a_memory_fault_with_its_text(look: Look) -> None:
    with pytest.raises(Failed) as caught:
        look(BAD)
    assert caught.value.verdict is Verdict.MEM_RACE
    assert "2 errors" in str(caught.value) and "some_kernel+0x10" in str(caught.value)
    assert caught.value.artefact["guard"] == "sanitizer" and caught.value.artefact["statistic"] == "memcheck"


def test_a_finding_counts_though_the_call_failed_of_it(look: Look) -> None:
    fails = "pathlib.Path(arguments[-1] + '.failed').write_text('unspecified launch failure')"
    with pytest.raises(Failed) as caught:
        look(BAD, before=fails)
    assert caught.value.verdict is Verdict.MEM_RACE
    ((_, held, detail),) = look(CLEAN, before=fails)
    assert held == "not run" and "unspecified launch failure" in detail


def test_a_finding_elsewhere_is_said_and_accuses_nobody(look: Look) -> None:
    source = f"{HONEST}\n\ndef jit(f):\n    return f\n\n\n@jit\ndef own_kernel():\n    pass\n"
    ((_, held, detail),) = look(BAD, source)
    assert held == "held" and "2 elsewhere" in detail and "some_kernel" in detail


@pytest.mark.parametrize(
    ("before", "why"),
    [
        ("sys.exit('Unable to find injection library')", "Unable to find injection library"),
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("import time; time.sleep(60)", "longer than 1 s"),
    ],
)
def test_a_tool_that_does_not_work_is_not_run_with_its_reason(
    look: Look, monkeypatch: pytest.MonkeyPatch, before: str, why: str
) -> None:
    if "sleep" in before:
        monkeypatch.setattr(sanitizer, "SECONDS", 1.0)
    ((_, held, detail),) = look(CLEAN, before=before)
    assert held == "not run" and why in detail


def test_where_it_is_not_installed_that_is_said(bench: Bench) -> None:
    said: list[tuple[str, str, str]] = []
    trial = Trial(HONEST, {}, bench.full("declared"), "cpu", {})
    sanitizer.sanitize(bench, trial, [], lambda *told: said.append(told), binary="")
    assert said == [("sanitizer", "not run", "compute-sanitizer is not installed")]


def test_in_the_seal_a_tool_of_the_system_is_found_and_started(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanitizer, "TOOLS", ("memcheck",))
    roles = Roles()
    problem = parse_problem(REFERENCE, None, name="r", suite="folder", path="r.py")
    bench = Bench(problem, roles, tmp_path_factory.mktemp("b"))
    said: list[tuple[str, str, str]] = []
    try:
        trial = Trial(HONEST, {}, bench.full("declared"), "cpu", {})
        report = lambda name, held, detail="": said.append((name, held, detail))  # noqa: E731
        sanitizer.sanitize(bench, trial, [Case(5)], report, binary="/usr/bin/env")
        sanitizer.sanitize(bench, trial, [Case(5)], report, binary="/nowhere/compute-sanitizer")
    finally:
        bench.close()
        roles.close()
    assert "unrecognized option '--tool'" in said[0][2] and said[0][1] == "not run"
    assert "cannot be started here" in said[1][2] and said[1][1] == "not run"
