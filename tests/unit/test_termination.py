"""When a run ends: each rule with the figures behind it, gains beyond noise, and limits that contradict each other."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.errors import UsageError
from kernelevolve.evaluate.seat import Seat
from kernelevolve.evaluation import Evidence, Figure, Verdict
from kernelevolve.events import (
    SCHEMA,
    Asked,
    Component,
    Created,
    Dropped,
    Entry,
    Evaluated,
    Finished,
    Noted,
    Written,
    from_line,
    read_event,
    to_line,
)
from kernelevolve.graph import fold_all
from kernelevolve.runs import create_run, read_run
from kernelevolve.search.progress import ProgressReducer, better_beyond_noise
from kernelevolve.search.termination import (
    Candidates,
    DeviceTime,
    Drops,
    First,
    Money,
    Plateau,
    Roofline,
    Target,
    Time,
    Tokens,
    Value,
    rules_for,
)
from kernelevolve.settings import refuse_contradictions, settings_for
from kernelevolve.testing import FAKE_PLATFORM, FakeEvaluator, fake_equip, fake_evaluation, fake_problem

CREATED = Created("r", fake_problem(), FAKE_PLATFORM, 0, Component("greedy"), Component("fake"), {}, "0")
WRONG = Verdict.WRONG_VALUE
MEASURED, MODELLED = Evidence.MEASURED, Evidence.MODELLED


def fitness(value: float, width: float = 0.0, evidence: Evidence = MEASURED) -> Figure:
    """`width`: half of the interval, relative."""
    low, high = (value / (1 + width), value * (1 + width)) if width else (None, None)
    return Figure(value, "x", evidence, "test", low, high)


class Story:
    """A log of evaluated candidates, one each second."""

    def __init__(self) -> None:
        self.events: list[object] = [CREATED]
        self.count = 0

    def told(self, worth: Figure | float = 1.0, *, cost: Cost | None = None, held: float = 0.0, floor: float = 0.0):
        worth = worth if isinstance(worth, Figure) else fitness(worth)
        found = replace(fake_evaluation(max(worth.value, 0.1), verdict=None if worth.value else WRONG))
        if floor and found.timings:
            figure = Figure(floor, "ms", MODELLED, "sheet")
            found = replace(found, timings=(replace(found.timings[0], floor=figure),))
        n, self.count = self.count, self.count + 1
        self.events += [
            Asked(Brief(f"b{n}", n, (), "")),
            Written(Candidate(f"n{n}", f"b{n}", "fake", f"# {n}\n", cost=cost or Cost())),
            Evaluated(f"n{n}", replace(found, device_seconds=held), worth),
        ]
        return self

    def dropped(self):
        n, self.count = self.count, self.count + 1
        self.events += [Asked(Brief(f"b{n}", n, (), "")), Dropped(f"b{n}", "test")]
        return self

    @property
    def graph(self):
        walls = [i / 3 for i in range(len(self.events))]
        return fold_all((Entry(i, 1, walls[i], e) for i, e in enumerate(self.events)), (ProgressReducer(),))


def test_each_rule_stops_when_it_should_and_gives_the_figures() -> None:
    cost = Cost(1.0, 90, 10, 0.5)
    story = Story().told(2.0, cost=cost, held=4.0).told(1.0, cost=cost, held=2.5).told(1.5, floor=0.6)
    graph = story.dropped().dropped().graph
    for rule, stops, name, value in (
        (Candidates(3), "3 candidates", "candidates", 3),
        (Candidates(4), "", "", 0),
        (Plateau(2), "no candidate better than n0 beyond noise among the last 2", "candidates without a gain", 2),
        (Plateau(3), "", "", 0),
        (Target(2.0), "target 2x reached: 2x (n0)", "fitness", 2),
        (Target(2.1), "", "", 0),
        (Tokens(200), "200 tokens", "tokens", 200),
        (Tokens(201), "", "", 0),
        (Money(1.0), "1 US dollars", "money", 1),
        (Money(1.1), "", "", 0),
        (DeviceTime(6.5), "6.5 seconds of device time", "held", 6.5),
        (DeviceTime(6.6), "", "", 0),
        (Drops(2), "the writer failed 2 times in a row; last: test", "drops in a row", 2),
        (Drops(3), "", "", 0),
        (Time(10.0), "10 seconds of work", "worked", 10),
        (Time(10.1), "", "", 0),
    ):
        ended = rule.reason(graph, 10.0)
        assert (ended is not None) == bool(stops), rule
        if ended is not None:
            assert ended.reason.startswith(stops) and ended.rule
            assert ended.figures[name].value == value and ended.figures[name].how


def test_a_target_needs_the_lower_end_of_a_measured_interval() -> None:
    assert Target(2.0).reason(Story().told(fitness(9.0, evidence=MODELLED)).graph, 0.0) is None
    assert Target(2.0).reason(Story().told(fitness(2.1, 0.1)).graph, 0.0) is None
    assert Target(2.0).reason(Story().told(fitness(2.3, 0.1)).graph, 0.0) is not None


def test_luck_is_no_gain_and_small_steps_count_once_they_are_more_than_noise() -> None:
    lucky = Story().told(fitness(1.0, 0.05)).told(fitness(1.03, 0.05)).told(fitness(1.02, 0.05))
    ended = Plateau(2).reason(lucky.graph, 0.0)
    assert ended is not None and ended.figures["best beyond noise"].value == 1.0
    # None of these steps is beyond noise by itself; the fourth is, against where the plateau began.
    steps = Story()
    for value in (1.0, 1.04, 1.08, 1.2):
        steps.told(fitness(value, 0.05))
    assert Plateau(2).reason(steps.graph, 0.0) is None
    assert steps.graph.reduced(ProgressReducer.name).standing == "n3"


def test_a_faulty_run_has_no_plateau_and_the_chance_of_a_better_one_is_clopper_and_pearsons() -> None:
    assert Plateau(1).reason(Story().told(0.0).told(0.0).graph, 0.0) is None
    story = Story().told(1.0)
    for _ in range(25):
        story.told(0.0)
    ended = Plateau(25).reason(story.graph, 0.0)
    assert ended is not None
    assert (1 - ended.figures["chance of a better one"].value) ** 25 == pytest.approx(0.05)
    assert ended.reason.endswith("chance of a better one below 11.3% each")


def test_what_was_measured_takes_the_place_of_what_was_modelled_and_not_the_other_way() -> None:
    story = Story().told(fitness(3.0, evidence=MODELLED)).told(1.1).told(fitness(9.0, evidence=MODELLED))
    progress = story.graph.reduced(ProgressReducer.name)
    assert (progress.standing, progress.standing_at, progress.gains) == ("n1", 2, [])


@given(st.floats(0.1, 10), st.floats(1.0001, 3), st.floats(0.001, 0.5), st.integers(1, 1000))
def test_beyond_noise_is_one_way_and_harder_the_more_were_tried(value, ratio, width, tries) -> None:
    old, new = fitness(value, width), fitness(value * ratio, width)
    assert not better_beyond_noise(old, new, tries)
    assert not better_beyond_noise(old, old, tries)
    if better_beyond_noise(new, old, tries):
        assert better_beyond_noise(new, old, 1)
    if ratio > (1 + width) ** 8:
        assert better_beyond_noise(new, old, tries)


def test_equal_candidates_seldom_count_as_a_gain() -> None:
    """Of 25 that are equal but for noise: 0.05 (1 + 1/2 + ... + 1/25) = 19 % of runs; by value alone in nearly all."""
    false, runs = 0, 400
    for seed in range(runs):
        rng = random.Random(seed)
        width = math.exp(1.96 * 0.02) - 1
        first, *rest = (fitness(math.exp(rng.gauss(0.0, 0.02)), width) for _ in range(26))
        false += any(better_beyond_noise(v, first, i + 1) for i, v in enumerate(rest))
    assert 0.05 * runs < false < 0.25 * runs


def test_the_roofline_is_the_platforms_floor_over_the_time() -> None:
    near = Story().told(1.0, floor=0.96)
    ended = Roofline(0.95).reason(near.graph, 0.0)
    assert ended is not None and ended.reason == "n0 runs at 0.96 of the roofline, 0.95 asked for"
    assert ended.figures["share of the roofline"].value == pytest.approx(0.96)
    assert ended.figures["share of the roofline"].evidence is MODELLED
    assert ended.figures["floor of declared"].unit == "ms"
    assert Roofline(0.97).reason(near.graph, 0.0) is None
    assert Roofline(0.1).reason(Story().told(1.0).graph, 0.0) is None
    assert Roofline(0.1).reason(Story().told(0.0).graph, 0.0) is None


def test_value_ends_a_run_whose_gains_stopped_and_not_one_that_gains() -> None:
    gaining = Story()
    for i in range(12):
        gaining.told(1.1**i)
    assert Value(0.01, "candidate").reason(gaining.graph, 0.0) is None
    stalled = gaining
    for _ in range(40):
        stalled.told(1.0, cost=Cost(money_usd=0.1))
    ended = Value(0.01, "candidate").reason(stalled.graph, 0.0)
    assert ended is not None and ended.rule == "value"
    assert ended.figures["chance of a gain"].value == pytest.approx(1 / 28)
    assert ended.figures["size of a gain"].value == pytest.approx(0.1)
    assert ended.figures["expected gain"].value == pytest.approx(math.expm1(math.log(1.1) / 28))
    # One candidate a second, and ten cents each.
    ended = Value(1.0, "minute").reason(stalled.graph, 0.0)
    assert ended is not None and ended.figures["cost of a candidate"].value == pytest.approx(1 / 60)
    assert Value(0.2, "minute").reason(stalled.graph, 0.0) is None
    ended = Value(0.05, "dollar").reason(stalled.graph, 0.0)
    assert ended is not None and ended.figures["cost of a candidate"].value == pytest.approx(0.1)
    assert Value(9.0, "device-minute").reason(stalled.graph, 0.0) is None, "nothing held a device"


@given(st.lists(st.floats(0.1, 4), min_size=1, max_size=40), st.sampled_from(["candidate", "minute"]))
@settings(max_examples=50)
def test_value_never_ends_a_run_before_a_first_gain_or_eight_candidates(qualities, unit) -> None:
    story = Story()
    for quality in qualities:
        story.told(quality)
    graph = story.graph
    ended = Value(1e9, unit).reason(graph, 0.0)
    gains = graph.reduced(ProgressReducer.name).gains
    assert (ended is not None) == (len(qualities) >= 8 and bool(gains))


def test_the_first_rule_gives_the_reason() -> None:
    graph = Story().told().graph
    ended = First((Candidates(2), Time(1.0), Candidates(1))).reason(graph, 5.0)
    assert ended is not None and (ended.reason, ended.rule) == ("1 seconds of work", "time")
    assert First(()).reason(graph, 5.0) is None
    every = replace(
        settings_for("quick"), target=0.5, roofline=0.5, tokens=1, money_usd=1.0, device_seconds=1.0, value=0.1
    )
    ended = rules_for(every).reason(graph, 0.0)
    assert ended is not None and ended.rule == "target"


def test_the_end_is_in_the_log_with_its_figures_and_older_logs_read_as_before(tmp_path) -> None:
    quick = replace(settings_for("quick"), candidates=4)
    with create_run(tmp_path, fake_problem(), FAKE_PLATFORM, fake_equip(), settings=quick) as run:
        assert asyncio.run(run.drive()) == "4 candidates"
    ending = read_run(tmp_path).ending
    assert ending is not None
    assert (ending.rule, ending.figures["candidates"].value) == ("candidates", 4)
    assert from_line(to_line(Entry(0, 1, 0.0, ending))).event == ending
    assert read_event("finished", '{"reason":"12 candidates"}', SCHEMA - 1) == Finished("12 candidates")


def test_device_time_ends_a_run_and_what_was_measured_again_counts(tmp_path) -> None:
    class Holding(FakeEvaluator):
        async def evaluate(self, candidate, *, progress, keep):
            found = await super().evaluate(candidate, progress=progress, keep=keep)
            return replace(found, device_seconds=2.0)

    quick = replace(settings_for("quick"), device_seconds=5.0)
    with create_run(tmp_path, fake_problem(), FAKE_PLATFORM, fake_equip(Holding()), settings=quick) as run:
        assert asyncio.run(run.drive()) == "5 seconds of device time"
        assert len(run.graph.nodes) == 3
    story = Story().told(1.0, held=2.0)
    story.events.append(Noted("result", "n0", {"again": [{"evaluation": {"device_seconds": 3.0}}]}))
    assert story.graph.reduced(ProgressReducer.name).device_seconds == 5.0


def test_shared_seconds_on_a_device_are_divided_among_those_who_share_it() -> None:
    seat, start, held = Seat(4, 4), time.monotonic(), []

    def stay(seconds: float) -> None:
        with seat.shared(0.25) as share:
            time.sleep(seconds)
        held.append(share.seconds)

    threads = [threading.Thread(target=stay, args=(seconds,)) for seconds in (0.05, 0.05, 0.1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 3 and min(held) > 0
    assert 0.1 <= sum(held) <= time.monotonic() - start


@pytest.mark.parametrize(
    ("more", "device", "message"),
    [
        ({"plateau": 12}, True, "a plateau of 12 cannot be reached within 12 candidates"),
        ({"plateau": 5, "candidates": 3}, True, "a plateau of 5 cannot be reached within 3 candidates"),
        ({"device_seconds": 700.0}, True, "700 s of device time cannot be spent in 600 s of work"),
        ({"device_seconds": 60.0}, False, "without a device a limit on device time is never reached"),
        ({"target": 2.0}, False, "needs measured times"),
        ({"value": 0.1, "value_per": "device-minute"}, False, "nothing costs device time"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(more, device, message) -> None:
    with pytest.raises(UsageError, match=message):
        refuse_contradictions(replace(settings_for("quick"), **more), more, device=device)


def test_what_an_effort_brings_along_is_no_contradiction() -> None:
    few = replace(settings_for("quick"), candidates=3)
    assert few.plateau > few.candidates, "the effort's own plateau lies beyond these candidates"
    assert refuse_contradictions(few, {"candidates": 3}, device=False) is None


@pytest.mark.parametrize(
    "more", [{"roofline": 1.1}, {"money_usd": math.inf}, {"target": math.nan}, {"value": 0.0}, {"value_per": "week"}]
)
def test_a_limit_that_cannot_be_is_refused(more) -> None:
    with pytest.raises(UsageError, match=next(iter(more))):
        replace(settings_for("quick"), **more)


@pytest.mark.parametrize(
    "more", [{"target": 1.5}, {"device_seconds": 60.0}, {"value": 0.01, "value_per": "device-minute"}]
)
def test_limits_of_a_device_are_refused_where_none_measures_before_a_run_is_made(tmp_path, more) -> None:
    inner = fake_equip()
    closed = []

    def equip(created, builds):
        return replace(inner(created, builds), measures=False, close=lambda: closed.append(1))

    with pytest.raises(UsageError, match=r"without a device .*; leave one of the two out"):
        create_run(
            tmp_path / "r", fake_problem(), FAKE_PLATFORM, equip, settings=replace(settings_for("quick"), **more)
        )
    assert closed == [1] and not (tmp_path / "r").exists()
    create_run(tmp_path / "r", fake_problem(), FAKE_PLATFORM, equip, settings=settings_for("quick")).close()
