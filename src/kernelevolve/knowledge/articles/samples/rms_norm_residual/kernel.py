"""Residual addition fused with RMS normalisation: every row is read once, stays in registers, and is written twice.

A program owns ROWS whole rows. For narrow rows several rows share a program, so that each thread still has several
16-byte loads in flight.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"ELEMENTS": [4096, 8192, 2048], "num_warps": [4, 8, 16]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def add_rms_norm(x, residual, weight, y, added, rows, width, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, WIDTH)
    at = row.to(tl.int64)[:, None] * width + col[None, :]
    inside = (row < rows)[:, None] & (col < width)[None, :]

    # Nothing is read twice, so it need not stay in the L2; the weight is read by every program and should.
    a = tl.load(x + at, mask=inside, other=0.0, eviction_policy="evict_first")
    b = tl.load(residual + at, mask=inside, other=0.0, eviction_policy="evict_first")
    w = tl.load(weight + col, mask=col < width, other=0.0, eviction_policy="evict_last").to(tl.float32)

    # The reference normalises the sum as it was rounded, so the rounded value goes on, not the fp32 one.
    s = (a.to(tl.float32) + b.to(tl.float32)).to(added.dtype.element_ty)
    tl.store(added + at, s, mask=inside)
    wide = s.to(tl.float32)
    # Lanes beyond the row hold 0 and add nothing; the divisor is the true width.
    scale = tl.rsqrt(tl.sum(wide * wide, 1) / width + eps)
    out = wide * scale[:, None] * w[None, :]
    tl.store(y + at, out.to(y.dtype.element_ty), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x, residual):
        knobs = chosen(x, residual)
        x, residual = x.contiguous(), residual.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        y, added = torch.empty_like(x), torch.empty_like(x)
        WIDTH = triton.next_power_of_2(width)
        if WIDTH > 32768:
            raise ValueError(f"rows of {width} do not fit into registers: read them in blocks, twice")
        # The knob is the number of elements per program: it means the same for wide rows and for narrow ones.
        ROWS = max(1, knobs["ELEMENTS"] // WIDTH)
        add_rms_norm[(triton.cdiv(rows, ROWS),)](
            x, residual, self.weight, y, added, rows, width, self.eps,
            ROWS=ROWS, WIDTH=WIDTH, num_warps=knobs["num_warps"],
        )  # fmt: skip
        return y, added
