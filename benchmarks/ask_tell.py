"""How long `Run.ask` and `Run.tell` take as a run grows.

In: sizes of a run. Out: one line per size with median and 95th percentile of ask + tell, and one JSON file with all
samples. Left to others: writing and evaluating; fakes of realistic size stand in for both (a 6 kB kernel, twelve
checks).

    python benchmarks/ask_tell.py --sizes 100 1000 --out benchmarks/results/ask_tell.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import sqlalchemy

from kernelevolve.candidate import Candidate
from kernelevolve.evaluation import Check, Correctness, Evaluation, Evidence
from kernelevolve.events import Component
from kernelevolve.propose import Answer
from kernelevolve.run import Run
from kernelevolve.runs import create_run
from kernelevolve.settings import settings_for
from kernelevolve.testing import FAKE_PLATFORM, fake_equip, fake_evaluation, fake_problem

BUDGET_MS = 5.0
WINDOW = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = measure(Path(folder) / "run", max(options.sizes) + WINDOW // 2)
    rows = [summary(samples, size) for size in options.sizes]
    for row in rows:
        print(
            f"{row['nodes']} nodes: ask + tell {row['median_ms']:.2f} ms median, {row['p95_ms']:.2f} ms p95 "
            f"(ask {row['ask_ms']:.2f}, tell {row['tell_ms']:.2f}; budget {BUDGET_MS:g})"
        )
    if options.out is not None:
        facts = {
            "benchmark": "ask_tell",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "system": platform.system()},
            "versions": {"python": platform.python_version(), "sqlalchemy": sqlalchemy.__version__},
            "unit": "ms",
            "rows": rows,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, nodes: int) -> list[tuple[float, float]]:
    """Milliseconds of ask and tell for each of `nodes` turns."""
    settings = replace(settings_for("deep"), candidates=nodes + 1)
    problem = replace(fake_problem(), source=fake_problem().source + "# reference\n" * 150)
    samples = []
    with create_run(
        folder, problem, FAKE_PLATFORM, fake_equip(), settings=settings, writer=Component("built-in")
    ) as run:
        for index in range(nodes):
            samples.append(turn(run, index))
    return samples


def turn(run: Run, index: int) -> tuple[float, float]:
    start = time.perf_counter()
    brief = run.ask()
    asked = time.perf_counter()
    candidate = written(run, brief.id, index)
    evaluation = found(index)
    ready = time.perf_counter()
    run.tell(candidate, evaluation)
    return (asked - start) * 1e3, (time.perf_counter() - ready) * 1e3


def written(run: Run, brief: str, index: int) -> Candidate:
    source = f"# candidate {index}\n" + "tl.store(out + offsets, tl.load(x + offsets, mask=m), mask=m)\n" * 90
    return run.answered(brief, "fake", Answer(source, "one sentence about what was changed and why"))


def found(index: int) -> Evaluation:
    evaluation = fake_evaluation(0.5 + (index * 7919 % 1000) / 500, binary=f"{index:016x}")
    checks = tuple(Check("element", "declared", "D1", seed, True, 1e-4, 1e-3) for seed in range(12))
    return replace(evaluation, correctness=(Correctness(Evidence.MEASURED, True, checks),))


def summary(samples: list[tuple[float, float]], size: int) -> dict[str, object]:
    window = samples[max(0, size - WINDOW // 2) : size + WINDOW // 2]
    both = [ask + tell for ask, tell in window]
    return {
        "nodes": size,
        "median_ms": statistics.median(both),
        "p95_ms": statistics.quantiles(both, n=20)[-1],
        "ask_ms": statistics.median(ask for ask, _ in window),
        "tell_ms": statistics.median(tell for _, tell in window),
        "samples_ms": [round(value, 4) for value in both],
    }


if __name__ == "__main__":
    main()
