"""Top-k of short rows in registers: number and place are packed into one integer, and a bitonic network keeps the best.

A sort that moves two arrays together is not in the language; a 64-bit key is: the upper half orders as the number does,
the lower half is the place, turned so that of equal numbers the first wins.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"ROWS": [8, 4, 16], "num_warps": [4, 8, 2]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def ordered(v):
    """Bits of fp32 numbers as integers of the same order: those of negative numbers are turned around."""
    bits = (v + 0.0).to(tl.int32, bitcast=True)  # -0 becomes +0, to which it is equal
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def top(x, values, places, rows, width, k, ROWS: tl.constexpr, WIDTH: tl.constexpr, K: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (col < width)[None, :]
    v = tl.load(x + row[:, None] * width + col[None, :], mask=inside, other=0.0)
    key = (ordered(v).to(tl.int64) << 32) | (WIDTH - 1 - col)[None, :].to(tl.int64)
    # What is no element sorts below all numbers, also below -inf.
    key = tl.where(inside, key, -9223372036854775808)
    best = tl.topk(key, K)  # descending

    place = WIDTH - 1 - (best & 0xFFFFFFFF)
    bits = (best >> 32).to(tl.int32)
    value = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)
    rank = tl.arange(0, K)
    at = row[:, None] * k + rank[None, :]
    wanted = (row < rows)[:, None] & (rank < k)[None, :]
    tl.store(values + at, value, mask=wanted)
    tl.store(places + at, place, mask=wanted)


class ModelNew(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, x):
        knobs = chosen(x)
        x = x.contiguous()
        rows, width = x.shape
        k = min(self.k, width)
        WIDTH, K = max(2, triton.next_power_of_2(width)), triton.next_power_of_2(k)
        if WIDTH > 4096:
            raise ValueError(f"rows of {width} are too wide for registers: choose candidates by blocks first")
        values = torch.empty((rows, k), device=x.device, dtype=x.dtype)
        places = torch.empty((rows, k), device=x.device, dtype=torch.int64)
        grid = (triton.cdiv(rows, knobs["ROWS"]),)
        top[grid](x, values, places, rows, width, k, WIDTH=WIDTH, K=K, **knobs)
        return values, places
