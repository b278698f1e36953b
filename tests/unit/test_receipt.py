"""Receipts as values: named by their content, held against themselves, and against another evaluation."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelevolve import codec
from kernelevolve.candidate import Candidate
from kernelevolve.evaluate.artefacts import Gathered
from kernelevolve.evaluate.asking import Failed
from kernelevolve.evaluate.circumstances import circumstances, harness
from kernelevolve.evaluate.climb import Climb
from kernelevolve.evaluate.receipt import differences, inconsistencies
from kernelevolve.evaluate.statistics import apart, log_interval
from kernelevolve.evaluate.timing import Blocks, time_arms
from kernelevolve.evaluation import (
    Check,
    Correctness,
    Evaluation,
    Evidence,
    Figure,
    Guard,
    Resources,
    Rung,
    RungReport,
    Samples,
    Timing,
    Verdict,
)
from kernelevolve.receipt import SCHEMA, Circumstances, Failure, Receipt, failure_of, read_receipt, write_receipt
from kernelevolve.recheck import verify
from kernelevolve.search.fitness import fitness
from kernelevolve.settings import lane_for
from kernelevolve.testing import fake_problem

BLOCKS = 6


def timing(candidate: float = 1.0, baseline: float = 2.0, wobble: float = 0.01) -> tuple[Timing, Samples]:
    """A measured workload whose figures are those of its raw samples."""

    def bursts(level: float, odd: int) -> tuple[tuple[float, ...], ...]:
        return tuple((level * (1 + wobble * ((odd * b) % 3)),) * 3 for b in range(BLOCKS))

    arms = {"candidate": bursts(candidate, 1), "eager": bursts(baseline, 2)}
    logs = {name: [math.log(statistics.median(b)) for b in taken] for name, taken in arms.items()}
    differences = [a - b for a, b in zip(logs["eager"], logs["candidate"], strict=True)]
    ratio = log_interval(
        differences, apart=apart(*(math.exp(statistics.fmean(logs[n])) for n in ("eager", "candidate")))
    )

    def figure(name: str) -> Figure:
        middle = statistics.median(statistics.median(b) for b in arms[name])
        return Figure(middle, "ms", Evidence.MEASURED, "clock", middle * 0.9, middle * 1.1)

    speedup = Figure(ratio.value, "x", Evidence.MEASURED, "clock", ratio.low, ratio.high)
    made = Timing("declared", "h100", figure("candidate"), {"eager": figure("eager")}, "eager", speedup)
    return made, Samples("declared", "h100", "ms", arms, per_block=1)


CHECK = Check("rms", "declared", "D1", 7, True, 1e-6, 1e-5, "out")
GUARDS = (Guard("clock", "held", "0.1 %"), Guard("floor", "held", ""), Guard("hold", "not run", "not in lane 'screen'"))
KERNEL = Resources("kernel", "sm_90", "ab" * 32, 32, 0, 0, 4, 1.0)


def evaluation(**more: Any) -> Evaluation:
    rungs = (RungReport(Rung.TIME, "passed", 1.0, "2x", "h100"),)
    correctness = (Correctness(Evidence.MEASURED, True, (CHECK,)),)
    made = Evaluation(
        Verdict.OK_FASTER, "h100", rungs, correctness, {"h100": (KERNEL,)}, (timing()[0],), guards=GUARDS
    )  # fmt: skip
    return replace(made, **more)


def receipt(found: Evaluation | None = None, **more: Any) -> Receipt:
    found = found or evaluation()
    problem = fake_problem()
    made = Receipt(
        schema=SCHEMA,
        made="2026-01-01T00:00:00Z",
        problem=problem,
        candidate="class ModelNew: ...\n",
        platform="h100",
        seed=3,
        settings={"effort": "quick"},
        evaluation=found,
        fitness=fitness(problem, found),
        circumstances=Circumstances("0.1", harness(), "NVIDIA H100", "00" * 16),
        timed_in="process",
        samples=(timing()[1],),
    )
    return replace(made, **more)


def test_a_receipt_reads_back_as_it_was_and_is_named_by_its_content() -> None:
    made = receipt()
    again, claimed = read_receipt(write_receipt(made))
    assert again == made
    assert claimed == made.id == again.id
    assert made.id.startswith("sha256:") and len(made.id) == 71


@given(st.text(), st.floats(allow_nan=False), st.integers())
def test_any_content_has_a_name_of_its_own(source: str, figure: float, seed: int) -> None:
    made = receipt(candidate=source, seed=seed, fitness=Figure(figure, "x", Evidence.MEASURED, "clock"))
    again, claimed = read_receipt(write_receipt(made))
    assert again.id == claimed
    assert (made.id == receipt().id) == (codec.dumps(made) == codec.dumps(receipt()))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Expecting"),
        ("[]", "an object with `id` and `receipt`"),
        ('{"id": "x", "receipt": {"schema": 99}}', "schema 99"),
        ('{"id": "x", "receipt": {"schema": 1}}', "Receipt"),
    ],
)
def test_what_is_no_receipt_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_receipt(text)


def edited(change: Callable[[dict[str, Any]], None]) -> tuple[Receipt, str]:
    data = json.loads(write_receipt(receipt()))
    change(data["receipt"])
    return read_receipt(json.dumps(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(candidate="class ModelNew: pass\n"),
        lambda r: r["fitness"].update(value=100.0),
        lambda r: r["evaluation"]["timings"][0]["speedup"].update(value=3.0),
        lambda r: r["problem"].update(source="class Model: pass"),
        lambda r: r["circumstances"].update(device="NVIDIA B200"),
        lambda r: r.update(made="2030-01-01T00:00:00Z"),
    ],
)
def test_an_edited_file_comes_out_different_before_anything_is_run(change: Callable[[dict[str, Any]], None]) -> None:
    found = verify(*edited(change), device="none")
    assert found.status == "different"
    assert "the file was edited" in found.how[0]


def forged(found: Evaluation, **more: Any) -> tuple[str, ...]:
    """What gives a receipt away whose name fits its content."""
    made = receipt(found, **more)
    found_here = verify(made, made.id, device="none")
    assert found_here.status == "different"
    return found_here.how


def test_a_receipt_that_contradicts_itself_needs_no_device_to_be_refused() -> None:
    good, samples = timing()
    assert not inconsistencies(receipt())
    fast = replace(good, speedup=replace(good.speedup, value=4.0, high=5.0))
    assert any("raw samples say" in line for line in forged(evaluation(timings=(fast,))))
    narrow = replace(good, speedup=replace(good.speedup, low=good.speedup.value, high=good.speedup.value))
    assert any("narrower" in line for line in forged(evaluation(timings=(narrow,))))
    quick = replace(good, candidate=replace(good.candidate, value=0.1))
    assert any("candidate 0.1 ms" in line for line in forged(evaluation(timings=(quick,))))
    assert any("without" in line for line in forged(evaluation(), samples=()))
    shorn = replace(samples, arms={"candidate": samples.arms["candidate"]})
    assert any("raw samples of candidate" in line for line in forged(evaluation(), samples=(shorn,)))
    lax = (Correctness(Evidence.MEASURED, True, (replace(CHECK, value=1.0),)),)
    assert any("is said to pass" in line for line in forged(evaluation(correctness=lax)))
    broken = (replace(GUARDS[0], held="failed"),)
    assert any("guard 'clock' failed" in line for line in forged(evaluation(guards=broken)))
    assert any("fitness 9" in line for line in forged(evaluation(), fitness=Figure(9.0, "x", Evidence.MEASURED, "x")))


def test_a_receipt_whose_calls_differ_within_bursts_is_recomputed_with_their_mean() -> None:
    def uneven(calls: int) -> list[float]:
        return [2.0, *[0.5] * (calls - 1)]

    arms = {"candidate": uneven, "eager": lambda calls: [2.0] * calls}
    timed = time_arms(arms, workload="declared", platform="h100", choice={}, plan=Blocks(6, 0), device="d")
    aside = {"compile": Figure(1.0, "ms", Evidence.MEASURED, "a first look")}  # no samples, and nothing rests on it
    made = evaluation(timings=(replace(timed.timing, aside=aside),))
    assert not inconsistencies(receipt(made, samples=(timed.samples,)))
    assert fitness(fake_problem(), made).value == pytest.approx(timed.timing.speedup.value)


def test_another_harness_and_no_device_are_no_verdict() -> None:
    made = receipt(circumstances=replace(receipt().circumstances, harness="00" * 32))
    found = verify(made, made.id, device="none")
    assert (found.status, found.evaluation) == ("cannot compare", None)
    assert "another harness" in found.how[0]


SLOWER = timing(candidate=1.5)[0]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (evaluation(), ""),
        (evaluation(verdict=Verdict.INCONCLUSIVE), ""),
        (evaluation(verdict=Verdict.WRONG_VALUE), "verdict OK_FASTER claimed, WRONG_VALUE found"),
        (evaluation(verdict=Verdict.OK_SLOWER), "verdict OK_FASTER claimed, OK_SLOWER found"),
        (evaluation(guards=GUARDS[:1]), "guard 'floor': held claimed, not run found"),
        (evaluation(guards=(*GUARDS, Guard("poison", "failed"))), "guard 'poison': not claimed, failed here"),
        (evaluation(correctness=()), "claimed, not compared here"),
        (
            evaluation(correctness=(Correctness(Evidence.MEASURED, False, (replace(CHECK, passed=False),)),)),
            "rms on declared, D1, seed 7: passed claimed, failed found",
        ),
        (
            evaluation(correctness=(Correctness(Evidence.MEASURED, True, (replace(CHECK, value=9e-6),)),)),
            "1e-06 claimed, 9e-06 found",
        ),
        (
            evaluation(correctness=(Correctness(Evidence.MEASURED, True, (replace(CHECK, limit=2e-5),)),)),
            "limit 1e-05 claimed, 2e-05 found",
        ),
        (evaluation(correctness=(Correctness(Evidence.MEASURED, True, (replace(CHECK, value=1.2e-6),)),)), ""),
        (evaluation(resources={"h100": (replace(KERNEL, binary="cd" * 32),)}), "machine code abababababab claimed"),
        (evaluation(resources={"h100": (replace(KERNEL, registers=16),)}), "is not what it has"),
        (evaluation(resources={}), "kernel claimed, nothing built here"),
        (evaluation(timings=(SLOWER,)), "speedup 2"),
        (evaluation(timings=()), "a time is claimed, none was found"),
    ],
)
def test_each_difference_is_named_and_nothing_else_is_one(found: Evaluation, says: str) -> None:
    lines = differences(evaluation(), found)
    assert (len(lines) == 1 and says in lines[0]) if says else lines == (), lines


def test_a_modelled_figure_must_come_out_to_its_last_digits() -> None:
    def modelled(value: float) -> Evaluation:
        one, two = (Figure(v, "ms", Evidence.MODELLED, "roofline") for v in (value, 2.0))
        ratio = Figure(2.0 / value, "x", Evidence.MODELLED, "roofline")
        return evaluation(
            verdict=Verdict.OK_UNTIMED, timings=(Timing("declared", "h100", one, {"eager": two}, "eager", ratio),)
        )

    assert differences(modelled(1.0), modelled(1.0)) == ()
    assert differences(modelled(1.0), modelled(1.0 + 1e-4))


def test_what_a_check_knows_becomes_a_failure() -> None:
    known = {"verdict": Verdict.TIMEOUT, "rung": Rung.PLAN, "platform": "h100", "lane": "screen", "message": "late"}
    made = failure_of({"workload": "declared", "size": "full", "device": "meta", "bounds": {"a": 1}}, **known)
    assert made == Failure(**known, workload="declared", size="full", device="meta", more={"bounds": {"a": 1}})
    assert codec.loads(Failure, codec.dumps(made)) == made


def test_without_a_device_clocks_are_said_to_be_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = circumstances()
    assert (here.device, here.how, here.clocks_mhz) == ("", "no device", {})
    assert len(here.harness) == 64
    monkeypatch.setenv("PATH", str(tmp_path))
    blind = circumstances("cuda:0", "NVIDIA H100", b"\x01" * 16)
    assert blind.device == "NVIDIA H100" and blind.secret == "01" * 16
    assert blind.clocks_mhz or "unknown" in blind.how
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '570.1, 1980, 1980, 2619, 41'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    seen = circumstances("cuda:0", "NVIDIA H100")
    assert seen.driver and seen.clocks_mhz["memory"] and seen.temperatures_c["gpu"]


def test_a_no_between_two_rungs_belongs_to_the_one_before() -> None:
    climb = Climb(Candidate("n0", "b0", "guest", ""), lambda rung: None, Gathered("h100"), lane_for("screen"))
    climb.rung(Rung.BUILD, lambda: "built")
    artefact = {"guard": "floor", "statistic": "time", "value": 0.1, "limit": 0.2, "slot": 3}
    climb.refused(Failed(Verdict.BELOW_FLOOR, "too fast", artefact=artefact))
    failure = climb.gathered.failure
    assert failure is not None
    assert (failure.rung, failure.guard, failure.value, failure.more) == (Rung.BUILD, "floor", 0.1, {"slot": 3})
    guards = {g.name: g for g in climb.evaluation(Verdict.BELOW_FLOOR, {}, (), lambda data: "sha256:0").guards}
    assert guards["floor"] == Guard("floor", "failed", "too fast")
    assert guards["clock"].held == "not run"
    assert guards["sanitizer"].detail == "not in lane 'screen'"
