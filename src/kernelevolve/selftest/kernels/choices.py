"""Honest kernels that choose among values, that work on sequences, and one with gradients.

In: nothing. Out: texts of candidates by problem. Left to others: see the package.
"""

from __future__ import annotations

from kernelevolve.selftest.kernels import HEAD, forward_of

#: The largest values of each row, one after the other: `top_values`. NaN counts as the largest, as in torch.
TOP_VALUES = (
    HEAD
    + """@triton.jit
def top_values(x, values, places, width, KEPT: tl.constexpr, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    v = tl.load(x + row * width + cols, mask=cols < width, other=-float("inf"))
    free = cols < width
    for i in range(0, KEPT):
        odd = free & (v != v)
        some = tl.max(odd.to(tl.int32), 0)
        rank = tl.where(free, v, -float("inf"))
        rank = tl.where(some > 0, odd.to(tl.float32), rank)
        place = tl.argmax(rank, 0)
        taken = cols == place
        tl.store(values + row * KEPT + i, tl.load(x + row * width + place))
        tl.store(places + row * KEPT + i, place)
        free = free & (cols != place)


def compute(x, kept):
    x = x.contiguous()
    rows, width = x.shape
    values = torch.empty((rows, kept), device=x.device, dtype=x.dtype)
    places = torch.empty((rows, kept), device=x.device, dtype=torch.int64)
    top_values[(rows,)](x, values, places, width, KEPT=kept, BLOCK=triton.next_power_of_2(width))
    return values, places


"""
    + forward_of("compute(x, 6)")
)
LARGEST_PLACE = (
    HEAD
    + """@triton.jit
def largest_place(x, places, width, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    inside = cols < width
    v = tl.load(x + row * width + cols, mask=inside, other=-float("inf"))
    odd = v != v
    rank = tl.where(tl.max(odd.to(tl.int32), 0) > 0, odd.to(tl.float32), v)
    tl.store(places + row, tl.argmax(rank, 0))


def compute(x):
    x = x.contiguous()
    rows, width = x.shape
    places = torch.empty((rows,), device=x.device, dtype=torch.int64)
    largest_place[(rows,)](x, places, width, BLOCK=triton.next_power_of_2(width))
    return places


"""
    + forward_of("compute(x)")
)
#: Attention with a running maximum; keys beyond a sequence's length are not read: `attention_lengths`.
ATTENTION = (
    HEAD
    + """@triton.jit
def attention(q, k, v, lengths, y, keys, width, scale, W: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    batch = tl.program_id(1)
    here = batch * keys * width
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, W)
    wide = d < width
    length = tl.load(lengths + batch)
    at = here + rows[:, None] * width + d[None, :]
    inside = (rows[:, None] < keys) & wide[None, :]
    a = tl.load(q + at, mask=inside, other=0.0)
    largest = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, W), tl.float32)
    for start in range(0, length, BN):
        cols = start + tl.arange(0, BN)
        bt = here + cols[None, :] * width + d[:, None]
        b = tl.load(k + bt, mask=(cols[None, :] < length) & wide[:, None], other=0.0)
        s = tl.dot(a, b, input_precision="ieee") * scale
        s = tl.where(cols[None, :] < length, s, -float("inf"))
        new = tl.maximum(largest, tl.max(s, 1))
        p = tl.exp(s - new[:, None])
        shrink = tl.exp(largest - new)
        total = total * shrink + tl.sum(p, 1)
        ct = here + cols[:, None] * width + d[None, :]
        c = tl.load(v + ct, mask=(cols[:, None] < length) & wide[None, :], other=0.0)
        acc = tl.dot(p, c, acc * shrink[:, None], input_precision="ieee")
        largest = new
    tl.store(y + at, acc / total[:, None], mask=inside)


def compute(q, k, v, lengths):
    batch, keys, width = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    y = torch.empty((batch, keys, width), device=q.device, dtype=q.dtype)
    grid = (triton.cdiv(keys, 16), batch)
    padded = max(16, triton.next_power_of_2(width))
    attention[grid](q, k, v, lengths, y, keys, width, 0.25, W=padded, BM=16, BN=16)
    return y


"""
    + forward_of("compute(q, k, v, lengths)", arguments="q, k, v, lengths")
)
#: RMS normalisation with its gradients: `norm_backward`.
NORM_BACKWARD = (
    HEAD
    + """@triton.jit
def forward_kernel(x, gain, y, inverse, width, eps, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    inside = c < width
    row = tl.program_id(0)
    v = tl.load(x + row * width + c, mask=inside, other=0.0)
    r = 1.0 / tl.sqrt(tl.sum(v * v, 0) / width + eps)
    g = tl.load(gain + c, mask=inside, other=0.0)
    tl.store(y + row * width + c, v * r * g, mask=inside)
    tl.store(inverse + row, r)


@triton.jit
def input_kernel(x, gain, inverse, dy, dx, width, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    inside = c < width
    row = tl.program_id(0)
    v = tl.load(x + row * width + c, mask=inside, other=0.0)
    d = tl.load(dy + row * width + c, mask=inside, other=0.0) * tl.load(gain + c, mask=inside, other=0.0)
    r = tl.load(inverse + row)
    along = tl.sum(v * d, 0) / width
    tl.store(dx + row * width + c, r * d - v * (along * r * r * r), mask=inside)


@triton.jit
def gain_kernel(x, inverse, dy, dgain, rows, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    acc = tl.zeros((COLS,), tl.float32)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        both = (row[:, None] < rows) & (c[None, :] < width)
        at = row[:, None] * width + c[None, :]
        r = tl.load(inverse + row, mask=row < rows, other=0.0)
        acc += tl.sum(tl.load(x + at, mask=both, other=0.0) * tl.load(dy + at, mask=both, other=0.0) * r[:, None], 0)
    tl.store(dgain + c, acc, mask=c < width)


class Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain):
        x = x.contiguous()
        rows, width = x.shape
        y, inverse = torch.empty_like(x), torch.empty((rows,), device=x.device, dtype=torch.float32)
        forward_kernel[(rows,)](x, gain, y, inverse, width, 1e-5, BLOCK=triton.next_power_of_2(width))
        ctx.save_for_backward(x, gain, inverse)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, gain, inverse = ctx.saved_tensors
        dy = dy.contiguous()
        rows, width = x.shape
        dx, dgain = torch.empty_like(x), torch.empty_like(gain)
        input_kernel[(rows,)](x, gain, inverse, dy, dx, width, BLOCK=triton.next_power_of_2(width))
        gain_kernel[(triton.cdiv(width, 16),)](x, inverse, dy, dgain, rows, width, ROWS=16, COLS=16)
        return dx, dgain


"""
    + forward_of(
        "Normed.apply(x, self.gain)",
        init="self.gain = nn.Parameter(torch.randn(width))",
        constructor="width",
    )
)
