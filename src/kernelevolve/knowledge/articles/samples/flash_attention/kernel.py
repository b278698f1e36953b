"""Attention without the matrix of scores: one program per block of queries walks over the keys with a running softmax.

The maximum, the sum and the output of each query stay in registers. With a causal mask the loop has two stages: blocks
wholly below the diagonal, which need no mask, and the few on it.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {
    "BLOCK_M": [128, 64],
    "BLOCK_N": [64, 128, 32],
    "num_warps": [8, 4],
    "nvidia": {"num_stages": [3, 2]},
    "amd": {"num_stages": [1, 2], "waves_per_eu": [0, 2]},
}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def walk(
    acc, largest, total, q, k_at, v_at, begin, end, m, keys, skn, svn, scale,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_N: tl.constexpr, inner,
):  # fmt: skip
    """Keys begin .. end folded into the running softmax. Without MASKED all of them count for all queries."""
    for start in range(begin, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        present = inner[:, None] & (n < keys)[None, :] if MASKED else inner[:, None]
        k = tl.load(k_at + n.to(tl.int64)[None, :] * skn, mask=present, other=0.0)
        s = tl.dot(q, k) * scale  # scale holds log2(e): exp2 is one instruction, exp is two
        if MASKED:
            seen = (n < keys)[None, :]
            if CAUSAL:
                seen = seen & (n[None, :] <= m[:, None])
            s = tl.where(seen, s, -1.0e30)  # not -inf: a row without a key so far gives no inf - inf
        new = tl.maximum(largest, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        shrink = tl.exp2(largest - new)
        total = total * shrink + tl.sum(p, 1)
        there = (n < keys)[:, None] & inner[None, :] if MASKED else inner[None, :]
        v = tl.load(v_at + n.to(tl.int64)[:, None] * svn, mask=there, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        largest = new
    return acc, largest, total


@triton.jit
def attention(
    q, k, v, y, heads, queries, keys, dim, scale, sqb, sqh, sqm, skb, skh, skn, svb, svh, svn,
    CAUSAL: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Later queries have more keys: they start first, so that the last programs to run are the short ones.
    block = tl.num_programs(0) - 1 - tl.program_id(0) if CAUSAL else tl.program_id(0)
    b = (tl.program_id(1) // heads).to(tl.int64)
    h = (tl.program_id(1) % heads).to(tl.int64)
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, DIM)
    inner = d < dim

    rows = m.to(tl.int64)[:, None]
    inside = (m < queries)[:, None] & inner[None, :]
    query = tl.load(q + b * sqb + h * sqh + rows * sqm + d[None, :], mask=inside, other=0.0)
    k_at = k + b * skb + h * skh + d[:, None]
    v_at = v + b * svb + h * svh + d[None, :]

    acc = tl.zeros((BLOCK_M, DIM), tl.float32)
    largest = tl.full((BLOCK_M,), -1.0e30, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    # Whole blocks that every query of this program sees come first, without a mask.
    last = min((block + 1) * BLOCK_M, keys) if CAUSAL else keys
    plain = min(block * BLOCK_M + 1, keys) // BLOCK_N * BLOCK_N if CAUSAL else keys // BLOCK_N * BLOCK_N
    acc, largest, total = walk(
        acc, largest, total, query, k_at, v_at, 0, plain, m, keys, skn, svn, scale, False, CAUSAL, BLOCK_N, inner
    )
    acc, largest, total = walk(
        acc, largest, total, query, k_at, v_at, plain, last, m, keys, skn, svn, scale, True, CAUSAL, BLOCK_N, inner
    )

    at = y + (tl.program_id(1).to(tl.int64) * queries + rows) * dim + d[None, :]
    tl.store(at, (acc / total[:, None]).to(y.dtype.element_ty), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, causal):
        super().__init__()
        self.causal = causal

    def forward(self, q, k, v):
        knobs = chosen(q, k, v)
        q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
        batch, heads, queries, dim = q.shape
        keys = k.shape[2]
        if k.shape[1] != heads or v.shape != k.shape:
            raise ValueError(f"keys {tuple(k.shape)} and values {tuple(v.shape)} for queries {tuple(q.shape)}")
        y = torch.empty(q.shape, device=q.device, dtype=q.dtype)
        scale = dim**-0.5 * 1.4426950408889634
        DIM = max(16, triton.next_power_of_2(dim))  # a matrix unit takes no less than 16
        grid = (triton.cdiv(queries, knobs["BLOCK_M"]), batch * heads)
        attention[grid](
            q, k, v, y, heads, queries, keys, dim, scale, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            CAUSAL=self.causal, DIM=DIM, **knobs,
        )  # fmt: skip
        return y
