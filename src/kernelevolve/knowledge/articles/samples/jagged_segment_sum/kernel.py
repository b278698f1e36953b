"""Sums of jagged rows: one program per row and block of columns, a two-dimensional accumulator, no atomics.

The row's values are contiguous, so a program reads them as blocks of LINES rows. What lies between the rows' lengths is
evened out by the number of programs, not within one.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"LINES": [16, 32, 8], "COLUMNS": [128, 64, 256], "num_warps": [4, 2, 8]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def segment_sum(values, offsets, y, dim, LINES: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    begin = tl.load(offsets + row)
    end = tl.load(offsets + row + 1)
    col = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    line = tl.arange(0, LINES)

    # The accumulator keeps its lines apart until the end: the loop adds element by element, without a reduction.
    acc = tl.zeros((LINES, COLUMNS), tl.float32)
    for start in range(begin, end, LINES):
        at = start + line  # int64, as the offsets are
        inside = (at < end)[:, None] & (col < dim)[None, :]
        acc += tl.load(values + at[:, None] * dim + col[None, :], mask=inside, other=0.0).to(tl.float32)
    # An empty row stores the zeros that it began with: y comes from torch.empty.
    tl.store(y + row * dim + col, tl.sum(acc, 0).to(y.dtype.element_ty), mask=col < dim)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, values, offsets):
        knobs = chosen(values, offsets)
        values = values.contiguous()
        rows, dim = offsets.shape[0] - 1, values.shape[1]
        y = torch.empty((rows, dim), device=values.device, dtype=values.dtype)
        segment_sum[(rows, triton.cdiv(dim, knobs["COLUMNS"]))](values, offsets.contiguous(), y, dim, **knobs)
        return y
