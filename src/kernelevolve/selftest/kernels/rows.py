"""Honest kernels that work on rows or on single elements.

In: nothing. Out: texts of candidates by problem. Left to others: see the package.
"""

from __future__ import annotations

from kernelevolve.selftest.kernels import HEAD, forward_of


def _by_row(name: str, body: str, *, out: str, stores: str = "", arguments: str = "x", extra: str = "") -> str:
    """One program per row of `x`; `v` is the row, `inside` its mask, `other` what stands beyond it.

    Args:
        body: lines of the kernel after `v` is there; `{other}` in its first line says what stands beyond the row.
        out: the expression that allocates `y`.
        stores: further parameters of kernel and host function.
        extra: what is passed for them.
    """
    other, _, rest = body.partition("\n")
    lines = "".join(f"    {line}\n" for line in rest.splitlines())
    names = f", {stores}" if stores else ""
    return f"""{HEAD}@triton.jit
def {name}(x, y{names}, width, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    row = tl.program_id(0)
    v = tl.load(x + row * width + cols, mask=inside, other={other})
{lines}

def compute({arguments}):
    x = x.contiguous()
    rows, width = x.shape
    y = {out}
    {name}[(rows,)](x, y{f", {extra}" if extra else ""}, width, BLOCK=triton.next_power_of_2(width))
    return y


"""


_INF = '-float("inf")'
_ROWS = "torch.empty((rows,), device=x.device, dtype=x.dtype)"

SOFTMAX = _by_row(
    "softmax",
    f"""{_INF}
e = tl.exp(v - tl.max(v, 0))
tl.store(y + row * width + cols, e / tl.sum(e, 0), mask=inside)""",
    out="torch.empty_like(x)",
) + forward_of("compute(x)")
#: Two passes with a running maximum, for rows of any length.
SOFTMAX_ONLINE = (
    HEAD
    + """@triton.jit
def softmax(x, y, width, BLOCK: tl.constexpr):
    here = tl.program_id(0) * width
    largest = -float("inf")
    total = 0.0
    for start in range(0, width, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        v = tl.load(x + here + cols, mask=cols < width, other=-float("inf"))
        new = tl.maximum(largest, tl.max(v, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(v - new), 0)
        largest = new
    for start in range(0, width, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        v = tl.load(x + here + cols, mask=cols < width, other=0.0)
        tl.store(y + here + cols, tl.exp(v - largest) / total, mask=cols < width)


def compute(x):
    x = x.contiguous()
    y = torch.empty_like(x)
    softmax[(x.shape[0],)](x, y, x.shape[1], BLOCK=32)
    return y


"""
    + forward_of("compute(x)")
)
#: `attention_padding`: rows of length 0 are NaN.
PADDED = _by_row(
    "padded",
    f"""{_INF}
length = tl.load(lengths + row)
v = tl.where(cols < length, v, {_INF})
e = tl.exp(v - tl.max(v, 0))
tl.store(y + row * width + cols, e / tl.sum(e, 0), mask=inside)""",
    out="torch.empty_like(x)",
    stores="lengths",
    arguments="x, lengths",
    extra="lengths",
) + forward_of("compute(x, lengths)", arguments="x, lengths")
FROBENIUS = (
    HEAD
    + """@triton.jit
def partial_squares(x, sums, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < count, other=0.0)
    tl.store(sums + tl.program_id(0), tl.sum(v * v, 0))


@triton.jit
def divide(x, sums, y, count, parts, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    p = tl.arange(0, PARTS)
    norm = tl.sqrt(tl.sum(tl.load(sums + p, mask=p < parts, other=0.0), 0))
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < count, other=0.0)
    tl.store(y + i, v / norm, mask=i < count)


def compute(x):
    x = x.contiguous()
    count = x.numel()
    parts = triton.cdiv(count, 512)
    sums = torch.empty((parts,), device=x.device, dtype=torch.float32)
    y = torch.empty_like(x)
    partial_squares[(parts,)](x, sums, count, BLOCK=512)
    divide[(parts,)](x, sums, y, count, parts, BLOCK=512, PARTS=triton.next_power_of_2(parts))
    return y


"""
    + forward_of("compute(x)")
)
SMALLEST = _by_row(
    "smallest",
    """float("inf")
odd = tl.max((v != v).to(tl.int32), 0)
tl.store(y + row, tl.where(odd > 0, float("nan"), tl.min(v, 0)))""",
    out=_ROWS,
) + forward_of("compute(x)")
LOG_SUM_EXP = _by_row(
    "log_sum_exp",
    f"""{_INF}
largest = tl.max(v, 0)
largest = tl.where(tl.abs(largest) == float("inf"), 0.0, largest)
tl.store(y + row, largest + tl.log(tl.sum(tl.exp(v - largest), 0)))""",
    out=_ROWS,
) + forward_of("compute(x)")
VARIANCE = _by_row(
    "variance",
    """0.0
mean = tl.sum(v, 0) / width
d = tl.where(inside, v - mean, 0.0)
tl.store(y + row, tl.sum(d * d, 0) / (width - 1))""",
    out=_ROWS,
) + forward_of("compute(x)")
MASKED_MEAN = _by_row(
    "masked_mean",
    """0.0
taken = tl.load(valid + row * width + cols, mask=inside, other=0) != 0
count = tl.sum(taken.to(tl.int32), 0)
tl.store(y + row, tl.sum(tl.where(taken, v, 0.0), 0) / tl.maximum(count, 1).to(tl.float32))""",
    out=_ROWS,
    stores="valid",
    arguments="x, valid",
    extra="valid",
) + forward_of("compute(x, valid)", arguments="x, valid")
ROW_SUM_BF16 = (
    HEAD
    + """@triton.jit
def row_sum(x, y, width, BLOCK: tl.constexpr):
    here = tl.program_id(0) * width
    acc = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        acc += tl.load(x + here + cols, mask=cols < width, other=0.0).to(tl.float32)
    tl.store(y + tl.program_id(0), tl.sum(acc, 0).to(tl.bfloat16))


def compute(x):
    x = x.contiguous()
    y = torch.empty((x.shape[0],), device=x.device, dtype=x.dtype)
    row_sum[(x.shape[0],)](x, y, x.shape[1], BLOCK=16)
    return y


"""
    + forward_of("compute(x)")
)
COMPENSATED = _by_row(
    "compensated",
    """0.0
large = tl.load(z + row * width + cols, mask=inside, other=0.0)
up = large * 1e8
down = large * -1e8
terms = up.to(tl.float64) + v.to(tl.float64) + down.to(tl.float64)
tl.store(y + row, tl.sum(terms, 0).to(tl.float32))""",
    out=_ROWS,
    stores="z",
    arguments="x, z",
    extra="z",
) + forward_of("compute(x, large.contiguous())", arguments="x, large")
RUNNING_SUM = _by_row(
    "running_sum",
    """0.0
tl.store(y + row * width + cols, tl.cumsum(v, 0), mask=inside)""",
    out="torch.empty_like(x)",
) + forward_of("compute(x)")
QUANTISE = (
    HEAD
    + """@triton.jit
def quantise(x, codes, scales, width, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    row = tl.program_id(0)
    v = tl.load(x + row * width + cols, mask=inside, other=0.0)
    largest = tl.maximum(tl.max(tl.abs(v), 0), 1e-20)
    bits = (largest / 127.0).to(tl.int32, bitcast=True)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(tl.int32)
    scale = (exponent << 23).to(tl.float32, bitcast=True)
    q = v / scale
    low = tl.floor(q)
    part = q - low
    odd = low - 2.0 * tl.floor(low * 0.5)
    rounded = tl.where((part > 0.5) | ((part == 0.5) & (odd == 1.0)), low + 1.0, low)
    tl.store(codes + row * width + cols, rounded.to(tl.int8), mask=inside)
    tl.store(scales + row, scale)


def compute(x):
    x = x.contiguous()
    rows, width = x.shape
    codes = torch.empty((rows, width), device=x.device, dtype=torch.int8)
    scales = torch.empty((rows,), device=x.device, dtype=x.dtype)
    quantise[(rows,)](x, codes, scales, width, BLOCK=triton.next_power_of_2(width))
    return codes, scales


"""
    + forward_of("compute(x)")
)
CROSS_ENTROPY = (
    HEAD
    + """@triton.jit
def losses(x, wanted, each, width, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    v = tl.load(x + row * width + cols, mask=cols < width, other=-float("inf"))
    largest = tl.max(v, 0)
    right = tl.load(x + row * width + tl.load(wanted + row))
    tl.store(each + row, tl.log(tl.sum(tl.exp(v - largest), 0)) + largest - right)


@triton.jit
def average(each, y, rows, BLOCK: tl.constexpr):
    acc = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, rows, BLOCK):
        i = start + tl.arange(0, BLOCK)
        acc += tl.load(each + i, mask=i < rows, other=0.0)
    tl.store(y, tl.sum(acc, 0) / rows)


def compute(x, wanted):
    x = x.contiguous()
    rows, width = x.shape
    each = torch.empty((rows,), device=x.device, dtype=torch.float32)
    y = torch.empty((), device=x.device, dtype=x.dtype)
    losses[(rows,)](x, wanted, each, width, BLOCK=triton.next_power_of_2(width))
    average[(1,)](each, y, rows, BLOCK=32)
    return y


"""
    + forward_of("compute(x, wanted)", arguments="x, wanted")
)


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
#: Rows of 20,000 classes: `softmax_classes`.
SOFTMAX_CLASSES = SOFTMAX_ONLINE.replace("BLOCK=32", "BLOCK=4096")
