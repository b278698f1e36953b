"""Product with an int8 weight that becomes bf16 in registers: the weight is read as bytes, once.

A scale per output is a factor of a whole column of the result, so it is applied to the fp32 accumulator after the loop
and not to each weight. int8 numbers are exact in bf16, so the conversion loses nothing.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {
    "BLOCK_M": [32, 16, 64],
    "BLOCK_N": [64, 128, 32],
    "BLOCK_K": [128, 256, 64],
    "num_warps": [4, 8],
    "nvidia": {"num_stages": [5, 4, 3]},
    "amd": {"num_stages": [2], "waves_per_eu": [0, 2]},
}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def linear_int8(
    x, w, scale, y, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # Blocks of rows of x vary fastest: those that share a block of the weight run together and read it from the L2.
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    a_at = x + m.to(tl.int64)[:, None] * K + k[None, :]
    # [N, K] rows are read along K, 16 bytes per thread at a time, and turned for the dot.
    b_at = w + n.to(tl.int64)[None, :] * K + k[:, None]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        inside = k < K - start
        a = tl.load(a_at, mask=(m[:, None] < M) & inside[None, :], other=0.0)
        b = tl.load(b_at, mask=inside[:, None] & (n[None, :] < N), other=0)
        acc = tl.dot(a, b.to(a.dtype), acc)
        a_at += BLOCK_K
        b_at += BLOCK_K

    acc *= tl.load(scale + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    at = y + m.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(at, acc.to(y.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, weight, scale):
        knobs = chosen(x, weight, scale)
        x, weight = x.contiguous(), weight.contiguous()
        (M, K), N = x.shape, weight.shape[0]
        y = torch.empty((M, N), device=x.device, dtype=x.dtype)
        grid = (triton.cdiv(M, knobs["BLOCK_M"]), triton.cdiv(N, knobs["BLOCK_N"]))
        linear_int8[grid](x, weight, scale.contiguous(), y, M, N, K, **knobs)
        return y
