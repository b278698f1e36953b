"""Times a kernel against itself, and against one with 2 % more work, through the arms that candidates are timed with.

Comes in: a device, the parts to run (`--only`, several times; left out: all that the file of `--out` lacks). Goes out:
a table on stdout and, with `--out`, JSON with every timed call, versions, date and command; parts already there stay.
It leaves to others: what a false claim costs.

Parts: `20us`, `200us`, `5ms`: the same candidate in two worker processes, a new pair of processes for every ten
comparisons. `2%`: the candidate has 2 % more to move, at 200 us. `judge`: the candidate's text in a worker against the
same operations in the judge's baseline, every timed call compared, as in a search. A claim is an interval that leaves 1
out at the look at which the measurement ended; a verdict needs 1 % beyond it.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kernelevolve import codec
from kernelevolve.evaluate.arms import Arm, shape_for, turns_of
from kernelevolve.evaluate.asking import candidate_asks
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.roles import Conversation, Roles
from kernelevolve.evaluate.secrets import Seeds
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
    "5ms": Part(PRODUCT, 5056, 5056, 1, 15, 5.0),
    "2%": Part(SCALED, 104_000_000, 106_080_000, 4, 10, 0.2),
    "judge": Part(SCALED, 104_000_000, 104_000_000, 4, 5, 0.2, judged=True),
}
TINY = {"20us": 20_000, "200us": 200_000, "5ms": 256, "2%": 200_000, "judge": 50_000}


def tiny(name: str, part: Part) -> Part:
    """The part at a size and number for trying the script."""
    size = TINY[name]
    return dataclasses.replace(
        part, size=size, other=size * part.other // part.size, pairs=1, comparisons=2, expected=0.5
    )


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


def pair_of_workers(device: Device, part: Part, benches: tuple[Bench, Bench], blocks: Blocks) -> Iterator[Timed]:
    """The comparisons of one pair of fresh processes."""
    seeds = Seeds()
    with contextlib.ExitStack() as stack:
        arms, slots = {}, 0
        for name, bench in ((CANDIDATE, benches[1]), ("eager", benches[0])):
            source = bench.problem.source.replace("class Model", "class ModelNew")
            worker = stack.enter_context(device.worker(bench, "declared", source, {}))
            arms[name], slots = arm(worker, part, seeds, slots)

        def after(block: int) -> None:
            for one in arms.values():
                one.next_block()

        shape = arms[CANDIDATE].shape
        plan = Plan(blocks, shape.calls, shape.longer)
        for _ in range(part.comparisons):
            yield time_arms(
                arms, workload="declared", platform="", choice={}, plan=plan, device=device.name, after=after
            )


def judged(device: Device, part: Part, bench: Bench, blocks: Blocks) -> Iterator[Timed]:
    """The same with the whole of what a candidate goes through."""
    lane = dataclasses.replace(LANES["screen"], blocks=blocks.count, doublings=blocks.doublings)
    source = bench.problem.source.replace("class Model", "class ModelNew")
    for _ in range(part.comparisons):
        yield device.time(bench, "declared", source, {}, lane=lane).timed[0]
    device.free()


def run(name: str, part: Part, device: Device, blocks: Blocks) -> dict:
    """All comparisons of a part."""
    start, found = time.monotonic(), []
    roles = Roles()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(roles.close)
        benches = [stack.enter_context(bench_of(part, s, roles, Path(folder))) for s in {part.size, part.other}]
        benches.sort(key=lambda b: b.full("declared").inputs[0].shape)
        for _ in range(part.pairs):
            both = (benches[0], benches[-1])
            some = judged(device, part, both[0], blocks) if part.judged else pair_of_workers(device, part, both, blocks)
            for timed in some:
                found.append(timed)
                speedup = timed.timing.speedup
                print(f"  {name} {len(found)}: {speedup.value:.4f} [{speedup.low:.4f}, {speedup.high:.4f}]", flush=True)
    return {"part": codec.to_data(part.__dict__), "seconds": time.monotonic() - start, **summary(found)}


def summary(found: list[Timed]) -> dict:
    """Counts, half-widths and every timed call."""
    intervals = [(t.timing.speedup.low, t.timing.speedup.high) for t in found]
    halves = [(high - low) / 2 for low, high in intervals]
    verdicts = [t.verdict.value for t in found]
    return {
        "comparisons": len(found),
        "claims": sum(not low <= 1.0 <= high for low, high in intervals),
        "verdicts": {v: verdicts.count(v) for v in sorted(set(verdicts))},
        "half_width": {"median": statistics.median(halves), "largest": max(halves)},
        "candidate_ms": statistics.median(t.timing.candidate.value for t in found),
        "speedups": [[t.timing.speedup.value, *i] for t, i in zip(found, intervals, strict=True)],
        "how": found[0].timing.speedup.how,
        "samples": [
            {arm: [[round(c, 6) for c in burst] for burst in bursts] for arm, bursts in t.samples.arms.items()}
            for t in found
        ],
    }


def main() -> None:
    """Runs the parts that are asked for and are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="torch's name; `cpu` to try the script")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="these parts, even if they are there")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="small sizes and few comparisons, to try the script")
    parser.add_argument("--blocks", type=int, default=12, help="at first; doubled once while nothing is decided")
    arguments = parser.parse_args()
    device = Device(arguments.device, arguments.device, full_cases=1)
    kept = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {"parts": {}}
    roles = Roles()
    kept["versions"] = {"python": platform.python_version(), **roles["judge"].known_versions()}
    roles.close()
    kept["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    kept["command"] = " ".join(sys.argv)
    kept["machine"] = machine(arguments.device)
    for name in arguments.only or [n for n in PARTS if n not in kept["parts"]]:
        part = tiny(name, PARTS[name]) if arguments.tiny else PARTS[name]
        kept["parts"][name] = found = run(name, part, device, Blocks(arguments.blocks, 1))
        if arguments.out:
            arguments.out.write_text(json.dumps(kept) + "\n")
        print(
            f"{name}: {found['candidate_ms']:.4g} ms, {found['comparisons']} comparisons, {found['claims']} claims, "
            f"{found['verdicts']}, half-width {found['half_width']['median']:.2%} (largest "
            f"{found['half_width']['largest']:.2%}), {found['seconds']:.0f} s",
            flush=True,
        )


def machine(device: str) -> str:
    """What the device is called, asked in a process that ends."""
    from kernelevolve.equipment import find_devices

    return find_devices().get(device, platform.processor() or platform.machine()) if device != "cpu" else "CPU"


if __name__ == "__main__":
    main()
