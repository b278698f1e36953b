"""What happens in a run, as the events of its log; every view of a run is a fold over them.

In: what `Run` decided, wrote and measured. Out: frozen events, and entries (an event with its place in the log) to and
from one line of JSON. Left to others: keeping them (`store`), folding them (`graph`).

Created -> (Asked -> (Written -> Evaluated | Dropped))* -> Finished, with Noted anywhere. A run that was finished and is
driven on simply asks again; an Asked after Finished opens it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.errors import StoreError, StoreTooNew
from kernelevolve.evaluation import Evaluation, Figure
from kernelevolve.problem import Problem

# 2: evaluations refer to artefacts, 3: they have guards, 4: device seconds, floors, figures behind an end, programs,
# 5: dropped briefs have a cost, briefs a control, runs several writers and who chooses among them, 6: briefs have
# sections, candidates a session, dropped briefs too; older logs are read as having none.
SCHEMA = 6
LATE = "late"
#: Topics of notes: what a model said of a candidate, what it chose for whoever goes on from it, what a person asks for,
#: and what briefs are made from.
ANALYSIS, LOOKUP, STEER, MADE_FROM = "analysis", "lookup", "steer", "made from"
#: Notes of these topics have a `cost` that is spent.
COSTLY = (LATE, ANALYSIS, LOOKUP)


@dataclass(frozen=True)
class Component:
    """A class by its registered name with constructor arguments: enough to build it again."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Created:
    """The first event: everything that a run is rebuilt from.

    Attributes:
        run: the run's id.
        problem: what is searched for, in full, so that the folder can be moved without the problem file.
        platform: name of the objective platform.
        seed: together with an ask index it determines every random choice.
        policy, writer: rebuilt by name through `plugins`.
        others: writers beside the first one.
        chooser: of the writer and move of each brief, see `search.bandit`.
        settings: `Settings` as data.
        version: of KernelEvolve.
        blobs: where artefacts are kept, an address for fsspec; empty for the folder `blobs` of the run's own folder,
            which moves with it.
        admit_anyway: the user asked to go on even where admission refuses the problem.
    """

    run: str
    problem: Problem
    platform: str
    seed: int
    policy: Component
    writer: Component
    settings: Mapping[str, Any]
    version: str
    blobs: str = ""
    admit_anyway: bool = False
    others: tuple[Component, ...] = ()
    chooser: Component = Component("first")


@dataclass(frozen=True)
class Asked:
    """The policy selected parents and the operator composed a brief; it is pending until Evaluated or Dropped."""

    brief: Brief


@dataclass(frozen=True)
class Written:
    """A writer answered a brief; logged before evaluation so that no paid-for source is ever lost."""

    candidate: Candidate


@dataclass(frozen=True)
class Evaluated:
    """The harness's findings with the fitness they gave, so that a reader needs no fitness function.

    Attributes:
        duplicate_of: id of an earlier node with the same source or the same machine code; empty for a new one.
    """

    candidate: str
    evaluation: Evaluation
    fitness: Figure
    duplicate_of: str = ""


@dataclass(frozen=True)
class Dropped:
    """A brief that ends without a node.

    Attributes:
        exhausted: the writer has no move left from these parents; asking for them again is useless.
        cost: of what a writer did for it in vain.
        session: see `Candidate.session`.
    """

    brief: str
    reason: str
    exhausted: bool = False
    cost: Cost = field(default_factory=Cost)
    session: str = ""


@dataclass(frozen=True)
class Noted:
    """A remark that changes no node, e.g. a seat that was lost.

    Attributes:
        topic: `settings` replaces the run's settings by `data`; the `cost` of those in `COSTLY` is spent; `steer`
            is told in briefs; others only tell.
    """

    topic: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """A termination rule said stop, in its words; an interrupted run has no such event.

    Attributes:
        rule: its name, `candidates`, `plateau`, ...; empty in logs of schema 3.
        figures: what it rests on, by name.
    """

    reason: str
    rule: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)


Event = Created | Asked | Written | Evaluated | Dropped | Noted | Finished
KINDS: Mapping[str, type[Event]] = {
    "created": Created,
    "asked": Asked,
    "written": Written,
    "evaluated": Evaluated,
    "dropped": Dropped,
    "noted": Noted,
    "finished": Finished,
}
_NAMES = {kind: name for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Entry:
    """An event in its place in the log.

    Attributes:
        sequence: 0, 1, 2, ... without gaps.
        epoch: of the lease under which it was appended; it rises with each opening of the run.
        wall: seconds since 1970, by the owner's clock.
    """

    sequence: int
    epoch: int
    wall: float
    event: Event
    schema: int = SCHEMA

    @property
    def kind(self) -> str:
        """`created`, `asked`, ...: the event's name in the log."""
        return _NAMES[type(self.event)]


def write_event(event: Event) -> tuple[str, str]:
    """The event's kind and its body as one line of JSON; equal events give equal lines."""
    return _NAMES[type(event)], codec.dumps(event)


def read_event(kind: str, body: str, schema: int) -> Event:
    """The event that `write_event` wrote.

    Raises:
        StoreTooNew: its schema is newer than this version knows.
        StoreError: the line does not fit its schema.
    """
    if schema > SCHEMA:
        raise StoreTooNew(
            f"the log has an event of schema {schema}, this KernelEvolve knows up to {SCHEMA}; upgrade KernelEvolve"
        )
    if kind not in KINDS:
        raise StoreError(f"the log has an event of unknown kind {kind!r}; known: {', '.join(KINDS)}")
    try:
        return codec.loads(KINDS[kind], body)
    except ValueError as error:
        raise StoreError(f"the log has a damaged {kind!r} event: {error}; restore the run's folder") from error


def to_line(entry: Entry) -> str:
    """One line of JSON, for doors and exports."""
    head = {"schema": entry.schema, "sequence": entry.sequence, "epoch": entry.epoch, "wall": entry.wall}
    return codec.dumps({**head, "kind": entry.kind, "event": entry.event})


def from_line(line: str) -> Entry:
    """The entry in a line that `to_line` wrote.

    Raises:
        StoreTooNew: its schema is newer than this version knows.
        StoreError: not such a line.
    """
    try:
        data = json.loads(line)
        head = (int(data["sequence"]), int(data["epoch"]), float(data["wall"]))
        kind, body, schema = str(data["kind"]), json.dumps(data["event"]), int(data["schema"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"not an entry of a run's log: {line[:80]!r} ({error})") from error
    return Entry(*head, read_event(kind, body, schema), schema)
