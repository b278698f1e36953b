"""A recording answers as the engineer does, and recording goes on where it ended."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernelevolve import plugins
from kernelevolve.candidate import read_knobs
from kernelevolve.engineer import Engineer
from kernelevolve.errors import SeatLost, StoreError, UsageError
from kernelevolve.events import Created
from kernelevolve.graph import Node
from kernelevolve.problem import Problem
from kernelevolve.propose.builtin import plan_key
from kernelevolve.race import record as recording
from kernelevolve.race.landscape import Landscape, Recorded, read_landscape, without_docstrings, without_text
from kernelevolve.race.laps import RacePlan, recorded_course
from kernelevolve.race.race import run_race
from kernelevolve.race.reach import reach
from kernelevolve.race.record import RecordingOrder, at_defaults, record_landscape
from kernelevolve.race.replay import RecordedTranslator
from kernelevolve.run import Equipment
from kernelevolve.testing import FakeEvaluator, fake_evaluation
from kernelevolve.translate.capture import capture_source

SOURCE = """
import torch
import torch.nn as nn

ROWS, COLUMNS = 512, 65536


class Model(nn.Module):
    def forward(self, x):
        return torch.softmax(x, dim=1)


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]


def get_init_inputs():
    return []
"""
PROBLEM = Problem("gated", "folder", "gated.py", SOURCE)


@functools.cache
def program() -> Any:
    return capture_source(SOURCE)


def engineer() -> Engineer:
    return Engineer(PROBLEM, plugins.load("platforms", "h100"), lambda workload: program())


@functools.cache
def everything() -> Landscape:
    found = reach(program(), "h100", SOURCE, allow_tf32=False, most=400)
    assert not found.more
    good = fake_evaluation(1.5)
    candidates = tuple(Recorded(str(i), str(i), evaluation=good) for i in range(len(found.sources)))
    return Landscape(without_text(PROBLEM), PROBLEM.key, "h100", 0, "", "", found.places, candidates)


def key(plan: Mapping[str, Any]) -> str:
    return plan_key(without_docstrings(plan))


def test_a_recording_drafts_moves_and_crosses_as_the_engineer_does() -> None:
    real, replayed = engineer(), RecordedTranslator(everything())
    luck = random.Random(3)

    async def compare() -> int:
        plans = []
        for seed in range(12):
            one, other = await real.first(seed), await replayed.first(seed)
            assert key(one.plan) == plan_key(other.plan)
            plans.append((one.plan, other.plan))
        crossed = 0
        for turn in range(40):
            (mine, theirs), (second, same) = luck.choice(plans), luck.choice(plans)
            limit = luck.choice(("bandwidth", "latency", "spills", "unknown"))
            tried = {key(plan) for plan, _ in luck.sample(plans, min(turn, len(plans)))}
            # The engineer's keys have docstrings in them, the recording's have not.
            real_tried = {plan_key(plan) for plan, _ in plans if key(plan) in tried}
            if turn % 3:
                found = await real.next(mine, limit, real_tried, luck)
                again = await replayed.next(theirs, limit, tried, luck)
            else:
                found, again = await real.cross(mine, second, real_tried), await replayed.cross(theirs, same, tried)
                crossed += found is not None
            assert (found is None) == (again is None)
            if found is not None and again is not None:
                assert key(found.plan) == plan_key(again.plan)
                plans.append((found.plan, again.plan))
        return crossed

    assert asyncio.run(compare()) > 0


def test_what_lies_nearer_is_the_beginning_of_what_lies_farther() -> None:
    near = reach(program(), "h100", SOURCE, allow_tf32=False, most=6)
    far = reach(program(), "h100", SOURCE, allow_tf32=False, most=400)
    assert near.more and near.sources == far.sources[:6] and len(set(far.sources)) == len(far.sources)


def test_defaults_leave_nothing_to_tune() -> None:
    source = asyncio.run(engineer().first(0)).source
    cut = at_defaults(source)
    knobs, all_of_them = read_knobs(cut).for_vendor("nvidia"), read_knobs(source)
    assert {name: values[0] for name, values in knobs.items()} == all_of_them.defaults("nvidia")
    assert read_knobs(cut).size("nvidia") == 1 < all_of_them.size("nvidia")


class Shop:
    """A workshop with fakes for all but the engineer.

    Args:
        evaluator: of all runs.
    """

    def __init__(self, evaluator: Any) -> None:
        self.evaluator = evaluator

    def __call__(self, created: Created, builds: Path) -> Equipment:
        return Equipment(self.evaluator, translator=engineer())

    def program(self, workload: str) -> Any:
        return program()


def order(file: Path, **more: Any) -> RecordingOrder:
    return RecordingOrder(PROBLEM, "h100", file, **{"candidates": 9, "values": "once", "trials": 0, **more})


def test_recording_goes_on_where_it_ended_and_can_be_raced_on(tmp_path: Path) -> None:
    file, told = tmp_path / "gated.jsonl.gz", list[tuple[int, int]]()
    shop: Any = Shop(FakeEvaluator(seconds=0.002, faulty=0.3))

    def note(node: Node, done: int, of: int) -> None:
        told.append((done, of))

    first = record_landscape(order(file, candidates=5), shop, note)
    assert told == [(i, 5) for i in range(1, 6)] and first.evaluated == 5 and first.more
    told.clear()
    found = record_landscape(order(file, at_once=4), shop, note)
    assert told == [(i, 9) for i in range(6, 10)] and found == read_landscape(file)
    assert [c.evaluation for c in found.candidates[:5]] == [c.evaluation for c in first.candidates]
    assert record_landscape(order(file, candidates=3), shop).evaluated == 9, "a file does not shrink"
    assert "softmax" not in found.problem.source and SOURCE not in file.read_bytes().decode("latin-1")
    assert found.judged.endswith("knobs at their defaults")
    race = run_race(RacePlan(("greedy", "best_of_n"), 2, 8), [recorded_course(found)])
    assert all(lap.best for lap in race.laps)


def test_a_recording_that_ran_out_of_time_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, late = tmp_path / "gated.jsonl", [0.0]
    monkeypatch.setattr(recording, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late[0]))

    def told(node: Node, done: int, of: int) -> None:
        if done == 3:
            late[0] = 1e6

    slow: Any = Shop(FakeEvaluator(seconds=0.3, faulty=0.0))
    found = record_landscape(order(file, seconds=5e5), slow, told)
    assert 3 <= found.evaluated < 9 and read_landscape(file).evaluated == found.evaluated
    monkeypatch.undo()
    quick: Any = Shop(FakeEvaluator(faulty=0.0))
    assert record_landscape(order(file), quick).evaluated == 9


class Losing(FakeEvaluator):
    """Loses the seat at some candidates, again and again."""

    def __init__(self, at: set[str]) -> None:
        super().__init__(faulty=0.0)
        self.at = at

    async def evaluate(self, candidate: Any, *, progress: Any, keep: Any) -> Any:
        if candidate.id in self.at:
            raise SeatLost("gone")
        return await super().evaluate(candidate, progress=progress, keep=keep)


def test_a_candidate_that_the_machine_fails_at_stays_out(tmp_path: Path) -> None:
    file = tmp_path / "gated.jsonl"
    shop: Any = Shop(Losing({"n2", "n5"}))
    assert record_landscape(order(file), shop).evaluated == 7
    broken: Any = Shop(Losing({f"n{i}" for i in range(1, 9)}))
    with pytest.raises(SeatLost):
        record_landscape(order(tmp_path / "other.jsonl"), broken)
    assert read_landscape(tmp_path / "other.jsonl").evaluated == 1, "what was evaluated is kept"


def test_a_file_of_something_else_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gated.jsonl"
    shop: Any = Shop(FakeEvaluator(faulty=0.0))
    record_landscape(order(file, candidates=4), shop)
    for other, said in (
        (replace(order(file), platform="h200"), "another platform"),
        (replace(order(file), problem=replace(PROBLEM, source=SOURCE + "# \n")), "another problem"),
        (replace(order(file), trials=2), "another way to judge"),
    ):
        with pytest.raises(StoreError, match=said):
            record_landscape(other, shop)
    changed = SimpleNamespace(**vars(reach(program(), "h100", SOURCE, allow_tf32=False, most=9)))
    changed.sources = tuple(f"{source}# new\n" for source in changed.sources)
    monkeypatch.setattr(recording, "reach", lambda *args, **more: changed)
    with pytest.raises(StoreError, match="4 candidates that the engineer of this version does not write"):
        record_landscape(order(file), shop)


@pytest.mark.parametrize("more", [{"candidates": 1}, {"at_once": 0}, {"values": "some"}])
def test_an_order_that_cannot_be_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        order(Path("x.jsonl"), **more)
