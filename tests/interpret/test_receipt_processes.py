"""evaluate, receipt, verify and replay, with real processes and no device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernelevolve import codec, plugins
from kernelevolve.candidate import Candidate
from kernelevolve.engineer import Engineer
from kernelevolve.equipment import Workshop
from kernelevolve.evaluate.asking import Bounds
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluate.replay import replay
from kernelevolve.evaluation import Evaluation, Rung, Verdict
from kernelevolve.problem import parse_problem
from kernelevolve.receipt import Failure, Receipt, read_receipt, write_receipt
from kernelevolve.search.fitness import fitness
from kernelevolve.settings import settings_for

REFERENCE = """
import torch
import torch.nn as nn

ROWS = 512


class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x) * 2.0


def get_inputs():
    return [torch.randn(ROWS, 96)]


def get_init_inputs():
    return []
"""
KERNEL = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(y_ptr + i, tl.maximum(x, 0.0) * 2.0, mask=i < n)


class ModelNew(nn.Module):
    def forward(self, x):
        y = torch.empty_like(x)
        n = x.numel()
        double[(triton.cdiv(n, 1024),)](x, y, n, BLOCK=1024)
        return y
"""
WRONG = KERNEL.replace("* 2.0", "* 2.001")
HUNG = KERNEL.replace("n = x.numel()\n", "n = x.numel()\n        while not x.is_meta:\n            pass\n")


def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, result object and stderr of one command."""
    command = [sys.executable, "-m", "kernelevolve", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("receipts")
    for name, text in {"reference": REFERENCE, "good": KERNEL, "wrong": WRONG}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def evaluated(place: Path, name: str, *more: object) -> tuple[int, dict[str, Any], str]:
    code, data, said = run(
        "evaluate", place / f"{name}.py", "--problem", place / "reference.py", "--effort", "quick", "--device", "none",
        "--out", place / f"run-{name}", "--receipt", place / f"{name}.json", *more,
    )  # fmt: skip
    return code, data, said


@pytest.fixture(scope="module")
def good(place: Path) -> Path:
    code, data, said = evaluated(place, "good")
    assert (code, data["verdict"], data["correct"]) == (0, "OK_UNTIMED", True), said
    assert data["failure"] is None and data["replay"] is None
    assert data["receipt"]["id"] == read_receipt((place / "good.json").read_text())[1]
    return place / "good.json"


def test_a_receipt_holds_what_a_stranger_needs(good: Path, place: Path) -> None:
    made, _ = read_receipt(good.read_text())
    assert made.candidate == KERNEL
    wanted = parse_problem(REFERENCE, None, name="reference", suite="folder", path=str(place / "reference.py"))
    assert made.problem == wanted
    assert {"python", "torch", "triton"} <= set(made.evaluation.versions)
    assert len(made.circumstances.harness) == 64 and len(made.circumstances.secret) == 32
    assert made.circumstances.device == "" and made.timed_in == "" and made.samples == ()
    assert all(check.seed >= 0 for c in made.evaluation.correctness for check in c.checks)
    assert made.evaluation.guards and made.evaluation.isolation
    assert made.admission["admitted"] and made.admission["limits"]
    assert str(place) not in codec.dumps(made.evaluation)


def test_a_receipt_is_confirmed_where_nothing_has_changed(good: Path) -> None:
    code, data, said = run("verify", good)
    assert (code, data["status"], data["verdict"]) == (0, "confirmed", "OK_UNTIMED"), (data["how"], said)
    assert any("machine code of 1 kernel" in line for line in data["how"])
    assert any("modelled" in line for line in data["how"])


def forged(made: Receipt) -> Receipt:
    """Another kernel under half the first one's modelled time, with everything that follows from it."""
    (timing,) = made.evaluation.timings
    quick = replace(timing.candidate, value=timing.candidate.value / 2)
    speedup = replace(timing.speedup, value=timing.speedup.value * 2)
    found = replace(made.evaluation, timings=(replace(timing, candidate=quick, speedup=speedup),))
    slow = KERNEL.replace("BLOCK=1024", "BLOCK=512").replace("n, 1024", "n, 512")
    return replace(made, candidate=slow, evaluation=found, fitness=fitness(made.problem, found))


def test_a_forged_receipt_comes_out_different(good: Path, tmp_path: Path) -> None:
    made = forged(read_receipt(good.read_text())[0])
    (tmp_path / "forged.json").write_text(write_receipt(made))
    code, data, said = run("verify", tmp_path / "forged.json")
    assert (code, data["status"]) == (8, "different"), said
    assert any("speedup" in line for line in data["how"]), data["how"]
    assert any("machine code" in line for line in data["how"]), data["how"]
    assert "error: " in said and "Traceback" not in said


def test_an_edited_file_is_refused(good: Path, tmp_path: Path) -> None:
    data = json.loads(good.read_text())
    data["receipt"]["fitness"]["value"] = 123.0
    (tmp_path / "edited.json").write_text(json.dumps(data))
    code, data, _ = run("verify", tmp_path / "edited.json")
    assert (code, data["status"]) == (8, "different")
    assert "the file was edited" in data["how"][0]
    (tmp_path / "none.json").write_text("{}")
    code, data, _ = run("verify", tmp_path / "none.json")
    assert (code, data["kind"]) == (9, "CannotCompare")


def test_a_wrong_value_is_replayed_on_the_same_inputs(place: Path) -> None:
    code, data, said = evaluated(place, "wrong", "--rung", "interpret")
    assert (code, data["verdict"], data["correct"]) == (5, "WRONG_VALUE", False), said
    failure = data["failure"]
    assert (failure["rung"], failure["workload"], failure["size"]) == ("interpret", "declared", "scaled")
    assert failure["seed"] > 0 and failure["distribution"] and failure["statistic"]
    assert failure["value"] > failure["limit"] > 0
    assert f"kernelevolve replay {place / 'run-wrong'}:n0" in said
    code, again, said = run("replay", f"{place / 'run-wrong'}:n0")
    assert (code, again["status"], again["verdict"]) == (0, "reproduced", "WRONG_VALUE"), said
    # The same statistic to the last digit: it is the same comparison.
    assert f"{failure['statistic']} {failure['value']:.3g} exceeds" in again["how"][0]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ladder]:
    problem = parse_problem(REFERENCE, None, name="reference", suite="folder", path="reference.py")
    workshop = Workshop(problem, device="none")
    bench, platform = workshop.bench(tmp_path_factory.mktemp("builds")), plugins.load("platforms", "h100")
    costs = Engineer(problem, platform, workshop.program)
    bounds = Bounds(call_seconds=3.0)
    made = Ladder(bench, platform, settings_for("quick"), costs, seed=0, bounds=bounds)
    yield made
    made.builder.close()
    workshop.close()


def climbed(ladder: Ladder, source: str) -> tuple[Evaluation, Failure | None]:
    """The evaluation, and the failure that it keeps."""
    kept: dict[str, bytes] = {}

    def keep(data: bytes) -> str:
        reference = f"sha256:{len(kept):064x}"
        kept[reference] = data
        return reference

    found = ladder.climb(Candidate("n0", "b0", "guest", source), lambda rung: None, keep)
    failure = found.artefacts.get("failure")
    return found, codec.loads(Failure, kept[failure].decode()) if failure else None


def test_a_timeout_is_replayed_with_the_patience_that_it_had(ladder: Ladder) -> None:
    found, failure = climbed(ladder, HUNG)
    assert found.verdict is Verdict.TIMEOUT and failure is not None
    assert (failure.rung, failure.workload, failure.size) == (Rung.INTERPRET, "declared", "scaled")
    assert failure.more["bounds"]["call_seconds"] == 3.0
    assert (failure.guard, failure.statistic, failure.lane) == ("", "", "screen")
    again = replay(ladder, HUNG, failure)
    assert again.status == "reproduced" and "within 3 s" in again.how
    mended = replay(ladder, KERNEL, failure)
    assert mended.status == "not reproduced" and "it passed this time" in mended.how
    other = replay(ladder, WRONG, failure)
    assert other.status == "not reproduced" and "verdict WRONG_VALUE, then TIMEOUT" in other.how
    elsewhere = replay(ladder, HUNG, replace(failure, device="cuda:0"))
    assert elsewhere.status == "cannot replay" and "there is none here" in elsewhere.how


@pytest.mark.parametrize(
    ("source", "verdict", "rung"),
    [
        ("x = (", Verdict.LOAD_ERROR, Rung.CHECK),
        (KERNEL.replace("tl.maximum", "tl.no_such_thing"), Verdict.COMPILE_ERROR, Rung.BUILD),
        (KERNEL.replace("return y", "return torch.relu(y)"), Verdict.POLICY, Rung.PLAN),
        (KERNEL.replace("return y", "return y.reshape(-1)"), Verdict.WRONG_META, Rung.INTERPRET),
        (KERNEL.replace("y = torch.empty_like(x)", "y = x"), Verdict.MUTATED_INPUT, Rung.INTERPRET),
    ],
)
def test_every_rungs_no_is_replayed(ladder: Ladder, source: str, verdict: Verdict, rung: Rung) -> None:
    found, failure = climbed(ladder, source)
    assert failure is not None, found.verdict
    assert (found.verdict, failure.verdict, failure.rung) == (verdict, verdict, rung), failure
    again = replay(ladder, source, failure)
    assert again.status == "reproduced", again.how


def test_a_climb_that_stops_early_has_judged_nothing(ladder: Ladder) -> None:
    settings = ladder.settings
    try:
        ladder.settings = replace(settings, last_rung="build")
        found, failure = climbed(ladder, KERNEL)
        assert [r.rung for r in found.rungs] == [Rung.CHECK, Rung.PLAN, Rung.BUILD]
        assert (found.verdict, found.correct, failure) == (Verdict.UNJUDGED, False, None)
        ladder.settings = replace(settings, last_rung="correct")  # without a device the interpreter is what compares
        found, failure = climbed(ladder, KERNEL)
        assert (found.rungs[-1].rung, found.verdict, found.timings) == (Rung.INTERPRET, Verdict.OK_UNTIMED, ())
    finally:
        ladder.settings = settings


def test_a_solution_that_asks_for_its_device_climbs_as_it_is(ladder: Ladder) -> None:
    """As KernelBench's Triton solutions are written: no knobs, and they insist on a GPU."""
    insisting = KERNEL.replace(
        "        y = torch.empty_like(x)\n",
        "        assert x.is_cuda and x.device.type == 'cuda'\n        x = x.contiguous().to('cuda')\n"
        "        y = torch.empty(x.shape, device=x.device, dtype=x.dtype)\n",
    )
    assert insisting.count("is_cuda") == 1
    settings = ladder.settings
    try:
        ladder.settings = replace(settings, last_rung="interpret")
        found, _ = climbed(ladder, insisting)
    finally:
        ladder.settings = settings
    assert found.verdict is Verdict.OK_UNTIMED, found.rungs[-1].message
