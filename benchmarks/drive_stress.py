"""How busy seats are kept while writers think: 64 writers and 8 seats, fakes that wait and fail, for every policy.

In: the policies and how long to go on. Out: a line for each load and each limit, and one JSON file. Left to others:
writing and measuring real kernels.

A writer takes 0.2 to 5 s and fails at a tenth of the briefs (by its contract, by raising something else, or by never
answering); an evaluation takes 0.05 to 0.5 s and a tenth of them lose their seat. The busy share is

    sum over seats of the time in which an evaluator is at work while a candidate waits / (seats x that time)

where a candidate waits from its Written event until its first attempt on a seat begins. Whatever the host does between
the end of one evaluation and the beginning of the next counts as idle. Host time per turn is what the whole process
uses, evaluators, blobs and log included, divided by the candidates told.

A limit is looked at in the log: what was spent when the rule says stop for good, what at the end, and how often a brief
was asked although the rule said stop. Work in flight is what was pending then.

    python benchmarks/drive_stress.py --out benchmarks/results/drive_stress.json
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernelevolve import plugins
from kernelevolve.events import Asked, Component, Entry, Evaluated, Finished, Written
from kernelevolve.graph import Graph, fold
from kernelevolve.runs import create_run, tail
from kernelevolve.search.progress import ProgressReducer
from kernelevolve.search.termination import rules_for
from kernelevolve.settings import Settings, settings_for
from kernelevolve.testing import FAKE_PLATFORM, fake_equip, fake_problem
from kernelevolve.testing.load import LOADED, LoadedEvaluator, Span, disorder, other_choice, registered

WRITERS, SEATS, BUSY = 64, 8, 0.95
WRITE, EVALUATE, SLOW = (0.2, 5.0), (0.05, 0.5), (0.5, 5.0)
FAILING, RAISING, SILENT, SILENT_SECONDS, LOST, FAULTY = 0.08, 0.01, 0.01, 10.0, 0.1, 0.2
TOKENS, MONEY = 1000, 0.01
ENDLESS = 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=1000, help="of each policy's run")
    parser.add_argument("--limited", type=int, default=400, help="candidates after which each limit is about reached")
    parser.add_argument("--policies", nargs="+", default=list(plugins.names("policies")))
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all waits")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with registered("writers", LOADED, "kernelevolve.testing.load:LoadedWriter"):
        rows = [loaded(name, "writers", EVALUATE, options.candidates, options.scale) for name in options.policies]
        slow = [loaded(options.policies[0], "seats", SLOW, options.candidates // 3, options.scale)]
        limits = [limited(field, options.limited, options.scale) for field in LIMITS]
    if options.out is not None:
        facts = {
            "benchmark": "drive_stress",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "system": platform.system(),
                        "load": os.getloadavg(), "python": platform.python_version()},
            "load": {"writers": WRITERS, "seats": SEATS, "write_s": WRITE, "evaluate_s": EVALUATE, "slow_s": SLOW,
                     "failing": FAILING, "raising": RAISING, "silent": SILENT, "answer_seconds": SILENT_SECONDS,
                     "lost": LOST, "faulty": FAULTY, "scale": options.scale},
            "rows": rows + slow,
            "limits": limits,
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def settings_of(scale: float, **limits: Any) -> Settings:
    endless = {"candidates": ENDLESS, "plateau": ENDLESS, "seconds": float(ENDLESS)}
    sides = {"writers": WRITERS, "seats": SEATS, "answer_seconds": SILENT_SECONDS * scale}
    return replace(settings_for("quick"), **{**endless, **sides, **limits})


def driven(
    policy: str, settings: Settings, evaluate: Sequence[float], scale: float
) -> tuple[tuple[Entry, ...], list[Span], float]:
    """The log of a run, the attempts on its seats, and the seconds of processor time that it took."""
    evaluator = LoadedEvaluator(seconds=[s * scale for s in evaluate], faulty=FAULTY, lost=LOST)
    writer = Component(LOADED, {"seconds": [s * scale for s in WRITE], "failing": FAILING, "raising": RAISING,
                                "silent": SILENT, "tokens": TOKENS, "money": MONEY})  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        equip = fake_equip(evaluator)
        with create_run(
            folder, fake_problem(), FAKE_PLATFORM, equip, settings=settings, policy=policy, writer=writer
        ) as run:
            start = time.process_time()
            asyncio.run(run.drive())
            spent = time.process_time() - start
        entries = tail(folder)
        wrong = [*disorder(entries, folder), other_choice(entries)]
    assert wrong == [""], wrong
    return entries, evaluator.spans, spent


def loaded(policy: str, scarce: str, evaluate: Sequence[float], candidates: int, scale: float) -> dict[str, Any]:
    """One policy under the load."""
    settings = settings_of(scale, candidates=candidates)
    entries, spans, spent = driven(policy, settings, evaluate, scale)
    told = sum(isinstance(e.event, Evaluated) for e in entries)
    row = {
        "policy": policy,
        "scarce": scarce,
        "candidates": told,
        "seconds": round(entries[-1].wall - entries[0].wall, 2),
        "most_waiting_allowed": settings.most_waiting,
        **{name: round(value, 4) for name, value in occupation(entries, spans, settings.seats).items()},
        "host_ms_per_turn": round(1e3 * spent / told, 2),
    }
    print(
        f"{policy:10} {scarce} scarce, {told} candidates in {row['seconds']:.0f} s: seats busy "
        f"{row['busy_while_waiting']:.2%} while candidates wait ({row['time_with_waiting']:.0%} of the time; "
        f"{row['busy']:.1%} in all), waiting {row['mean_waiting']:.1f} on average, {row['most_waiting']:.0f} at most "
        f"of {settings.most_waiting} allowed; writers at work {row['mean_writing']:.1f}; "
        f"host {row['host_ms_per_turn']:.2f} ms per turn",
        flush=True,
    )
    return row


def occupation(entries: Sequence[Entry], spans: Sequence[Span], seats: int) -> dict[str, float]:
    """Shares and means over the time from the first brief to the last one asked, when the driver no longer ends."""
    first: dict[str, float] = {}
    for span in spans:
        first[span.candidate] = min(span.start, first.get(span.candidate, span.start))
    asked = [e.wall for e in entries if isinstance(e.event, Asked)]
    begin, end = min(asked), max(asked)
    # Changes of three counts: candidates that wait, seats at work, briefs being written.
    moves: list[tuple[float, int, int]] = []
    for entry in entries:
        if isinstance(entry.event, Written) and entry.event.candidate.id in first:
            moves += [(entry.wall, 0, 1), (first[entry.event.candidate.id], 0, -1)]
        if isinstance(entry.event, Asked):
            moves.append((entry.wall, 2, 1))
        elif entry.kind in ("written", "dropped"):
            moves.append((entry.wall, 2, -1))
    for span in spans:
        moves += [(span.start, 1, 1), (span.end, 1, -1)]
    counts, before, most = [0, 0, 0], begin, 0
    waited = busy_waiting = busy = waiting = writing = 0.0
    for wall, which, by in sorted(moves):
        lasted = max(0.0, min(wall, end) - max(before, begin))
        busy += lasted * counts[1]
        waiting += lasted * counts[0]
        writing += lasted * counts[2]
        if counts[0]:
            waited += lasted
            busy_waiting += lasted * counts[1]
            most = max(most, counts[0] if lasted else 0)
        counts[which] += by
        before = wall
    whole = end - begin
    return {
        "busy_while_waiting": busy_waiting / (seats * waited) if waited else 1.0,
        "time_with_waiting": waited / whole,
        "busy": busy / (seats * whole),
        "mean_waiting": waiting / whole,
        "most_waiting": most,
        "mean_writing": writing / whole,
    }


MEAN_EVALUATION = sum(EVALUATE) / 2
# A limit by its field of Settings, and what so many candidates spend of it.
LIMITS = {
    "candidates": lambda n, scale: n,
    "seconds": lambda n, scale: n / 20 * scale,
    "tokens": lambda n, scale: TOKENS * n,
    "money_usd": lambda n, scale: MONEY * n,
    "device_seconds": lambda n, scale: MEAN_EVALUATION * n * scale,
}


def limited(field: str, candidates: int, scale: float) -> dict[str, Any]:
    """A run that one limit ends: what was spent beyond it."""
    limit = LIMITS[field](candidates, scale)
    settings = settings_of(scale, **{field: limit})
    entries, _, _ = driven("greedy", settings, EVALUATE, scale)
    graph, rules = Graph((ProgressReducer(),)), rules_for(settings)
    crossed: tuple[float, int] | None = None
    late = 0
    for entry in entries:
        late += crossed is not None and isinstance(entry.event, Asked)
        fold(graph, entry)
        if rules.reason(graph, graph.active_seconds) is None:
            crossed = None  # a brief that was dropped leaves room for another candidate
        elif crossed is None:
            crossed = (spent_of(graph, field), len(graph.pending))
    ending = entries[-1].event
    assert crossed is not None
    assert isinstance(ending, Finished)
    row = {
        "limit": field,
        "at": limit,
        "spent_when_reached": crossed[0],
        "in_flight_when_reached": crossed[1],
        "most_waiting_allowed": settings.most_waiting,
        "spent": spent_of(graph, field),
        "overshoot": round(spent_of(graph, field) - limit, 6),
        "asked_after": late,
        "rule": ending.rule,
    }
    print(
        f"{field:14} limit {limit:g}: {row['spent']:g} spent, {row['overshoot']:g} beyond it, by the "
        f"{crossed[1]} briefs in flight when it was reached; {late} asked although it was",
        flush=True,
    )
    return row


def spent_of(graph: Graph, field: str) -> float:
    return {
        "candidates": float(graph.candidates),
        "seconds": graph.active_seconds,
        "tokens": float(graph.tokens),
        "money_usd": graph.money_usd,
        "device_seconds": graph.reduced(ProgressReducer.name).device_seconds,
    }[field]


if __name__ == "__main__":
    main()
