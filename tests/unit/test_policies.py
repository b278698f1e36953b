"""What each policy does to a real population, and that a policy that misbehaves is named."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve import plugins
from kernelevolve.candidate import Brief, Candidate
from kernelevolve.errors import NoMovesLeft, PluginFault, UnknownName, UsageError
from kernelevolve.evaluation import Evidence, Figure, Resources, Verdict
from kernelevolve.events import Asked, Component, Created, Dropped, Entry, Evaluated, Written
from kernelevolve.graph import Graph, Node, fold_all
from kernelevolve.propose.diagnose import LIMITS, diagnose
from kernelevolve.runs import create_run, open_run, read_run, tail
from kernelevolve.search import choosing
from kernelevolve.search.beam import Beam, LevelReducer
from kernelevolve.search.best_of_n import BestOfN
from kernelevolve.search.choosing import policy_named
from kernelevolve.search.features import LIMITS as CORRECT_LIMITS
from kernelevolve.search.features import all_cells, cell_of
from kernelevolve.search.greedy import Greedy
from kernelevolve.search.islands import ArchipelagoReducer, Islands
from kernelevolve.search.map_elites import ArchiveReducer, MapElites
from kernelevolve.search.mcts import ROOT, Mcts, TreeReducer
from kernelevolve.settings import settings_for
from kernelevolve.testing import (
    FAKE_PLATFORM,
    Space,
    check_policy,
    fake_equip,
    fake_evaluation,
    fake_problem,
    fake_search,
    same_story,
)

NAMES = ("beam", "best_of_n", "greedy", "islands", "map_elites", "mcts")
CREATED = Created("r", fake_problem(), "h100", 0, Component("greedy"), Component("fake"), {}, "0")
WRONG = Verdict.WRONG_VALUE
SETTINGS = replace(settings_for("quick"), candidates=25, plateau=1000)


class Story:
    """Builds a log step by step."""

    def __init__(self, policy):
        self.policy, self.events = policy, [CREATED]
        self.asked = self.written = 0

    @property
    def graph(self) -> Graph:
        return fold_all([Entry(i, 1, float(i), e) for i, e in enumerate(self.events)], self.policy.reducers)

    def ask(self, *parents):
        self.events.append(Asked(Brief(f"b{self.asked}", self.asked, parents, "")))
        self.asked += 1
        return self

    def told(self, *parents, fitness=1.0, verdict=Verdict.OK_FASTER, **more):
        self.ask(*parents)
        name, brief = f"n{self.written}", f"b{self.asked - 1}"
        self.written += 1
        self.events.append(Written(Candidate(name, brief, "fake", more.get("source", f"# {name}\n"))))
        worth = Figure(fitness if verdict.ok else 0.0, "x", more.get("evidence", Evidence.MEASURED), "test")
        evaluation = more.get("evaluation", fake_evaluation(1.5, verdict=verdict))
        self.events.append(Evaluated(name, evaluation, worth, more.get("duplicate_of", "")))
        return self

    def dropped(self, *parents, exhausted=False):
        self.ask(*parents)
        self.events.append(Dropped(f"b{self.asked - 1}", "test", exhausted))
        return self

    def select(self, seed=0):
        return self.policy.select(self.graph, random.Random(seed))


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_keeps_the_rules(name):
    check_policy(plugins.load("policies", name), exhaustive=name != "best_of_n")


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    space=st.builds(
        Space, seed=st.integers(0, 10**6), drafts=st.integers(1, 6), moves=st.integers(1, 4), depth=st.integers(1, 4),
        faulty=st.floats(0, 1), same=st.floats(0, 0.5),
    ),
    writers=st.integers(1, 20),
    cut=st.floats(0, 1),
)  # fmt: skip
def test_same_log_in_same_choice_out(name, space, writers, cut):
    make = plugins.load("policies", name)
    _, entries = fake_search(make(), space, writers=writers, most=150)
    head = entries[: max(1, int(cut * len(entries)))]
    choices = set()
    for policy in (make(), make()):
        graph = fold_all(head, policy.reducers)
        choices.add(policy.select(graph, random.Random(f"{space.seed}:{graph.asked}:select")))
    assert len(choices) == 1
    for event in entries[len(head) :]:
        if isinstance(event.event, Asked):
            assert event.event.brief.parents in choices
            break
        if not isinstance(event.event, Written):
            break


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_resumed_with_the_policy_that_it_was_created_with(tmp_path, name):
    text = name if name == "best_of_n" else f"{name}:drafts=3"
    stories = []
    for place, stops in ((tmp_path / "a", 0), (tmp_path / "b", 9)):
        equip = fake_equip()
        with create_run(place, fake_problem(), FAKE_PLATFORM, equip, settings=SETTINGS, policy=text) as run:
            for _ in range(stops):
                with contextlib.suppress(NoMovesLeft):
                    asyncio.run(run.step())
            if not stops:
                asyncio.run(run.drive())
        if stops:
            with open_run(place, equip) as run:
                asyncio.run(run.drive())
        created = read_run(place).created.policy
        assert created.name == name and created.args.get("drafts", 3) == 3
        stories.append(tail(place))
    assert same_story(*stories) == ""


# -- beam


def test_the_beam_takes_turns_and_goes_on_from_the_best_of_a_level():
    story = Story(Beam(width=2, children=2, drafts=3)).told(fitness=1.0).told(fitness=3.0)
    assert story.select() == ()
    story.told(fitness=2.0)
    assert list(story.graph.reduced(LevelReducer.name).members) == ["n1", "n2"]
    assert story.select() == ("n1",) and story.ask("n1").select() == ("n2",)
    story = Story(Beam(width=2, children=1, drafts=2)).told(fitness=3.0).told(fitness=1.0)
    story.told("n0", fitness=0.5).told("n1", fitness=2.0)
    level = story.graph.reduced(LevelReducer.name)
    assert (level.number, list(level.members)) == (2, ["n0", "n3"]), "n1 is out of the beam, n0 stays"


def test_nobody_waits_for_the_end_of_a_level_and_a_dead_beam_looks_back():
    story = Story(Beam(width=1, children=1, drafts=1)).told(fitness=1.0).ask("n0")
    assert story.select() == ("n0",)
    story = Story(Beam(width=1, children=1, drafts=2)).told(fitness=1.0).told(fitness=2.0)
    assert story.select() == ("n1",)
    assert story.dropped("n1", exhausted=True).select() == ("n0",)


# -- Monte-Carlo tree search


def test_uct_prefers_value_and_then_what_it_does_not_know():
    story = Story(Mcts(drafts=2, children=1)).told(fitness=1.0).told(fitness=2.0).told("n0").told("n1", fitness=1.9)
    assert story.select() == ("n3",)
    wide = Story(Mcts(drafts=2, children=1, exploration=50.0)).told(fitness=1.0).told(fitness=2.0)
    wide.told("n0", fitness=1.0).told("n1", fitness=2.0).told("n3", fitness=2.0)
    assert wide.select() == ("n2",), "the less visited half"


def test_values_are_the_means_of_log_fitness_between_the_worst_and_the_best():
    story = Story(Mcts(drafts=2)).told(fitness=1.0).told(fitness=4.0).told("n1", fitness=2.0).told("n1", verdict=WRONG)
    tree = story.graph.reduced(TreeReducer.name)
    assert tree.value(tree.places["n0"]) == 0.0
    assert tree.value(tree.places["n1"]) == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert tree.places[ROOT].visits == 4
    tree = story.told("n0", fitness=1.5, evidence=Evidence.MODELLED).graph.reduced(TreeReducer.name)
    assert tree.places["n0"].visits == 2 and tree.value(tree.places["n0"]) == 0.0, "a model does not outvote a device"


def test_virtual_visits_spread_pending_children():
    story = Story(Mcts(drafts=3, children=3)).told(fitness=1.5).told(fitness=1.6).told(fitness=1.4)
    chosen = Counter()
    for _ in range(6):
        parents = story.select()
        chosen[parents] += 1
        story.ask(*parents)
    assert len(chosen) > 1
    tree = story.graph.reduced(TreeReducer.name)
    assert tree.places[ROOT].virtual == 6 == sum(tree.places[n].virtual for n in ("n0", "n1", "n2"))
    told = story.graph
    for brief in list(told.pending):
        story.events.append(Dropped(brief, "test"))
    assert story.graph.reduced(TreeReducer.name).places[ROOT].virtual == 0


def test_a_node_without_room_below_is_passed_by_and_at_last_the_best_widens():
    story = Story(Mcts(drafts=1, children=1)).told(fitness=1.0)
    story.told("n0", fitness=2.0, duplicate_of="n0")
    assert story.select() == ("n0",), "the only child is a duplicate: the best open node gets another"


# -- islands


def test_islands_differ_and_migration_happens_between_neighbours():
    policy = Islands(islands=3, drafts=3, migration=4, size=5, stall=1000)
    graph, entries = fake_search(policy, Space(1, drafts=9, moves=5, depth=6), writers=4, most=120)
    state = graph.reduced(ArchipelagoReducer.name)
    members = [set(island.members) for island in state.islands]
    assert all(members) and all(len(m) <= 5 for m in members)
    assert len({frozenset(m) for m in members}) == 3, "every island has another population"
    assert all(island.arrived > 0 for island in state.islands), "and everybody has had immigrants"
    islands_of = {n.id: int(n.candidate.brief[1:]) % 3 for n in graph.nodes.values()}
    came = {(islands_of[p], islands_of[n.id]) for n in graph.nodes.values() for p in n.parents}
    assert came > {(0, 0), (1, 1), (2, 2)}, "immigrants have children there"
    pairs = [e.event.brief.parents for e in entries if isinstance(e.event, Asked) and len(e.event.brief.parents) == 2]
    assert pairs and all(graph.nodes[a].rank >= graph.nodes[b].rank for a, b in pairs)


def test_islands_keep_to_themselves_where_there_is_no_migration():
    policy = Islands(islands=4, drafts=4, migration=10**6, stall=10**6)
    graph, _ = fake_search(policy, Space(2, drafts=20, moves=6, depth=5, faulty=0.0), most=100)
    origin = {}
    for node in graph.nodes.values():
        island = int(node.candidate.brief[1:]) % 4
        origin[node.id] = island
        assert all(origin[p] == island for p in node.parents)


def test_an_island_that_stalls_is_settled_anew_unless_it_has_the_best():
    story = Story(Islands(islands=2, drafts=2, stall=3, migration=1000, crossover=0.0))
    story.told(fitness=1.0).told(fitness=5.0)
    for _ in range(3):
        story.told("n0", fitness=0.5).told("n1", fitness=0.4)
    poor, rich = story.graph.reduced(ArchipelagoReducer.name).islands
    assert (poor.settled, len(poor.members), rich.settled) == (1, 0, 0)
    assert story.select() == (), "a fresh draft settles it"


def test_an_island_without_anybody_repairs_or_borrows():
    story = Story(Islands(islands=2, drafts=2)).told(verdict=WRONG).told(fitness=2.0)
    assert story.select() == ("n0",)
    story.told("n0", verdict=WRONG).dropped(exhausted=True).dropped("n0", exhausted=True)
    story.dropped("n2", exhausted=True)
    story.ask("n1") if story.asked % 2 else None
    assert story.asked % 2 == 0 and story.select() == ("n1",)


# -- MAP-Elites


def node_in(cell, index=0, fitness=1.0):
    counts = {"1": 1, "2": 2, "3-4": 3, "5+": 7}
    launches = tuple(Resources("k", "sm_90", "", 32, 0, 0, 4, 1.0) for _ in range(counts[cell.launches]))
    products = {"none": "tl.sum(x)", "default": "tl.dot(a, b)"}
    text = products.get(cell.precision, f'tl.dot(a, b, input_precision="{cell.precision}")')
    head = "from triton.experimental import gluon\n" if cell.language == "gluon" else "import triton\n"
    found = replace(fake_evaluation(1.5), resources={"h100": launches}, diagnosis=f"{cell.limit}: test")
    candidate = Candidate(f"n{index}", f"b{index}", "fake", f"{head}# {index}\n{text}\n")
    return Node(index, (), candidate, found, Figure(fitness, "x", Evidence.MEASURED, "test"))


def test_every_cell_is_reachable():
    assert len(all_cells()) == len(set(all_cells())) == 8 * 4 * 7 * 2
    story = Story(MapElites())
    for index, cell in enumerate(all_cells()):
        node = node_in(cell, index)
        assert cell_of(node) == cell
        story.told(source=node.candidate.source, evaluation=node.evaluation)
    cells = story.graph.reduced(ArchiveReducer.name).cells
    assert set(cells) == set(all_cells())
    graph = story.graph
    drawn = {story.policy.select(graph, random.Random(seed))[0] for seed in range(400)}
    assert len(drawn) > 150, "parents come from all over the archive"


def test_the_tuned_choice_of_the_precision_says_the_cell():
    node = node_in(all_cells()[0])
    timings = tuple(replace(t, knobs={"PRECISION": "bf16x6"}) for t in node.evaluation.timings)
    assert cell_of(replace(node, evaluation=replace(node.evaluation, timings=timings))).precision == "bf16x6"


def test_the_limits_of_the_archive_are_those_of_correct_kernels():
    faults = {diagnose(fake_evaluation(1.0, verdict=v)).limit for v in Verdict if not v.ok}
    assert set(CORRECT_LIMITS) == (set(LIMITS) - faults) | {"unknown"}


def test_a_better_node_takes_the_cell_and_an_exhausted_one_leaves_it():
    cell, other = all_cells()[0], all_cells()[-1]
    story = Story(MapElites(drafts=1, crossover=0.0, exploit=0.0))
    for index, (where, fitness) in enumerate(((cell, 1.0), (cell, 3.0), (cell, 2.0), (other, 0.1))):
        node = node_in(where, index)
        story.told(source=node.candidate.source, evaluation=node.evaluation, fitness=fitness)
    drawn = {story.select(seed) for seed in range(30)}
    assert drawn == {("n1",), ("n3",)}, "a slow node of another kind is a parent too"
    story.dropped("n1", exhausted=True).dropped("n3", exhausted=True)
    assert {story.select(seed) for seed in range(30)} == {("n2",)}
    both = Story(MapElites(drafts=1, crossover=1.0))
    both.events, both.asked, both.written = story.events[:-4], story.asked - 2, story.written
    assert {both.select(seed) for seed in range(30)} == {("n1", "n3")}, "the better one first"


# -- best of N


def test_best_of_n_only_drafts():
    story = Story(BestOfN()).told(fitness=9.0).told(verdict=WRONG)
    assert {story.select(seed) for seed in range(9)} == {()}


# -- chosen by name


def test_a_policy_is_chosen_by_name_and_parameters():
    made = policy_named("mcts:children=3, exploration=1", settings_for("deep"))
    assert (made.name, made.args) == (
        "mcts", {"drafts": settings_for("deep").drafts, "children": 3, "exploration": 1, "repairs": 3},
    )  # fmt: skip
    assert policy_named("islands:drafts=7", settings_for("deep")).args["drafts"] == 7
    assert policy_named("best_of_n", settings_for("deep")) == Component("best_of_n", {})
    assert isinstance(choosing.build(policy_named("greedy")), Greedy)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("mctz", UnknownName, "unknown policy 'mctz'; known: beam, best_of_n, greedy, islands, map_elites, mcts"),
        ("mcts:c=1", UnknownName, "unknown parameter of policy mcts 'c'; known: children, drafts, exploration"),
        ("best_of_n:drafts=1", UnknownName, "unknown parameter of policy best_of_n 'drafts'; known: none"),
        ("mcts:children", UsageError, "'children' is not parameter=value, or comes twice; parameters of mcts: "),
        ("mcts:children=1,children=2", UsageError, "comes twice"),
        ("mcts:children=1.5", UsageError, "children is of type int (5), got '1.5'"),
        ("mcts:exploration=wide", UsageError, "exploration is of type float (0.25), got 'wide'"),
        ("mcts:exploration=nan", UsageError, "exploration=nan"),
        ("mcts:children=0", UsageError, "children=0"),
        ("islands:crossover=2", UsageError, "crossover=2"),
        ("map_elites:exploit=-1", UsageError, "exploit=-1"),
        ("beam:width=0", UsageError, "width=0"),
    ],
)
def test_what_cannot_be_chosen_says_what_can(text, error, said):
    with pytest.raises(error) as caught:
        policy_named(text, settings_for("quick"))
    assert said in str(caught.value)


# -- a stranger's policy


class Stranger:
    """Behaves until it is told to misbehave."""

    reducers = Greedy().reducers

    def __init__(self, misbehave):
        self._greedy, self._misbehave = Greedy(), misbehave

    def select(self, graph, rng):
        return self._misbehave(graph) if len(graph.nodes) == 3 else self._greedy.select(graph, rng)


def changed(graph, change):
    change(graph)
    return ("n0",)


def taken(graph):
    graph.reduced("frontier").correct.keys.pop()


MISBEHAVIOUR = {
    "raises": (lambda graph: 1 // 0, "raised ZeroDivisionError: integer division"),
    "raises one of ours": (lambda graph: graph.reduced("visits"), "raised UsageError: this graph folds no reducer"),
    "returns nothing": (lambda graph: None, "selected None; it must give a tuple of node ids"),
    "returns a text": (lambda graph: "n0", "selected 'n0'; it must give a tuple"),
    "returns a list": (lambda graph: ["n0"], r"selected \['n0'\]; it must give a tuple"),
    "returns nodes": (lambda graph: (graph.best,), "it must give a tuple of node ids"),
    "returns a stranger": (lambda graph: ("n7",), "n7 is no node of the graph"),
    "returns one twice": (lambda graph: ("n0", "n0"), "parents are different nodes"),
    "adds a node": (lambda graph: changed(graph, lambda g: g._nodes.update(n9=g.nodes["n0"])), "changed the graph"),
    "swaps a node": (lambda graph: changed(graph, lambda g: g._nodes.update(n1=g.nodes["n0"])), "changed the graph"),
    "exhausts": (lambda graph: changed(graph, lambda g: g._exhausted.add(("n2",))), "changed the graph"),
    "keeps score": (lambda graph: changed(graph, taken), "or what a reducer keeps"),
    "counts": (lambda graph: changed(graph, lambda g: setattr(g, "_asked", 99)), "changed the graph"),
}


@pytest.mark.parametrize("what", MISBEHAVIOUR)
def test_a_policy_that_misbehaves_is_named_and_the_run_can_be_resumed(tmp_path, what):
    misbehave, said = MISBEHAVIOUR[what]
    with create_run(tmp_path, fake_problem(), FAKE_PLATFORM, fake_equip(), settings=SETTINGS) as run:
        run._policy = Stranger(misbehave)
        with pytest.raises(PluginFault, match=rf"policy 'greedy' of package kernelevolve [\w.]+ .*{said}") as caught:
            asyncio.run(run.drive())
        assert caught.value.exit_code == 70 and "resume" in str(caught.value)
    assert len(read_run(tmp_path).nodes) == 3
    with open_run(tmp_path, fake_equip()) as run:
        assert asyncio.run(run.drive()) == "25 candidates"


class Unnamed:
    reducers = (object(),)

    def select(self, graph, rng):
        return ()


class Bare:
    reducers = ()


class Failing(Greedy):
    def __init__(self):
        raise KeyError("no such file")


@pytest.mark.parametrize(
    ("registered", "said"),
    [
        (Unnamed, "is none: it needs"),
        (Bare, "is none: it needs"),
        (Failing, "raised KeyError when built"),
        (7, "which is no class"),
    ],
)
def test_what_is_no_policy_is_named_before_anything_is_made(tmp_path, monkeypatch, registered, said):
    monkeypatch.setattr(plugins, "load", lambda kind, name: registered)
    with pytest.raises(PluginFault, match=rf"policy 'greedy' of package kernelevolve [\w.]+ .*{said}"):
        create_run(tmp_path / "r", fake_problem(), FAKE_PLATFORM, fake_equip(), policy="greedy")
    assert not (tmp_path / "r").exists()


def test_a_reducer_that_raises_is_named_and_the_log_is_whole(tmp_path):
    class Broken:
        name = "broken"

        def start(self):
            return None

        def fold(self, state, event, graph):
            if isinstance(event, Evaluated) and event.candidate == "n2":
                raise KeyError("n2")

    with create_run(tmp_path, fake_problem(), FAKE_PLATFORM, fake_equip(), settings=SETTINGS) as run:
        run._graph._reducers["broken"] = Broken()
        run._graph._reduced["broken"] = None
        with pytest.raises(PluginFault, match=r"reducer 'broken' raised KeyError at entry \d+ \(evaluated\)"):
            asyncio.run(run.drive())
    assert len(read_run(tmp_path).nodes) == 3
    with open_run(tmp_path, fake_equip()) as run:
        assert asyncio.run(run.drive()) == "25 candidates"


def test_the_kit_catches_a_policy_that_changes_what_it_reads():
    class Vandal(Greedy):
        def select(self, graph, rng):
            chosen = super().select(graph, rng)
            graph.reduced("frontier").correct.keys.clear()
            return chosen

    class Quitter(Greedy):
        def select(self, graph, rng):
            return () if len(graph.nodes) > 4 else super().select(graph, rng)

    with pytest.raises(AssertionError):
        check_policy(Vandal)
    with pytest.raises(AssertionError, match="are not exhausted"):
        check_policy(Quitter, exhaustive=True)


def test_the_search_of_a_space_ends_with_its_best_kernel_known():
    space = Space(4, drafts=2, moves=3, depth=4, faulty=0.0, same=0.0)
    paths = [(d,) for d in range(2)]
    for path in paths:
        paths += [(*path, move) for move in range(3) if len(path) < 4]
    for name in set(NAMES) - {"best_of_n"}:
        graph, _ = fake_search(plugins.load("policies", name)(), space, writers=3)
        assert math.isclose(graph.best.fitness.value, max(map(space.quality, paths))), name


def test_the_docs_have_every_policy_with_its_parameters_and_defaults():
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    table = page.partition("## Parameters")[2].partition("## How they work")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "| `" in line]
    said: dict[str, dict[str, str]] = {}
    name = ""
    for policy, parameter, default, *_ in rows:
        name = policy.strip("`") or name
        said.setdefault(name, {})[parameter.strip("`")] = default.strip("`")
    known = {name: {k: str(v) for k, v in choosing.parameters(name).items()} for name in NAMES}
    assert said == {name: parameters for name, parameters in known.items() if parameters}
    commands = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"| `{name}`" in page for name in NAMES) and ", ".join(NAMES) in commands
