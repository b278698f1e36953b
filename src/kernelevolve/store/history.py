"""History: what earlier runs in a folder of runs were about, so that a new one can begin with what they found.

In: a folder of runs. Out: for each run its problem, platform and family; and which could not be read, with the reason.
Left to others: which of them are near enough, and what is taken (`propose.warm`).

What is asked here stands in the first two entries of a log, which never change; so each run is read once and kept in
`.kernelevolve-history.json` beside the runs, by number, size and time of its database. The index may be lost: a damaged
one is made anew, and a folder that cannot be written is read each time.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelevolve import codec, plugins
from kernelevolve.errors import StoreError
from kernelevolve.events import Created, Entry, Noted
from kernelevolve.family import TOPIC, Family
from kernelevolve.graph import Graph, fold_all
from kernelevolve.store import Store

LOG = "log.sqlite"  # of `store.sqlite`, whose import needs a database
INDEX = ".kernelevolve-history.json"
LAYOUT = 1
_HEAD = 2
Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Past:
    """An earlier run.

    Attributes:
        place: its folder, relative to the folder of runs.
        run: its id.
        key: of its problem, see `Problem.key`.
        problem, platform, version: names, and of KernelEvolve.
        wall: when it was created, in seconds since 1970.
        family: None where its reference was not captured when it was created.
    """

    place: str
    run: str
    key: str
    problem: str
    platform: str
    version: str
    wall: float
    family: Family | None = None


@dataclass(frozen=True)
class History:
    """The runs in a folder.

    Attributes:
        runs: oldest first.
        skipped: those that cannot be read, with the reason.
        read: how many were read now; the others stood in the index.
        rebuilt: why the index was made anew; empty where it was not.
    """

    runs: tuple[Past, ...] = ()
    skipped: tuple[str, ...] = ()
    read: int = 0
    rebuilt: str = ""


def history(folder: Path, but: Path | None = None) -> History:
    """What is known of the runs, and of sibling runs, in `folder`; the one in the folder `but` is left out."""
    known, rebuilt = _load(folder / INDEX)
    runs: dict[str, tuple[Stamp, Past]] = {}
    skipped: list[str] = []
    read = 0
    for place, log in _logs(folder):
        if but is not None and log.parent.resolve() == but.resolve():
            continue
        try:
            stamp = _stamp(log)
        except OSError:
            continue  # removed a moment ago
        if place in known and known[place][0] == stamp:
            runs[place] = known[place]
            continue
        read += 1
        try:
            runs[place] = stamp, _past(folder / place, place)
        except StoreError as error:
            skipped.append(f"{place}: {error}")
    if runs != known or rebuilt:
        _save(folder / INDEX, runs)
    found = sorted((past for _, past in runs.values()), key=lambda past: (past.wall, past.run))
    return History(tuple(found), tuple(skipped), read, rebuilt)


def past_of(folder: Path) -> Past:
    """What is known of one run; its `place` is the folder's name.

    Raises:
        StoreTooNew: it was written by a newer KernelEvolve.
        StoreError: there is no run, or it cannot be read.
    """
    return _past(folder, folder.name)


def graph_of(folder: Path, *, store: str = "sqlite") -> Graph:
    """The graph of a run as of now, of which nothing is owned.

    Raises:
        StoreTooNew, StoreError: as above.
    """
    log: Store = plugins.load("stores", store)(folder)
    return fold_all(log.read_from(0))


def _logs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each run's place and database, siblings included."""
    for pattern in (f"*/{LOG}", f"*/*/{LOG}"):
        for log in sorted(folder.glob(pattern)):
            yield log.parent.relative_to(folder).as_posix(), log


def _stamp(log: Path) -> Stamp:
    found = log.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _past(folder: Path, place: str) -> Past:
    store: Store = plugins.load("stores", "sqlite")(folder)
    head = store.read_from(0, most=_HEAD)
    if not head or not isinstance(head[0].event, Created):
        raise StoreError("its creation was cut short")
    created = head[0].event
    return Past(
        place, created.run, created.problem.key, created.problem.name, created.platform, created.version,
        head[0].wall, _family(head[1:]),
    )  # fmt: skip


def _family(entries: tuple[Entry, ...]) -> Family | None:
    for entry in entries:
        if isinstance(entry.event, Noted) and entry.event.topic == TOPIC:
            try:
                return codec.from_data(Family, entry.event.data)
            except ValueError as error:
                raise StoreError(f"its note of topic {TOPIC!r} is damaged: {error}") from error
    return None


def _load(index: Path) -> tuple[dict[str, tuple[Stamp, Past]], str]:
    """What the index holds, and why it must be made anew."""
    try:
        data = json.loads(index.read_text(encoding="utf-8"))
        if data["layout"] != LAYOUT:
            return {}, f"{index} has layout {data['layout']!r}, this KernelEvolve writes {LAYOUT}"
        return {
            place: (tuple(map(int, kept["stamp"])), codec.from_data(Past, kept["past"]))
            for place, kept in data["runs"].items()
        }, ""
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"{index} is damaged ({type(error).__name__}: {error})"


def _save(index: Path, runs: dict[str, tuple[Stamp, Past]]) -> None:
    kept: dict[str, Any] = {
        place: {"stamp": list(stamp), "past": codec.to_data(past)} for place, (stamp, past) in runs.items()
    }
    made = index.with_name(f"{INDEX}.{os.getpid()}")
    # Whoever may not write here, or has no room, reads the runs again next time.
    with contextlib.suppress(OSError):
        try:
            made.write_text(json.dumps({"layout": LAYOUT, "runs": kept}), encoding="utf-8")
            made.replace(index)
        finally:
            made.unlink(missing_ok=True)
