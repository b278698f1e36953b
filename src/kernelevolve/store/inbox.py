"""The inbox of a run: what others ask of it while a process owns it.

In: a note by a person, or a brief to be dropped, from any process. Out: a file `inbox/*.json` in the run's folder,
which the owner folds into its log at its next turn. Left to others: who owns (`store.owner`), what a note means
(`propose`).

A file appears whole or not at all, and goes only after what it asks for is in the log; a note that is folded in twice
after a crash in between is told once, since equal notes are one. What cannot be used is set aside in `inbox/refused`,
with the reason beside it, and named; nothing is lost.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kernelevolve import codec
from kernelevolve.errors import StoreError, UsageError
from kernelevolve.events import STEER, Noted

FOLDER, REFUSED = "inbox", "refused"
#: Topic of the note that names what was set aside.
TOPIC = "inbox"
LARGEST = 64 << 10
_SUFFIX = ".json"


@dataclass(frozen=True)
class Message:
    """What is asked of a run: either of these.

    Attributes:
        noted: a note for its log, with topic `steer`.
        cancel: a brief to be dropped.
        reason: why.
    """

    noted: Noted | None = None
    cancel: str = ""
    reason: str = ""


def leave(folder: Path, message: Message) -> Path:
    """Leaves a message in the inbox of the run in `folder`; the file it is in.

    Raises:
        StoreError: it cannot be written.
    """
    inbox = folder / FOLDER
    path = inbox / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
    part = path.with_suffix(".part")
    try:
        inbox.mkdir(exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.write(codec.dumps(message))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StoreError(f"{inbox} cannot be written: {error}") from error
    return path


def waiting(folder: Path) -> tuple[Path, ...]:
    """The messages of a run's inbox, oldest first."""
    try:
        names = sorted(name for name in os.listdir(folder / FOLDER) if name.endswith(_SUFFIX))
    except OSError:  # there is none, or nobody may read it: nothing can be folded in
        return ()
    return tuple(folder / FOLDER / name for name in names)


def read(path: Path) -> Message:
    """The message of a file.

    Raises:
        UsageError: it is none.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise UsageError(f"it has more than {LARGEST} bytes")
    try:
        message = codec.loads(Message, data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"it is no message: {error}") from error
    if (message.noted is None) == (not message.cancel):
        raise UsageError("it asks for nothing, or for two things at once")
    if message.noted is not None and message.noted.topic != STEER:
        raise UsageError(f"a note of topic {message.noted.topic!r} is not for others to make")
    return message


def collect(folder: Path, note: Callable[[Noted], object], cancel: Callable[[str, str], object]) -> int:
    """Folds the inbox in; how many messages there were.

    Args:
        note: takes a note in, or raises UsageError.
        cancel: drops a brief for a reason, or raises UsageError where it does not wait.
    """
    count = 0
    for path in waiting(folder):
        try:
            message = read(path)
            if message.noted is not None:
                note(message.noted)
            else:
                cancel(message.cancel, message.reason or "cancelled by the user")
        except FileNotFoundError:
            continue
        except (UsageError, OSError) as error:
            note(_set_aside(path, error))
        else:
            with suppress(FileNotFoundError):
                path.unlink()
        count += 1
    return count


def _set_aside(path: Path, error: Exception) -> Noted:
    """Moves a message to those that were refused, with the reason beside it; the note that names it."""
    refused = path.parent / REFUSED
    why = " ".join(str(error).split())
    try:
        refused.mkdir(exist_ok=True)
        path.replace(refused / path.name)
        (refused / path.name).with_suffix(".txt").write_text(f"{why}\n", encoding="utf-8")
    except OSError as failed:
        raise StoreError(f"{path} cannot be used ({why}) nor set aside: {failed}; remove it by hand") from failed
    return Noted(TOPIC, f"{path.name} is set aside in {FOLDER}/{REFUSED}: {why}", {"file": path.name, "why": why})


def refused(folder: Path) -> Iterator[tuple[str, str]]:
    """What was set aside: names of files and reasons."""
    for path in sorted((folder / FOLDER / REFUSED).glob(f"*{_SUFFIX}")):
        reason = path.with_suffix(".txt")
        yield path.name, reason.read_text(encoding="utf-8").strip() if reason.is_file() else ""
