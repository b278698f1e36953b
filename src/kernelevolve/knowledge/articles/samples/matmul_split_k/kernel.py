"""Matrix product with a long inner dimension, split over programs in two passes without atomics.

The result has too few tiles to fill the GPU, so several programs share each tile: every one sums its own part of the
inner dimension into an fp32 plane, and a second kernel adds the planes in a fixed order. The same bits come out in
every call.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {
    "BLOCK_M": [128, 64],
    "BLOCK_N": [128, 64],
    "BLOCK_K": [64, 32],
    "PARTS": [32, 16, 64],
    "num_warps": [8, 4],
    "nvidia": {"num_stages": [3, 4]},
    "amd": {"num_stages": [2], "waves_per_eu": [0, 2]},
}
CHOICE = {}
CHOICES = {}
SUM_BLOCK = 1024


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def partial_products(
    x, dy, planes, M, N, K, per_part, sxk, sxm, sdk, sdn,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(2)
    begin = part * per_part
    end = min(begin + per_part, K)

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(begin, end, BLOCK_K):
        k = (start + tl.arange(0, BLOCK_K)).to(tl.int64)  # tokens * width may pass 2^31
        # x is read as it lies, with the inner dimension across rows: the block comes in transposed.
        a_at = x + k[None, :] * sxk + m[:, None] * sxm
        b_at = dy + k[:, None] * sdk + n[None, :] * sdn
        a = tl.load(a_at, mask=(m[:, None] < M) & (k[None, :] < end), other=0.0)
        b = tl.load(b_at, mask=(k[:, None] < end) & (n[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc)

    # Planes come from torch.empty, so every element is stored, and each by one program alone.
    at = planes + part.to(tl.int64) * M * N + m[:, None] * N + n[None, :]
    tl.store(at, acc, mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def add_planes(planes, y, count, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    # PARTS is a constant, so the loads are unrolled and in flight together; the order of the sum is the program's.
    for part in tl.static_range(PARTS):
        acc += tl.load(planes + part * count + i, mask=i < count, other=0.0)
    tl.store(y + i, acc.to(y.dtype.element_ty), mask=i < count)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, dy):
        knobs = chosen(x, dy)
        (K, M), N = x.shape, dy.shape[1]
        # Whole blocks per part, so that only the last one has an edge; and no part without a block.
        blocks = triton.cdiv(K, knobs["BLOCK_K"])
        per_part = triton.cdiv(blocks, knobs.pop("PARTS")) * knobs["BLOCK_K"]
        parts = triton.cdiv(K, per_part)
        planes = torch.empty((parts, M, N), device=x.device, dtype=torch.float32)
        y = torch.empty((M, N), device=x.device, dtype=x.dtype)
        grid = (triton.cdiv(M, knobs["BLOCK_M"]), triton.cdiv(N, knobs["BLOCK_N"]), parts)
        partial_products[grid](x, dy, planes, M, N, K, per_part, *x.stride(), *dy.stride(), **knobs)
        add_planes[(triton.cdiv(M * N, SUM_BLOCK),)](planes, y, M * N, PARTS=parts, BLOCK=SUM_BLOCK)
        return y
