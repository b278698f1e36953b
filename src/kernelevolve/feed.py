"""The progress feed: what the work in flight of a run is doing right now.

In: stages, as the run's owner tells them. Out: the same stages, to be tailed like the log. Left to others: the log,
which is the truth and survives; a feed lives in the owner's memory and ends with it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

ENDS = ("done", "dropped", "stopped")


@dataclass(frozen=True)
class Stage:
    """What is being done about a brief.

    Attributes:
        number: 0, 1, 2, ... within this opening of the run.
        stage: `write`, `wait` (for a seat), a rung's name, then `done`, `dropped` or `stopped`.
        candidate: empty while there is none.
        wall: seconds since 1970.
    """

    number: int
    brief: str
    candidate: str
    stage: str
    wall: float


class Feed:
    """What the work in flight is doing, in memory and for the owner's process only; read like the log, by tailing.

    Any thread may read and tell.

    Args:
        keep: how many stages are kept.
    """

    def __init__(self, keep: int = 4096) -> None:
        self._stages: deque[Stage] = deque(maxlen=keep)
        self._now: dict[str, Stage] = {}
        self._next = 0
        self._lock = threading.Lock()

    @property
    def now(self) -> Mapping[str, Stage]:
        """The latest stage of each brief in flight."""
        with self._lock:
            return dict(self._now)

    def read_from(self, number: int) -> tuple[Stage, ...]:
        """The stages from `number` on, as far as they are kept."""
        with self._lock:
            return tuple(s for s in self._stages if s.number >= number)

    def tell(self, brief: str, candidate: str, stage: str) -> None:
        """Adds a stage; the run's own to call."""
        with self._lock:
            entry = Stage(self._next, brief, candidate, stage, time.time())
            self._next += 1
            self._stages.append(entry)
            if stage in ENDS:
                self._now.pop(brief, None)
            else:
                self._now[brief] = entry
