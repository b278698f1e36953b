"""Transposition by tiles: both the read and the write are contiguous, the exchange happens on chip.

A tile is read along its rows and turned with `tl.trans`; storing it along the new rows makes the compiler exchange
elements between threads through shared memory, with a swizzle of its own against bank conflicts.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK_R": [64, 128, 32], "BLOCK_C": [64, 32, 128], "num_warps": [4, 8, 2]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def transpose(x, y, rows, width, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    # Neighbouring programs share rows of x: together they use whole DRAM pages on the side that is read.
    c = (tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    r = (tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)).to(tl.int64)
    matrix = tl.program_id(2).to(tl.int64) * rows * width
    inside = (r < rows)[:, None] & (c < width)[None, :]
    v = tl.load(x + matrix + r[:, None] * width + c[None, :], mask=inside, other=0.0)
    tl.store(y + matrix + c[:, None] * rows + r[None, :], tl.trans(v), mask=tl.trans(inside))


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        knobs = chosen(x)
        x = x.contiguous()
        batch, rows, width = x.shape
        if batch > 65535:
            raise ValueError(f"a batch of {batch} exceeds the grid's third dimension")
        y = torch.empty((batch, width, rows), device=x.device, dtype=x.dtype)
        grid = (triton.cdiv(width, knobs["BLOCK_C"]), triton.cdiv(rows, knobs["BLOCK_R"]), batch)
        transpose[grid](x, y, rows, width, **knobs)
        return y
