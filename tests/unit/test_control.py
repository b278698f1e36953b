"""The control of a run: a share of its candidates that only ask again, apart from the search, and held against it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from kernelevolve import codec
from kernelevolve.cli import main, public
from kernelevolve.cli.limits import controlled
from kernelevolve.errors import UsageError
from kernelevolve.evaluation import Verdict
from kernelevolve.events import Asked, Evaluated, Written, read_event
from kernelevolve.graph import Graph
from kernelevolve.run import Run
from kernelevolve.runs import create_run, open_run, read_run, tail
from kernelevolve.search import control
from kernelevolve.search.control import clopper_pearson, compare_with_control
from kernelevolve.settings import Settings, refuse_contradictions, settings_for
from kernelevolve.store import replay
from kernelevolve.store.sqlite import SqliteStore
from kernelevolve.testing import (
    FAKE_PLATFORM,
    FakeEvaluator,
    FakeTranslator,
    fake_equip,
    fake_folder,
    fake_problem,
)

SETTINGS = replace(settings_for("quick"), plateau=1000)


def begin(folder: Path, policy: str = "greedy", **more: Any) -> Run:
    return create_run(
        folder, fake_problem(), FAKE_PLATFORM, fake_equip(FakeEvaluator(3), FakeTranslator(moves=6, firsts=40)),
        settings=replace(SETTINGS, **more), policy=policy, seed=5,
    )  # fmt: skip


def driven(folder: Path, policy: str = "greedy", **more: Any) -> Graph:
    with begin(folder, policy, **more) as run:
        asyncio.run(run.drive())
        return run.graph


def story(folder: Path, *, of: bool | None = None) -> list[tuple[Any, ...]]:
    """What was asked, answered and found, without numbers that another arm's candidates have moved."""
    names: dict[str, str] = {}
    briefs: dict[str, bool] = {}
    told: list[tuple[Any, ...]] = []
    for entry in tail(folder):
        event = entry.event
        if isinstance(event, Asked):
            briefs[event.brief.id] = event.brief.control
            if of in (None, event.brief.control):
                told.append(("asked", tuple(names[p] for p in event.brief.parents)))
        elif isinstance(event, Written) and of in (None, event.candidate.control):
            names[event.candidate.id] = f"#{len(names)}"
            told.append(("written", event.candidate.source))
        elif isinstance(event, Evaluated) and event.candidate in names:
            told.append(("told", names[event.candidate], event.fitness.value, names.get(event.duplicate_of, "")))
    return told


@pytest.mark.parametrize("policy", ["greedy", "beam", "mcts", "islands", "map_elites"])
def test_the_search_is_the_one_of_a_run_without_control(tmp_path: Path, policy: str) -> None:
    with_control = driven(tmp_path / "with", policy, candidates=40, control=0.25)
    assert sum(node.candidate.control for node in with_control.nodes.values()) == 10
    driven(tmp_path / "without", policy, candidates=30)
    assert story(tmp_path / "with", of=False) == story(tmp_path / "without")


def test_the_control_is_a_run_of_best_of_n_without_memory(tmp_path: Path) -> None:
    driven(tmp_path / "with", candidates=20, control=0.5, memory=("both",))
    driven(tmp_path / "alone", control.POLICY, candidates=10, memory=("none",))
    mine, alone = story(tmp_path / "with", of=True), story(tmp_path / "alone")
    assert mine and alone[: len(mine)] == mine
    asked = [entry.event.brief for entry in tail(tmp_path / "with") if isinstance(entry.event, Asked)]
    prompts = {brief.prompt for brief in asked if brief.control}
    assert len(prompts) == 1, "whoever is asked again is asked the same"


@pytest.mark.parametrize(("share", "candidates", "expected"), [(0.1, 40, 4), (0.1, 12, 1), (0.5, 20, 10), (0.3, 30, 9)])
def test_the_share_is_kept(tmp_path: Path, share: float, candidates: int, expected: int) -> None:
    graph = driven(tmp_path / "run", "mcts", candidates=candidates, control=share)
    assert len(graph.nodes) == candidates
    assert sum(n.candidate.control for n in graph.nodes.values()) == expected


def test_what_an_exhausted_control_leaves_is_the_searchs(tmp_path: Path) -> None:
    settings = replace(SETTINGS, candidates=20, control=0.5)
    with create_run(
        tmp_path / "run", fake_problem(), FAKE_PLATFORM, fake_equip(None, FakeTranslator(firsts=2)), settings=settings
    ) as run:  # fmt: skip
        asyncio.run(run.drive())
        assert len(run.graph.nodes) == 20
        assert sum(node.candidate.control for node in run.graph.nodes.values()) == 2


def test_a_resumed_run_keeps_its_share_and_chooses_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    whole = driven(tmp_path / "whole", "islands", candidates=30, control=0.2)

    async def some(run: Run, steps: int) -> None:
        for _ in range(steps):
            await run.step()

    with begin(tmp_path / "parts", "islands", candidates=12, control=0.2) as run:
        asyncio.run(some(run, 9))
        run.ask()
    equip = fake_equip(FakeEvaluator(3), FakeTranslator(moves=6, firsts=40))
    # Nobody says the share again, as `resume --candidates 30` and `resume --effort deep` do not.
    with open_run(tmp_path / "parts", equip, settings=replace(SETTINGS, candidates=30)) as run:
        assert run.settings.control == 0.2
        asyncio.run(run.drive())
    assert story(tmp_path / "parts") == story(tmp_path / "whole")
    assert compare_with_control(read_run(tmp_path / "parts")) == compare_with_control(whole)


@pytest.mark.parametrize("policy", ["greedy", "mcts", "islands"])
def test_a_run_with_a_control_is_opened_over_its_snapshot(tmp_path: Path, policy: str, monkeypatch: Any) -> None:
    driven(tmp_path / "whole", policy, candidates=30, control=0.3)
    monkeypatch.setattr(replay, "EVERY", 20)
    driven(tmp_path / "parts", policy, candidates=18, control=0.3)
    read: list[int] = []
    original = SqliteStore.read_from

    def read_from(self: SqliteStore, sequence: int, **more: Any) -> Any:
        found = original(self, sequence, **more)
        read.extend(entry.sequence for entry in found)
        return found

    monkeypatch.setattr(SqliteStore, "read_from", read_from)
    equip = fake_equip(FakeEvaluator(3), FakeTranslator(moves=6, firsts=40))
    settings = replace(SETTINGS, candidates=30)
    with open_run(tmp_path / "parts", equip, settings=settings) as run:
        length = run.graph.next_sequence
        # Of the middle of the log at most the notes are looked at.
        assert len(set(read)) < length / 2
        search, again = control.view(run.graph), control.view(run.graph, control=True)
        assert set(search.nodes) | set(again.nodes) == set(run.graph.nodes)
        for part in (search, again):
            for node in part.nodes.values():
                assert node.candidate == run.graph.nodes[node.id].candidate
                assert node.evaluation == run.graph.nodes[node.id].evaluation
        asyncio.run(run.drive())
    assert story(tmp_path / "parts") == story(tmp_path / "whole")


def test_show_marks_what_is_the_controls(tmp_path: Path, capsys: Any) -> None:
    graph = driven(tmp_path / "run", candidates=10, control=0.3)
    mine = [node.id for node in graph.nodes.values() if node.candidate.control]
    with contextlib.suppress(SystemExit):
        main(["show", str(tmp_path / "run")])
    lines = capsys.readouterr().out.splitlines()
    marked = [line for line in lines if "(control)" in line]
    assert [next(n for n in mine if f" {n} " in line) for line in marked] == mine
    with contextlib.suppress(SystemExit):
        main(["show", str(tmp_path / "run"), mine[0]])
    assert "apart from the search" in capsys.readouterr().out


def test_neither_shows_the_other_anything(tmp_path: Path) -> None:
    with begin(tmp_path / "run", candidates=30, control=0.3) as run:
        asyncio.run(run.drive())
        graph = run.graph
        search, again = control.view(graph), control.view(graph, control=True)
    assert set(search.nodes) | set(again.nodes) == set(graph.nodes)
    assert not set(search.nodes) & set(again.nodes)
    assert all(node.candidate.control for node in again.nodes.values())
    assert not any(node.candidate.control for node in search.nodes.values())
    for part in (search, again):
        assert all(set(node.parents) <= set(part.nodes) for node in part.nodes.values())
        assert [node.index for node in part.nodes.values()] == list(range(len(part.nodes)))
    assert all(not node.parents for node in again.nodes.values())


def test_what_both_write_is_measured_once_and_repeats_nobody(tmp_path: Path) -> None:
    graph = driven(tmp_path / "run", candidates=12, control=0.5)
    first: dict[str, Any] = {}
    shared = 0
    for node in graph.nodes.values():
        twin = first.setdefault(node.candidate.source, node)
        if twin.candidate.control != node.candidate.control:
            shared += 1
            assert not node.duplicate_of
            assert not [label for label in node.evaluation.labels if label.startswith("duplicate of")]
            assert node.evaluation.verdict is twin.evaluation.verdict
    assert shared, "both begin with the plainest kernel"


def test_a_run_without_control_has_none(tmp_path: Path) -> None:
    graph = driven(tmp_path / "run", candidates=8)
    assert compare_with_control(graph) is None
    assert not any(node.candidate.control for node in graph.nodes.values())


def test_a_log_from_before_there_was_a_control_is_read() -> None:
    brief = '{"brief": {"id": "b0", "index": 0, "parents": [], "prompt": "", "move": {}, "diagnosis": ""}}'
    event = read_event("asked", brief, 3)
    assert isinstance(event, Asked) and not event.brief.control


class Told:
    """The graph of a run with these fitnesses, in order; the control's in the end."""

    def __init__(self, folder: Path, search: list[float], again: list[float]) -> None:
        self.graph = driven(folder, candidates=4, control=0.5)
        node = next(iter(self.graph.nodes.values()))
        made = {}
        for i, (value, mine) in enumerate([(v, False) for v in search] + [(v, True) for v in again]):
            fitness = replace(node.fitness, value=value)
            candidate = replace(node.candidate, id=f"n{i}", control=mine)
            right = replace(node.evaluation, verdict=node.evaluation.verdict if value else Verdict.WRONG_VALUE)
            made[f"n{i}"] = replace(
                node, index=i, candidate=candidate, fitness=fitness, parents=(), duplicate_of="", evaluation=right
            )
        self.nodes, self.created = made, self.graph.created


def compared(folder: Path, search: list[float], again: list[float]) -> control.Compared:
    found = compare_with_control(Told(folder, search, again))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_many_candidates_above_the_controls_best_are_no_chance(tmp_path: Path) -> None:
    found = compared(tmp_path, [1.0, 1.2, *(1.5 + i / 100 for i in range(18))], [1.0, 1.3, 1.1, 1.2, 1.25])
    assert (found.winner, found.above) == ("search", 18)
    assert found.chance == pytest.approx(chance(20, 5, 18), rel=1e-9)
    assert found.equal == pytest.approx(1.52)
    assert found.said.startswith("the search beat the control: 1.67x (measured) by searching with 20 candidates")
    assert "(exact)" in found.said


def test_a_better_control_is_said_to_be_better(tmp_path: Path) -> None:
    found = compared(tmp_path, [1.0] * 20, [2.0, 2.1, 1.5])
    assert (found.winner, found.above, found.reaching) == ("control", 3, 3)
    assert "the control beat the search" in found.said


def test_a_small_control_says_that_it_says_nothing(tmp_path: Path) -> None:
    found = compared(tmp_path, [1.0, 1.1, 1.2, 1.5, 1.3, 1.4], [1.25])
    assert (found.winner, found.above, found.control) == ("", 3, 1)
    assert found.said.startswith("too close to tell, or too small a control: 1.5x (measured)")
    assert (found.low, found.high) == (0.0, pytest.approx(0.975))


def test_nothing_evaluated_says_so(tmp_path: Path) -> None:
    found = compared(tmp_path, [1.0, 1.1], [])
    assert found.said == "nothing can be said: no candidate of the control is evaluated"
    assert found.winner == ""


def test_a_control_without_a_correct_candidate_counts_as_worse(tmp_path: Path) -> None:
    found = compared(tmp_path, [1.0] * 30, [0.0] * 6)
    assert found.winner == "search" and found.control_best is None


def chance(search: int, again: int, above: int) -> float:
    total = 1.0
    for i in range(above):
        total *= (search - i) / (search + again - i)
    return total


@bounds(deadline=None, max_examples=30)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 1000))
def test_equal_arms_are_told_apart_as_rarely_as_promised(search: int, again: int, seed: int) -> None:
    """The chance of `above` or more, counted over shuffles of equal candidates."""
    rng = random.Random(seed)
    above = rng.randint(1, search)
    hits, tries = 0, 2000
    for _ in range(tries):
        order = [True] * search + [False] * again
        rng.shuffle(order)
        hits += all(order[:above])
    expected = chance(search, again, above)
    assert abs(hits / tries - expected) < 0.06


@bounds(deadline=None)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_narrows(pair: tuple[int, int]) -> None:
    hits, count = pair
    low, high = clopper_pearson(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    wider = clopper_pearson(10 * hits, 10 * count)
    assert wider[1] - wider[0] <= high - low + 1e-9


def test_the_interval_is_that_of_the_tables() -> None:
    # R: binom.test(0, 10), binom.test(3, 10), binom.test(10, 10)
    assert clopper_pearson(0, 10) == (0.0, pytest.approx(0.3084971, abs=1e-6))
    assert clopper_pearson(3, 10) == (pytest.approx(0.0667395, abs=1e-6), pytest.approx(0.6524529, abs=1e-6))
    assert clopper_pearson(10, 10) == (pytest.approx(0.6915029, abs=1e-6), 1.0)


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0.1", 0.1), ("50%", 0.5), ("0%", 0.0), ("12.5%", 0.125)])
def test_shares_are_read(text: str, share: float) -> None:
    assert controlled(text) == {"control": pytest.approx(share)}


@pytest.mark.parametrize("text", ["ten", "10", "-5%", "", "10%%", "nan"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no share of the candidates; write 10%"):
        controlled(text)


@pytest.mark.parametrize("share", [0.51, 1.0, -0.1, float("nan")])
def test_a_share_outside_of_0_to_50_percent_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="0 % to 50 %"):
        replace(SETTINGS, control=share)


def test_a_control_of_less_than_one_candidate_is_refused() -> None:
    with pytest.raises(UsageError, match="a control of 5% of 12 candidates is none; give 8% or more"):
        refuse_contradictions(replace(SETTINGS, control=0.05), {"control"})


def test_the_control_of_the_control_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="policy best_of_n is what a control does"):
        begin(tmp_path / "run", control.POLICY, control=0.1)
    assert not (tmp_path / "run").exists()


def test_settings_travel_with_the_share() -> None:
    made = replace(SETTINGS, control=0.1)
    assert codec.from_data(Settings, codec.to_data(made)) == made


def test_the_command_gives_a_share_says_what_came_of_it_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    equip = fake_equip(FakeEvaluator(), FakeTranslator(firsts=40))
    monkeypatch.setattr(public, "workshop", lambda problem, device, **more: contextlib.nullcontext(equip))
    monkeypatch.chdir(fake_folder(tmp_path).parent)

    def told(*arguments: str) -> tuple[int, str, dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--json"])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), err, json.loads(out.splitlines()[-1])

    begun = ("optimize", "relu.py", "--effort", "quick", "--out", "r")
    code, text, data = told(*begun, "--candidates", "8", "--control", "25%")
    assert code == 0 and (data["control"]["search"], data["control"]["control"]) == (6, 2)
    assert f"control      {data['control']['said']}" in text
    assert told("resume", "r", "--effort", "standard", "--candidates", "16", "--plateau", "15")[0] == 0
    graph = read_run(tmp_path / "r")
    assert graph.settings["control"] == 0.25
    assert sum(node.candidate.control for node in graph.nodes.values()) == 4
    for share, said in (("60%", "0 % to 50 %"), ("1%", "is none; give"), ("some", "is no share")):
        code, text, data = told(*begun[:-1], "other", "--candidates", "8", "--control", share)
        assert code == 2 and said in data["error"] and not (tmp_path / "other").exists()
