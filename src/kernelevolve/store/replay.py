"""From a run's log to its graph, over the latest snapshot that can be believed.

In: a store and the run's folder. Out: the graph that the log tells, the same with a snapshot as without; a file
`graph.snapshot` beside the log. Left to others: what is in a snapshot (`snapshot`), who owns the run (`run`).

The log is the truth and a snapshot is a shortcut to it. It is used only where the log still has, at its beginning and
where the snapshot ends, the very entries it was made of; where it is as it was written, by its seal; and where the code
that folds is the code that made it. In any other case it is as if there were none. It is written after the entries that
it tells are in the log, whole or not at all, so a process that is killed loses nothing but the shortcut. Whether an
entry in between is damaged shows when it is read.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kernelevolve import codec, snapshot
from kernelevolve.errors import StoreError
from kernelevolve.events import Created, Entry, Noted, to_line
from kernelevolve.graph import Graph, Reducer, fold
from kernelevolve.node import Shelf
from kernelevolve.store import Store

FILE = "graph.snapshot"
#: Entries after which an owner writes the next snapshot: so many are folded at most when a run is opened, and a
#: shorter run has no snapshot.
EVERY = 5000
FORMAT = 1
_PART = 1000


@dataclass(frozen=True)
class Kept:
    """A snapshot that fits its log.

    Attributes:
        sequence: number of the first entry that is not in it.
        sections: see `snapshot.save`.
        code: of the section `nodes` and of each reducer's section, a digest of the code that made it.
    """

    sequence: int
    sections: Mapping[str, bytes]
    code: Mapping[str, str]


class Replay:
    """The log of one run, and the snapshot beside it.

    Args:
        store: holds the log.
        folder: the run's folder.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._path = store, folder / FILE
        self._kept = self._latest()
        self._saved = self._kept.sequence if self._kept is not None else 0

    @functools.cached_property
    def created(self) -> Created | None:
        """The first event of the log; None for an empty log."""
        for entry in self._store.read_from(0, most=1):
            if isinstance(entry.event, Created):
                return entry.event
            raise StoreError(f"entry 0 is a {entry.kind!r} event; a log has Created first and only there")
        return None

    def heading(self) -> tuple[Mapping[str, Any], tuple[Noted, ...]]:
        """The settings in force and all notes, as of now.

        Raises:
            StoreError: the log is empty.
        """
        if self.created is None:
            raise StoreError("the run's log is empty; create the run first")
        settings, notes = self.created.settings, list[Noted]()
        if self._kept is not None:
            settings, known = snapshot.heading(self._kept.sections)
            notes += known
        for entry in self._entries(self._saved, kinds=("noted",)):
            if isinstance(entry.event, Noted):
                notes.append(entry.event)
                settings = entry.event.data if entry.event.topic == "settings" else settings
        return settings, tuple(notes)

    def graph(self, reducers: Iterable[Reducer] = ()) -> Graph:
        """The graph of the whole log; its nodes read sources and evaluations from the log when they are asked for.

        The snapshot is given up for it: a second graph of the same Replay is folded from the first event.

        Raises:
            StoreError: the log is damaged, or an entry does not follow.
            PluginFault: a reducer raised.
        """
        reducers = tuple(reducers)
        with _collector_paused():
            graph, self._kept = self._restored(reducers), None
            if graph is None:
                # What cannot be used is written anew.
                graph, self._saved = Graph(reducers, self.shelf()), 0
            for entry in self._entries(graph.next_sequence):
                fold(graph, entry)
        return graph

    def shelf(self) -> Shelf:
        """A shelf on the log."""
        return Shelf(self._entry)

    def keep(self, graph: Graph) -> bool:
        """Writes a snapshot of `graph`, all of whose entries are in the log, if there is none of late; for owners.

        Gives whether it was written. One that cannot be written is left out: nothing depends on it.
        """
        if graph.next_sequence - self._saved < EVERY:
            return False
        self._saved = graph.next_sequence
        with _collector_paused():
            sections = snapshot.save(graph)
        lines = [f"{line}\n".encode("ascii") for line in sections.values()]
        head = {
            "format": FORMAT,
            "sequence": graph.next_sequence,
            "log": self._marks(graph.next_sequence),
            "sections": list(sections),
            "code": _code(graph.reducers),
        }
        head["seal"] = _seal(head, lines)
        draft = self._path.with_name(f"{FILE}.part")
        try:
            with draft.open("wb") as file:
                file.writelines([json.dumps(head).encode("ascii") + b"\n", *lines])
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            return False
        return True

    def _restored(self, reducers: tuple[Reducer, ...]) -> Graph | None:
        if self._kept is None or self.created is None or not self._made_by(reducers):
            return None
        try:
            return snapshot.restore(self._kept.sections, self.created, reducers, self.shelf())
        except (LookupError, TypeError, ValueError):
            # A stranger's reducer may refuse what it saved, for a reason of its own; the log has it all.
            return None

    def _made_by(self, reducers: tuple[Reducer, ...]) -> bool:
        made = self._kept.code if self._kept is not None else {}
        return all(code and made.get(section) == code for section, code in _code(reducers).items())

    def _latest(self) -> Kept | None:
        try:
            with self._path.open("rb") as file:
                facts, lines = json.loads(file.readline()), file.readlines()
            whole = facts.pop("seal") == _seal(facts, lines) and facts["format"] == FORMAT
            ours = whole and facts["code"][snapshot.NODES] == _package()
            if not ours or facts["log"] != self._marks(facts["sequence"]):
                return None
            sections = dict(zip(facts["sections"], lines, strict=True))
            return Kept(facts["sequence"], sections, facts["code"])
        except (OSError, StoreError, AttributeError, LookupError, TypeError, ValueError):
            return None

    def _marks(self, sequence: int) -> list[str]:
        """Digests of the first entry of the log and of the last one before `sequence`, which must be there."""
        return [hashlib.sha256(to_line(self._entry(at)).encode()).hexdigest() for at in (0, sequence - 1)]

    def _entry(self, sequence: int) -> Entry:
        found = self._store.read_from(sequence, most=1)
        if not found or found[0].sequence != sequence:
            raise StoreError(f"entry {sequence} is missing from the log; restore the run's folder")
        return found[0]

    def _entries(self, sequence: int, kinds: tuple[str, ...] = ()) -> Iterator[Entry]:
        """The entries from number `sequence` on, in parts: a long log does not fit into memory."""
        while part := self._store.read_from(sequence, most=_PART, kinds=kinds):
            yield from part
            sequence = part[-1].sequence + 1


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without the cyclic garbage collector: what is made stays or has no cycles, and looking through it again and again
    takes as long as making it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _seal(head: Mapping[str, Any], lines: Iterable[bytes]) -> str:
    """A digest of a whole snapshot but itself."""
    digest = hashlib.sha256(codec.dumps(head).encode())
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def _code(reducers: Iterable[Reducer]) -> dict[str, str]:
    """For what the graph and each reducer fold with, a digest of the code, empty where it cannot be told: a state that
    other code made is none."""
    ours = _package()
    found = {snapshot.NODES: ours}
    for reducer in reducers:
        within = (reducer, *getattr(reducer, "reducers", ()))  # one that folds along with others of its own
        theirs = [_code_of(type(each)) for each in within]
        found[snapshot.section_of(reducer)] = " ".join((ours, *theirs)) if all(theirs) else ""
    return found


def _code_of(cls: type[Reducer]) -> str:
    file = Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")
    return f"{cls.__qualname__} {hashlib.sha256(file.read_bytes()).hexdigest()}" if file.is_file() else ""


@functools.cache
def _package() -> str:
    """A digest of the words, the search and the proposing: all that takes part in folding."""
    root, digest = Path(__file__).parents[1], hashlib.sha256(version("kernelevolve").encode())
    for file in sorted((*root.glob("*.py"), *root.glob("search/*.py"), *root.glob("propose/*.py"))):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
