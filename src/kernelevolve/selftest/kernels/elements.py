"""Honest kernels that work on single elements, on columns, or gather what they work on.

In: nothing. Out: texts of candidates by problem. Left to others: see the package.
"""

from __future__ import annotations

from kernelevolve.selftest.kernels import HEAD, forward_of


def _each(name: str, value: str, *, more: str = "", arguments: str = "x", passed: str = "", extra: str = "") -> str:
    """One output element per input element: `value` of `v`.

    Args:
        more: further pointers of the kernel, in front of `count`.
        passed: what is passed for them.
        extra: lines of the kernel before the store.
    """
    lines = "".join(f"    {line}\n" for line in extra.splitlines())
    return f"""{HEAD}@triton.jit
def {name}(x, y{more}, count, width, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    v = tl.load(x + i, mask=inside, other=0.0)
{lines}    tl.store(y + i, {value}, mask=inside)


def compute({arguments}):
    x = x.contiguous()
    y = torch.empty_like(x)
    {name}[(triton.cdiv(x.numel(), 512),)](x, y{passed}, x.numel(), x.shape[-1], BLOCK=512)
    return y


"""


GELU = _each("gelu", "0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))") + forward_of("compute(x)")
DROPOUT = _each(
    "dropout",
    "tl.where(keep, v / 0.75, 0.0)",
    more=", kept",
    arguments="x, kept",
    passed=", kept",
    extra="keep = tl.load(kept + i, mask=inside, other=0) != 0",
) + forward_of("compute(x, kept)", arguments="x, kept")
PERMUTED = _each(
    "permuted",
    "3.0 * tl.load(x + source, mask=inside, other=0.0)",
    more=", order",
    arguments="x, order",
    passed=", order",
    extra="source = tl.load(order + i // width, mask=inside, other=0) * width + i % width",
).replace("    v = tl.load(x + i, mask=inside, other=0.0)\n", "") + forward_of(
    "compute(x, order)", arguments="x, order"
)
#: Batch normalisation with running statistics: `norm_of_batch`.
NORM_OF_BATCH = _each(
    "norm_of_batch",
    "(v - m) / tl.sqrt(s + 1e-5) * g + b",
    more=", mean, variance, gain, shift",
    arguments="x, norm",
    passed=", norm.running_mean, norm.running_var, norm.weight, norm.bias",
    extra="""c = i % width
m = tl.load(mean + c, mask=inside, other=0.0)
s = tl.load(variance + c, mask=inside, other=0.0)
g = tl.load(gain + c, mask=inside, other=0.0)
b = tl.load(shift + c, mask=inside, other=0.0)""",
) + forward_of("compute(x, self.norm)", init="self.norm = nn.BatchNorm1d(width)", constructor="width")
#: The same from the batch itself, with the running statistics moved: `batch_training`.
BATCH_TRAINING = (
    HEAD
    + """@triton.jit
def batch_norm(x, y, mean, variance, seen, gain, shift, rows, width, COLS: tl.constexpr, ROWS: tl.constexpr):
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    inside = c < width
    total = tl.zeros((COLS,), tl.float32)
    for start in range(0, rows, ROWS):
        r = start + tl.arange(0, ROWS)
        both = (r[:, None] < rows) & inside[None, :]
        total += tl.sum(tl.load(x + r[:, None] * width + c[None, :], mask=both, other=0.0), 0)
    m = total / rows
    squares = tl.zeros((COLS,), tl.float32)
    for start in range(0, rows, ROWS):
        r = start + tl.arange(0, ROWS)
        both = (r[:, None] < rows) & inside[None, :]
        v = tl.load(x + r[:, None] * width + c[None, :], mask=both, other=0.0)
        d = tl.where(both, v - m[None, :], 0.0)
        squares += tl.sum(d * d, 0)
    s = squares / rows
    g = tl.load(gain + c, mask=inside, other=0.0)
    b = tl.load(shift + c, mask=inside, other=0.0)
    for start in range(0, rows, ROWS):
        r = start + tl.arange(0, ROWS)
        both = (r[:, None] < rows) & inside[None, :]
        at = r[:, None] * width + c[None, :]
        v = tl.load(x + at, mask=both, other=0.0)
        tl.store(y + at, (v - m[None, :]) / tl.sqrt(s + 1e-5)[None, :] * g[None, :] + b[None, :], mask=both)
    old = tl.load(mean + c, mask=inside, other=0.0)
    tl.store(mean + c, 0.9 * old + 0.1 * m, mask=inside)
    old = tl.load(variance + c, mask=inside, other=0.0)
    tl.store(variance + c, 0.9 * old + 0.1 * (squares / (rows - 1)), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(seen, tl.load(seen) + 1)


def compute(x, norm):
    x = x.contiguous()
    rows, width = x.shape
    y = torch.empty_like(x)
    batch_norm[(triton.cdiv(width, 16),)](
        x, y, norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.weight, norm.bias, rows, width,
        COLS=16, ROWS=16,
    )
    return y


"""
    + forward_of("compute(x, self.norm)", init="self.norm = nn.BatchNorm1d(width)", constructor="width")
)
#: Inputs with strides of their own: `transposed_input`.
TRANSPOSED = (
    HEAD
    + """@triton.jit
def add(x, z, y, rows, width, sxr, sxc, szr, szc, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    inside = c < width
    a = tl.load(x + r * sxr + c * sxc, mask=inside, other=0.0)
    b = tl.load(z + r * szr + c * szc, mask=inside, other=0.0)
    tl.store(y + r * width + c, a + 2.0 * b, mask=inside)


def compute(x, z):
    rows, width = x.shape
    y = torch.empty((rows, width), device=x.device, dtype=x.dtype)
    strides = (x.stride(0), x.stride(1), z.stride(0), z.stride(1))
    add[(rows,)](x, z, y, rows, width, *strides, BLOCK=triton.next_power_of_2(width))
    return y


"""
    + forward_of("compute(x, z)", arguments="x, z")
)
GATHER = (
    HEAD
    + """@triton.jit
def gather(places, table, y, width, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    place = tl.load(places + row)
    v = tl.load(table + place * width + c, mask=c < width, other=0.0)
    tl.store(y + row * width + c, v, mask=c < width)


def compute(places, table):
    width = table.shape[1]
    y = torch.empty((places.shape[0], width), device=table.device, dtype=table.dtype)
    gather[(places.shape[0],)](places, table, y, width, BLOCK=triton.next_power_of_2(width))
    return y


"""
    + forward_of(
        "compute(places, self.table)",
        init="self.table = nn.Parameter(torch.randn(table, width))",
        constructor="table, width",
        arguments="places",
    )
)
#: `turned`: the result is a view of what was written in the order of the input.
TURNED = _each("double", "2.0 * v") + forward_of("compute(x).transpose(1, 2)")
CHAIN = _each(
    "chain",
    "tl.sqrt(a + 1.0)",
    more=", flags",
    passed=", flags",
    extra="""a = 2.0 / (1.0 + tl.exp(-v)) - 1.0
a = tl.maximum(a + 0.25, 0.0, propagate_nan=tl.PropagateNan.ALL) + tl.abs(v) * 0.125
a = tl.exp(-a * a) + a * 0.5
a = a / (1.0 + tl.abs(a)) + tl.clamp(v, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
a = a * a - 0.5 * a + 0.75
tl.store(flags + i, v > 0, mask=inside)""",
).replace(
    "    y = torch.empty_like(x)\n",
    "    y, flags = torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)\n",
).replace("    return y\n", '    return {"value": y, "positive": flags}\n') + forward_of("compute(x)")
