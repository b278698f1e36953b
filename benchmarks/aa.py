"""Times a kernel against itself, and against one with 2 % more work, through the arms that candidates are timed with.

Comes in: a device, the parts to run (`--only`, several times; left out: all that the file of `--out` lacks), how long
each may take in this sitting (`--seconds`). Goes out: a line for each comparison and each part on stdout and, in the
file of `--out`, every timed call as soon as its comparison is over, with versions, date and command. A part that was
cut off goes on where it ended; what is complete stays, unless `--again` is given. It leaves to others: what a false
claim costs.

Parts: `20us`, `200us`, `5ms`: the same candidate in two worker processes, a new pair of processes for every ten
comparisons; which of the two is opened first alternates, because what is first in the device's memory may be faster.
`2%`: the candidate has 2 % more to move, at 200 us. `judge`: the candidate's text in a worker against the same
operations in the judge's baseline, every timed call compared, as in a search. A claim is an interval that leaves 1 out
at the look at which the measurement ended; a verdict needs 1 % beyond it. A miss is an interval that leaves the truth
out: 1, or what the sizes say.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import math
import platform
import shlex
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kernelevolve import KernelEvolveError, codec
from kernelevolve.evaluate.arms import Arm, shape_for, turns_of
from kernelevolve.evaluate.asking import Failed, candidate_asks
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.roles import Conversation, Roles
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.statistics import Interval, judge_ratio
from kernelevolve.evaluate.timing import CANDIDATE, Blocks, Plan, Timed, calls_per_burst, time_arms
from kernelevolve.problem import parse_problem
from kernelevolve.settings import LANES

SCALED = """import torch
import torch.nn as nn

COUNT = {size}


class {name}(nn.Module):
    def forward(self, x):
        return x * 1.5


def get_inputs():
    return [torch.rand(COUNT)]


def get_init_inputs():
    return []
"""
PRODUCT = """import torch
import torch.nn as nn

SIZE = {size}


class {name}(nn.Module):
    def forward(self, a, b):
        return a @ b


def get_inputs():
    return [torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)]


def get_init_inputs():
    return []
"""
SECONDS = 120.0
BASELINE = "eager"


@dataclasses.dataclass(frozen=True)
class Part:
    """What is compared: a template and its size for each side, pairs of processes, comparisons in each pair.

    Attributes:
        expected: milliseconds, for the number of calls in a burst.
        judged: the other side is the judge's baseline, and every timed call is compared.
    """

    template: str
    size: int
    other: int
    pairs: int
    comparisons: int
    expected: float
    judged: bool = False


# An H200 moves 4.2 TB/s and multiplies 51 TFLOP/s in fp32.
PARTS = {
    "20us": Part(SCALED, 8_000_000, 8_000_000, 5, 10, 0.02),
    "200us": Part(SCALED, 104_000_000, 104_000_000, 5, 10, 0.2),
    "5ms": Part(PRODUCT, 5056, 5056, 2, 8, 5.0),
    "2%": Part(SCALED, 104_000_000, 106_080_000, 4, 10, 0.2),
    "judge": Part(SCALED, 104_000_000, 104_000_000, 4, 5, 0.2, judged=True),
}
TINY = {"20us": 20_000, "200us": 200_000, "5ms": 256, "2%": 200_000, "judge": 50_000}


def tiny(name: str, part: Part) -> Part:
    """The part at a size and number for trying the script."""
    size, other = TINY[name], TINY[name] * part.other // part.size
    return dataclasses.replace(part, size=size, other=other, pairs=2, comparisons=1, expected=0.5)


@contextlib.contextmanager
def bench_of(part: Part, size: int, roles: Roles, folder: Path) -> Iterator[Bench]:
    """The problem at a size, with one baseline."""
    text = part.template.format(name="Model", size=size)
    problem = dataclasses.replace(
        parse_problem(text, None, name="aa", suite="folder", path="aa.py"), baselines=("eager",)
    )
    made = Bench(problem, roles, folder / str(size))
    try:
        yield made
    finally:
        made.close()


def arm(worker: Conversation, part: Part, seeds: Seeds, slots: int) -> tuple[Arm, int]:
    """The worker as an arm of a timing, warmed; and its number of slots."""

    def ask(kind, body):
        return candidate_asks(worker, kind, body, seconds=SECONDS)

    rules = {"seed": seeds.seed("warm") >> 1, "state": seeds.seed("state"), "distribution": "declared"}
    facts = ask("warm", {**rules, "seconds": 0.0, "slots": slots, "hold": 0}).body
    slots, output, free = int(facts["slots"]), int(facts["output"]), int(facts["free"])
    shape = shape_for(calls_per_burst(part.expected), part.expected >= 10, slots, output, free)
    ask("warm", {**rules, "seconds": 0.2, "slots": slots, "hold": shape.hold})
    return Arm(ask, turns_of(seeds, "aa", slots, seeds.seed("state")), shape, "cold"), slots


def pair_of_workers(
    device: Device, part: Part, benches: tuple[Bench, Bench], blocks: Blocks, first: str
) -> Iterator[Timed]:
    """Comparisons of one pair of fresh processes, without end; the arm `first` is opened and warmed before the other,
    and that is the only thing in which they differ."""
    seeds = Seeds()
    with contextlib.ExitStack() as stack:
        opened, slots = {}, 0
        for name in (first, BASELINE if first == CANDIDATE else CANDIDATE):
            bench = benches[1] if name == CANDIDATE else benches[0]
            source = bench.problem.source.replace("class Model", "class ModelNew")
            worker = stack.enter_context(device.worker(bench, "declared", source, {}))
            opened[name], slots = arm(worker, part, seeds, slots)
        arms = {name: opened[name] for name in (CANDIDATE, BASELINE)}

        def after(block: int) -> None:
            for one in arms.values():
                one.next_block()

        shape = arms[CANDIDATE].shape
        plan = Plan(blocks, shape.calls, shape.longer)
        while True:
            yield time_arms(
                arms, workload="declared", platform="", choice={}, plan=plan, device=device.name, after=after
            )


def judged(device: Device, bench: Bench, blocks: Blocks) -> Iterator[Timed]:
    """The same with the whole of what a candidate goes through; the judge's baseline is there first, as in a search."""
    lane = dataclasses.replace(LANES["screen"], blocks=blocks.count, doublings=blocks.doublings, most=0)
    source = bench.problem.source.replace("class Model", "class ModelNew")
    try:
        while True:
            yield device.time(bench, "declared", source, {}, lane=lane).timed[0]
    finally:
        device.free()


class Kept:
    """One part in the file of `--out`: what was found before, and each comparison as it comes.

    Attributes:
        rows: of each comparison: its pair of processes and which arm was opened first there, speedup with its interval,
            verdict; or why there is none.
        samples: every timed call of each comparison, in the same order; none where it was refused.
    """

    def __init__(self, part: Part, before: dict[str, Any] | None, write: Callable[[dict[str, Any]], None]) -> None:
        self.part, self.write = part, write
        before = before or {}
        self.rows: list[dict[str, Any]] = before.get("rows") or [
            # As the file was before it had rows: ten comparisons of a pair, the candidate always opened first.
            {"pair": i // part.comparisons, "first": CANDIDATE, "speedup": s, "verdict": str(judge_ratio(Interval(*s)))}
            for i, s in enumerate(before.get("speedups", ()))
        ]
        self.samples: list[dict[str, Any]] = before.get("samples", [])
        self.seconds = float(before.get("seconds", 0.0))
        self.candidate_ms: list[float] = [
            statistics.median(statistics.median(b) for b in s[CANDIDATE]) for s in self.samples
        ]
        self.how = str(before.get("how", ""))

    @property
    def complete(self) -> bool:
        return len(self.rows) >= self.part.pairs * self.part.comparisons

    def room(self, pair: int) -> int:
        """How many comparisons this pair of processes has still to make: what an earlier sitting began, a later one
        ends with a new pair."""
        return max(0, self.part.comparisons - sum(row["pair"] == pair for row in self.rows))

    def add(self, pair: int, first: str, found: Timed | Failed, seconds: float) -> None:
        """Takes note of a comparison and writes the file."""
        row: dict[str, Any] = {"pair": pair, "first": first}
        self.seconds += seconds
        if isinstance(found, Failed):
            row |= {"verdict": str(found.verdict), "message": str(found), "speedup": None}
        else:
            speedup = found.timing.speedup
            row |= {"verdict": str(found.verdict), "speedup": [speedup.value, speedup.low, speedup.high]}
            self.candidate_ms.append(found.timing.candidate.value)
            self.samples.append(
                {name: [[round(c, 6) for c in b] for b in bursts] for name, bursts in found.samples.arms.items()}
            )
            self.how = speedup.how
        self.rows.append(row)
        self.write(self.summary())

    def summary(self) -> dict[str, Any]:
        """Counts, half-widths, bias, and every timed call."""
        timed = [row for row in self.rows if row["speedup"]]
        intervals = [tuple(row["speedup"][1:]) for row in timed]
        halves = [(high - low) / 2 for low, high in intervals] or [math.nan]
        verdicts = [row["verdict"] for row in self.rows]
        truth = self.part.size / self.part.other  # the candidate has the other size
        return {
            "part": codec.to_data(self.part.__dict__),
            "seconds": self.seconds,
            "complete": self.complete,
            "comparisons": len(self.rows),
            "claims": sum(not low <= 1.0 <= high for low, high in intervals),
            "misses": sum(not low <= truth <= high for low, high in intervals),
            "truth": truth,
            "verdicts": {v: verdicts.count(v) for v in sorted(set(verdicts))},
            "half_width": {"median": statistics.median(halves), "largest": max(halves)},
            "bias": self.bias(timed, truth),
            "candidate_ms": statistics.median(self.candidate_ms) if self.candidate_ms else math.nan,
            "speedups": [row["speedup"] for row in timed],
            "how": self.how,
            "rows": self.rows,
            "samples": self.samples,
        }

    @staticmethod
    def bias(timed: list[dict[str, Any]], truth: float) -> dict[str, Any]:
        """By how much the candidate looks faster than it is: the mean over pairs of processes, its standard error from
        their spread, and the mean of those pairs in which each arm was opened first. What stays when the order is
        turned round is the arms' doing; what changes sign with it is the place in memory."""
        pairs: dict[tuple[int, str], list[float]] = {}
        for row in timed:
            pairs.setdefault((row["pair"], row["first"]), []).append(math.log(row["speedup"][0] / truth))
        means = {key: statistics.fmean(logs) for key, logs in pairs.items()}
        by: dict[str, list[float]] = {}
        for (_, first), mean in means.items():
            by.setdefault(first, []).append(mean)
        values = list(means.values())
        return {
            "mean": statistics.fmean(values) if values else math.nan,
            "error": statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
            "opened first": {first: statistics.fmean(logs) for first, logs in by.items()},
            "pairs": values,
        }


def run(name: str, kept: Kept, device: Device, blocks: Blocks, seconds: float) -> None:
    """The comparisons that a part lacks, as many as begin in time."""
    part, deadline = kept.part, time.monotonic() + seconds
    roles = Roles()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(roles.close)
        benches = {s: stack.enter_context(bench_of(part, s, roles, Path(folder))) for s in {part.size, part.other}}
        # The candidate's is the second: `2%` gives it more to do.
        both = (benches[part.size], benches[part.other])
        for pair in range(part.pairs):
            if not kept.room(pair) or time.monotonic() > deadline:
                continue
            first = BASELINE if part.judged or pair % 2 else CANDIDATE
            some = (
                judged(device, both[0], blocks) if part.judged else pair_of_workers(device, part, both, blocks, first)
            )
            with contextlib.closing(some):
                start = time.monotonic()
                while kept.room(pair) and start < deadline:
                    found: Timed | Failed
                    try:
                        found = next(some)
                    except Failed as failed:
                        found = failed
                    kept.add(pair, first, found, time.monotonic() - start)
                    start = time.monotonic()
                    print(f"  {name} {len(kept.rows)}: {said(kept.rows[-1])}", flush=True)
                    if isinstance(found, Failed):
                        break  # the pair is gone; the next sitting makes up for it


def said(row: dict[str, Any]) -> str:
    """One comparison in a line."""
    if not row["speedup"]:
        return f"{row['verdict']}: {row['message'][:200]}"
    value, low, high = row["speedup"]
    return f"{value:.5f} [{low:.5f}, {high:.5f}] {row['verdict']}, {row['first']} opened first"


def line(name: str, found: dict[str, Any]) -> str:
    """One part in a line."""
    bias, half = found["bias"], found["half_width"]
    error = f" +- {bias['error']:.3%}" if bias["error"] is not None else ""
    by = ", ".join(f"{mean:+.3%} where {first} was opened first" for first, mean in bias["opened first"].items())
    return (
        f"{name}{'' if found['complete'] else ' (not complete)'}: {found['candidate_ms']:.4g} ms, "
        f"{found['comparisons']} comparisons, {found['claims']} intervals leave 1 out, {found['misses']} the truth "
        f"({found['truth']:.5g}), {found['verdicts']}, half-width {half['median']:.3%} "
        f"(largest {half['largest']:.3%}), bias {bias['mean']:+.3%}{error} ({by}), {found['seconds']:.0f} s"
    )


def main() -> None:
    """Runs the parts that are asked for and are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="torch's name; `cpu` to try the script")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="these parts; default: all")
    parser.add_argument("--again", action="store_true", help="from the beginning, whatever the file has")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each part, after which no comparison begins")
    parser.add_argument("--tiny", action="store_true", help="small sizes and few comparisons, to try the script")
    parser.add_argument("--blocks", type=int, default=12, help="at first; doubled once while nothing is decided")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended, too
    device = Device(arguments.device, arguments.device, full_cases=1)
    out: Path | None = arguments.out
    kept: dict[str, Any] = json.loads(out.read_text()) if out is not None and out.exists() else {"parts": {}}
    roles = Roles()
    try:
        versions = {"python": platform.python_version(), **roles["worker"].known_versions()}
    finally:
        roles.close()
    sitting = {
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/aa.py", *sys.argv[1:]]),
        "machine": machine(arguments.device),
    }
    if kept["parts"] and "sittings" not in kept:
        kept["sittings"] = [{name: kept.get(name) for name in sitting}]
    kept.setdefault("sittings", []).append(sitting)
    kept |= sitting
    for name in arguments.only or list(PARTS):
        part = tiny(name, PARTS[name]) if arguments.tiny else PARTS[name]

        def write(found: dict[str, Any], name: str = name) -> None:
            kept["parts"][name] = found
            if out is not None:
                fresh = out.with_name(f".{out.name}.new")
                fresh.write_text(json.dumps(kept) + "\n")
                fresh.replace(out)

        found = Kept(part, None if arguments.again else kept["parts"].get(name), write)
        if not found.complete:
            try:
                run(name, found, device, Blocks(arguments.blocks, 1), arguments.seconds)
            except KernelEvolveError as error:
                print(f"{name}: {type(error).__name__}: {error}", flush=True)
        print(line(name, found.summary()), flush=True)


def machine(device: str) -> str:
    """What the device is called, asked in a process that ends."""
    from kernelevolve.equipment import find_devices

    return find_devices().get(device, platform.processor() or platform.machine()) if device != "cpu" else "CPU"


if __name__ == "__main__":
    main()
