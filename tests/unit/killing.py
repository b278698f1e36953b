"""Drives a run in child processes and kills them at random moments; a program, run by test_kill.py.

In: a folder, numbers of kills, writers, seats and candidates, a seed. Out: one line of JSON. Left to others: judging
the log. This process never holds the database open while a child lives, so that each child is a process of its own to
SQLite.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import kernelevolve.store.sqlite  # noqa: F401  (imported once, so that a child starts quickly)
from kernelevolve.runs import create_run, holds_run, open_run, tail
from kernelevolve.settings import settings_for
from kernelevolve.testing import FAKE_PLATFORM, FakeEvaluator, FakeTranslator, fake_equip, fake_problem

RUNG_SECONDS = 0.002
LONGEST_WAIT = 0.05


class Reporting(FakeEvaluator):
    """Tells the parent how many entries the owner has seen appended."""

    def __init__(self, pipe: int) -> None:
        super().__init__(seconds=RUNG_SECONDS)
        self._pipe = pipe
        self.run = None

    async def evaluate(self, candidate, **more):
        os.write(self._pipe, b"%d\n" % self.run.graph.next_sequence)
        return await super().evaluate(candidate, **more)


def child(folder: Path, settings, pipe: int) -> None:
    evaluator = Reporting(pipe)
    equip = fake_equip(evaluator, FakeTranslator())
    if holds_run(folder):
        run = open_run(folder, equip)
    else:
        run = create_run(folder, fake_problem(), FAKE_PLATFORM, equip, settings=settings)
    evaluator.run = run
    os.write(pipe, b"0\n")
    with run:
        asyncio.run(run.drive())


def start(folder: Path, settings) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        child(folder, settings, writing)
        code = 0
    finally:
        os._exit(code)


def kill_once(folder: Path, settings, rng: random.Random) -> tuple[bool, int]:
    """Whether a live child was killed, and how many entries it had told us of."""
    pid, reading = start(folder, settings)
    if rng.random() < 0.8:
        select.select([reading], [], [], 60)
    time.sleep(rng.random() * LONGEST_WAIT)
    ended, _ = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with os.fdopen(reading) as lines:
        told = [int(line) for line in lines.read().splitlines()]
    return not ended, max(told, default=0)


def main() -> None:
    folder, (kills, writers, seats, candidates, seed) = Path(sys.argv[1]), map(int, sys.argv[2:7])
    settings = replace(
        settings_for("quick"), candidates=candidates, plateau=10**6, writers=writers, seats=seats, seconds=1e6
    )
    rng = random.Random(seed)
    hit = missing = 0
    for _ in range(kills):
        killed, told = kill_once(folder, settings, rng)
        hit += killed
        entries = len(tail(folder)) if holds_run(folder) else 0
        missing += max(0, told - entries)
    pid, reading = start(folder, settings)
    with os.fdopen(reading) as lines:
        lines.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps({"hit": hit, "missing": missing, "status": status}))


if __name__ == "__main__":
    main()
