"""A run that is opened over its snapshot is the one that its log tells; no snapshot is believed over the log."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import random
import shutil
import signal
import sqlite3
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelevolve import codec, plugins, snapshot
from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.errors import PluginFault, StoreError
from kernelevolve.evaluation import Evidence, Figure, Resources, Verdict
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
    to_line,
    write_event,
)
from kernelevolve.graph import Graph, fold, fold_all
from kernelevolve.node import Shelf
from kernelevolve.propose.builtin import PlansReducer
from kernelevolve.propose.memory import MemoryReducer
from kernelevolve.runs import create_run, open_run, read_run, tail
from kernelevolve.search import choosing
from kernelevolve.search.novelty import BinariesReducer, ProgramsReducer
from kernelevolve.search.progress import ProgressReducer
from kernelevolve.settings import settings_for
from kernelevolve.store import replay as module
from kernelevolve.store.replay import FILE, Replay
from kernelevolve.store.sqlite import SqliteStore
from kernelevolve.testing import FAKE_PLATFORM, fake_equip, fake_evaluation, fake_problem

POLICIES = plugins.names("policies")
SHARES = st.floats(0, 1)


def reducers(policy):
    own = (BinariesReducer(), ProgramsReducer(), ProgressReducer(), MemoryReducer(), PlansReducer())
    return (*own, *policy.reducers)


def told(graph):
    """Everything that a graph tells, to be compared."""
    plain = {name: value for name, value in vars(graph).items() if isinstance(value, (int, float, str))}
    return {
        **plain,
        "created": graph.created,
        "nodes": list(graph.nodes.items()),
        "pending": list(graph.pending.items()),
        "places": graph._written_at,
        "notes": graph.notes,
        "settings": graph.settings,
        "ending": graph.ending,
        "best": graph.best and graph.best.id,
        "furthest": graph.furthest and graph.furthest.id,
        "exhausted": graph._exhausted,
        # Mappings in their order too; a set has none.
        "states": repr((graph._children, graph._digests, {k: sorted(v) if isinstance(v, set) else v
                                                         for k, v in graph._reduced.items()})),
    }


class Story:
    """A log that grows by decisions, each a number that picks one of the events that may come next.

    Args:
        stored: entries are as a store gives them back.
    """

    def __init__(self, policy: str, seed: int, *, stored: bool = True) -> None:
        self.policy = choosing.build(Component(policy))
        self.luck = random.Random(seed)
        self.graph = Graph(reducers(self.policy))
        self.stored = stored
        self.entries: list[Entry] = []
        now = codec.to_data(settings_for("quick"))
        self.add(Created("r", fake_problem(), FAKE_PLATFORM, seed, Component(policy), Component("built-in"), now, "0"))

    def add(self, event):
        at = len(self.entries)
        entry = Entry(at, 1 + at // 7, 0.1 * at, event)
        fold(self.graph, entry)
        self.entries.append(from_line(to_line(entry)) if self.stored else entry)

    def go_on(self, decision: int) -> None:
        pending = [p.brief for p in self.graph.pending.values() if p.candidate is None]
        written = [p.candidate for p in self.graph.pending.values() if p.candidate is not None]
        brief = pending[decision % len(pending)] if pending else None
        kind = decision % 10
        if kind <= 3 and written:
            self.evaluated(written[decision % len(written)])
        elif kind <= 6 and brief is not None:
            self.written(brief)
        elif kind == 7 and brief is not None:
            self.add(Dropped(brief.id, "no", exhausted=decision % 3 > 0))
        elif kind == 8 and decision % 4 == 0:
            self.noted(decision)
        elif kind == 9 and decision % 5 == 0:
            self.add(Finished("enough", "plateau", {"gain": Figure(0.1, "x", Evidence.MEASURED, "clock")}))
        else:
            self.asked(decision)

    def asked(self, decision: int) -> None:
        index = self.graph.asked
        if decision % 3:
            parents = self.policy.select(self.graph, random.Random(index))
        else:
            names = list(self.graph.nodes)
            parents = tuple(self.luck.sample(names, min(len(names), decision % 4)))
        self.add(Asked(Brief(f"b{index}", index, parents, "prompt", {"limit": "spills"}, "spills: many", "both")))

    def written(self, brief: Brief) -> None:
        index = self.graph.written
        text = f"# {index if self.luck.random() < 0.8 else self.luck.randrange(index + 1)}\n"
        plan = {"path": [index, 1.5]} if index % 2 else {}
        cost = Cost(0.5, 10, 5, 0.01)
        self.add(Written(Candidate(f"n{index}", brief.id, "fake", text, "why", plan, cost, f"p{index % 5}")))

    def evaluated(self, candidate: Candidate) -> None:
        verdict = self.luck.choice([None, None, None, Verdict.WRONG_VALUE, Verdict.CRASH, Verdict.OK_UNTIMED])
        found = fake_evaluation(self.luck.uniform(0.5, 2.0), verdict=verdict)
        launches = tuple(Resources("k", "sm_90", f"code {self.luck.randrange(4)}", 32, 0, 0, 4, 1.0) for _ in range(2))
        limit = self.luck.choice(["spills", "launch", "bandwidth"])
        found = replace(found, resources={FAKE_PLATFORM: launches}, diagnosis=f"{limit}: x", device_seconds=0.25)
        worth = Figure(
            self.luck.choice([0.0, 0.5, 1.25, self.luck.random()]) if found.correct else 0.0, "x",
            self.luck.choice([Evidence.MODELLED, Evidence.MEASURED]), "clock",
            *self.luck.choice([(0.9, 1.1), (None, None)]),
        )  # fmt: skip
        twin = self.luck.choice(list(self.graph.nodes)) if self.graph.nodes and self.luck.random() < 0.2 else ""
        self.add(Evaluated(candidate.id, found, worth, twin))

    def noted(self, decision: int) -> None:
        result = {"again": [{"node": "n0", "evaluation": {"device_seconds": 1.5}}]}
        topic, data = [("settings", {"candidates": 9}), ("result", result), ("seat", {})][decision % 3]
        self.add(Noted(topic, "said", data))


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**16), decisions=st.lists(st.integers(0, 599), min_size=20, max_size=99), cut=SHARES)
def test_over_a_snapshot_the_log_tells_the_same(policy, seed, decisions, cut):
    story = Story(policy, seed)
    for decision in decisions:
        story.go_on(decision)
    entries = story.entries
    at = 1 + int(cut * (len(entries) - 1))
    made = choosing.build(Component(policy))
    whole = fold_all(entries, reducers(made))
    shelf = Shelf(lambda sequence: entries[sequence], held=1)
    saved = snapshot.save(fold_on(Graph(reducers(choosing.build(Component(policy))), shelf), entries[:at]))
    fresh = choosing.build(Component(policy))
    graph = snapshot.restore(saved, entries[0].event, reducers(fresh), Shelf(lambda n: entries[n], held=1))
    assert snapshot.save(graph) == saved
    fold_on(graph, entries[at:])
    assert told(graph) == told(whole) == told(story.graph)
    for _ in range(3):
        rng = [random.Random(f"{graph.asked}") for _ in range(2)]
        assert fresh.select(graph, rng[0]) == made.select(whole, rng[1])
        index, parents = graph.asked, fresh.select(graph, rng[0])
        further = Entry(graph.next_sequence, 99, 99.0, Asked(Brief(f"b{index}", index, parents, "")))
        fold(graph, further)
        fold(whole, further)
    assert told(graph) == told(whole)


def fold_on(graph, entries):
    for entry in entries:
        fold(graph, entry)
    return graph


def fill(folder: Path, nodes: int, policy: str = "greedy", seed: int = 0) -> None:
    """A run of so many nodes, its log put into the database in bulk; nobody owns it."""
    story = Story(policy, seed, stored=False)
    while len(story.graph.nodes) < nodes:
        story.go_on(story.luck.randrange(7) if story.graph.pending else 600 + story.luck.randrange(3))
    store = SqliteStore(folder, create=True)
    with sqlite3.connect(store.path) as connection:
        rows = [(e.sequence, e.epoch, SCHEMA, e.wall, *write_event(e.event)) for e in story.entries]
        connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.close()


def opened(folder: Path):
    with open_run(folder, fake_equip()) as run:
        return run.graph


@pytest.fixture
def read(monkeypatch):
    """Numbers of the entries that were read from the log."""
    numbers: list[int] = []
    original = SqliteStore.read_from

    def read_from(self, sequence, **more):
        found = original(self, sequence, **more)
        numbers.extend(entry.sequence for entry in found)
        return found

    monkeypatch.setattr(SqliteStore, "read_from", read_from)
    return numbers


@pytest.fixture
def short(monkeypatch):
    """Snapshots come often."""
    monkeypatch.setattr(module, "EVERY", 20)


def test_a_short_run_has_no_snapshot(tmp_path):
    with create_run(tmp_path / "run", fake_problem(), FAKE_PLATFORM, fake_equip()) as run:
        run.ask()
    opened(tmp_path / "run")
    assert not (tmp_path / "run" / FILE).exists()


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_folded_is_not_folded_again(tmp_path, short, read, policy):
    fill(tmp_path, 60, policy)
    first = opened(tmp_path)
    length = first.next_sequence
    del read[:]
    graph = opened(tmp_path)
    # What ties the snapshot to the log, and the first event.
    assert sorted(set(read)) == [0, length - 1]
    graph.witness(deep=True)
    assert len(read) < 5
    assert told(graph) == told(first) == told(fold_all(tail(tmp_path), graph.reducers))
    del read[:]
    assert list(read_run(tmp_path).nodes) == list(graph.nodes)
    assert sorted(set(read)) == [0, length - 1]


def test_a_run_that_goes_on_keeps_its_snapshot_young(tmp_path, short, read):
    policy = "islands:islands=2,drafts=2"
    with create_run(tmp_path / "run", fake_problem(), FAKE_PLATFORM, fake_equip(), policy=policy) as run:
        for _ in range(40):
            run.drop(run.ask().id, "not today")
        whole = told(run.graph)
    assert Replay(SqliteStore(tmp_path / "run"), tmp_path / "run")._kept.sequence == 80
    del read[:]
    with open_run(tmp_path / "run", fake_equip()) as run:
        assert told(run.graph) == whole
        assert len(read) < 20
        run.ask()
        assert told(run.graph) == told(fold_all(tail(tmp_path / "run"), run.graph.reducers))


def test_settings_and_notes_from_before_and_after_a_snapshot_are_in_force(tmp_path, short):
    folder, seen = tmp_path / "run", []

    def equip(created, builds):
        seen.append(created.settings["candidates"])
        return replace(fake_equip()(created, builds), notes=(Noted("seat", "one device"),))

    with create_run(folder, fake_problem(), FAKE_PLATFORM, equip) as run:
        run.adopt(replace(run.settings, candidates=77))
        while run.graph.next_sequence < 20:
            run.drop(run.ask().id, "no")
    assert Replay(SqliteStore(folder), folder)._kept is not None
    opened_with = [77, 78]
    for expected in opened_with:
        with open_run(folder, equip) as run:
            assert run.settings.candidates == expected
            assert [note.topic for note in run.graph.notes].count("seat") == 1
            run.adopt(replace(run.settings, candidates=78))
    assert seen[1:] == opened_with


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def header(path: Path, change) -> None:
    """Another head under a seal that fits it."""
    with path.open("rb") as file:
        facts, lines = json.loads(file.readline()), file.readlines()
    del facts["seal"]
    change(facts)
    facts["seal"] = module._seal(facts, lines)
    path.write_bytes(b"".join([json.dumps(facts).encode(), b"\n", *lines]))


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "no JSON": lambda path: path.write_bytes(b"\xff\x00" * 100),
    "another JSON": lambda path: path.write_text("[]\n[]"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "too long": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a bit of the body": lambda path: flip(path, path.stat().st_size - 40),
    "a bit of the head": lambda path: flip(path, 30),
    "a later format": lambda path: header(path, lambda facts: facts.update(format=99)),
    "another place": lambda path: header(path, lambda facts: facts.update(sequence=facts["sequence"] - 1)),
    "past the end": lambda path: header(path, lambda facts: facts.update(sequence=facts["sequence"] + 1)),
    "other code": lambda path: header(path, lambda facts: facts["code"].update(nodes="0" * 64)),
    "a section less": lambda path: header(path, lambda facts: facts["sections"].pop()),
    "another seal": lambda path: path.write_bytes(path.read_bytes().replace(b'"nodes"', b'"Nodes"')),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_snapshot_is_as_none(tmp_path, short, read, damage):
    fill(tmp_path, 40)
    whole = told(opened(tmp_path))
    DAMAGE[damage](tmp_path / FILE)
    read.clear()
    assert len(read_run(tmp_path).nodes) == 40
    assert len(read) > 100
    graph = opened(tmp_path)
    assert told(graph) == whole
    if damage != "a folder":
        # Whoever owned it wrote a new one.
        read.clear()
        graph = opened(tmp_path)
        assert len(read) < 20
        assert told(graph) == whole


def test_every_flipped_bit_is_seen(tmp_path, short):
    fill(tmp_path, 12)
    opened(tmp_path)
    good, store = (tmp_path / FILE).read_bytes(), SqliteStore(tmp_path)
    assert Replay(store, tmp_path)._kept is not None
    for at in [*range(0, good.index(b"\n"), 11), *range(good.index(b"\n"), len(good), 211)]:
        (tmp_path / FILE).write_bytes(good)
        flip(tmp_path / FILE, at)
        assert Replay(store, tmp_path)._kept is None


def test_a_snapshot_of_another_log_is_as_none(tmp_path, short):
    for seed in (0, 1):
        fill(tmp_path / f"{seed}", 40, seed=seed)
        opened(tmp_path / f"{seed}")
    whole = told(opened(tmp_path / "0"))
    shutil.copy(tmp_path / "1" / FILE, tmp_path / "0" / FILE)
    assert told(opened(tmp_path / "0")) == whole
    # An older copy of the log was put back: the snapshot knows more than there is.
    with sqlite3.connect(tmp_path / "0" / "log.sqlite") as connection:
        connection.execute("DELETE FROM log WHERE sequence > 50")
    connection.close()
    graph = opened(tmp_path / "0")
    assert graph.next_sequence == 51
    assert told(graph) == told(fold_all(tail(tmp_path / "0"), graph.reducers))


@pytest.mark.parametrize("moment", ["before", "half written", "before the rename", "after"])
def test_a_kill_between_log_and_snapshot_loses_nothing(tmp_path, short, monkeypatch, moment):
    folder = tmp_path / "run"
    with create_run(folder, fake_problem(), FAKE_PLATFORM, fake_equip()) as run:
        while run.graph.next_sequence < 39:
            run.drop(run.ask().id, "no")
    pid = os.fork()
    if not pid:
        die_at(moment)
        with open_run(folder, fake_equip()) as run:
            run.ask()  # its entry makes the second snapshot due
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert len(tail(folder)) == 40
    kept = Replay(SqliteStore(folder), folder)._kept
    assert kept is not None and kept.sequence == (40 if moment == "after" else 20)
    graph = opened(folder)
    assert told(graph) == told(fold_all(tail(folder), graph.reducers))
    assert list(graph.pending) == [f"b{graph.asked - 1}"]
    assert not list(folder.glob("*.part")) or moment in ("half written", "before the rename")


def die_at(moment: str) -> None:
    def die(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "before":
        module.snapshot.save = die
    elif moment == "half written":
        module.os.fsync = die
    elif moment == "before the rename":
        Path.replace = die


def test_a_snapshot_that_cannot_be_written_is_left_out(tmp_path, short):
    fill(tmp_path, 30)
    (tmp_path / f"{FILE}.part").mkdir()
    graph = opened(tmp_path)
    assert len(graph.nodes) == 30
    assert not (tmp_path / FILE).exists()


class Counting:
    """A stranger's reducer that knows of no snapshots."""

    name = "counting"

    def start(self):
        return 0

    def fold(self, state, event, graph):
        return state + 1


class Careless(Counting):
    def save(self, state, graph):
        return {state}

    def restore(self, data, graph):
        return data


class Picky(Counting):
    def save(self, state, graph):
        return state

    def restore(self, data, graph):
        raise ValueError("not this one")


@pytest.mark.parametrize("reducer", [Counting(), Picky()])
def test_a_reducer_that_is_not_restored_sees_the_whole_log(tmp_path, short, reducer):
    fill(tmp_path, 30)
    replay = Replay(SqliteStore(tmp_path), tmp_path)
    graph = replay.graph((BinariesReducer(), reducer))
    assert replay.keep(graph)
    again = Replay(SqliteStore(tmp_path), tmp_path).graph((BinariesReducer(), reducer))
    assert again.reduced("counting") == len(tail(tmp_path))
    assert told(again) == told(graph)


def test_a_reducer_that_saves_no_data_is_named(tmp_path, short):
    fill(tmp_path, 30)
    replay = Replay(SqliteStore(tmp_path), tmp_path)
    with pytest.raises(PluginFault, match=r"'counting' raised TypeError when its state was saved.*the log is whole"):
        replay.keep(replay.graph((Careless(),)))


def test_nodes_read_from_the_log_what_they_do_not_hold(tmp_path, short, read):
    fill(tmp_path, 60)
    opened(tmp_path)
    plain = fold_all(tail(tmp_path))
    graph = read_run(tmp_path)
    del read[:]
    assert [n.rank for n in graph.nodes.values()] == [n.rank for n in plain.nodes.values()]
    assert [n.correct for n in graph.nodes.values()] == [n.evaluation.correct for n in plain.nodes.values()]
    assert read == []
    some = graph.nodes["n7"]
    assert (some.candidate, some.evaluation) == (plain.nodes["n7"].candidate, plain.nodes["n7"].evaluation)
    assert len(read) == 2
    assert some.evaluation is some.evaluation and len(read) == 2
    assert graph.nodes == plain.nodes
    assert replace(some, duplicate_of="n1") == replace(plain.nodes["n7"], duplicate_of="n1")
    assert repr(some) == repr(plain.nodes["n7"])
    assert codec.to_data(some) == codec.to_data(plain.nodes["n7"])
    assert copy.deepcopy(some) == pickle.loads(pickle.dumps(some)) == some
    assert [f.name for f in fields(some)][2:] == ["candidate", "evaluation", "fitness", "duplicate_of"]
    with pytest.raises(AttributeError, match=r"frozen|cannot assign"):
        some.evaluation = None


def test_a_shelf_holds_so_many_and_no_more():
    story = Story("greedy", 3)
    while len(story.graph.nodes) < 30:
        story.go_on(story.luck.randrange(9))
    asked: list[int] = []

    def read(sequence):
        asked.append(sequence)
        return story.entries[sequence]

    graph = fold_on(Graph((), Shelf(read, held=5)), story.entries)
    newest = list(graph.nodes.values())[-5:]
    assert [n.candidate.id for n in newest] == [n.id for n in newest] and asked == []
    first = next(iter(graph.nodes.values()))
    assert first.evaluation == story.graph.nodes[first.id].evaluation and len(asked) == 1


def test_a_log_that_was_changed_under_a_process_is_noticed(tmp_path, short):
    fill(tmp_path, 40)
    opened(tmp_path)
    graph = read_run(tmp_path)
    with sqlite3.connect(tmp_path / "log.sqlite") as connection:
        one, other = graph.nodes["n3"].places[0], graph.nodes["n4"].places[0]
        body = connection.execute("SELECT body FROM log WHERE sequence = ?", (other,)).fetchone()
        connection.execute("UPDATE log SET body = ? WHERE sequence = ?", (*body, one))
        connection.execute("DELETE FROM log WHERE sequence = ?", (other,))
    connection.close()
    with pytest.raises(StoreError, match="is not what node n3 was made of"):
        _ = graph.nodes["n3"].candidate
    with pytest.raises(StoreError, match=f"entry {other} is missing"):
        _ = graph.nodes["n4"].candidate


NODES = 5000
#: Units that opening may take for each node: six times what it does, a third of what folding the log would.
LIMIT = 60


def test_a_run_of_thousands_opens_at_once_and_is_small(tmp_path, read):
    """What counts is work per node, measured in units of this machine as busy as it is now, not in seconds."""
    fill(tmp_path, NODES, "mcts")
    opened(tmp_path)
    assert (tmp_path / FILE).exists()
    del read[:]
    unit = min(spent(calibration) for _ in range(5)) / 1000
    each = min(spent(lambda: opened(tmp_path)) for _ in range(3)) / NODES
    assert each < LIMIT * unit, f"{each * 1e6:.1f} us a node at {unit * 1e6:.2f} us a unit"
    assert len(read) < 3 * 20
    del read[:]
    with open_run(tmp_path, fake_equip()) as run:
        gc.collect()
        held = sum(isinstance(thing, Candidate) for thing in gc.get_objects())
        assert held <= len(run.graph.pending) + 5
        for _ in range(50):
            run.ask()
        # Each brief tells of a few nodes.
        assert len(read) < 50 * 30


def spent(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def calibration() -> None:
    """A thousand units: reading one small value from JSON."""
    for _ in range(1000):
        json.loads('{"id": "n1", "parents": ["n0"], "value": 1.25}')
