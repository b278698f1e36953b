"""Honest kernels for the problems of the selftest, and how a cheat is made from one.

In: nothing. Out: texts of candidates. Left to others: what is done to them (`specimens`).
"""

from __future__ import annotations

from collections.abc import Mapping

_HEAD = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


"""

RELU_GEMM = (
    _HEAD
    + """@triton.jit
def relu_gemm(x, w, y, M, N, K, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        a = tl.load(x + rows[:, None] * K + k[None, :], mask=(rows[:, None] < M) & (k[None, :] < K), other=0.0)
        b = tl.load(w + k[:, None] * N + cols[None, :], mask=(k[:, None] < K) & (cols[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    inside = (rows[:, None] < M) & (cols[None, :] < N)
    tl.store(y + rows[:, None] * N + cols[None, :], tl.maximum(acc, 0.0), mask=inside)


def compute(x, w):
    x, w = x.contiguous(), w.contiguous()
    rows, inner = x.shape
    width = w.shape[1]
    y = torch.empty((rows, width), device=x.device, dtype=x.dtype)
    grid = (triton.cdiv(rows, 32), triton.cdiv(width, 32))
    relu_gemm[grid](x, w, y, rows, width, inner, BLOCK=32)
    return y


class ModelNew(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inner, width))

    def forward(self, x):
        return compute(x, self.weight)
"""
)

SOFTMAX_ROWS = (
    _HEAD
    + """@triton.jit
def softmax_rows(x, y, width, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    row = tl.program_id(0).to(tl.int64) * width
    v = tl.load(x + row + cols, mask=inside, other=-float("inf"))
    e = tl.exp(v - tl.max(v, 0))
    tl.store(y + row + cols, e / tl.sum(e, 0), mask=inside)


def compute(x):
    x = x.contiguous()
    y = torch.empty_like(x)
    width = x.shape[-1]
    softmax_rows[(x.numel() // width,)](x, y, width, BLOCK=triton.next_power_of_2(width))
    return y


class ModelNew(nn.Module):
    def forward(self, x):
        return compute(x)
"""
)

LAYER_NORM_ROWS = (
    _HEAD
    + """@triton.jit
def layer_norm_rows(x, gain, shift, y, width, eps, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    row = tl.program_id(0).to(tl.int64) * width
    v = tl.load(x + row + cols, mask=inside, other=0.0)
    mean = tl.sum(v, 0) / width
    d = tl.where(inside, v - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(d * d, 0) / width + eps)
    g = tl.load(gain + cols, mask=inside, other=0.0)
    s = tl.load(shift + cols, mask=inside, other=0.0)
    tl.store(y + row + cols, d * scale * g + s, mask=inside)


def compute(x, gain, shift, eps):
    x = x.contiguous()
    y = torch.empty_like(x)
    width = x.shape[-1]
    layer_norm_rows[(x.numel() // width,)](x, gain, shift, y, width, eps, BLOCK=triton.next_power_of_2(width))
    return y


class ModelNew(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return compute(x, self.norm.weight, self.norm.bias, self.norm.eps)
"""
)

MEAN_SQUARE = (
    _HEAD
    + """@triton.jit
def partial_sums(a, b, sums, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    d = tl.load(a + i, mask=inside, other=0.0) - tl.load(b + i, mask=inside, other=0.0)
    tl.store(sums + tl.program_id(0), tl.sum(d * d, 0))


@triton.jit
def total(sums, y, parts, count, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    s = tl.load(sums + i, mask=i < parts, other=0.0)
    tl.store(y, tl.sum(s, 0) / count)


def compute(a, b):
    a, b = a.contiguous(), b.contiguous()
    count = a.numel()
    parts = triton.cdiv(count, 1024)
    sums = torch.empty((parts,), device=a.device, dtype=torch.float32)
    y = torch.empty((), device=a.device, dtype=a.dtype)
    partial_sums[(parts,)](a, b, sums, count, BLOCK=1024)
    total[(1,)](sums, y, parts, count, BLOCK=triton.next_power_of_2(parts))
    return y


class ModelNew(nn.Module):
    def forward(self, predicted, wanted):
        return compute(predicted, wanted)
"""
)

ROW_FACTS = (
    _HEAD
    + """@triton.jit
def row_facts(x, largest, squares, width, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    row = tl.program_id(0)
    v = tl.load(x + row.to(tl.int64) * width + cols, mask=inside, other=-float("inf"))
    tl.store(largest + row, tl.max(v, 0))
    v = tl.where(inside, v, 0.0)
    tl.store(squares + row, tl.sum(v * v, 0))


def compute(x):
    x = x.contiguous()
    rows, width = x.shape
    largest = torch.empty((rows,), device=x.device, dtype=x.dtype)
    squares = torch.empty((rows,), device=x.device, dtype=x.dtype)
    row_facts[(rows,)](x, largest, squares, width, BLOCK=triton.next_power_of_2(width))
    return largest, squares


class ModelNew(nn.Module):
    def forward(self, x):
        return compute(x)
"""
)

SCALE_IN_PLACE = (
    _HEAD
    + """@triton.jit
def scale_in_place(x, gain, count, width, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    v = tl.load(x + i, mask=inside) * tl.load(gain + i % width, mask=inside)
    tl.store(x + i, v, mask=inside)


def compute(x, gain):
    scale_in_place[(triton.cdiv(x.numel(), 1024),)](x, gain, x.numel(), x.shape[-1], BLOCK=1024)
    return x


class ModelNew(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return compute(x, self.gain)
"""
)

SCALE_BACKWARD = (
    _HEAD
    + """@triton.jit
def forward_kernel(x, gain, y, count, width, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    v = tl.load(x + i, mask=inside, other=0.0) * tl.load(gain + i % width, mask=inside, other=0.0)
    tl.store(y + i, v / (1.0 + tl.exp(-v)), mask=inside)


@triton.jit
def backward_kernel(x, gain, dy, dx, dgain, rows, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    inside = cols < width
    g = tl.load(gain + cols, mask=inside, other=0.0)
    acc = tl.zeros((COLS,), tl.float32)
    for start in range(0, rows, ROWS):
        r = start + tl.arange(0, ROWS)
        at = r[:, None] * width + cols[None, :]
        both = (r[:, None] < rows) & inside[None, :]
        u = tl.load(x + at, mask=both, other=0.0)
        v = u * g[None, :]
        s = 1.0 / (1.0 + tl.exp(-v))
        d = tl.load(dy + at, mask=both, other=0.0) * s * (1.0 + v * (1.0 - s))
        tl.store(dx + at, d * g[None, :], mask=both)
        acc += tl.sum(d * u, 0)
    tl.store(dgain + cols, acc, mask=inside)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain):
        x, gain = x.contiguous(), gain.contiguous()
        y = torch.empty_like(x)
        forward_kernel[(triton.cdiv(x.numel(), 1024),)](x, gain, y, x.numel(), x.shape[-1], BLOCK=1024)
        ctx.save_for_backward(x, gain)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, gain = ctx.saved_tensors
        dy = dy.contiguous()
        dx, dgain = torch.empty_like(x), torch.empty_like(gain)
        rows, width = x.shape
        backward_kernel[(triton.cdiv(width, 32),)](x, gain, dy, dx, dgain, rows, width, ROWS=32, COLS=32)
        return dx, dgain


class ModelNew(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return Scaled.apply(x, self.gain)
"""
)

ATTENTION_DECODE = (
    _HEAD
    + """@triton.jit
def attend(query, keys, values, y, queries, tokens, width, scale, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.arange(0, WIDTH)
    at = rows[:, None] * width + cols[None, :]
    used = cols < width
    some = (rows[:, None] < queries) & used[None, :]
    q = tl.load(query + at, mask=some, other=0.0)
    most = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, WIDTH), tl.float32)
    for start in range(0, tokens, BLOCK):
        t = start + tl.arange(0, BLOCK)
        known = (t[:, None] < tokens) & used[None, :]
        k = tl.load(keys + t[:, None] * width + cols[None, :], mask=known, other=0.0)
        v = tl.load(values + t[:, None] * width + cols[None, :], mask=known, other=0.0)
        s = tl.where(t[None, :] < tokens, tl.dot(q, tl.trans(k), input_precision="ieee") * scale, -float("inf"))
        higher = tl.maximum(most, tl.max(s, 1))
        p = tl.exp(s - higher[:, None])
        shrink = tl.exp(most - higher)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p, v, input_precision="ieee")
        most = higher
    tl.store(y + at, acc / total[:, None], mask=some)


def compute(query, keys, values):
    query, keys, values = query.contiguous(), keys.contiguous(), values.contiguous()
    y = torch.empty_like(query)
    queries, width = query.shape
    grid = (triton.cdiv(queries, 32),)
    block = max(16, triton.next_power_of_2(width))
    attend[grid](query, keys, values, y, queries, keys.shape[0], width, width**-0.5, WIDTH=block, BLOCK=32)
    return y


class ModelNew(nn.Module):
    def forward(self, query, keys, values):
        return compute(query, keys, values)
"""
)

KNOWN_GOOD: Mapping[str, str] = {
    "relu_gemm": RELU_GEMM,
    "softmax_rows": SOFTMAX_ROWS,
    "layer_norm_rows": LAYER_NORM_ROWS,
    "attention_decode": ATTENTION_DECODE,
    "mean_square": MEAN_SQUARE,
    "row_facts": ROW_FACTS,
    "scale_in_place": SCALE_IN_PLACE,
    "scale_backward": SCALE_BACKWARD,
}


def edit(source: str, *pairs: tuple[str, str]) -> str:
    """`source` with each `old` replaced by `new`, in order.

    Raises:
        ValueError: an `old` does not occur exactly once, so that the edit would not be what it seems.
    """
    for old, new in pairs:
        if (count := source.count(old)) != 1:
            raise ValueError(f"{old!r:.80} occurs {count} times; an edit needs exactly one")
        source = source.replace(old, new)
    return source


def in_forward(source: str, *lines: str, header: str = "") -> str:
    """`source` with these lines in place of the one that its `forward` returns by.

    Args:
        header: lines at the top level, before the class.
    """
    call = next(line for line in reversed(source.splitlines()) if line.startswith("        return "))
    made = edit(source, (call, "\n".join(f"        {line}" for line in lines)))
    return at_import(made, header) if header else made


def at_import(source: str, header: str) -> str:
    """`source` with these lines at the top level, before the class."""
    return edit(source, ("\n\nclass ModelNew", f"\n\n{header.strip(chr(10))}\n\n\nclass ModelNew"))
