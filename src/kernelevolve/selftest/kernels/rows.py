"""Honest kernels that work on rows.

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
#: Rows of 20,000 classes: `softmax_classes`.
SOFTMAX_CLASSES = SOFTMAX_ONLINE.replace("BLOCK=32", "BLOCK=4096")
