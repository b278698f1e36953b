"""The store: a run's append-only log, and who owns it.

In: events. Out: the same events as numbered entries. Left to others: what they mean (`graph`), when to append (`run`),
large bytes (`store.blobs`).

The rules that every store keeps (`testing.check_store` holds them):

- An append is one transaction: it returns after the entry would survive the death of this process, or it raises and
  nothing is in the log. Sequence numbers are 0, 1, 2, ... without gaps.
- A store has at most one owner. `take` raises RunBusy while a live process owns it; the lease of a dead process is
  taken over. Each lease has a higher epoch than all before it; an append under an older or released lease raises
  StaleLease.
- Reading never owns and never waits for the owner.
- Full disk raises StoreFull, a newer schema StoreTooNew, everything else that fails StoreError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kernelevolve.events import Entry, Event
from kernelevolve.store.owner import Owner


@dataclass(frozen=True)
class Lease:
    """The ownership of a run; `release` gives it back and may be called more than once."""

    epoch: int
    owner: Owner
    release: Callable[[], None]


class Store(Protocol):
    """A run's log in one place, e.g. a folder. Built as `Class(folder, create=False)`; `create` makes an empty log."""

    def __init__(self, folder: Path, *, create: bool = False) -> None: ...

    def append(self, event: Event, lease: Lease) -> Entry:
        """The entry that now holds `event` at the end of the log.

        Raises:
            StaleLease: the lease is not the current one.
            StoreFull: no room; the log is as it was.
        """
        ...

    def read_from(
        self, sequence: int, *, most: int | None = None, kinds: tuple[str, ...] = ()
    ) -> tuple[Entry, ...]:
        """The entries from number `sequence` on, in order: all of them, or the first `most`; where `kinds` are given
        (`noted`, ...), of those alone.

        Raises:
            StoreTooNew: one of them has a newer schema.
        """
        ...

    def take(self, owner: Owner, *, by_force: bool = False) -> Lease:
        """The ownership for `owner`; `by_force` takes it even from a process that seems alive.

        Raises:
            RunBusy: a process that is alive, or on another machine, owns the run.
        """
        ...
