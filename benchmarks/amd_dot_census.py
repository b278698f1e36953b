"""Counts what Triton builds for fp32 products on AMD, by `input_precision`: an estimate without a device.

Comes in: nothing. Goes out: a table on stdout and, with `--out`, JSON with the instructions of the inner loop and
versions. It leaves to others: measuring.

A plain kernel with one tile per program is compiled for gfx942 (MI300X) and gfx950 (MI350X). Of the loop with most
matrix instructions two figures per wavefront and step are given: cycles of the SIMD's matrix unit (FLOPs of the
instruction over the data sheet's rate of one SIMD) and of its vector unit (4 per instruction: 64 lanes on 16 wide
units, AMD CDNA 3 white paper). Wavefronts overlap the two, so a step takes at least the longer one.
"""

import argparse
import collections
import datetime
import json
import os
import platform
import re
from pathlib import Path

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

PARTS = {
    "mi300x": ("gfx942", ("ieee", "tf32", "bf16x3", "bf16x6")),
    "mi350x": ("gfx950", ("ieee", "bf16x3", "bf16x6")),
}
#: FLOPs per cycle of one SIMD, a quarter of a unit: peak of the data sheet / (units * clock) / 4.
RATES = {"mi300x": {"f32": 64, "xf32": 256, "bf16": 512}, "mi350x": {"f32": 64, "bf16": 1024}}
TILES = ((128, 128, 32, 8), (128, 128, 32, 4), (64, 64, 32, 4))
VECTOR_CYCLES = 4


@triton.jit
def product(
    a, b, c, rows, columns, depth, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    """C = A B, one tile per program."""
    m = tl.program_id(0) * block_m + tl.arange(0, block_m)[:, None]
    n = tl.program_id(1) * block_n + tl.arange(0, block_n)[None, :]
    total = tl.zeros([block_m, block_n], tl.float32)
    for start in range(0, depth, block_k):
        left, right = start + tl.arange(0, block_k)[None, :], start + tl.arange(0, block_k)[:, None]
        x = tl.load(a + m * depth + left, mask=(m < rows) & (left < depth), other=0.0)
        y = tl.load(b + right * columns + n, mask=(right < depth) & (n < columns), other=0.0)
        total += tl.dot(x, y, input_precision=precision)
    tl.store(c + m * columns + n, total, mask=(m < rows) & (n < columns))


def listing(target: str, precision: str, tile: tuple[int, int, int, int]) -> str:
    """The kernel's assembly."""
    m, n, k, warps = tile
    constants = {"block_m": m, "block_n": n, "block_k": k, "precision": precision}
    sizes = dict.fromkeys(("rows", "columns", "depth"), "i32")
    types = dict.fromkeys("abc", "*fp32") | sizes | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(6)}
    options = {"num_warps": warps, "num_stages": 2}
    source = ASTSource(product, types, constants, aligned)
    return triton.compile(source, target=GPUTarget("hip", target, 64), options=options).asm["amdgcn"]


def inner_loop(text: str) -> collections.Counter[str]:
    """The opcodes of the loop that has most matrix instructions."""
    lines = text.splitlines()
    labels = {found.group(1): i for i, line in enumerate(lines) if (found := re.match(r"^(\.?L?BB\d+_\d+):", line))}
    loops = []
    for i, line in enumerate(lines):
        jump = re.search(r"s_c?branch\w*\s+(\.?L?BB\d+_\d+)", line)
        if jump and labels.get(jump.group(1), i) < i:
            body = lines[labels[jump.group(1)] : i]
            loops.append(collections.Counter(part.split()[0] for part in body if re.match(r"\s+[a-z]", part)))
    return max(loops, key=lambda ops: sum(n for op, n in ops.items() if op.startswith("v_mfma")))


def cycles(part: str, ops: collections.Counter[str]) -> tuple[int, int]:
    """Cycles of the matrix unit and of the vector unit for one wavefront and step."""
    matrix = 0
    for op, count in ops.items():
        if found := re.match(r"v_mfma_f32_(\d+)x(\d+)x(\d+)_(\w+)", op):
            m, n, k = (int(g) for g in found.groups()[:3])
            matrix += count * 2 * m * n * k // RATES[part][found.group(4)]
    vector = sum(n for op, n in ops.items() if op.startswith("v_") and not op.startswith("v_mfma"))
    return matrix, VECTOR_CYCLES * vector


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path)
    out = arguments.parse_args().out
    rows = []
    for part, (target, precisions) in PARTS.items():
        for tile in TILES:
            for precision in precisions:
                ops = inner_loop(listing(target, precision, tile))
                matrix, vector = cycles(part, ops)
                size = "{} x {} x {}, {} warps".format(*tile)
                print(f"{part} {size:24} {precision:7} matrix {matrix:5} vector {vector:5} cycles per step")
                row = {"part": part, "target": target, "tile": tile, "precision": precision}
                cost = {"matrix_cycles": matrix, "vector_cycles": vector}
                rows.append({**row, **cost, "loop": dict(ops.most_common())})
    if out:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        versions = {"python": platform.python_version(), "triton": triton.__version__}
        head = {"benchmark": "amd_dot_census", "date": now, "evidence": "compiled", "versions": versions}
        out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
