"""Warm start: what a new run takes over from earlier ones, what it says of it, and what is left alone."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from kernelevolve.errors import StoreError, StoreTooNew, UsageError
from kernelevolve.evaluation import Figure
from kernelevolve.events import SCHEMA
from kernelevolve.family import Family
from kernelevolve.propose.memory import TOPIC as EARLIER
from kernelevolve.propose.warm import WARM, misfit, seeds_of
from kernelevolve.runs import create_run, open_run, read_run, tail
from kernelevolve.settings import settings_for
from kernelevolve.store import history as past
from kernelevolve.store.history import INDEX, history
from kernelevolve.testing import FAKE_PLATFORM, FakeEvaluator, FakeTranslator, fake_equip, fake_problem

QUICK = replace(settings_for("quick"), candidates=12, plateau=11)
ROWS = Family({"_softmax": 1, "mul": 2}, ("float32",), (2,), (12.0, 11.0))


def equip(family: Family | None = ROWS, **more):
    inner = fake_equip(FakeEvaluator(faulty=more.pop("faulty", 0.2)), more.pop("translator", None))
    return lambda created, builds: replace(inner(created, builds), family=lambda: family)


def begin(folder: Path, *, name: str = "relu", family: Family | None = ROWS, platform=FAKE_PLATFORM, **more):
    more = {"settings": QUICK, **more}
    return create_run(folder, fake_problem(name), platform, equip(family, faulty=more.pop("faulty", 0.2)), **more)


def finished(folder: Path, **more):
    with begin(folder, **more) as run:
        asyncio.run(run.drive())
    return read_run(folder)


def warm_note(graph):
    (note,) = [note for note in graph.notes if note.topic == WARM]
    return note


def test_the_best_of_the_same_problem_come_first_are_evaluated_anew_and_say_where_they_are_from(tmp_path) -> None:
    first = finished(tmp_path / "a")
    graph = finished(tmp_path / "b", warm_start="auto", seed=1)
    seeds = list(seeds_of(graph))
    able = sorted(
        (n for n in first.nodes.values() if n.evaluation.correct and not n.duplicate_of),
        key=lambda n: -n.fitness.value,
    )
    assert [seed.origin for seed, _ in seeds] == [f"{first.created.run}/{n.id}" for n in able[:3]]
    for seed, node in seeds:
        assert node is not None and node.candidate.origin == seed.origin and node.candidate.writer == WARM
        assert node.parents == () and node.evaluation.rungs and node.candidate.plan
    assert [n.candidate.origin != "" for n in graph.nodes.values()] == [True] * 3 + [False] * 9
    said = warm_note(graph).text
    assert said.startswith(f"3 candidates from run {first.created.run} (same problem, h100): {able[0].id} ")
    assert any(note.topic == EARLIER and first.created.run in note.data["runs"] for note in graph.notes)
    kinds = [entry.kind for entry in tail(tmp_path / "b", 0)]
    assert kinds[:2] == ["created", "noted"] and len(graph.nodes) == 12


def test_without_it_nothing_is_taken_and_runs_can_be_found_all_the_same(tmp_path) -> None:
    finished(tmp_path / "a")
    graph = finished(tmp_path / "b")
    assert not [note for note in graph.notes if note.topic in (WARM, EARLIER)] and not list(seeds_of(graph))
    known = history(tmp_path)
    assert [(run.place, run.family) for run in known.runs] == [("a", ROWS), ("b", ROWS)]
    with begin(tmp_path / "c", findable=False) as run:
        assert run.graph.notes == ()


def test_the_same_family_with_other_sizes_is_next_and_the_nearest_of_them(tmp_path) -> None:
    for name, sizes in (("far", (4.0, 4.0)), ("near", (12.0, 10.0)), ("odd", None)):
        family = replace(ROWS, sizes=sizes) if sizes else replace(ROWS, dtypes=("float16",))
        finished(tmp_path / name, name=name, family=family)
    finished(tmp_path / "amd", name="near", platform="mi300x")
    graph = finished(tmp_path / "new", name="new", warm_start="auto")
    (first, _), *_ = seeds_of(graph)
    assert first.how == "near, same family on h100, sizes 0.5 apart in log2, written anew for these"
    assert {seed.origin.split("/")[0] for seed, _ in seeds_of(graph)} == {read_run(tmp_path / "near").created.run}


def test_a_warm_run_is_resumed_as_any_other(tmp_path) -> None:
    finished(tmp_path / "a")
    run = begin(tmp_path / "b", warm_start="auto")
    for _ in range(5):
        with run:
            asyncio.run(run.step())
        run = open_run(tmp_path / "b", equip())
    with run:
        assert [node.candidate.origin != "" for node in run.graph.nodes.values()] == [True, True, True, False, False]
        brief = run.ask(writer="guest")
        assert brief.writer == "guest"


def test_a_guest_is_not_given_a_seed(tmp_path) -> None:
    finished(tmp_path / "a")
    with begin(tmp_path / "b", warm_start="auto") as run:
        assert run.ask(writer="guest").writer == "guest"
        assert [run.ask().writer for _ in range(4)] == [WARM, WARM, WARM, "built-in"]


@pytest.mark.parametrize(("candidates", "seeds"), [(1, 1), (4, 1), (8, 2), (12, 3), (60, 3)])
def test_seeds_are_a_quarter_of_the_budget_at_most(tmp_path, candidates: int, seeds: int) -> None:
    finished(tmp_path / "a")
    with begin(tmp_path / "b", warm_start="auto", settings=replace(QUICK, candidates=candidates)) as run:
        assert len(list(seeds_of(run.graph))) == seeds


def test_a_kernel_that_was_taken_over_is_not_taken_twice(tmp_path) -> None:
    first = finished(tmp_path / "a")
    finished(tmp_path / "b", warm_start="auto")
    graph = finished(tmp_path / "c", warm_start="auto")
    sources = [node.candidate.source for _, node in seeds_of(graph) if node]
    assert len(set(sources)) == len(sources) == 3
    taken = {seed.source: seed.origin for seed, _ in seeds_of(graph)}
    made = {node.candidate.source: f"{first.created.run}/{node.id}" for node in first.nodes.values()}
    assert any(made.get(source) == origin for source, origin in taken.items())
    assert all(made[source] == origin for source, origin in taken.items() if source in made)


def test_the_plainest_kernel_of_the_built_in_is_still_written(tmp_path) -> None:
    with begin(tmp_path / "a", settings=replace(QUICK, candidates=1), faulty=0.0) as run:
        asyncio.run(run.submit(run.ask().id, "class ModelNew: ...\n"))
    graph = finished(tmp_path / "b", warm_start="auto", policy="greedy:drafts=3")
    drafts = [node.candidate.plan for node in graph.nodes.values() if not node.parents]
    assert drafts[0] == {} and {"path": [0]} in drafts


def test_nothing_near_is_said(tmp_path) -> None:
    finished(tmp_path / "a", name="other", family=replace(ROWS, ops={"mm": 1}))
    graph = finished(tmp_path / "b", warm_start="auto")
    assert warm_note(graph).text == "nothing fitted among 1 earlier run" and not list(seeds_of(graph))
    alone = finished(tmp_path / "else" / "c", warm_start="auto")
    assert warm_note(alone).text == "nothing fitted among 0 earlier runs"


def test_a_run_that_is_named_is_taken_whatever_it_is_of_and_what_does_not_fit_is_told(tmp_path) -> None:
    with begin(tmp_path / "a", name="other", family=None, faulty=0.0) as run:
        for source in ("class ModelNew:\n    def forward(self, x, y): ...\n", "class ModelNew: ...\n"):
            asyncio.run(run.submit(run.ask().id, source))
    problem = replace(fake_problem(), source="class Model:\n    def forward(self, x): ...\n")
    with create_run(
        tmp_path / "b", problem, FAKE_PLATFORM, equip(), settings=QUICK, warm_start=tmp_path / "a"
    ) as new:
        note = warm_note(new.graph)
    assert "1 candidate from run" in note.text and "other, h100, as you asked, which has not ended: as of" in note.text
    assert "/n0: its forward takes 2 arguments, the reference's 1" in note.text
    assert [seed.plan for seed, _ in seeds_of(new.graph)] == [{}]


def test_a_run_that_somebody_is_writing_is_read_as_it_is(tmp_path) -> None:
    with begin(tmp_path / "a", faulty=0.0) as live:
        for _ in range(2):
            asyncio.run(live.step())
        last = live.graph.next_sequence - 1
        graph = finished(tmp_path / "b", warm_start="auto")
        assert f"which has not ended: as of its entry {last}" in warm_note(graph).text
        asyncio.run(live.step())
    assert len(read_run(tmp_path / "a").nodes) == 3


def test_of_sibling_runs_that_are_named_the_one_of_the_platform_is_taken(tmp_path) -> None:
    for platform in ("h100", "mi300x"):
        finished(tmp_path / "both" / platform, platform=platform)
    for platform in ("h100", "mi300x"):
        graph = finished(tmp_path / f"new {platform}", platform=platform, warm_start=tmp_path / "both")
        earlier = read_run(tmp_path / "both" / platform).created.run
        assert {seed.origin.split("/")[0] for seed, _ in seeds_of(graph)} == {earlier}


# -- damage


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_run_that_does_not_exist_is_refused_before_anything_is_made(tmp_path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=f"{name} holds no run; give the folder of a run, or auto, or none"):
        begin(tmp_path / "b", warm_start=tmp_path / name)
    assert not (tmp_path / "b").exists()


def newer(folder: Path) -> None:
    engine = create_engine(f"sqlite:///{folder / 'log.sqlite'}")
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE log SET schema = {SCHEMA + 1}"))
    engine.dispose()


def garbled(folder: Path) -> None:
    for file in folder.glob("log.sqlite*"):
        file.write_bytes(b"no database at all" * 100)


@pytest.mark.parametrize(
    ("harm", "kind", "says"), [(newer, StoreTooNew, "upgrade KernelEvolve"), (garbled, StoreError, "cannot be used")]
)
def test_runs_that_cannot_be_read_are_skipped_and_named(tmp_path, harm, kind, says: str) -> None:
    good = finished(tmp_path / "good")
    finished(tmp_path / "bad")
    history(tmp_path)
    harm(tmp_path / "bad")
    graph = finished(tmp_path / "new", warm_start="auto")
    note = warm_note(graph)
    assert {seed.origin.split("/")[0] for seed, _ in seeds_of(graph)} == {good.created.run}
    assert note.data["skipped"] and note.data["skipped"][0].startswith("bad: ") and says in note.text
    with pytest.raises(kind, match=says):
        begin(tmp_path / "c", warm_start=tmp_path / "bad")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "harm",
    ["", "{", "[]", "null", '{"layout": 0}', '{"layout": 1, "runs": {"a": 1}}', '{"layout": 1}', "\x00",
     '{"layout": 1, "runs": {"a": {"stamp": [1], "past": {"place": 1}}}}'],
)  # fmt: skip
def test_a_damaged_index_is_made_anew(tmp_path, harm: str) -> None:
    finished(tmp_path / "a")
    whole = history(tmp_path)
    (tmp_path / INDEX).write_text(harm)
    again = history(tmp_path)
    assert again.runs == whole.runs and again.rebuilt
    assert history(tmp_path).rebuilt == ""


def test_the_index_grows_run_by_run_and_forgets_what_is_gone(tmp_path) -> None:
    for name in ("a", "b"):
        finished(tmp_path / name)
    history(tmp_path)
    assert history(tmp_path).read <= 2  # reading may fold a write-ahead log into its database, once
    assert history(tmp_path).read == 0
    finished(tmp_path / "c" / "h100")
    grown = history(tmp_path)
    assert {run.place for run in grown.runs} == {"a", "b", "c/h100"} and grown.read == 1
    shutil.rmtree(tmp_path / "a")
    assert {run.place for run in history(tmp_path).runs} == {"b", "c/h100"}
    assert set(json.loads((tmp_path / INDEX).read_text())["runs"]) == {"b", "c/h100"}
    finished(tmp_path / "a", name="another")
    assert {run.problem for run in history(tmp_path).runs if run.place == "a"} == {"another"}


def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path, monkeypatch) -> None:
    finished(tmp_path / "a")

    def refuse(self, *args, **more):
        raise PermissionError("read-only")

    monkeypatch.setattr(past.Path, "write_text", refuse)
    assert len(history(tmp_path).runs) == 1 and not (tmp_path / INDEX).exists()


# -- what fits, and what is alike


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("class ModelNew:\n    def __init__(self, n, eps=1e-5): ...\n    def forward(self, x, y): ...\n", ""),
        ("class ModelNew:\n    def forward(self, *xs): ...\n", ""),
        ("class ModelNew(Base): ...\n", ""),
        ("class ModelNew:\n    def forward(self, x): ...\n", "its forward takes 1 arguments, the reference's 2"),
        ("class ModelNew:\n    def __init__(self): ...\n", "its __init__ takes 0 arguments, the reference's 1"),
        ("class Other: ...\n", "it defines no ModelNew"),
        ("class ModelNew(:\n", "not Python"),
    ],
)
def test_what_fits_a_reference(source: str, says: str) -> None:
    reference = "class Model:\n    def __init__(self, n): ...\n    def forward(self, x, y): ...\n"
    assert misfit(source, reference).startswith(says) and bool(says) == bool(misfit(source, reference))


families = st.builds(
    Family,
    st.dictionaries(st.sampled_from(("mm", "add", "relu")), st.integers(1, 3), min_size=1),
    st.lists(st.sampled_from(("float32", "float16")), min_size=1, max_size=2).map(tuple),
    st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple),
    st.lists(st.floats(0, 30), min_size=2, max_size=2).map(tuple),
)


@given(families, families)
@settings(max_examples=100, deadline=None)
def test_likeness_and_distance_are_symmetric_and_nothing_is_nearer_than_itself(one: Family, other: Family) -> None:
    assert one.alike(one) and one.apart(one) == 0
    assert one.alike(other) == other.alike(one) and one.apart(other) == other.apart(one) >= 0
    doubled = replace(one, sizes=tuple(size + 1 for size in one.sizes))
    assert one.alike(doubled) and one.apart(doubled) == pytest.approx(1)


def test_a_seed_without_a_plan_and_a_translator_that_refuses_it_keep_their_source(tmp_path) -> None:
    class Strict(FakeTranslator):
        def adopt(self, plan):
            return None

    first = finished(tmp_path / "a", faulty=0.0)
    for folder, problem in (("same", fake_problem()), ("other", fake_problem("other"))):
        with create_run(
            tmp_path / folder, problem, FAKE_PLATFORM, equip(translator=Strict()), settings=QUICK,
            warm_start=tmp_path / "a",
        ) as run:  # fmt: skip
            seeds = [seed for seed, _ in seeds_of(run.graph)]
            if folder == "other":
                assert not seeds and "it defines no ModelNew" in warm_note(run.graph).text
            else:
                assert len(seeds) == 3 and all(seed.plan == {} for seed in seeds)
                assert all(seed.source in {n.candidate.source for n in first.nodes.values()} for seed in seeds)


def test_figures_of_another_run_are_kept_with_their_evidence(tmp_path) -> None:
    finished(tmp_path / "a")
    graph = finished(tmp_path / "b", warm_start="auto")
    assert all(isinstance(seed.fitness, Figure) and seed.fitness.evidence for seed, _ in seeds_of(graph))
