"""Times a mean over 2^30 products (KernelBench level 1, 100) in many forms of a split reduction, beside torch.compile.

Comes in: `--rounds`, `--side` and `--out FILE`. Goes out: a table on stdout and a JSON file with raw times in
milliseconds, versions, date and command. It leaves to others: choosing a plan (`translate.first`). Needs a device.

Every arm reads `side * side` fp32 numbers once; the input is larger than any cache. Arms are interleaved: each round
times every arm once, between two events.
"""
# ruff: noqa: N803  (constants of a kernel are written in capitals)

import argparse
import datetime
import itertools
import json
import platform
import statistics
import sys
from pathlib import Path

import torch
import triton
import triton.language as tl

FORMS = ("blocked", "strided")


@triton.jit
def partial_sums(x_ptr, sign_ptr, partials_ptr, n, BLOCK: tl.constexpr, PARTS: tl.constexpr, STRIDED: tl.constexpr):
    """Program `part` adds up consecutive blocks of x (n, n), or with STRIDED every PARTS-th block."""
    part = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(n, BLOCK)
    steps = n * blocks
    per_part = tl.cdiv(steps, PARTS)
    begin = part if STRIDED else part * per_part
    end = steps if STRIDED else tl.minimum(begin + per_part, steps)
    lanes = tl.full([BLOCK], 0.0, tl.float32)
    for step in range(begin, end, PARTS if STRIDED else 1):
        row = (step // blocks).to(tl.int64)
        column = (step % blocks) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
        inside = column < n
        x = tl.load(x_ptr + row * n + column, mask=inside, other=0.0)
        sign = tl.load(sign_ptr + column, mask=inside, other=0.0)
        value = tl.maximum(1.0 - x * sign, 0.0, propagate_nan=tl.PropagateNan.ALL)
        lanes += tl.where(inside, value, 0.0)
    tl.store(partials_ptr + part, tl.sum(lanes, axis=0))


@triton.jit
def combine(partials_ptr, out_ptr, factor, parts, PARTS: tl.constexpr):
    """The sum of the partial sums, times a factor."""
    part = tl.arange(0, PARTS)
    partials = tl.load(partials_ptr + part, mask=part < parts, other=0.0)
    tl.store(out_ptr, tl.sum(partials, axis=0) * factor)


def arms_of(x, sign):
    """Name -> a call that leaves the mean on the device."""

    def eager():
        return torch.mean(torch.clamp(1 - x * sign, min=0))

    n = x.shape[0]
    partials = torch.empty(1 << 15, device=x.device)
    out = torch.empty((), device=x.device)

    def split(parts, block, warps, strided):
        def call():
            partial_sums[(parts,)](x, sign, partials, n, BLOCK=block, PARTS=parts, STRIDED=strided, num_warps=warps)
            combine[(1,)](partials, out, 1.0 / (n * n), parts, PARTS=triton.next_power_of_2(parts), num_warps=warps)
            return out

        return call

    found = {"eager": eager, "compile": torch.compile(eager)}
    shapes = ((1024, 4), (2048, 4), (2048, 8), (2048, 16), (4096, 4), (4096, 8), (4096, 16), (8192, 16))
    for form, parts, (block, warps) in itertools.product(FORMS, (1056, 2048, 4096, 8192, 16384, 32768), shapes):
        found[f"{form} {parts} parts, block {block}, {warps} warps"] = split(parts, block, warps, form == "strided")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", type=int, default=32768)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("split_reduction.py needs a device; torch finds none")
    x = torch.rand(asked.side, asked.side, device="cuda")
    sign = torch.randint(0, 2, (asked.side,), device="cuda").float() * 2 - 1
    arms = arms_of(x, sign)
    wanted = arms["eager"]().item()
    for name, call in arms.items():
        got = call().item()
        if abs(got - wanted) > 1e-5 * abs(wanted):
            sys.exit(f"{name} gives {got}, eager {wanted}")
    times = {name: [] for name in arms}
    for _ in range(asked.rounds):
        for name, call in arms.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end))
    medians = {name: statistics.median(raw) for name, raw in times.items()}
    for name in sorted(medians, key=medians.__getitem__):
        print(f"{medians[name]:.4f} ms  {4 * asked.side**2 / medians[name] / 1e9:.3f} TB/s  {name}")
    record = {
        "command": " ".join(sys.argv),
        "date": datetime.date.today().isoformat(),
        "machine": {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
                    "python": platform.python_version()},
        "elements": asked.side**2,
        "unit": "ms",
        "samples": times,
    }  # fmt: skip
    asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
