"""Buckets by binary search without branches: all lanes take the same number of steps.

The borders are few and stay in the L1, so a step costs a cached gather. The number of steps is a constant of the
launch, hence the loop is unrolled; several numbers per thread keep as many searches in flight.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK": [1024, 2048, 512], "num_warps": [4, 8, 2]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def bucket_numbers(x, borders, y, count, buckets, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    v = tl.load(x + i, mask=inside, other=0.0, eviction_policy="evict_first")
    # Invariant: all borders before `low` are at most v. `low` grows by powers of two, so the answer's bits are decided
    # from the highest to the lowest, and no lane needs an upper end of its own.
    low = tl.zeros((BLOCK,), tl.int32)
    for step in tl.static_range(STEPS):
        probe = low + (1 << (STEPS - 1 - step))
        border = tl.load(borders + probe - 1, mask=inside & (probe <= buckets), other=float("inf"))
        # A NaN lies above all borders, as in torch; the mask keeps +inf apart from what lies beyond the list.
        low = tl.where((probe <= buckets) & ((border <= v) | (v != v)), probe, low)
    tl.store(y + i, low, mask=inside)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, borders):
        knobs = chosen(x, borders)
        x, borders = x.contiguous(), borders.contiguous()
        count, buckets = x.numel(), borders.numel()
        y = torch.empty(x.shape, device=x.device, dtype=torch.int32)
        # buckets + 1 answers from 0 to buckets
        steps = buckets.bit_length()
        bucket_numbers[(triton.cdiv(count, knobs["BLOCK"]),)](x, borders, y, count, buckets, STEPS=steps, **knobs)
        return y
