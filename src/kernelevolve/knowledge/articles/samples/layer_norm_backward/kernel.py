"""Layer normalisation as an autograd function whose backward reads x and the gradient once for all three gradients.

The gradients of weight and bias are sums over all rows. Each program sums the rows that it has in registers anyway into
one line of a small buffer; a second kernel adds the lines. No atomics: the order of the sums is fixed.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"PROGRAMS": [256, 512, 128], "num_warps": [8, 4, 16]}
CHOICE = {}
CHOICES = {}
LINES, COLUMNS = 64, 64  # block of the second stage


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def normalise(x, weight, bias, y, mean, inverse, width, eps, WIDTH: tl.constexpr):
    row = tl.program_id(0)
    col = tl.arange(0, WIDTH)
    inside = col < width
    at = row.to(tl.int64) * width + col
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    average = tl.sum(v, 0) / width
    # From the differences, not as E[x^2] - E[x]^2, which cancels where the mean is large.
    d = tl.where(inside, v - average, 0.0)
    r = tl.rsqrt(tl.sum(d * d, 0) / width + eps)
    g = tl.load(weight + col, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + col, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, (d * r * g + b).to(y.dtype.element_ty), mask=inside)
    # Two numbers per row save the backward two reductions.
    tl.store(mean + row, average)
    tl.store(inverse + row, r)


@triton.jit
def gradients(x, weight, dy, mean, inverse, dx, dw_lines, db_lines, rows, width, WIDTH: tl.constexpr):
    col = tl.arange(0, WIDTH)
    inside = col < width
    g = tl.load(weight + col, mask=inside, other=0.0).to(tl.float32)
    dw = tl.zeros((WIDTH,), tl.float32)
    db = tl.zeros((WIDTH,), tl.float32)
    # Rows are dealt out in turn: programs that run together read neighbouring rows.
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at = row.to(tl.int64) * width + col
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(inverse + row)
        n = tl.where(inside, (v - tl.load(mean + row)) * r, 0.0)
        scaled = d * g
        along = tl.sum(scaled * n, 0) / width
        level = tl.sum(scaled, 0) / width
        tl.store(dx + at, ((scaled - level - n * along) * r).to(dx.dtype.element_ty), mask=inside)
        dw += d * n
        db += d
    line = tl.program_id(0).to(tl.int64) * width + col
    tl.store(dw_lines + line, dw, mask=inside)
    tl.store(db_lines + line, db, mask=inside)


@triton.jit
def add_lines(dw_lines, db_lines, dw, db, lines, width, LINES: tl.constexpr, COLUMNS: tl.constexpr):
    col = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    w = tl.zeros((LINES, COLUMNS), tl.float32)
    b = tl.zeros((LINES, COLUMNS), tl.float32)
    for start in range(0, lines, LINES):
        line = start + tl.arange(0, LINES)
        at = line[:, None] * width + col[None, :]
        inside = (line < lines)[:, None] & (col < width)[None, :]
        w += tl.load(dw_lines + at, mask=inside, other=0.0)
        b += tl.load(db_lines + at, mask=inside, other=0.0)
    tl.store(dw + col, tl.sum(w, 0).to(dw.dtype.element_ty), mask=col < width)
    tl.store(db + col, tl.sum(b, 0).to(db.dtype.element_ty), mask=col < width)


class LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        knobs = chosen(x)
        programs = knobs.pop("PROGRAMS")
        x = x.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        WIDTH = triton.next_power_of_2(width)
        if WIDTH > 16384:
            raise ValueError(f"rows of {width} do not fit into registers together with both sums")
        y = torch.empty_like(x)
        mean = torch.empty((rows,), device=x.device, dtype=torch.float32)
        inverse = torch.empty_like(mean)
        normalise[(rows,)](x, weight, bias, y, mean, inverse, width, eps, WIDTH=WIDTH, **knobs)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.programs, ctx.options = min(programs, rows), knobs
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias, mean, inverse = ctx.saved_tensors
        dy = dy.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        dx, dw, db = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        dw_lines = torch.empty((ctx.programs, width), device=x.device, dtype=torch.float32)
        db_lines = torch.empty_like(dw_lines)
        gradients[(ctx.programs,)](
            x, weight, dy, mean, inverse, dx, dw_lines, db_lines, rows, width,
            WIDTH=triton.next_power_of_2(width), **ctx.options,
        )  # fmt: skip
        add_lines[(triton.cdiv(width, COLUMNS),)](
            dw_lines, db_lines, dw, db, ctx.programs, width, LINES=LINES, COLUMNS=COLUMNS
        )
        return dx, dw, db, None


class ModelNew(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.bias = nn.Parameter(torch.randn(width))
        self.eps = eps

    def forward(self, x):
        return LayerNorm.apply(x, self.weight, self.bias, self.eps)
