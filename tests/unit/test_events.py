"""Events survive the log as they are, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.errors import StoreError, StoreTooNew
from kernelevolve.evaluation import Evidence, Figure, Verdict
from kernelevolve.events import (
    KINDS,
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
    to_line,
)
from kernelevolve.testing import fake_evaluation, fake_problem

EVENTS = (
    Created("r", fake_problem(), "h100", 3, Component("greedy", {"drafts": 2}), Component("built-in"), {"a": 1}, "0.1"),
    Asked(Brief("b0", 0, ("n1", "n2"), "prompt\nwith é", {"limit": "spills"}, "spills: 8 bytes")),
    Written(Candidate("n0", "b0", "guest", "x = 1\n", "why", {"path": [1, 2]}, Cost(1.5, 10, 20, 0.01))),
    Evaluated("n0", fake_evaluation(1.7, binary="ab"), Figure(1.7, "x", Evidence.MEASURED, "clock", 1.6, 1.8), "n9"),
    Evaluated("n0", fake_evaluation(1, verdict=Verdict.CRASH), Figure(float("nan"), "x", Evidence.MODELLED, "odd")),
    Dropped("b0", "no answer", exhausted=True),
    Noted("settings", "more", {"candidates": 5}),
    Finished("12 candidates"),
)


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_an_entry_comes_back_as_it_was(event):
    entry = Entry(4, 2, 1234.5, event)
    line = to_line(entry)
    assert "\n" not in line
    assert to_line(from_line(line)) == line
    if "nan" not in line:
        assert from_line(line) == entry


def test_every_kind_of_event_is_covered_here():
    assert {type(e) for e in EVENTS} == set(KINDS.values())


def test_a_newer_schema_is_refused_with_advice():
    line = to_line(Entry(0, 1, 0.0, Finished("x"), schema=SCHEMA + 1))
    with pytest.raises(StoreTooNew, match="upgrade KernelEvolve"):
        from_line(line)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("event"),
        lambda d: d.update(kind="rewritten"),
        lambda d: d.update(sequence="first"),
        lambda d: d["event"].update(extra=1),
        lambda d: d["event"].pop("reason"),
        lambda d: d["event"].update(reason=7),
    ],
)
def test_a_damaged_line_is_refused(damage):
    data = json.loads(to_line(Entry(0, 1, 0.0, Finished("x"))))
    damage(data)
    with pytest.raises(StoreError):
        from_line(json.dumps(data))


def test_events_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVENTS[-1].reason = "other"
