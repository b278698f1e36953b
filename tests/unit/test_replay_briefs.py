"""A run's briefs are composed again from its log alone, byte for byte, and what differs is told with the reason."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kernelevolve.briefs import read_brief, replay_briefs
from kernelevolve.errors import UnknownName
from kernelevolve.events import STEER, Asked, Noted
from kernelevolve.runs import create_run, open_run, read_run, tail
from kernelevolve.settings import settings_for
from kernelevolve.steer import add_note
from kernelevolve.testing import FAKE_PLATFORM, FakeEvaluator, fake_equip, fake_problem
from kernelevolve.testing.load import registered

SETTINGS = replace(settings_for("quick"), candidates=24, plateau=1000)


def drive(folder, equip=None, *, settings=SETTINGS, **more):
    with create_run(folder, fake_problem(), FAKE_PLATFORM, equip or fake_equip(), settings=settings, **more) as run:
        asyncio.run(run.drive())
        return run.graph


def noted_at(folder):
    """Where in the log the first note by a person is."""
    return next(i for i, e in enumerate(tail(folder)) if isinstance(e.event, Noted) and e.event.topic == STEER)


def asked(folder):
    return [entry.event.brief for entry in tail(folder) if isinstance(entry.event, Asked)]


class Pairs:
    """Selects the two latest correct nodes: a crossover each time."""

    reducers = ()

    def select(self, graph, rng):
        able = [node.id for node in graph.nodes.values() if node.correct]
        return tuple(able[-2:]) if len(able) > 1 else ()


@pytest.mark.parametrize("policy", ["greedy", "map_elites", "islands", "best_of_n"])
def test_every_brief_is_the_same_byte_for_byte(tmp_path, policy):
    drive(tmp_path, policy=policy)
    done = replay_briefs(tmp_path)
    assert done.briefs >= 4 and (done.same, done.first) == (done.briefs, None)


def test_crossovers(tmp_path):
    with registered("policies", "pairs", f"{__name__}:Pairs"):
        drive(tmp_path, policy="pairs")
    done = replay_briefs(tmp_path)
    assert done.briefs == done.same >= 10
    assert any("### What each parent is better at" in brief.prompt for brief in asked(tmp_path))


@pytest.mark.parametrize(
    "changed",
    [
        {"control": 0.25},
        {"memory": ("none", "trajectory", "siblings", "both")},
        {"writers": 4, "seats": 2},
        {"prompt_tokens": 8000},
    ],
    ids=str,
)
def test_settings_of_memory_control_writers_and_room(tmp_path, changed):
    drive(tmp_path, fake_equip(FakeEvaluator(seconds=0.001)), settings=replace(SETTINGS, **changed))
    done = replay_briefs(tmp_path)
    assert done.briefs == done.same >= 24


def test_a_warm_start_notes_and_a_resumed_run(tmp_path):
    first = drive(tmp_path / "first")
    settings = replace(SETTINGS, candidates=6)
    drive(tmp_path / "second", settings=settings, warm_start=tmp_path / "first", earlier=[first])
    add_note(tmp_path / "second", "Mind the tail.")
    with open_run(tmp_path / "second", fake_equip(), settings=SETTINGS) as run:
        asyncio.run(run.drive())
    done = replay_briefs(tmp_path / "second")
    assert done.briefs == done.same >= 24
    briefs = asked(tmp_path / "second")
    assert briefs[0].writer == "warm-start"
    told = ["Mind the tail." in brief.prompt for brief in briefs]
    before = sum(isinstance(entry.event, Asked) for entry in tail(tmp_path / "second")[: noted_at(tmp_path / "second")])
    assert told == [False] * before + [True] * (len(briefs) - before) and 6 <= before < len(briefs)
    assert any("From earlier runs" in brief.prompt for brief in briefs)


def test_the_first_difference_is_told_with_its_section(tmp_path, monkeypatch):
    drive(tmp_path)
    from kernelevolve.propose import compose

    monkeypatch.setattr(compose, "_STEERING", "unused")
    assert replay_briefs(tmp_path).first is None
    monkeypatch.setattr(compose, "hardware_text", lambda figures: "Another machine.")
    done = replay_briefs(tmp_path)
    assert done.same == 0
    assert (done.first.brief, done.first.section) == ("b0", "The accelerator")
    assert (done.first.asked, done.first.again) == ("Its figures are not known.", "Another machine.")


def test_a_brief_is_read_whatever_became_of_it(tmp_path):
    drive(tmp_path)
    graph = read_run(tmp_path)
    brief = read_brief(tmp_path, graph.nodes["n3"].candidate.brief)
    assert brief.prompt.startswith("# Write a Triton kernel") and brief.sections
    with pytest.raises(UnknownName, match="b99"):
        read_brief(tmp_path, "b99")


def test_models_are_not_asked_again(tmp_path):
    drive(tmp_path)
    notes = [entry.event for entry in tail(tmp_path) if isinstance(entry.event, Noted)]
    assert not notes, "with rules alone the log has no notes of sub-agents"
