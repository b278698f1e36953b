"""Which scheme a strict fp32 matrix product gets, and its knobs.

In: a contraction's sizes at full size. Out: a kernel with scheme `planes` (split once, then fp16 tensor cores; see
`emit.planes`) or a decision against it. Schemes inside the loop of a plain kernel (`tiles`) are chosen by `first`.

The figures are those of `benchmarks/results/gemm_fp32.json` (H200, medians): 157 TFLOP/s for planes against 67 for the
best split inside the loop, and the split itself at 3.3 TB/s, each operand read and written once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernelevolve.translate.plan import Kernel

#: FLOP/s of a product of planes, counted as the fp32 product's.
PLANES_RATE = 157e12
#: FLOP/s of bf16x6 inside the loop.
LOOP_RATE = 67e12
#: Bytes per second of the kernels that split.
SPLIT_RATE = 3.3e12
#: Bytes that a split moves per element: fp32 in, two planes of fp16 out.
SPLIT_BYTES = 8
#: fp16 products in place of one fp32 product.
PRODUCTS = 3
#: Seconds of two more launches.
LAUNCHES = 8e-6
#: Below this depth a product is limited by writing its result, and a tile has too few steps to pay for its start.
LEAST_DEPTH = 128


@dataclass(frozen=True)
class LaunchCost:
    """What one launch of a product of planes moves and computes.

    Attributes:
        flops: on tensor cores, in fp16.
        bytes_reused: the part of `bytes_read` that the launches before have written.
    """

    bytes_read: float
    bytes_written: float
    flops: float = 0.0
    bytes_reused: float = 0.0


def planes_costs(left: int, right: int, flops: float, block_k: int = 64) -> tuple[LaunchCost, LaunchCost, LaunchCost]:
    """The two splits and the product, in launch order; without what the product's epilogue reads and writes.

    Args:
        left, right: elements of the operands; one that all batches share counts once.
        flops: of the fp32 product, 2 B M N K; three fp16 products take its place.
        block_k: elements that share a scale.
    """
    made = [SPLIT_BYTES / 2 * (elements + elements / block_k) for elements in (left, right)]
    splits = (LaunchCost(4.0 * left, made[0]), LaunchCost(4.0 * right, made[1]))
    return (*splits, LaunchCost(sum(made), 0.0, PRODUCTS * flops, sum(made)))


def planes_pay(batch: int, rows: int, columns: int, depth: int) -> bool:
    """Whether splitting first is expected to be faster than splitting inside the loop, on NVIDIA's sm_90.

    Args:
        batch, rows, columns: the result's shape at full size.
        depth: the length of the sums.
    """
    if depth < LEAST_DEPTH or min(rows, columns) < 32:
        return False
    flops = 2.0 * batch * rows * columns * depth
    split = SPLIT_BYTES * batch * depth * (rows + columns) / SPLIT_RATE + LAUNCHES
    return flops / PLANES_RATE + split < flops / LOOP_RATE


def with_planes(kernel: Kernel, batch: int, rows: int, columns: int, depth: int, units: int) -> Kernel:
    """The contraction with scheme `planes`, its knobs around the best tile measured: 128 x 128 x 64.

    Args:
        batch, rows, columns, depth: the product's sizes at full size.
        units: compute units that the tiles should fill.
    """
    shallow = depth < LEAST_DEPTH
    m, n = (128, 64) if shallow else (128, 128)
    while (m, n) != (64, 64) and batch * -(-rows // m) * -(-columns // n) < units:
        m, n = (m // 2, n) if m >= n else (m, n // 2)
    knobs = (
        ("BLOCK_M", tuple(dict.fromkeys((m, 128, 64)))),
        ("BLOCK_N", tuple(dict.fromkeys((n, 128, 64)))),
        ("BLOCK_K", (32, 64) if depth <= 32 else (64, 32)),
        ("GROUP", (8, 4, 16)),
        ("SPLIT_LINES", (64, 32, 128)),
        # Four warps have too few registers for two sums of 128 x 64 each.
        ("num_warps", (4, 8) if (m, n) == (64, 64) else (8,)),
        ("num_stages", (2, 1, 3) if shallow else (3, 2, 4)),
    )
    return replace(kernel, scheme="planes", knobs=knobs, overrides=())
