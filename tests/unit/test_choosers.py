"""Who answers a brief: arms and what they earn, the bandit over them, several writers in real runs."""

from __future__ import annotations

import asyncio
import json
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve import codec, plugins
from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.errors import NoMovesLeft, UncoveredOp, UnknownName, UsageError, WriterError
from kernelevolve.evaluation import Evidence, Figure, Verdict
from kernelevolve.events import Asked, Component, Created, Dropped, Entry, Evaluated, Written
from kernelevolve.graph import Graph, fold, fold_all
from kernelevolve.propose import Answer
from kernelevolve.runs import create_run, open_run, read_run, tail
from kernelevolve.search.arms import DRAFT, Arm, ArmsReducer, Earned, earnings
from kernelevolve.search.bandit import Bandit, First, chooser_named
from kernelevolve.settings import settings_for
from kernelevolve.testing import (
    FAKE_PLATFORM,
    FakeEvaluator,
    FakeTranslator,
    fake_equip,
    fake_evaluation,
    fake_problem,
    same_story,
)

QUICK = replace(settings_for("quick"), candidates=12, plateau=11)


class Story:
    """A log that is made up event by event."""

    def __init__(self) -> None:
        self.graph, self.entries = Graph((ArmsReducer(),)), list[Entry]()
        self._add(Created("fake", fake_problem(), FAKE_PLATFORM, 0, Component("greedy"), Component("fake"),
                          codec.to_data(QUICK), "0"))  # fmt: skip

    def _add(self, event) -> None:
        self.entries.append(Entry(len(self.entries), 1, float(len(self.entries)), event))
        fold(self.graph, self.entries[-1])

    def ask(self, writer: str, prefer: str = "", parents: tuple[str, ...] = ()) -> str:
        index = self.graph.asked
        move = {"prefer": prefer} if prefer else {}
        self._add(Asked(Brief(f"b{index}", index, parents, "", move, writer=writer)))
        return f"b{index}"

    def tell(self, brief: str, fitness: float, *, by: str = "", move: str = "", limit: str = "bandwidth", **more):
        """Answers a brief by a kernel of so much fitness, 0 for a wrong one."""
        asked = self.graph.pending[brief].brief
        name, cost = f"n{self.graph.written}", more.pop("cost", Cost(seconds=1.0))
        writer = by or asked.writer
        self._add(Written(Candidate(name, brief, writer, f"# {name}\n", cost=cost, move=move, **more)))
        found = fake_evaluation(fitness or 1.0, verdict=None if fitness else Verdict.WRONG_VALUE)
        worth = Figure(fitness, "x", Evidence.MEASURED, "fake")
        self._add(Evaluated(name, replace(found, diagnosis=f"{limit}: said"), worth))
        return name

    def drop(self, brief: str, *, exhausted: bool = False) -> None:
        self._add(Dropped(brief, "failed", exhausted))

    @property
    def earned(self) -> dict[tuple[str, ...], Earned]:
        return self.graph.reduced(ArmsReducer.name).earned


def test_a_gain_is_credited_to_who_made_it_for_what_limited_the_parent() -> None:
    story = Story()
    first = story.tell(story.ask("one"), 2.0)
    story.tell(story.ask("two", "tile", (first,)), 3.0, move="tile", cost=Cost(2.0, money_usd=0.5))
    story.tell(story.ask("two", "tile", (first,)), 1.5, move="tile", limit="compute")
    draft, tile = story.earned[("one", "", DRAFT)], story.earned[("two", "tile", "bandwidth")]
    assert (draft.answers, draft.gains, draft.gained) == (1, 1, pytest.approx(math.log(2)))
    assert (tile.answers, tile.gains, tile.gained) == (2, 1, pytest.approx(math.log(1.5)))
    assert (tile.priced, tile.seconds, tile.money_usd) == (2, 3.0, 0.5)
    assert story.earned[()].answers == 3 and story.earned[("two",)] == story.earned[("two", "tile")]


def test_what_is_no_gain_costs_all_the_same() -> None:
    story = Story()
    first = story.tell(story.ask("one"), 2.0)
    story.tell(story.ask("one", parents=(first,)), 0.0)
    story.drop(story.ask("one", parents=(first,)))
    story.drop(story.ask("one", parents=(first,)), exhausted=True)
    found = story.earned[("one", "", "bandwidth")]
    assert (found.answers, found.gains, found.priced, found.pending) == (2, 0, 1, 0)


def test_own_choice_is_credited_with_the_move_that_was_made() -> None:
    story = Story()
    first = story.tell(story.ask("one"), 2.0)
    story.tell(story.ask("one", parents=(first,)), 4.0, move="tile")
    for move in ("", "tile"):
        assert story.earned[("one", move, "bandwidth")].gains == 1
    assert story.earned[("one",)].answers == 2


def test_asking_for_what_a_writer_has_not_to_offer_is_no_gain_of_that_arm() -> None:
    story = Story()
    first = story.tell(story.ask("one"), 2.0)
    story.tell(story.ask("one", "split", (first,)), 4.0, move="tile")
    asked, made = (story.earned[("one", move, "bandwidth")] for move in ("split", "tile"))
    assert (asked.answers, asked.refused, made.answers, made.gains) == (0, 1, 1, 1)
    story.tell(story.ask("one", parents=(first,)), 4.0, by="two")
    assert story.earned[("one", "", "bandwidth")].refused == 1 and story.earned[("two",)].gains == 1
    story.tell(story.ask("one", parents=(first,)), 4.0, by="guest")
    assert story.earned[("one", "", "bandwidth")].refused == 1 and story.earned[("guest",)].gains == 1


def test_what_came_from_an_earlier_run_is_nobodys_gain_but_raises_the_bar() -> None:
    story = Story()
    story.tell(story.ask("warm-start"), 3.0, origin="abc/n7")
    story.tell(story.ask("one"), 2.0)
    assert ("warm-start",) not in {key for key, earned in story.earned.items() if earned.answers}
    assert story.earned[("one", "", DRAFT)].gains == 0


def test_unknown_costs_are_told_apart_from_none() -> None:
    story = Story()
    first = story.tell(story.ask("one"), 2.0, cost=Cost())
    story.tell(story.ask("one", parents=(first,)), 2.5, cost=Cost())
    assert (story.earned[("one",)].answers, story.earned[("one",)].priced) == (2, 0)
    arm = Bandit().choose(story.graph, (first,), [Arm("one")], random.Random(0))
    assert arm == Arm("one")


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_same_log_in_same_choice_out_and_no_arm_but_those_given(seed: int, steps: int, pending: int) -> None:
    luck, story, arms = random.Random(seed), Story(), [Arm("one"), Arm("one", "tile"), Arm("two"), Arm("two", "split")]
    for _ in range(steps):
        parents = (luck.choice(list(story.graph.nodes)),) if story.graph.nodes and luck.random() < 0.8 else ()
        arm = Bandit().choose(story.graph, parents, arms, random.Random(f"{seed}:{story.graph.asked}"))
        assert arm in arms
        brief = story.ask(arm.writer, arm.move, parents)
        limit = luck.choice(("compute", "bandwidth"))
        if luck.random() < 0.15:
            story.drop(brief, exhausted=luck.random() < 0.5)
        else:
            story.tell(brief, luck.choice((0.0, 0.5, 1.0, 2.0)), limit=limit, move=luck.choice(("", "tile", "split")))
    for _ in range(pending):
        story.ask("one", "tile", ())
    again = fold_all(story.entries, (ArmsReducer(),))
    assert again.reduced("arms") == story.graph.reduced("arms")
    saved = json.loads(json.dumps(ArmsReducer().save(again.reduced("arms"), again)))
    assert ArmsReducer().restore(saved, again) == again.reduced("arms"), "as a snapshot has it"
    choices = [Bandit().choose(graph, (), arms, random.Random(seed)) for graph in (story.graph, again)]
    assert choices[0] == choices[1]
    for key, earned in story.earned.items():
        assert 0 <= earned.gains <= earned.answers and 0 <= earned.priced <= earned.answers, key
        assert earned.gained >= 0 and earned.pending >= 0 and (earned.gained > 0) == (earned.gains > 0), key
    assert sum(e.pending for key, e in story.earned.items() if len(key) == 1) == pending
    assert story.earned.get((), Earned()).answers == sum(e.answers for k, e in story.earned.items() if len(k) == 1)
    shown = earnings(story.graph)
    assert sum(e.answers for e in shown.values()) == len(story.graph.nodes)


# -- does it find the better one


WORLD = {
    "compute": {"one": (0.05, 1.0), "two": (0.40, 1.0), "three": (0.10, 1.0)},
    "bandwidth": {"one": (0.40, 1.0), "two": (0.05, 1.0), "three": (0.10, 1.0)},
}


def pulled(chooser, world, asks: int, seed: int, writers: int = 1) -> tuple[float, float, list[tuple[str, str]]]:
    """Expected gain per second that `chooser` missed, and that choosing evenly misses, over `asks` briefs; and what
    was chosen in which context.

    The world has for each context and writer the chance of a gain of 10 %, and the seconds that an answer takes.
    """
    luck, story, chosen, missed, even = random.Random(f"{seed}:world"), Story(), [], 0.0, 0.0
    names = list(next(iter(world.values())))
    roots = {limit: story.tell(story.ask("nobody"), 1.0, limit=limit) for limit in world}
    flight: list[tuple[str, str, str]] = []
    for index in range(asks):
        limit = luck.choice(list(world))
        rates = {name: chance / cost for name, (chance, cost) in world[limit].items()}
        parents = (roots[limit],)
        arm = chooser.choose(story.graph, parents, [Arm(name) for name in names], random.Random(f"{seed}:{index}"))
        missed += max(rates.values()) - rates[arm.writer]
        even += max(rates.values()) - sum(rates.values()) / len(rates)
        chosen.append((limit, arm.writer))
        flight.append((story.ask(arm.writer, parents=parents), limit, arm.writer))
        while len(flight) >= writers:
            brief, where, writer = flight.pop(0)
            chance, cost = world[where][writer]
            story.tell(brief, 1.1 if luck.random() < chance else 0.9, cost=Cost(seconds=cost))
    return missed, even, chosen


@pytest.mark.parametrize("writers", [1, 8])
def test_the_bandit_misses_far_less_than_an_even_choice_and_respects_the_context(writers: int) -> None:
    missed = even = 0.0
    late: list[tuple[str, str]] = []
    for seed in range(6):
        mine, uniform, chosen = pulled(Bandit(), WORLD, 300, seed, writers)
        missed, even, late = missed + mine, even + uniform, late + chosen[150:]
    assert missed < 0.35 * even, f"misses {missed:.1f} of {even:.1f}"
    for limit, best in (("compute", "two"), ("bandwidth", "one")):
        share = sum(name == best for where, name in late if where == limit) / sum(where == limit for where, _ in late)
        assert share > 0.75, f"{best} answers {share:.0%} in {limit}"


def test_a_dear_writer_must_gain_more() -> None:
    world = {"compute": {"cheap": (0.2, 1.0), "dear": (0.3, 10.0)}}
    for seed in range(4):
        _, _, chosen = pulled(Bandit(), world, 200, seed)
        assert sum(name == "cheap" for _, name in chosen[100:]) > 80


def test_money_and_time_are_one_cost_by_the_hourly_rate() -> None:
    """At 36 dollars an hour, ten seconds cost ten cents."""
    story = Story()
    parent = story.tell(story.ask("nobody"), 1.0)
    for index in range(60):
        gain = 1.1 if index % 2 else 0.9
        story.tell(story.ask("paid", parents=(parent,)), gain, cost=Cost(money_usd=0.1))
        story.tell(story.ask("slow", parents=(parent,)), gain, cost=Cost(seconds=10.0))
    arms = [Arm("paid"), Arm("slow")]

    def share(hourly: float) -> float:
        bandit = Bandit(hourly=hourly)
        chosen = [bandit.choose(story.graph, (parent,), arms, random.Random(i)).writer for i in range(300)]
        return chosen.count("paid") / 300

    assert share(3.6) < 0.02 and 0.3 < share(36.0) < 0.7 and share(360.0) > 0.98


def test_pending_briefs_make_writers_spread() -> None:
    story = Story()
    parent = story.tell(story.ask("nobody"), 1.0)
    for _ in range(4):
        story.tell(story.ask("one", parents=(parent,)), 1.2)
        story.tell(story.ask("two", parents=(parent,)), 1.1)
    arms = [Arm("one"), Arm("two")]

    def ones() -> int:
        bandit = Bandit()
        return sum(bandit.choose(story.graph, (parent,), arms, random.Random(i)).writer == "one" for i in range(400))

    before = ones()
    for _ in range(8):
        story.ask("one", parents=(parent,))
    assert before > 280 and ones() < before - 100


# -- names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bandid", "unknown chooser 'bandid'; known: bandit, first"),
        ("bandit:c=1", "unknown parameter of chooser bandit 'c'; known: hourly, weight"),
        ("bandit:weight=0", "weight=0"),
        ("bandit:weight=much", "weight is a number \\(2.0\\), got 'much'"),
        ("bandit:weight", "'weight' is not parameter=value"),
        ("first:x=1", "unknown parameter of chooser first 'x'; known: none"),
    ],
)
def test_a_chooser_that_cannot_be_chosen_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        chooser_named(text)


def test_the_usual_chooser_depends_on_how_many_writers_there_are() -> None:
    assert chooser_named("").name == "first" and chooser_named("", 2).name == "bandit"
    assert chooser_named("bandit:hourly=4").args == {"weight": 2.0, "hourly": 4}
    assert First().choose(Graph(), (), [Arm("a"), Arm("b")], random.Random(0)) == Arm("a")


# -- in real runs


class Another:
    """A writer that answers from the brief's index, with a name of its own."""

    def __init__(self, workbench, name: str = "another", gives: str = "", seconds: float = 1.0) -> None:
        self.name, self._gives, self._cost, self.reducers = name, gives, Cost(seconds=seconds), ()

    async def write(self, brief, graph):
        if self._gives:
            raise {"up": NoMovesLeft("nothing left"), "in": UncoveredOp("aten.sort.default", "line 3")}.get(
                self._gives, WriterError("broken")
            )
        return Answer(f"# {self.name} {brief.index} {brief.parents}\n", "another way", cost=self._cost)


@pytest.fixture
def another(monkeypatch):
    load = plugins.load
    monkeypatch.setattr(
        plugins, "load", lambda kind, name: Another if (kind, name) == ("writers", "another") else load(kind, name)
    )


def begin(folder, **more):
    more = {"settings": QUICK, **more}
    return create_run(folder, fake_problem(), FAKE_PLATFORM, fake_equip(FakeEvaluator(faulty=0.0)), **more)


def drive(run) -> str:
    with run:
        return asyncio.run(run.drive())


def test_several_writers_share_a_run_which_goes_on_after_each_reopening(tmp_path, another) -> None:
    writers = ("built-in", "another", "another:name=third")
    with begin(tmp_path / "a", writer=writers) as run:
        asyncio.run(run.drive())
    whole = read_run(tmp_path / "a")
    assert whole.created.chooser == Component("bandit", {"weight": 2.0, "hourly": 2.0})
    assert {node.candidate.writer for node in whole.nodes.values()} == {"built-in", "another", "third"}
    run = begin(tmp_path / "b", writer=writers)
    for _ in range(QUICK.candidates):
        with run:
            asyncio.run(run.step())
        run = open_run(tmp_path / "b", fake_equip(FakeEvaluator(faulty=0.0)))
    drive(run)
    again = read_run(tmp_path / "b")
    # The seconds of the built-in engineer differ, and so may the choice once costs have been seen; what is chosen
    # follows from the log alone.
    assert len(again.nodes) == 12 and again.created.others == whole.created.others
    for folder in (tmp_path / "a", tmp_path / "b"):
        seen = Graph((ArmsReducer(),))
        for entry in tail(folder):
            if isinstance(entry.event, Asked):
                brief = entry.event.brief
                arms = [Arm("built-in"), *(Arm("built-in", f"kind {n}") for n in range(4) if len(brief.parents) == 1),
                        Arm("another"), Arm("third")]  # fmt: skip
                chosen = Bandit().choose(seen, brief.parents, arms, random.Random(f"0:{brief.index}:choose"))
                assert chosen == Arm(brief.writer, brief.move.get("prefer", ""))
            fold(seen, entry)


def test_where_costs_are_the_same_the_story_is(tmp_path, another) -> None:
    writers = ("another", "another:name=third,seconds=2")
    for name in ("a", "b"):
        drive(begin(tmp_path / name, writer=writers, choose="bandit"))
    assert same_story(tail(tmp_path / "a"), tail(tmp_path / "b")) == ""
    assert {e.event.brief.writer for e in tail(tmp_path / "a") if isinstance(e.event, Asked)} == {"another", "third"}


def test_who_has_no_move_left_hands_the_brief_on(tmp_path, another) -> None:
    for gives in ("up", "in"):
        drive(begin(tmp_path / gives, writer=(f"another:name=idle,gives={gives}", "another"), choose="first"))
        graph = read_run(tmp_path / gives)
        assert {node.candidate.writer for node in graph.nodes.values()} == {"another"} and len(graph.nodes) == 12
    drive(begin(tmp_path / "broken", writer=("another:name=idle,gives=error", "another"), choose="first"))
    assert read_run(tmp_path / "broken").finished.startswith("the writer failed 10 times in a row; last: broken")
    assert drive(begin(tmp_path / "none", writer=("another:name=a,gives=up", "another:gives=up"))) == "no moves left"


def test_the_bandit_steers_the_built_in_engineer(tmp_path) -> None:
    drive(begin(tmp_path, choose="bandit"))
    graph = read_run(tmp_path)
    briefs = {e.event.brief.id: e.event.brief for e in tail(tmp_path) if isinstance(e.event, Asked)}
    paths = [tuple(node.candidate.plan["path"]) for node in graph.nodes.values()]
    steered = [node for node in graph.nodes.values() if "prefer" in briefs[node.candidate.brief].move]
    assert any(node.candidate.move == briefs[node.candidate.brief].move["prefer"] for node in steered)
    for node in steered:
        wanted = briefs[node.candidate.brief].move["prefer"]
        above = tuple(graph.nodes[node.parents[0]].candidate.plan["path"])
        # Another kind only where the plan of the preferred one was tried before.
        assert node.candidate.move == wanted or (*above, int(wanted[-1])) in paths[: node.index]
    asked = next(brief for brief in briefs.values() if "prefer" in brief.move)
    assert f"Prefer this kind of change: {asked.move['prefer']}." in asked.prompt
    assert "prefer" not in briefs["b0"].move and briefs["b0"].writer == "built-in"


def test_a_guest_earns_as_any_other_writer(tmp_path) -> None:
    with begin(tmp_path, choose="bandit") as run:
        asyncio.run(run.step())
        brief = run.ask(writer="guest")
        assert brief.writer == "guest"
        asyncio.run(run.submit(brief.id, "# by hand\n"))
        earned = run.graph.reduced("arms").earned
    assert earned[("guest",)].answers == 1 and earned[("guest",)].priced == 0
    assert any(arm.writer == "guest" for arm, _ in earnings(read_run(tmp_path)))


@pytest.mark.parametrize(
    ("more", "kind", "says"),
    [
        ({"writer": "somebody"}, UnknownName, "unknown writer 'somebody'; known: built-in"),
        ({"writer": ("built-in", "built-in")}, UsageError, "different names, got built-in, built-in"),
        ({"writer": "built-in:x=1"}, UsageError, "'built-in' cannot be built with {'x': 1}"),
        ({"choose": "luck"}, UnknownName, "unknown chooser 'luck'; known: bandit, first"),
    ],
)
def test_writers_that_cannot_be_are_refused_before_anything_is_made(tmp_path, more, kind, says) -> None:
    with pytest.raises(kind, match=says.replace("{", "\\{")):
        begin(tmp_path / "r", **more)
    assert not (tmp_path / "r").exists()


def test_families_of_the_fake_are_honoured_first() -> None:
    plan = asyncio.run(FakeTranslator().next({"path": [0]}, "compute", (), random.Random(0), prefer="kind 2"))
    assert plan is not None and plan.move == "kind 2"
