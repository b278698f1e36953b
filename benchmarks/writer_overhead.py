"""What the framework itself takes per candidate that a model writes, beside model and evaluation.

In: how many candidates (`--count`). Out: a line for each way of writing with median and 95th percentile, and one JSON
file (`--out`) with all samples, by part. Left to others: models and tools, which answer at once here (their own time is
the model's and the evaluation's), and the ladder.

A sample is one candidate's ask + write + tell: composing the brief, the session (seven answers of the model and six
tool calls: written broken, compiled, repaired, compiled, interpreted, done; or one completion), accounts and estimates
of tokens, reading replies, redacting and storing every message, and the log on disk. Processor time is told beside wall
time, which other work on the machine lengthens; under `chrt -f 1` it does not.

    python benchmarks/writer_overhead.py --count 200 --out benchmarks/results/writer_overhead.json
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernelevolve.events import Component
from kernelevolve.run import Run
from kernelevolve.runs import create_run
from kernelevolve.settings import settings_for
from kernelevolve.testing import FAKE_PLATFORM, FakeEvaluator, fake_equip, fake_evaluation, fake_problem
from kernelevolve.tools import Report

BUDGET_MS = 50.0
Sample = tuple[float, float, float, float]
BODY = '''import torch
import triton
import triton.language as tl

KNOBS = {{"BLOCK": [256, 512]}}
NUMBER = {number}


@triton.jit
def kernel(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.{load}(x_ptr + at, mask=at < count)
    tl.store(out_ptr + at, x, mask=at < count)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        kernel[(triton.cdiv(x.numel(), 256),)](x, out, x.numel(), BLOCK=256)
        return out
'''
PADDING = "# what the kernel does, step by step, as a model would say it in its comments\n" * 60  # a 6 kB file


class InstantTools:
    """Tools that answer at once with reports of a usual length."""

    targets = (FAKE_PLATFORM,)

    async def check(self, source: str) -> Report:
        """Fine."""
        return Report(True, "check passed: 1 kernel: kernel")

    async def compile(self, source: str, platforms: Sequence[str] = ()) -> Report:
        """A traceback of some length where the source is broken."""
        if "tl.lode" in source:
            return Report(False, "COMPILE_ERROR: has no attribute 'lode'\n" + "  File kernel.py, line 12\n" * 30)
        return Report(True, "kernel (sm_90): 24 registers a thread, 0 bytes spilled, occupancy 100% (compiled)")

    async def interpret(self, source: str) -> Report:
        """Fine."""
        return Report(True, "48 comparisons with the reference passed (interpreted, scaled workloads)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for mode in ("tools", "single"):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(summary(mode, asyncio.run(measure(Path(folder), mode, options.count))))
        row = rows[-1]
        print(
            f"{mode}: {row['median_ms']:.1f} ms median, {row['p95_ms']:.1f} ms p95 per candidate (ask "
            f"{row['ask_ms']:.1f}, write {row['write_ms']:.1f}, tell {row['tell_ms']:.1f}; processor "
            f"{row['processor_ms']:.1f}; budget {BUDGET_MS:g})"
        )
    if options.out is not None:
        packages = ("pydantic-ai-slim", "sqlalchemy", "genai-prices")
        facts = {
            "benchmark": "writer_overhead",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "system": platform.system(),
                        "load": list(os.getloadavg()), "first_in_first_out": os.sched_getscheduler(0) == os.SCHED_FIFO},
            "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
            "unit": "ms",
            "budget_ms": BUDGET_MS,
            "rows": rows,
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


async def measure(folder: Path, mode: str, count: int) -> list[Sample]:
    """Milliseconds of ask, write, tell, and of the processor, for each candidate."""
    script = folder / "script.json"
    script.write_text(json.dumps({"answers": answers(mode, count + 1), "tokens": {"in": 4000, "out": 1500}}))
    settings = replace(settings_for("deep"), candidates=count + 2)
    equipment = replace(fake_equip(FakeEvaluator())(None, folder), tools=InstantTools())
    writer = Component("model", {"model": f"scripted:{script}", "mode": mode})
    problem = fake_problem()
    samples = []
    with create_run(
        folder / "run", problem, FAKE_PLATFORM, lambda created, builds: equipment, settings=settings, writer=writer
    ) as run:
        await turn(run)  # the first session builds what the others use again
        for _ in range(count):
            samples.append(await turn(run))
    return samples


async def turn(run: Run) -> Sample:
    """One candidate; each is better than the last, so each is the next parent."""
    start, worked = time.perf_counter(), time.process_time()
    brief = run.ask()
    asked = time.perf_counter()
    candidate = await run.write(brief)
    written = time.perf_counter()
    found = fake_evaluation(1.0 + 0.01 * run.graph.written, binary=candidate.digest[:16])
    judged = time.perf_counter()
    run.tell(candidate, found)
    told, done = time.perf_counter(), time.process_time()
    return (asked - start) * 1e3, (written - asked) * 1e3, (told - judged) * 1e3, (done - worked) * 1e3


def answers(mode: str, count: int) -> list[dict[str, Any]]:
    """The model's part of `count` candidates."""
    if mode == "single":
        return [{"text": f"```python\n{source(i)}```\nLarger blocks keep more loads in flight."} for i in range(count)]
    return [answer for i in range(count) for answer in session(i)]


def session(number: int) -> list[dict[str, Any]]:
    """One session: broken, compiled, repaired, compiled, interpreted, looked at, done."""

    def call(name: str, **args: Any) -> dict[str, Any]:
        return {"tools": [{"name": name, "args": args}]}

    return [
        call("write", source=source(number, "lode")),
        call("compile"),
        call("replace", old="tl.lode(", new="tl.load("),
        call("compile"),
        call("interpret"),
        call("read", file="reference.py"),
        {"text": "Larger blocks keep more loads in flight."},
    ]


def source(number: int, load: str = "load") -> str:
    return BODY.format(number=number, load=load) + PADDING


def summary(mode: str, samples: list[Sample]) -> dict[str, Any]:
    """Figures of one way of writing, with all samples."""
    totals = [sum(sample[:3]) for sample in samples]
    ask, write, tell, processor = (statistics.median(part) for part in zip(*samples, strict=True))
    return {
        "mode": mode,
        "candidates": len(samples),
        "calls_of_the_model": 7 if mode == "tools" else 1,
        "median_ms": statistics.median(totals),
        "p95_ms": statistics.quantiles(totals, n=20)[-1],
        "ask_ms": ask,
        "write_ms": write,
        "tell_ms": tell,
        "processor_ms": processor,
        "parts": ["ask", "write", "tell", "processor"],
        "samples_ms": [[round(part, 3) for part in sample] for sample in samples],
    }


if __name__ == "__main__":
    main()
