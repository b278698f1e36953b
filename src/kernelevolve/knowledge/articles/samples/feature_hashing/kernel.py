"""64-bit hashing: unsigned arithmetic in registers, one read and one write per id, and a remainder by a constant.

The table's size is a constant of the kernel, so the compiler turns the 64-bit division, which GPUs have no instruction
for, into a multiplication.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK": [1024, 512, 2048], "num_warps": [4, 8, 2]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def mix(x):
    """The finaliser of MurmurHash3 on uint64: >> is logical on unsigned numbers, * wraps around."""
    x ^= x >> 33
    x *= 0xFF51AFD7ED558CCD
    x ^= x >> 33
    x *= 0xC4CEB9FE1A85EC53
    return x ^ (x >> 33)


@triton.jit
def hash_ids(ids, y, count, TABLE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    x = mix(tl.load(ids + i, mask=inside, other=0).to(tl.uint64, bitcast=True))
    # torch.remainder takes the sign of the divisor, Triton's % that of the dividend.
    r = x.to(tl.int64, bitcast=True) % TABLE
    r = tl.where(r < 0, r + TABLE, r)
    tl.store(y + i, r, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, table_size):
        super().__init__()
        self.table_size = table_size

    def forward(self, ids):
        knobs = chosen(ids)
        ids = ids.contiguous()
        y = torch.empty_like(ids)
        grid = (triton.cdiv(ids.numel(), knobs["BLOCK"]),)
        hash_ids[grid](ids, y, ids.numel(), TABLE=self.table_size, **knobs)
        return y
