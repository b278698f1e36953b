"""What a brief remembers: modes, siblings of drafts, and notes from earlier runs on a schedule."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from kernelevolve import codec
from kernelevolve.candidate import Brief, Candidate
from kernelevolve.errors import UsageError
from kernelevolve.evaluation import Evidence, Figure
from kernelevolve.events import Asked, Component, Created, Entry, Evaluated, Noted, Written
from kernelevolve.graph import Graph, fold_all
from kernelevolve.propose.memory import EARLIER, EARLIER_PER_RUN, TOPIC, MemoryReducer, from_earlier, remember, share
from kernelevolve.runs import create_run, read_run, tail
from kernelevolve.settings import RECALL, Settings, settings_for
from kernelevolve.testing import FAKE_PLATFORM, fake_equip, fake_evaluation, fake_problem

MODES = ("none", "trajectory", "siblings", "both")


def graph_of(
    *parents: tuple[str, ...], seed: int = 0, notes: tuple[str, ...] = (), asks: int = 0, run: str = "r",
    name: str = "relu", platform: str = FAKE_PLATFORM, **more: object,
) -> Graph:  # fmt: skip
    """A log of candidates with these parents, each better than the one before; then `asks` briefs."""
    chosen = codec.to_data(replace(settings_for("quick"), **more))
    created = Created(run, fake_problem(name), platform, seed, Component("greedy"), Component("fake"), chosen, "0")
    events: list[object] = [created]
    if notes:
        events.append(Noted(TOPIC, "some", {"notes": list(notes)}))
    for i, these in enumerate(parents):
        events += [
            Asked(Brief(f"b{i}", i, these, "")),
            Written(Candidate(f"n{i}", f"b{i}", "fake", f"# {i}\n", f"note {i}")),
            Evaluated(f"n{i}", fake_evaluation(1.0 + i), Figure(1.0 + i, "x", Evidence.MEASURED, "test")),
        ]
    for i in range(len(parents), len(parents) + asks):
        events.append(Asked(Brief(f"b{i}", i, (), "")))
    return fold_all((Entry(i, 1, 0.0, e) for i, e in enumerate(events)), (MemoryReducer(),))


@pytest.mark.parametrize(
    ("mode", "best", "lineage", "children"),
    [("none", 0, 0, 0), ("trajectory", 1, 1, 0), ("siblings", 1, 0, 2), ("both", 1, 1, 2)],
)
def test_each_mode_tells_what_it_says(mode, best, lineage, children) -> None:
    memory = remember(graph_of((), ("n0",), ("n1",), ("n1",), memory=(mode,)), ("n1",))
    assert (bool(memory.best), len(memory.lineage), len(memory.children)) == (best, lineage, children)
    assert memory.mode == mode


def test_drafts_are_siblings_of_each_other() -> None:
    memory = remember(graph_of((), (), ("n0",), memory=("siblings",)), ())
    assert [text.split(" ")[0] for text in memory.children] == ["n0", "n1"]
    assert remember(graph_of((), (), memory=("trajectory",)), ()).children == ()


def test_what_was_written_beside_the_first_parent_is_told_to_who_goes_on_from_it() -> None:
    # Drafts n0 to n3, the best of which is n3; n4 came of n1.
    made = graph_of((), (), (), (), ("n1",), memory=("both",))
    assert [text.split(" ")[0] for text in remember(made, ("n2",)).beside] == ["n0", "n1", "n3"]
    assert remember(made, ("n4",)).beside == (), "nothing else came of n1"
    assert remember(made, ()).beside == ()
    alone = graph_of((), (), (), memory=("trajectory",))
    assert remember(alone, ("n0",)).beside == ()


@given(st.lists(st.sampled_from(MODES), min_size=1, max_size=4), st.integers(0, 50), st.integers(0, 99))
@examples(max_examples=60)
def test_each_brief_draws_one_of_the_modes_by_seed_and_index(modes, asks, seed) -> None:
    once, again = (remember(graph_of((), memory=tuple(modes), asks=asks, seed=seed), ("n0",)) for _ in range(2))
    assert once == again and once.mode in modes


def test_all_of_several_modes_are_drawn() -> None:
    drawn = {remember(graph_of((), memory=MODES, asks=asks), ("n0",)).mode for asks in range(40)}
    assert drawn == set(MODES)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 30))
def test_the_share_of_earlier_notes_rises_from_low_to_high(one, other, asks) -> None:
    low, high = sorted((one, other))
    now, later = (share(graph_of(asks=n, recall=(low, high))) for n in (asks, asks + 1))
    assert low - 1e-12 <= now <= later + 1e-12 <= high + 2e-12
    assert share(graph_of(recall=(low, high))) == low
    assert share(graph_of(asks=12, recall=(low, high))) == pytest.approx(high)


def test_notes_come_by_chance_and_few_of_them_first() -> None:
    notes = tuple(f"earlier {i}" for i in range(16))
    counts = [[len(remember(graph_of(asks=n, seed=s, notes=notes), ()).earlier) for s in range(60)] for n in (0, 12)]
    first, last = (sum(count) / 60 / 16 for count in counts)
    assert first == pytest.approx(RECALL[0], abs=0.05) and last == pytest.approx(RECALL[1], abs=0.08)
    assert remember(graph_of(notes=notes, recall=(0, 0)), ()).earlier == ()
    every = remember(graph_of(notes=notes, recall=(1, 1)), ())
    assert every.earlier == notes and every.mode == "both; 16 of 16 earlier notes at p = 1.00"


def test_earlier_runs_give_their_best_notes_those_of_the_same_problem_first() -> None:
    other = graph_of((), run="other", name="gelu")
    same = graph_of(*[()] * (EARLIER_PER_RUN + 2), run="same")
    elsewhere = graph_of((), run="elsewhere", platform="mi300x")
    noted = from_earlier([other, elsewhere, same], fake_problem(), FAKE_PLATFORM)
    assert noted is not None and noted.topic == TOPIC
    assert noted.data["runs"] == ["same", "elsewhere", "other"]
    notes = noted.data["notes"]
    assert len(notes) == EARLIER_PER_RUN + 2
    assert notes[0] == "relu on h100, run same, n5 (fresh): OK_FASTER, fitness 6 x (measured). note 5"
    assert from_earlier([graph_of()], fake_problem(), FAKE_PLATFORM) is None
    many = [graph_of(*[()] * 9, run=str(i)) for i in range(9)]
    assert len(from_earlier(many, fake_problem(), FAKE_PLATFORM).data["notes"]) == EARLIER


def test_a_run_records_its_memory_and_tells_earlier_notes(tmp_path) -> None:
    quick = replace(settings_for("quick"), memory=("none",), recall=(1.0, 1.0))
    with create_run(tmp_path / "a", fake_problem(), FAKE_PLATFORM, fake_equip(), settings=quick) as run:
        asyncio.run(run.drive())
    first = read_run(tmp_path / "a")
    with create_run(
        tmp_path / "b", fake_problem(), FAKE_PLATFORM, fake_equip(), settings=quick, earlier=[first]
    ) as run:
        node = asyncio.run(run.step())
        brief = run.ask()
    assert run.graph.created.settings["memory"] == ["none"] and node.id == "n0"
    assert "From earlier runs" in brief.prompt and f"run {first.created.run}, " in brief.prompt
    assert "Best so far" not in brief.prompt and "Already tried" not in brief.prompt
    assert brief.memory.startswith("none; ")
    asked = [e.event.brief.memory for e in tail(tmp_path / "b") if isinstance(e.event, Asked)]
    assert asked[-1] == brief.memory


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"memory": ("some",)}, "memory = some; known: none, trajectory, siblings, both"),
        ({"memory": ()}, "memory = nothing"),
        ({"recall": (0.5, 0.1)}, "the low one first"),
        ({"recall": (0.0, 1.1)}, "from 0 to 1"),
    ],
)
def test_memory_that_cannot_be_is_refused(more, message) -> None:
    with pytest.raises(UsageError, match=message):
        replace(settings_for("quick"), **more)


def test_settings_of_older_logs_have_the_usual_memory() -> None:
    data = codec.to_data(settings_for("quick"))
    for name in ("memory", "recall", "value", "value_per", "roofline", "device_seconds"):
        del data[name]
    assert codec.from_data(Settings, data) == settings_for("quick")
