"""The briefs of a run: read as they were asked, and composed again from the log alone.

In: a run's folder. Out: a brief; how many briefs are the same byte for byte when they are made again, and the first
that is not, with the section and the reason. Left to others: composing (`propose.operator`), which parents (the log
says).

No model, no network and no device is asked: what models said of a node is in the log, and so are the hardware's
figures. The library is not; the log has its digest, which tells why a brief may come out different here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kernelevolve import codec, plugins
from kernelevolve.candidate import Brief
from kernelevolve.errors import KernelEvolveError, UnknownName
from kernelevolve.events import MADE_FROM, Asked, Created, Entry, Noted
from kernelevolve.graph import Graph, Reducer, fold
from kernelevolve.hardware import HardwareFigures
from kernelevolve.knowledge.library import Library, open_library
from kernelevolve.propose.operator import Composer, code_digest
from kernelevolve.search.control import ControlReducer, share_of, view
from kernelevolve.store import Store
from kernelevolve.store.replay import Replay

_PART = 500
_FACTS = ("parents", "move", "diagnosis", "memory", "sections")


@dataclass(frozen=True)
class Difference:
    """The first place where a brief comes out different.

    Attributes:
        section: heading of the prompt, or the field of the brief.
        asked, again: the line there, in the log and here; empty where there is none.
        why: as far as the log tells.
    """

    brief: str
    section: str
    asked: str
    again: str
    why: str


@dataclass(frozen=True)
class BriefsReplayed:
    """What came of composing all briefs of a run again.

    Attributes:
        briefs: that were asked.
        same: of them that are the same byte for byte.
        first: difference; None where all are the same.
    """

    run: str
    briefs: int
    same: int
    first: Difference | None = None


def read_brief(folder: Path, name: str, *, store: str = "sqlite") -> Brief:
    """The brief with id `name` as it was asked, whatever became of it.

    Raises:
        UnknownName: the run never asked it.
        StoreError: there is no run.
    """
    known: list[str] = []
    for entry in _entries(plugins.load("stores", store)(folder), kinds=("asked",)):
        if isinstance(entry.event, Asked):
            if entry.event.brief.id == name:
                return entry.event.brief
            known.append(entry.event.brief.id)
    raise UnknownName("brief", name, known[-20:])


def draft_brief(folder: Path, *, library: Library | None = None, store: str = "sqlite") -> Brief:
    """The brief that a fresh draft of the run in `folder` would get now; nothing is asked and nothing is logged.

    Args:
        library: that it quotes; default: where the run has one, ours with the folders of `KERNELEVOLVE_KNOWLEDGE`.

    Raises:
        StoreError: there is no run, or its log is damaged.
    """
    log: Store = plugins.load("stores", store)(folder)
    replay = Replay(log, folder)
    graph, made = Graph(_reducers(replay.created), replay.shelf()), Made()
    for entry in _entries(log):
        if isinstance(entry.event, Noted) and entry.event.topic == MADE_FROM:
            made = Made.of(entry.event)
        fold(graph, entry)
    if made.library and library is None:
        library = open_library()
    composer = Composer(made.figures, library if made.library else None, made.rules)
    return composer.brief(view(graph, False), (), graph.created.writer.name)


def replay_briefs(folder: Path, *, library: Library | None = None, store: str = "sqlite") -> BriefsReplayed:
    """Composes every brief of the run in `folder` again, each from the log as it was before it was asked.

    Args:
        library: that briefs quote; default: where the run had one, ours with the folders of `KERNELEVOLVE_KNOWLEDGE`.

    Raises:
        StoreError: there is no run, or its log is damaged.
    """
    log: Store = plugins.load("stores", store)(folder)
    replay = Replay(log, folder)
    created = replay.created
    graph = Graph(_reducers(created), replay.shelf())
    made, opened = Made(), library
    briefs = same = 0
    first: Difference | None = None
    for entry in _entries(log):
        if isinstance(entry.event, Asked):
            briefs += 1
            if made.library and opened is None:
                opened = open_library()
            found = _difference(graph, entry.event.brief, made, opened)
            same += found is None
            first = first or found
        elif isinstance(entry.event, Noted) and entry.event.topic == MADE_FROM:
            made = Made.of(entry.event)
        fold(graph, entry)
    return BriefsReplayed(graph.created.run, briefs, same, first)


@dataclass(frozen=True)
class Made:
    """What a log says that its briefs were made from."""

    figures: HardwareFigures | None = None
    library: str = ""
    code: str = ""
    rules: str = ""

    @classmethod
    def of(cls, note: Noted) -> Made:
        """Of a note with topic `made from`."""
        data = note.data
        figures = codec.from_data(HardwareFigures, data["figures"]) if data["figures"] else None
        return cls(figures, str(data["library"]), str(data["code"]), str(data.get("rules", "")))


def _reducers(created: Created | None) -> tuple[Reducer, ...]:
    mine = Composer().reducers
    apart = created is not None and share_of(created.settings) > 0
    return (*mine, ControlReducer(Composer().reducers, Composer().reducers)) if apart else mine


def _entries(log: Store, kinds: tuple[str, ...] = ()) -> Iterator[Entry]:
    sequence = 0
    while part := log.read_from(sequence, most=_PART, kinds=kinds):
        yield from part
        sequence = part[-1].sequence + 1


def _difference(graph: Graph, asked: Brief, made: Made, library: Library | None) -> Difference | None:
    composer = Composer(made.figures, library if made.library else None, made.rules)
    try:
        again = composer.again(view(graph, asked.control), asked)
    except KernelEvolveError as error:
        return Difference(asked.id, "", "", "", f"it cannot be composed here: {error}")
    again = replace(again, id=asked.id, index=asked.index, control=asked.control)
    if codec.dumps(again) == codec.dumps(asked):
        return None
    return Difference(asked.id, *_place(asked, again), _why(made, library))


def _place(asked: Brief, again: Brief) -> tuple[str, str, str]:
    """The section and the two lines where two briefs begin to differ."""
    heading = "its beginning"
    for one, other in zip_longest(asked.prompt.split("\n"), again.prompt.split("\n")):
        if one != other:
            return heading, one or "", other or ""
        if one is not None and one.startswith(("## ", "### ")):
            heading = one.lstrip("# ")
    for name in _FACTS:
        one, other = (codec.to_data(getattr(brief, name)) for brief in (asked, again))
        if one != other:
            return name, *_first(one, other)
    return "prompt", "", ""


def _first(one: Any, other: Any) -> tuple[str, str]:
    if isinstance(one, list) and isinstance(other, list):
        for mine, theirs in zip_longest(one, other):
            if mine != theirs:
                return str(mine), str(theirs)
    return str(one), str(other)


def _why(made: Made, library: Library | None) -> str:
    reasons: list[str] = []
    here = library.digest if library is not None and made.library else ""
    if made.library != here:
        reasons.append(
            f"the library here is another one ({_short(here)}, the run's was {_short(made.library)}): give the run's "
            "folders of articles in KERNELEVOLVE_KNOWLEDGE, with the KernelEvolve that wrote it"
        )
    if made.code and made.code != code_digest():
        reasons.append("another version of KernelEvolve composed it: its prompts or rules differ from those here")
    return "; ".join(reasons) or "the log does not say: its briefs may be of an older KernelEvolve, or a plugin's"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12] or "none"

