"""Steering a run from outside: a person's notes, and briefs to be dropped.

In: a run's folder and what is asked. Out: the log is longer, at once where nobody owns the run, else as soon as its
owner looks into the inbox. Left to others: the inbox (`store.inbox`), what notes do (`propose.steering`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kernelevolve import plugins
from kernelevolve.errors import RunBusy, UsageError
from kernelevolve.events import Dropped, Event
from kernelevolve.graph import Graph, fold
from kernelevolve.propose.steering import clear, notes_in_force, refuse_unfitting_note, steer
from kernelevolve.runs import read_run
from kernelevolve.store import Store, inbox
from kernelevolve.store.inbox import Message
from kernelevolve.store.owner import this_process
from kernelevolve.store.replay import Replay


@dataclass(frozen=True)
class Delivered:
    """What became of a message.

    Attributes:
        at_once: it is in the log; else a live process owns the run and takes it in at its next turn.
        owner: why it waits.
    """

    at_once: bool
    owner: str = ""


@dataclass(frozen=True)
class Notes:
    """A run's notes by a person.

    Attributes:
        in_force: that the next briefs carry, oldest first.
        waiting: messages that its owner has not taken in yet.
        refused: files that could not be used, with the reason.
    """

    in_force: tuple[str, ...]
    waiting: int
    refused: tuple[tuple[str, str], ...] = ()


def add_note(folder: Path, text: str, *, store: str = "sqlite") -> Delivered:
    """Has the next briefs of the run in `folder` carry a note.

    Raises:
        UsageError: it says nothing, or is too long for every brief.
        StoreError: there is no run, or it cannot be written.
    """
    noted = steer(text)
    refuse_unfitting_note(read_run(folder, store=store), noted)
    return _deliver(folder, Message(noted), store)


def clear_notes(folder: Path, *, store: str = "sqlite") -> Delivered:
    """Ends all notes of the run in `folder`."""
    read_run(folder, store=store)
    return _deliver(folder, Message(clear()), store)


def cancel_brief(folder: Path, brief: str, reason: str = "", *, store: str = "sqlite") -> Delivered:
    """Drops a pending brief of the run in `folder`; whoever writes or evaluates it is stopped.

    Raises:
        UsageError: it does not wait for an answer.
    """
    graph = read_run(folder, store=store)
    _refuse_unless_pending(graph, brief)
    return _deliver(folder, Message(cancel=brief, reason=reason), store)


def notes_of_run(folder: Path, *, store: str = "sqlite") -> Notes:
    """The notes of the run in `folder`, and what its inbox holds."""
    graph = read_run(folder, store=store)
    return Notes(notes_in_force(graph), len(inbox.waiting(folder)), tuple(inbox.refused(folder)))


def _refuse_unless_pending(graph: Graph, brief: str) -> None:
    if brief not in graph.pending:
        known = ", ".join(graph.pending) or "none"
        raise UsageError(f"brief {brief!r} waits for no answer; pending: {known}")


def _deliver(folder: Path, message: Message, store: str) -> Delivered:
    """Leaves the message; where nobody owns the run, takes its inbox in as an owner would."""
    inbox.leave(folder, message)
    log: Store = plugins.load("stores", store)(folder)
    try:
        lease = log.take(this_process())
    except RunBusy as error:
        return Delivered(False, str(error).split(";")[0])
    try:
        graph = Replay(log, folder).graph()

        def append(event: Event) -> None:
            fold(graph, log.append(event, lease))

        def drop(brief: str, reason: str) -> None:
            _refuse_unless_pending(graph, brief)
            append(Dropped(brief, reason))

        inbox.collect(folder, append, drop)
    finally:
        lease.release()
    return Delivered(True)
