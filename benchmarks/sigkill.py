"""Kills runs with SIGKILL at random moments, carries them on, and looks each time whether anything is lost or doubled.

In: numbers of kills and runs. Out: what was looked at and found, on the terminal and in one JSON file; it fails where
anything is wrong. Left to others: what a power cut does.

Each life of a run is a process of its own that opens (or creates) the run and drives it with fakes: many writers, few
seats, a tenth of both failing. It tells the parent through a pipe of each entry once it is appended, and of each
candidate once an evaluator begins with it. After each kill the parent reads the log and looks whether

- what was in it before is in it unchanged, and every entry that was told of is in it;
- nothing is lost, doubled, or out of order (`kernelevolve.testing.load.disorder`): brief indices, answers, evaluations,
  costs, limits, and the blobs that evaluations name, read back whole;
- each selection of parents comes out the same when the log is replayed, with the policy of that run;
- no evaluator began with a candidate whose evaluation was in the log before.

At the end each run is driven without a kill: it must end by its limit, with every candidate that was ever written told,
or dropped with a reason.

    python benchmarks/sigkill.py --kills 200 --out benchmarks/results/sigkill.json
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import math
import os
import platform
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kernelevolve import plugins
from kernelevolve.events import Component, Dropped, Entry, Evaluated, Event, Written, to_line
from kernelevolve.graph import fold_all
from kernelevolve.runs import create_run, holds_run, open_run, tail
from kernelevolve.search.progress import ProgressReducer
from kernelevolve.settings import Settings, settings_for
from kernelevolve.store import Lease
from kernelevolve.store.sqlite import SqliteStore
from kernelevolve.testing import FAKE_PLATFORM, fake_equip, fake_problem
from kernelevolve.testing.load import LOADED, LoadedEvaluator, disorder, other_choice, registered

WRITE, EVALUATE = (0.002, 0.05), (0.001, 0.02)
FAILING, RAISING, LOST, FAULTY, TOKENS = 0.08, 0.02, 0.1, 0.2, 100
LONGEST_LIFE, AT_ONCE = 0.25, 0.15  # seconds after the run was opened; share that is killed at any moment before
PATIENCE = 120.0
TELLING = -1  # the pipe's end in a life


def tell(text: str) -> None:
    os.write(TELLING, f"{text}\n".encode())


class Telling(SqliteStore):
    """Tells the parent of each entry once it is appended."""

    def append(self, event: Event, lease: Lease) -> Entry:
        entry = super().append(event, lease)
        tell(f"entry {entry.sequence} {entry.kind}")
        return entry


class TellingEvaluator(LoadedEvaluator):
    """Tells the parent of each candidate that it begins with."""

    async def evaluate(self, candidate: Any, **more: Any) -> Any:
        tell(f"evaluate {candidate.id}")
        return await super().evaluate(candidate, **more)


@dataclass
class Case:
    """One run that is killed again and again."""

    folder: Path
    policy: str
    settings: Settings
    seed: int
    entries: tuple[Entry, ...] = ()
    wrong: list[str] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)

    def live(self) -> None:
        """One life, in a process of its own."""
        equip = fake_equip(TellingEvaluator(seconds=EVALUATE, faulty=FAULTY, lost=LOST, seed=self.seed))
        tell("ready")
        if holds_run(self.folder, store="telling"):
            run = open_run(self.folder, equip, store="telling")
        else:
            writer = Component(LOADED, {"seconds": WRITE, "failing": FAILING, "raising": RAISING, "tokens": TOKENS})
            run = create_run(
                self.folder, fake_problem(), FAKE_PLATFORM, equip, settings=self.settings, policy=self.policy,
                writer=writer, seed=self.seed, store="telling",
            )  # fmt: skip
        tell("opened")
        with run:
            asyncio.run(run.drive())

    def life(self, rng: random.Random | None) -> int | None:
        """The exit code of one life; None where it was killed, at a moment that `rng` gives."""
        pid, pipe = born(self)
        told = b""
        deadline = time.monotonic() + PATIENCE
        mark = b"ready" if rng is not None and rng.random() < AT_ONCE else b"opened"
        kill_at = None
        while True:
            left = (deadline if kill_at is None else kill_at) - time.monotonic()
            if left <= 0:
                os.kill(pid, signal.SIGKILL)
                break
            if select.select([pipe], [], [], left)[0]:
                more = os.read(pipe, 65536)
                if not more:
                    break
                told += more
                if rng is not None and kill_at is None and mark in told:
                    kill_at = time.monotonic() + rng.random() * LONGEST_LIFE * (1 if mark == b"opened" else 0.3)
        _, status = os.waitpid(pid, 0)
        with os.fdopen(pipe, "rb") as rest:
            told += rest.read()
        code = os.waitstatus_to_exitcode(status)
        self.look([line.split() for line in told.decode().splitlines() if not line.startswith(("ready", "opened"))])
        return None if code == -signal.SIGKILL else code

    def look(self, told: list[list[str]]) -> None:
        """Compares the log with what it was and with what the life told."""
        before, now = self.entries, tail(self.folder) if holds_run(self.folder) else ()
        if [to_line(e) for e in now[: len(before)]] != [to_line(e) for e in before]:
            self.wrong.append("what was in the log has changed")
        for what, name, *kind in told:
            if what == "entry" and not (int(name) < len(now) and now[int(name)].kind == kind[0]):
                self.wrong.append(f"entry {name} ({kind[0]}) was appended and is lost")
        done = {e.event.candidate for e in before if isinstance(e.event, Evaluated)}
        self.wrong += [f"{name} was evaluated again" for what, name, *_ in told if what == "evaluate" and name in done]
        if now:
            self.wrong += disorder(now, self.folder)
            self.wrong += filter(None, [other_choice(now)])
        self.entries = now
        self.found["entries told of"] += sum(what == "entry" for what, *_ in told)
        self.found["evaluations begun"] += sum(what == "evaluate" for what, *_ in told)

    def killed(self) -> None:
        """Counts what a kill found in flight."""
        if not self.entries:
            self.found["killed before the first entry"] += 1
            return
        pending = fold_all(self.entries).pending.values()
        self.found["briefs pending"] += len(pending)
        self.found["answers waiting"] += sum(p.candidate is not None for p in pending)
        self.found[f"killed after {self.entries[-1].kind}"] += 1

    def end(self) -> None:
        """The last life, which nobody kills."""
        code = self.life(None)
        graph = fold_all(self.entries, (ProgressReducer(),))
        fates = {e.event.candidate for e in self.entries if isinstance(e.event, Evaluated)}
        dropped = {e.event.brief for e in self.entries if isinstance(e.event, Dropped)}
        for entry in self.entries:
            if isinstance(entry.event, Written):
                candidate = entry.event.candidate
                if candidate.id not in fates and candidate.brief not in dropped:
                    self.wrong.append(f"{candidate.id} was written and neither told nor dropped")
        limit, spent = ("tokens", graph.tokens) if self.settings.tokens else ("candidates", len(graph.nodes))
        wanted = self.settings.tokens or self.settings.candidates
        if code != 0 or graph.ending is None or graph.ending.rule != limit or graph.pending:
            self.wrong.append(f"the last life ended with {code}, {graph.ending}, {len(graph.pending)} pending")
        if spent < wanted or (limit == "candidates" and spent > wanted):
            self.wrong.append(f"{spent} {limit} spent, the limit is {wanted}")
        openings = len({e.epoch for e in self.entries})
        what = f"{len(graph.nodes)} told, {len(dropped)} dropped in {openings} openings; ended by {graph.finished!r}"
        who = f"{self.policy:10} {self.settings.writers:2} writers, {self.settings.seats} seats"
        print(f"{who}: {what}; wrong: {self.wrong or 'nothing'}", flush=True)


def born(case: Case) -> tuple[int, int]:
    """A process that lives one life, and the pipe through which it tells."""
    global TELLING
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        TELLING = writing
        case.live()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def case_of(place: Path, index: int, seed: int) -> Case:
    """A run of its own policy, limit, writers and seats."""
    names, rng = plugins.names("policies"), random.Random(f"{seed}:{index}")
    limits: dict[str, Any] = {"candidates": 150} if index % 2 == 0 else {"candidates": 10**6, "tokens": 15_000}
    settings = replace(
        settings_for("quick"), plateau=10**6, seconds=1e6, writers=rng.choice((4, 16, 64)), seats=rng.choice((2, 4, 8)),
        **limits,
    )  # fmt: skip
    return Case(place / f"run{index}", names[index % len(names)], settings, seed + index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--runs", type=int, default=12, help="among which the kills are divided")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng, start, kills, runs = random.Random(options.seed), time.monotonic(), 0, 0
    found, wrong = Counter[str](), list[str]()
    place = Path(tempfile.mkdtemp())
    here = Path(__file__).stem
    sys.modules[here] = sys.modules[__name__]
    with (
        registered("writers", LOADED, "kernelevolve.testing.load:LoadedWriter"),
        registered("stores", "telling", f"{here}:Telling"),
    ):
        while kills < options.kills:
            case, left = case_of(place, runs, options.seed), math.ceil(options.kills / options.runs)
            runs += 1
            while left and kills < options.kills and case.life(rng) is None:  # unless it ended before its moment came
                kills, left = kills + 1, left - 1
                case.killed()
            case.end()
            found += case.found
            wrong += [f"{case.folder.name}: {text}" for text in case.wrong]
    facts = {
        "benchmark": "sigkill",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "system": platform.system(),
                    "load": os.getloadavg(), "python": platform.python_version()},
        "kills": kills,
        "runs": runs,
        "seed": options.seed,
        "seconds": round(time.monotonic() - start, 1),
        "found": dict(sorted(found.items())),
        "wrong": wrong,
    }  # fmt: skip
    print(json.dumps({name: facts[name] for name in ("kills", "seconds", "found", "wrong")}))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if wrong:
        sys.exit(f"something is wrong; the runs are kept in {place}")
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
