"""What each policy costs in a long run: choosing, appending and folding one more node; opening the run; memory.

In: a number of nodes and the policies. Out: one line per policy with median and 99th percentile in milliseconds, and
one JSON file with quantiles and histograms. Left to others: writing and evaluating; fakes of a given size stand in for
both.

The log of such a run is grown in memory by the policy itself and put into the database in bulk. Then fresh processes
open the run as `kernelevolve resume` does, one after the other: without a snapshot, which leaves one; with it, five
times; going on through the run's own ask, answered and tell, past the moment at which the next snapshot is written; and
with what came after that one. Times are the clock's and the process's: they differ where the machine has other work.
Peaks of memory are the kernel's (`VmHWM`), of each process from its start.

    python benchmarks/policies_scale.py --nodes 100000 --out benchmarks/results/policies_scale_100k.json
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import os
import platform
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy

from kernelevolve import codec, plugins
from kernelevolve.candidate import Brief, Candidate
from kernelevolve.evaluation import Evaluation, Evidence, Figure, Resources, Verdict
from kernelevolve.events import (
    SCHEMA,
    Asked,
    Component,
    Created,
    Dropped,
    Entry,
    Evaluated,
    Event,
    Written,
    write_event,
)
from kernelevolve.graph import Graph, fold
from kernelevolve.propose import Answer
from kernelevolve.run import Run
from kernelevolve.runs import open_run
from kernelevolve.search import choosing
from kernelevolve.search.novelty import BinariesReducer, ProgramsReducer
from kernelevolve.settings import settings_for
from kernelevolve.store.replay import FILE as SNAPSHOT
from kernelevolve.store.sqlite import FILE, SqliteStore
from kernelevolve.testing import FAKE_PLATFORM, fake_equip, fake_evaluation, fake_problem

MEDIAN_MS, P99_MS, OPEN_SECONDS, MEMORY_MIB = 5.0, 50.0, 3.0, 1024.0
TURNS, OPENINGS, PENDING, FAULTY, EXHAUSTED = 3000, 5, 8, 0.3, 0.02
LIMITS = ("bandwidth", "compute", "latency", "launch", "occupancy", "spills")
LINE = "    tl.store(out + offsets, tl.load(x + offsets, mask=mask), mask=mask)\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--policies", nargs="+", default=list(plugins.names("policies")))
    parser.add_argument("--source-lines", type=int, default=10, help="of 72 bytes each in a candidate")
    parser.add_argument("--nice", type=int, default=0, help="of the two long parts: growing the log, folding all of it")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", nargs=2, metavar=("PART", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part[0]](Path(options.part[1]), options)))
        return
    rows = []
    for name in options.policies:
        rows.append(row_of(name, options))
        write(rows, options)


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    if options.out is not None:
        facts = {
            "benchmark": "policies_scale",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "system": platform.system()},
            "versions": {"python": platform.python_version(), "sqlalchemy": sqlalchemy.__version__,
                         "sqlite": sqlite3.sqlite_version},
            "nodes": options.nodes,
            "source_lines": options.source_lines,
            "budgets": {"median_ms": MEDIAN_MS, "p99_ms": P99_MS, "open_s": OPEN_SECONDS, "memory_mib": MEMORY_MIB},
            "rows": rows,
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def row_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What one policy costs, each part in a process of its own."""
    found: dict[str, Any] = {"policy": name}
    with tempfile.TemporaryDirectory() as place:
        for part in ("grow", "bare", *["open"] * OPENINGS, "go_on", "again"):
            load = round(os.getloadavg()[0], 2)
            command = [sys.executable, __file__, "--nodes", str(options.nodes), "--policies", name, "--source-lines",
                       str(options.source_lines), "--part", part, str(Path(place) / "run")]  # fmt: skip
            polite = ["nice", "-n", str(options.nice)] if part in ("grow", "bare") else []
            done = subprocess.run([*polite, *command], check=True, capture_output=True, text=True)
            result = json.loads(done.stdout.splitlines()[-1]) | {"load": load}
            if part == "open":
                found.setdefault(part, []).append(result)
            else:
                found[part] = result
    best, on, late, bare = min(found["open"], key=lambda o: o["s"]), found["go_on"], found["again"], found["bare"]
    print(
        f"{name:10} {on['nodes']} nodes: select {told(on['select_ms'], 3)}; "
        f"select + fold {told(found['grow']['fold_ms'], 3)}; turn {told(on['turn_ms'], 2)} (of the process "
        f"{told(on['turn_cpu_ms'], 2)}); opened in {both(best)} at best of {[o['s'] for o in found['open']]}, "
        f"{best['mib']} MiB, {on['mib']} MiB after the turns; {late['after_snapshot']} entries after the snapshot: "
        f"{both(late)}; without one: {both(bare)}, {bare['mib']} MiB",
        flush=True,
    )
    return found


def both(spent: dict[str, Any]) -> str:
    return f"{spent['s']:.2f} s ({spent['cpu_s']:.2f} of the process, load {spent['load']})"


def told(samples: dict[str, Any], digits: int) -> str:
    return f"{samples['median']:.{digits}f} ms median, {samples['p99']:.{digits}f} p99"


def summary(samples: list[float]) -> dict[str, Any]:
    """Quantiles of so many milliseconds, and how many are at most each power of two."""
    cuts = statistics.quantiles(samples, n=100)
    counts = Counter(max(-10, math.ceil(math.log2(max(sample, 1e-9)))) for sample in samples)
    return {
        "count": len(samples),
        **{f"p{n}" if n != 50 else "median": round(cuts[n - 1], 4) for n in (10, 50, 90, 99)},
        "most": round(max(samples), 4),
        "histogram": [[2.0**power, counts[power]] for power in sorted(counts)],
    }


def grow(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Grows the log of a run with `PENDING` briefs in flight; milliseconds of select + fold per node at the end."""
    name, nodes, lines = options.policies[0], options.nodes, options.source_lines
    settings = settings_for("deep")
    created = Created(
        "scale", fake_problem(), FAKE_PLATFORM, 0, choosing.policy_named(name, settings), Component("built-in"),
        codec.to_data(replace(settings, candidates=10 * nodes, plateau=10 * nodes)), "0",
    )  # fmt: skip
    policy = choosing.build(created.policy)
    graph = Graph((BinariesReducer(), ProgramsReducer(), *policy.reducers))
    SqliteStore(folder, create=True)
    database = sqlite3.connect(folder / FILE)
    samples: list[float] = []
    spent = 0.0
    luck = random.Random(name)

    def add(event: Event) -> None:
        nonlocal spent
        entry = Entry(graph.next_sequence, 1, float(graph.next_sequence), event)
        kind, body = write_event(event)
        row = (entry.sequence, entry.epoch, SCHEMA, entry.wall, kind, body)
        database.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", row)
        start = time.perf_counter()
        fold(graph, entry)
        spent += time.perf_counter() - start

    add(created)
    while len(graph.nodes) < nodes:
        spent, before = 0.0, len(graph.nodes)
        turn(graph, lambda: select(graph, policy), add, luck, lines)
        if len(graph.nodes) > before:
            samples.append((spent + SELECTED[-1]) * 1e3)
    database.commit()
    database.close()
    return {"fold_ms": summary(samples[-TURNS:]), "log_mib": round((folder / FILE).stat().st_size / 2**20)}


SELECTED: list[float] = []


def select(graph: Graph, policy: Any) -> tuple[str, ...]:
    rng = random.Random(f"0:{graph.asked}:select")
    start = time.perf_counter()
    parents: tuple[str, ...] = policy.select(graph, rng)
    SELECTED.append(time.perf_counter() - start)
    return parents


def turn(
    graph: Graph, choose: Callable[[], tuple[str, ...]], add: Callable[[Event], None], luck: random.Random, lines: int
) -> None:
    """One brief asked, and the oldest of those pending written and told, or dropped."""
    add(Asked(Brief(f"b{graph.asked}", graph.asked, choose(), "")))
    if len(graph.pending) < PENDING:
        return
    brief = next(iter(graph.pending.values())).brief
    if brief.parents and luck.random() < EXHAUSTED:
        add(Dropped(brief.id, "no move is left", exhausted=True))
        return
    name = f"n{graph.written}"
    candidate = Candidate(
        name, brief.id, "fake", source(graph.written, lines), "what was changed", program=digest(f"{name} program")
    )
    evaluation, worth = judged(graph, brief, luck)
    add(Written(candidate))
    add(Evaluated(candidate.id, evaluation, worth))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def source(index: int, lines: int) -> str:
    return f"import triton\n# candidate {index}\n{LINE * lines}"


def judged(graph: Graph, brief: Brief, luck: random.Random) -> tuple[Evaluation, Figure]:
    """A child is a little better or worse than its best parent."""
    above = max((graph.nodes[p].fitness.value for p in brief.parents), default=0.0) or 1.0
    quality = above * luck.uniform(0.7, 1.02) if brief.parents else luck.uniform(0.5, 1.5)
    wrong = luck.random() < FAULTY
    found = fake_evaluation(quality, verdict=Verdict.WRONG_VALUE if wrong else None)
    launches = tuple(
        Resources("kernel", "sm_90", digest(f"{brief.id} {i}"), 32, 0, 0, 4, 1.0) for i in range(luck.randint(1, 6))
    )
    found = replace(found, resources={FAKE_PLATFORM: launches}, diagnosis=f"{luck.choice(LIMITS)}: made up")
    return found, Figure(0.0, "x", Evidence.MEASURED, "fake") if wrong else found.timings[0].speedup


def opened(folder: Path) -> tuple[Run, dict[str, float]]:
    """The run with seconds (of the clock, of this process) to open it, and MiB of this process at its largest."""
    start, worked = time.perf_counter(), time.process_time()
    run = open_run(folder, fake_equip())
    spent = {"s": round(time.perf_counter() - start, 3), "cpu_s": round(time.process_time() - worked, 3)}
    return run, spent | {"mib": peak()}


def peak() -> int:
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit("/proc/self/status has no VmHWM: this needs Linux")
    return round(int(found[1]) / 1024)


def bare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Opens the run whose log is all there is."""
    run, spent = opened(folder)
    with run:
        size = round((folder / SNAPSHOT).stat().st_size / 2**20, 1)
    return spent | {"snapshot_mib": size}


def reopen(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Opens the run over its snapshot."""
    run, spent = opened(folder)
    run.close()
    return spent


def go_on(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Opens the run and goes on with it: milliseconds per turn."""
    run, _ = opened(folder)
    turns, luck = list[tuple[float, float]](), random.Random(f"{options.policies[0]} again")
    with run:
        nodes = len(run.graph.nodes)
        randoms = [random.Random(seed) for seed in range(TURNS)]
        selects = [timed(partial(run._policy.select, run.graph, rng), time.perf_counter)[0] for rng in randoms]
        while len(turns) < TURNS:
            if spent := real_turn(run, luck, options.source_lines):
                turns.append(spent)
        return {
            "nodes": nodes,
            "select_ms": summary(selects),
            "turn_ms": summary([wall for wall, _ in turns]),
            "turn_cpu_ms": summary([cpu for _, cpu in turns]),
            "mib": peak(),
        }


def again(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Opens the run with what `go_on` has added to it since the last snapshot."""
    snapshot = json.loads((folder / SNAPSHOT).open("rb").readline())
    run, spent = opened(folder)
    run.close()
    return spent | {"after_snapshot": run.graph.next_sequence - snapshot["sequence"]}


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "grow": grow, "bare": bare, "open": reopen, "go_on": go_on, "again": again
}  # fmt: skip


def real_turn(run: Run, luck: random.Random, lines: int) -> tuple[float, float] | None:
    """Milliseconds of ask, answered and tell, with their appends, by the clock and of the process; None where the brief
    was dropped."""
    asked, worked = timed(run.ask, time.perf_counter, time.process_time)
    brief = next(iter(run.graph.pending.values())).brief
    if brief.parents and luck.random() < EXHAUSTED:
        run.drop(brief.id, "no move is left", exhausted=True)
        return None
    evaluation, _ = judged(run.graph, brief, luck)
    answer = Answer(source(run.graph.written, lines), "what was changed")
    rest, further = timed(
        lambda: run.tell(run.answered(brief.id, "fake", answer), evaluation), time.perf_counter, time.process_time
    )
    return asked + rest, worked + further


def timed(work: Callable[[], object], *clocks: Callable[[], float]) -> list[float]:
    starts = [clock() for clock in clocks]
    work()
    return [(clock() - start) * 1e3 for clock, start in zip(clocks, starts, strict=True)]


if __name__ == "__main__":
    main()
