# ruff: noqa: E501, N803, SIM108 -- a table row is a line; kernels name their constants in capitals, and branch as kernels do
"""Every public name of ``triton.language``, by type, against torch and numpy.

The tables say for each name how it is checked, or why it is not; a name in no table fails the test. Kernels are generated
from the tables' expressions into one module.
"""

import importlib.util
import itertools
import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kernelevolve.worker.interpret import interpreting

N = 64

HALF, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
FLOATS = (HALF, BF16, F32, F64)
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
INTS = SIGNED + UNSIGNED
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
NUMPY = {
    torch.int8: np.int8, torch.int16: np.int16, torch.int32: np.int32, torch.int64: np.int64, torch.uint8: np.uint8,
    torch.uint16: np.uint16, torch.uint32: np.uint32, torch.uint64: np.uint64, torch.bool: np.bool_,
}  # fmt: skip
BOOL = torch.bool

# Relative error allowed to functions that hardware approximates: two units in the last place.
EPSILON = {HALF: 2**-10, BF16: 2**-7, F32: 2**-22, F64: 2**-50}


def f64(function):
    """The reference of a float function: computed in float64, rounded by torch's cast."""
    return lambda *x: function(*(v.double() for v in x)).to(x[0].dtype)


def sat_cast(x, dtype):
    """torch's cast, with values beyond the range of OCP float8 saturating as ``cvt.satfinite`` does."""
    if dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        limit = torch.finfo(dtype).max
        x = torch.where(x.isnan(), x, x.clamp(-limit, limit))
    return x.to(dtype)


def trunc_div(a, b):
    q = a // b
    return (q + ((np.fmod(a, b) != 0) & ((a < 0) != (b < 0)))).astype(a.dtype)


def shift(op, limit):
    """Shift amounts are kept inside the width by the inputs; ``limit`` says how."""
    return lambda a, b: op(a, (b & limit(a)).astype(a.dtype))


# name -> rows of (expression of a, b, c; reference; types; result type or None for the operands' own).
ELEMENTWISE = {
    "add": [("a + b", lambda a, b: a + b, FLOATS + INTS, None), ("tl.add(a, b)", lambda a, b: a + b, (F32, HALF), None)],
    "sub": [("a - b", lambda a, b: a - b, FLOATS + INTS, None), ("tl.sub(a, b)", lambda a, b: a - b, (F32, BF16), None)],
    "mul": [("a * b", lambda a, b: a * b, FLOATS + INTS, None), ("tl.mul(a, b)", lambda a, b: a * b, (F32,), None)],
    "fdiv": [
        ("tl.fdiv(a, b)", f64(torch.div), (F32, F64), None),
        ("a / b", lambda a, b: (a.float() / b.float()).to(a.dtype) if a.dtype != F64 else a / b, FLOATS, None),
        ("a // b", trunc_div, INTS, None),
        ("a % b", np.fmod, INTS, None),
        ("a % b", f64(torch.fmod), (F32, F64), None),
        ("a / b", lambda a, b: (a.astype(np.float32) / b.astype(np.float32)), (torch.int32,), F32),
    ],
    "div_rn": [("tl.div_rn(a, b)", f64(torch.div), (F32,), None), ("tl.math.div_rn(a, b)", f64(torch.div), (F32,), None)],
    "minimum": [
        ("tl.minimum(a, b)", torch.fmin, FLOATS, None),
        ("tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)", torch.minimum, FLOATS, None),
        ("tl.minimum(a, b)", np.minimum, INTS, None),
    ],
    "maximum": [
        ("tl.maximum(a, b)", torch.fmax, FLOATS, None),
        ("tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)", torch.maximum, FLOATS, None),
        ("tl.maximum(a, b)", np.maximum, INTS, None),
        ("min(max(a, b), a)", lambda a, b: np.minimum(np.maximum(a, b), a), (torch.int32,), None),
    ],
    "clamp": [
        ("tl.clamp(a, -1.0, 1.0)", lambda a: torch.where(a.isnan(), torch.tensor(-1.0, dtype=a.dtype), a.clamp(-1, 1)), (F32, F64), None),
        ("tl.clamp(a, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)", lambda a: a.clamp(-1, 1), (F32,), None),
    ],
    "where": [
        ("tl.where(a > b, a, b)", lambda a, b: torch.where(a > b, a, b), FLOATS, None),
        ("tl.where(a > b, a, b)", lambda a, b: np.where(a > b, a, b), INTS, None),
        ("tl.where(a > 0, a, 0.0)", lambda a: torch.where(a > 0, a, torch.zeros_like(a)), FLOATS, None),
    ],
    "comparison": [
        (f"(a {op} b)", ref, FLOATS + INTS, BOOL)
        for op, ref in (
            ("<", lambda a, b: a < b), ("<=", lambda a, b: a <= b), (">", lambda a, b: a > b),
            (">=", lambda a, b: a >= b), ("==", lambda a, b: a == b), ("!=", lambda a, b: a != b),
        )
    ] + [
        ("(b < a) & (a < c)", lambda a, b, c: (b < a) & (a < c), (F32, torch.int32), BOOL),
        ("(a > b).logical_or(a < c)", lambda a, b, c: (a > b) | (a < c), (F32,), BOOL),
        ("~(a > b)", lambda a, b: ~(a > b), (F32,), BOOL),
    ],
    "bits": [
        ("a & b", lambda a, b: a & b, INTS, None),
        ("a | b", lambda a, b: a | b, INTS, None),
        ("a ^ b", lambda a, b: a ^ b, INTS, None),
        ("~a", lambda a: ~a, INTS, None),
        ("-a", lambda a: -a, SIGNED, None),
        ("-a", lambda a: -a, FLOATS, None),
        ("a << (b & (WIDTH - 1))", shift(np.left_shift, lambda a: a.dtype.itemsize * 8 - 1), INTS, None),
        ("a >> (b & (WIDTH - 1))", shift(np.right_shift, lambda a: a.dtype.itemsize * 8 - 1), INTS, None),
    ],
    "umulhi": [
        ("tl.umulhi(a, b)", lambda a, b: ((a.astype(object) * b.astype(object)) >> (a.dtype.itemsize * 8)).astype(a.dtype), (torch.uint32, torch.uint64), None),
    ],
    "abs": [
        ("tl.abs(a)", torch.abs, FLOATS, None),
        ("tl.abs(a)", np.abs, SIGNED, None),
        ("tl.abs(a)", lambda a: a, UNSIGNED, None),
        ("a.abs()", torch.abs, (F32,), None),
    ],
    "floor": [("tl.floor(a)", torch.floor, (F32, F64), None)],
    "ceil": [("tl.ceil(a)", torch.ceil, (F32, F64), None)],
    "exp": [("tl.exp(a)", f64(torch.exp), (F32, F64), None), ("a.exp()", f64(torch.exp), (F32,), None)],
    "exp2": [("tl.exp2(a)", f64(torch.exp2), (F32, F64), None)],
    "log": [("tl.log(a)", f64(torch.log), (F32, F64), None)],
    "log2": [("tl.log2(a)", f64(torch.log2), (F32, F64), None)],
    "sqrt": [("tl.sqrt(a)", f64(torch.sqrt), (F32, F64), None)],
    "sqrt_rn": [("tl.sqrt_rn(a)", f64(torch.sqrt), (F32,), None)],
    "rsqrt": [("tl.rsqrt(a)", f64(torch.rsqrt), (F32, F64), None)],
    "sin": [("tl.sin(a)", f64(torch.sin), (F32, F64), None)],
    "cos": [("tl.cos(a)", f64(torch.cos), (F32, F64), None)],
    "erf": [("tl.erf(a)", f64(torch.erf), (F32, F64), None), ("tl.math.erf(a)", f64(torch.erf), (F32,), None)],
    "fma": [
        ("tl.fma(a, b, c)", lambda a, b, c: exact_fma(a, b, c), (F32, F64), None),
        ("tl.math.fma(a, b, c)", lambda a, b, c: exact_fma(a, b, c), (F32,), None),
    ],
    "sigmoid": [("tl.sigmoid(a)", f64(torch.sigmoid), (F32, F64), None), ("a.sigmoid()", f64(torch.sigmoid), (F32,), None)],
    "cdiv": [("tl.cdiv(a, 3)", lambda a: (a + a.dtype.type(2)) // 3, (torch.uint8, torch.uint16), None)],
    "to_tensor": [("a + tl.to_tensor(3)", lambda a: a + 3, (torch.int32,), None)],
}  # fmt: skip

if not hasattr(tl, "to_tensor"):
    del ELEMENTWISE["to_tensor"]


def exact_fma(a, b, c):
    """Rounded once, by rational arithmetic."""
    from fractions import Fraction

    def one(x, y, z):
        if not all(map(math.isfinite, (x, y, z))):
            return x * y + z
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        if exact == 0:
            return x * y + z
        return round_fraction(exact, a.dtype)

    return torch.tensor([one(*v) for v in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)], dtype=F64).to(a.dtype)


def round_fraction(value, dtype):
    """The nearest value of ``dtype`` (float32 or float64) to a fraction, ties to even."""
    if dtype == F64:
        try:
            return value.numerator / value.denominator
        except OverflowError:
            return math.copysign(math.inf, value)
    near = np.float32(float(value)) if abs(value) < 2**200 else np.float32(math.copysign(math.inf, value))
    if not np.isfinite(near):
        return float(near)
    from fractions import Fraction

    options = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    finite = [o for o in options if np.isfinite(o)]
    best = min(finite, key=lambda o: (abs(Fraction(float(o)) - value), int(o.view(np.uint32)) & 1))
    return float(best)


BLOCKS = {
    # name -> (expression on a float32 vector `a` (or int32 `n`) of N values; reference of the same; shape of result)
    "sum": [
        ("tl.sum(a, 0)", lambda a: a.sum(), ()),
        ("a.sum(0)", lambda a: a.sum(), ()),
        ("tl.sum(tl.reshape(a, 8, 8), 1)", lambda a: a.view(8, 8).sum(1), (8,)),
        ("tl.sum(tl.reshape(a, 8, 8), 0, keep_dims=True)", lambda a: a.view(8, 8).sum(0, keepdim=True), (1, 8)),
        ("tl.sum(tl.reshape(a, 4, 4, 4), 1)", lambda a: a.view(4, 4, 4).sum(1), (4, 4)),
        ("tl.sum(tl.reshape(a, 8, 8))", lambda a: a.sum(), ()),
    ],
    "max": [
        ("tl.max(a, 0)", lambda a: a.amax(), ()),
        ("tl.max(tl.reshape(a, 8, 8), 1)", lambda a: a.view(8, 8).amax(1), (8,)),
        ("tl.max(tl.reshape(a, 8, 8), 1, return_indices=True)[0]", lambda a: a.view(8, 8).amax(1), (8,)),
        ("tl.max(tl.reshape(a, 8, 8), 1, return_indices=True)[1]", lambda a: a.view(8, 8).argmax(1), (8,)),
    ],
    "min": [
        ("tl.min(a, 0)", lambda a: a.amin(), ()),
        ("tl.min(tl.reshape(a, 8, 8), 0, return_indices=True)[1]", lambda a: a.view(8, 8).argmin(0), (8,)),
    ],
    "argmax": [
        ("tl.argmax(a, 0)", lambda a: a.argmax(), ()),
        ("tl.argmax(tl.reshape(a, 8, 8), 1)", lambda a: a.view(8, 8).argmax(1), (8,)),
        ("tl.argmax(tl.reshape(a, 8, 8), 1, tie_break_left=False)", lambda a: a.view(8, 8).argmax(1), (8,)),
        ("tl.argmax(tl.zeros_like(a), 0)", lambda a: torch.tensor(0), ()),
    ],
    "argmin": [("tl.argmin(tl.reshape(a, 8, 8), 0)", lambda a: a.view(8, 8).argmin(0), (8,))],
    "xor_sum": [("tl.xor_sum(n, 0)", lambda n: np.bitwise_xor.reduce(n), ())],
    "reduce_or": [("tl.reduce_or(n, 0)", lambda n: np.bitwise_or.reduce(n), ())],
    "reduce": [
        ("tl.reduce(a, 0, times_plus)", lambda a: (1 + a).prod() - 1, ()),
        ("tl.reduce(tl.reshape(a, 8, 8), 1, times_plus)", lambda a: (1 + a.view(8, 8)).prod(1) - 1, (8,)),
        ("tl.reduce((a, n), 0, pick_larger)[1]", lambda a, n: n[a.argmax()], ()),
    ],
    "cumsum": [
        ("tl.cumsum(a, 0)", lambda a: a.cumsum(0), (N,)),
        ("tl.cumsum(tl.reshape(a, 8, 8), 1, reverse=True)", lambda a: a.view(8, 8).flip(1).cumsum(1).flip(1), (8, 8)),
    ],
    "cumprod": [("tl.cumprod(a, 0)", lambda a: a.cumprod(0), (N,))],
    "associative_scan": [
        ("tl.associative_scan(a, 0, times_plus)", lambda a: (1 + a).cumprod(0) - 1, (N,)),
        ("tl.associative_scan(tl.reshape(a, 8, 8), 0, first)", lambda a: a.view(8, 8)[:1].expand(8, 8), (8, 8)),
        ("tl.associative_scan(a, 0, first, reverse=True)", lambda a: a[-1:].expand(N), (N,)),
        ("tl.associative_scan(a, 0, branching)", lambda a: a.cummax(0).values, (N,)),
    ],
    "map_elementwise": [("tl.map_elementwise(clip_scalar, a)", lambda a: a.clamp(min=0), (N,))],
    "sort": [
        ("tl.sort(a)", lambda a: a.sort().values, (N,)),
        ("tl.sort(a, descending=True)", lambda a: a.sort(descending=True).values, (N,)),
        ("tl.sort(tl.reshape(a, 4, 16))", lambda a: a.view(4, 16).sort(1).values, (4, 16)),
    ],
    "topk": [("tl.topk(a, 8)", lambda a: a.topk(8).values, (8,))],
    "bitonic_merge": [
        ("tl.bitonic_merge(tl.where(tl.arange(0, 64) < 32, tl.arange(0, 64), 95 - tl.arange(0, 64)).to(tl.float32) + 0 * a)", lambda a: torch.arange(64.0), (N,)),
    ],
    "flip": [
        ("tl.flip(a, 0)", lambda a: a.flip(0), (N,)),
        ("tl.flip(tl.reshape(a, 8, 8), 0)", lambda a: a.view(8, 8).flip(0), (8, 8)),
    ],
    "softmax": [("tl.softmax(a)", lambda a: a.softmax(0), (N,))],
    "histogram": [
        ("tl.histogram(n & 15, 16)", lambda n: np.bincount(n & 15, minlength=16), (16,)),
        ("tl.histogram(n & 15, 16, mask=n > 0)", lambda n: np.bincount((n & 15)[n > 0], minlength=16), (16,)),
    ],
    "gather": [("tl.gather(a, n & 63, 0)", lambda a, n: a[torch.from_numpy((n & 63).astype(np.int64))], (N,))],
    "reshape": [("tl.reshape(a, 4, 16)", lambda a: a.view(4, 16), (4, 16)), ("a.reshape((16, 4))", lambda a: a.view(16, 4), (16, 4))],
    "view": [("tl.view(a, 4, 16)", lambda a: a.view(4, 16), (4, 16))],
    "ravel": [("tl.ravel(tl.trans(tl.reshape(a, 8, 8)))", lambda a: a.view(8, 8).t().reshape(-1), (N,))],
    "trans": [
        ("tl.trans(tl.reshape(a, 4, 16))", lambda a: a.view(4, 16).t(), (16, 4)),
        ("tl.reshape(a, 4, 16).T", lambda a: a.view(4, 16).t(), (16, 4)),
        ("tl.trans(tl.reshape(a, 4, 2, 8), 2, 0, 1)", lambda a: a.view(4, 2, 8).permute(2, 0, 1), (8, 4, 2)),
    ],
    "permute": [("tl.permute(tl.reshape(a, 4, 2, 8), (1, 2, 0))", lambda a: a.view(4, 2, 8).permute(1, 2, 0), (2, 8, 4))],
    "broadcast_to": [("tl.broadcast_to(a[:, None], 64, 4)", lambda a: a[:, None].expand(64, 4), (64, 4))],
    "broadcast": [("tl.broadcast(a[None, :], tl.zeros((2, 64), tl.float32))[0]", lambda a: a[None].expand(2, 64), (2, 64))],
    "expand_dims": [("tl.expand_dims(a, (0, 2))", lambda a: a[None, :, None], (1, N, 1))],
    "squeeze": [("tl.squeeze(a[None, :], 0)", lambda a: a, (N,))],
    "unsqueeze": [("tl.unsqueeze(a, 1)", lambda a: a[:, None], (N, 1))],
    "join": [("tl.join(a, a + 1)", lambda a: torch.stack([a, a + 1], -1), (N, 2))],
    "split": [("tl.split(tl.reshape(a, 32, 2))[1]", lambda a: a.view(32, 2)[:, 1], (32,))],
    "cat": [("tl.cat(a, a + 1, can_reorder=True)", lambda a: torch.cat([a, a + 1]), (2 * N,))],
    "interleave": [("tl.interleave(a, a + 1)", lambda a: torch.stack([a, a + 1], -1).view(-1), (2 * N,))],
    "full": [("tl.full((64,), 2.5, tl.float32) + a", lambda a: a + 2.5, (N,))],
    "zeros": [("tl.zeros((64,), tl.float32) + a", lambda a: a, (N,))],
    "zeros_like": [("tl.zeros_like(a)", torch.zeros_like, (N,))],
    "arange": [("tl.arange(64, 128) + 0 * a", lambda a: torch.arange(64.0, 128.0), (N,))],
    "cast": [("tl.cast(a, tl.int32, bitcast=True)", lambda a: a.view(torch.int32), (N,))],
    "swizzle2d": [("tl.swizzle2d(n // 8 * 0 + tl.arange(0, 64) // 8, tl.arange(0, 64) % 8, 8, 8, 4)[0]", lambda n: swizzle_reference(), (N,))],
    "multiple_of": [("tl.multiple_of(a, 1)", lambda a: a, (N,))],
    "max_contiguous": [("tl.max_contiguous(a, 1)", lambda a: a, (N,))],
    "max_constancy": [("tl.max_constancy(a, 1)", lambda a: a, (N,))],
    "program_id": [("a + tl.program_id(0) + tl.program_id(1)", lambda a: a, (N,))],
    "num_programs": [("a + tl.num_programs(0)", lambda a: a + 1, (N,))],
    "constexpr": [("a + tl.constexpr(3)", lambda a: a + 3, (N,))],
    "expect_zero": [("tl.expect_zero(tl.where(a < 0, a, 0.0), a < 0)", lambda a: a.clamp(max=0), (N,))],
}  # fmt: skip

for _name in ("squeeze", "unsqueeze", "expect_zero"):
    if not hasattr(tl, _name):
        del BLOCKS[_name]


def swizzle_reference():
    """Rows of a 8 x 8 grid walked in groups of 4, columns first (the definition in tl.swizzle2d's docstring)."""
    rows = []
    for i, j in itertools.product(range(8), range(8)):
        ij = i * 8 + j
        group = ij // (4 * 8)
        size = min(8 - group * 4, 4)
        rows.append(group * 4 + ij % (4 * 8) % size)
    return torch.tensor(rows)


# Names with a test of their own below.
OWN_TESTS = {
    "load", "store", "dot", "dot_scaled", "atomic_add", "atomic_max", "atomic_min", "atomic_and", "atomic_or",
    "atomic_xor", "atomic_cas", "atomic_xchg", "atomic_load", "atomic_store", "atomic_poll", "rand", "randn", "randint",
    "rand4x", "randn4x", "randint4x", "philox", "philox_impl", "pair_uniform_to_normal", "uint_to_uniform_float",
    "make_tensor_descriptor", "load_tensor_descriptor", "store_tensor_descriptor", "make_block_ptr", "advance", "assume",
    "device_print", "device_assert", "static_assert", "static_print", "static_range", "range", "condition",
    "debug_barrier", "inline_asm_elementwise", "math", "extra",
}  # fmt: skip

# Names that are not operations.
NOT_OPERATIONS = {
    "types and values of types": {
        "bfloat16", "float16", "float32", "float64", "float8e4b15", "float8e4b8", "float8e4nv", "float8e5", "float8e5b16",
        "int1", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "void", "pi32_t", "dtype",
        "block_type", "pointer_type", "tuple_type", "constexpr_type", "tensor_descriptor_type", "const",
    },
    "classes of values, used by every kernel": {"tensor", "tensor_descriptor", "tuple", "slice"},
    "modules": {"core", "standard", "random", "target_info", "semantic"},
    "constants and functions of the compiler": {"PropagateNan", "TRITON_MAX_TENSOR_NUMEL", "str_to_ty"},
    "aggregates are classes of kernel code, which the interpreter runs as Python": {"aggregate_replace"},
}  # fmt: skip


def test_every_public_name_is_classified():
    listed = set().union(*NOT_OPERATIONS.values()) | OWN_TESTS | set(BLOCKS) | set(ELEMENTWISE)
    public = {name for name in dir(tl) if not name.startswith("_")}
    assert public - listed == set(), "unclassified op: put each into a table of this file, or say why it has no test"


def test_every_public_math_name_is_classified():
    functions = {
        n for n in dir(tl.math) if not n.startswith("_") and triton.language.core.is_builtin(getattr(tl.math, n))
    }
    assert functions - set(ELEMENTWISE) == set(), "unclassified tl.math function"


HEADER = """
import triton
import triton.language as tl

@triton.jit
def times_plus(x, y):
    return x * y + x + y

@triton.jit
def first(x, y):
    return x

@triton.jit
def branching(x, y):
    if x > y:
        z = x
    else:
        z = y
    return z

@triton.jit
def pick_larger(x, i, y, j):
    larger = x > y
    return tl.where(larger, x, y), tl.where(larger, i, j)

@triton.jit
def clip_scalar(x):
    if x < 0:
        y = 0.0
    else:
        y = x
    return y
"""

ROWS = [(name, i, *row) for name, rows in ELEMENTWISE.items() for i, row in enumerate(rows)]
BLOCK_ROWS = [(name, i, *row) for name, rows in BLOCKS.items() for i, row in enumerate(rows)]


def identifier(name, i):
    return f"k_{name}_{i}"


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The module of generated kernels."""
    text = [HEADER]
    for name, i, expression, *_ in ROWS:
        text.append(f"""
@triton.jit
def {identifier(name, i)}(x, y, z, o, WIDTH: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    b = tl.load(y + i)
    c = tl.load(z + i)
    tl.store(o + i, {expression})
""")
    for name, i, expression, _, shape in BLOCK_ROWS:
        index = "0"
        for axis, size in enumerate(shape):
            stride = math.prod(shape[axis + 1 :])
            place = ", ".join(":" if d == axis else "None" for d in range(len(shape)))
            index += f" + (tl.arange(0, {size}) * {stride})[{place}]" if len(shape) > 1 else f" + tl.arange(0, {size})"
        text.append(f"""
@triton.jit
def block_{identifier(name, i)}(x, y, o):
    i = tl.arange(0, {N})
    a = tl.load(x + i)
    n = tl.load(y + i)
    tl.store(o + {index}, {expression})
""")
    path = tmp_path_factory.mktemp("kernels") / "generated.py"
    path.write_text("".join(text))
    spec = importlib.util.spec_from_file_location("generated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values(dtype, seed, divisor=False):
    """Random values of a type with its extremes and special values; divisors are never zero (or -1 in integers)."""
    generator = np.random.default_rng(seed)
    if dtype.is_floating_point:
        x = torch.from_numpy(generator.standard_normal(N) * 3)
        special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-42, 65504.0, 1.0, -1.0, 0.5]
        place = generator.permutation(N)[: len(special)]
        x[place] = torch.tensor(special, dtype=F64)
        return x.to(dtype)
    limits = np.iinfo(NUMPY[dtype])
    x = generator.integers(limits.min, limits.max, N, dtype=NUMPY[dtype], endpoint=True)
    if divisor:
        x[(x == 0) | (x == NUMPY[dtype](-1 if limits.min < 0 else 0))] = 3
    else:
        x[:3] = [0, limits.min, limits.max]
    return torch.from_numpy(x)


def close(got, wanted, dtype, exact):
    if not dtype.is_floating_point:
        assert torch.equal(torch.as_tensor(got).to(torch.int64), torch.as_tensor(wanted).to(torch.int64))
    elif exact:
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    else:
        torch.testing.assert_close(got, wanted, rtol=EPSILON[dtype], atol=torch.finfo(dtype).tiny, equal_nan=True)


APPROXIMATE = {"exp", "exp2", "log", "log2", "rsqrt", "sin", "cos", "erf", "sigmoid"}


@pytest.mark.parametrize(("name", "i"), [(row[0], row[1]) for row in ROWS])
def test_elementwise(kernels, name, i):
    expression, reference, dtypes, result = ELEMENTWISE[name][i]
    kernel = getattr(kernels, identifier(name, i))
    count = reference.__code__.co_argcount if hasattr(reference, "__code__") else None
    for dtype in dtypes:
        a, c = values(dtype, 1), values(dtype, 3)
        b = values(dtype, 2, divisor="//" in expression or "%" in expression)
        o = torch.zeros(N, dtype=result or dtype)
        with interpreting():
            kernel[(1,)](a, b, c, o, WIDTH=dtype.itemsize * 8, N=N)
        used = [v for v, letter in ((a, "a"), (b, "b"), (c, "c")) if _reads(expression, letter)]
        assert count in (None, 0, len(used)), "the reference takes what the expression reads"
        if dtype.is_floating_point:
            wanted = reference(*used)
        else:
            with np.errstate(all="ignore"):
                wanted = torch.from_numpy(np.asarray(reference(*(v.numpy() for v in used))))
        close(o, wanted.to(o.dtype), o.dtype, name not in APPROXIMATE)


def _reads(expression, letter):
    import re

    return re.search(rf"(?<![\w.]){letter}(?!\w)", expression) is not None


@pytest.mark.parametrize(("name", "i"), [(row[0], row[1]) for row in BLOCK_ROWS])
def test_block(kernels, name, i):
    expression, reference, shape = BLOCKS[name][i]
    generator = torch.Generator().manual_seed(i)
    a = torch.randn(N, generator=generator) * (0.3 if name in ("reduce", "associative_scan", "cumprod") else 1)
    n = torch.randint(-100, 100, (N,), dtype=torch.int32, generator=generator)
    arguments = [v for v, letter in ((a, "a"), (n.numpy(), "n")) if _reads(expression, letter)]
    wanted = torch.as_tensor(reference(*arguments))
    o = torch.zeros(shape or (1,), dtype=wanted.dtype if wanted.dtype.is_floating_point else torch.int32)
    with interpreting():
        getattr(kernels, f"block_{identifier(name, i)}")[(1,)](a, n, o)
    got = o if shape else o[0]
    if wanted.dtype.is_floating_point:
        torch.testing.assert_close(got, wanted.reshape(got.shape), rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(got.long(), wanted.reshape(got.shape).long())


@triton.jit
def cast_kernel(x, o, ROUNDING: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    if ROUNDING is None:
        v = v.to(o.dtype.element_ty)
    else:
        v = v.to(o.dtype.element_ty, fp_downcast_rounding=ROUNDING)
    tl.store(o + i, v)


def cast(x, dtype, rounding=None):
    o = torch.zeros(x.shape, dtype=dtype)
    with interpreting():
        cast_kernel[(1,)](x, o, ROUNDING=rounding, N=x.numel())
    return o


def wide_values():
    """float64 values of all magnitudes, with ties of every narrow format."""
    generator = np.random.default_rng(7)
    x = np.ldexp(generator.uniform(1, 2, 512), generator.integers(-30, 20, 512)) * generator.choice([-1, 1], 512)
    ties = np.ldexp(1 + (2 * np.arange(128) + 1) / 256, generator.integers(-10, 10, 128))
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 448.0, 464.0, 465.0, 480.0, 57344.0, 61440.0, 240.0, 247.9, 248.1]
        + [1e-8] * 370
    )
    return torch.from_numpy(np.concatenate([x, ties, special]))[:1024].contiguous()


@pytest.mark.parametrize("target", [*FLOATS, *FP8], ids=str)
@pytest.mark.parametrize("source", [*FLOATS, *FP8], ids=str)
def test_float_casts(source, target):
    x = sat_cast(wide_values().float(), source) if source in FP8 else wide_values().to(source)
    if source == F64 and target in (*FP8, BF16, HALF):
        x = x.float().double()
    got = cast(x, target)
    wanted = sat_cast(x.to(F64 if source == F64 else F32), target)
    if target in FP8:
        number = ~wanted.float().isnan()
        assert torch.equal(got.float().isnan(), ~number)
        assert torch.equal(got.view(torch.uint8)[number], wanted.view(torch.uint8)[number])
    else:
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_every_float8_code_survives_a_round_trip(dtype):
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype)
    wide = cast(codes, F32)
    torch.testing.assert_close(wide, codes.float(), rtol=0, atol=0, equal_nan=True)
    back = cast(wide, dtype)
    finite = wide.isfinite()
    assert torch.equal(back.view(torch.uint8)[finite], codes.view(torch.uint8)[finite])
    assert back.float()[wide == math.inf].eq(torch.finfo(dtype).max).all()


def test_downcast_toward_zero():
    x = wide_values().float()
    x = x[x.isfinite() & (x.abs() < 60000)][:512].contiguous()
    for dtype in (BF16, HALF):
        got = cast(x, dtype, "rtz").float()
        assert (got.abs() <= x.abs()).all()
        assert (x.to(dtype).float()[got != x.to(dtype).float()].abs() > got[got != x.to(dtype).float()].abs()).all()
    assert torch.equal(cast(x, BF16, "rtz").view(torch.int16).int() & 0xFFFF, (x.view(torch.int32) >> 16) & 0xFFFF)


@pytest.mark.parametrize("target", [*INTS, BOOL], ids=str)
@pytest.mark.parametrize("source", [*INTS, BOOL], ids=str)
def test_integer_casts(source, target):
    x = torch.tensor([True, False] * 32) if source == BOOL else values(source, 5)
    got = cast(x, target).numpy()
    wanted = x.numpy() != 0 if target == BOOL else x.numpy().astype(NUMPY[target])
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint32, torch.int8], ids=str)
def test_casts_between_integers_and_floats(dtype):
    x = values(dtype, 6)
    for target in (F32, F64, HALF, BF16):
        wanted = torch.from_numpy(x.numpy().astype(np.float64)).to(target)
        if dtype != torch.int64:
            torch.testing.assert_close(cast(x, target), wanted, rtol=0, atol=0)
    real = torch.tensor([0.0, 0.5, -0.5, 1.9, -1.9, 100.7, -100.2, math.nan] * 8)
    wanted = np.nan_to_num(np.trunc(real.numpy()))
    if dtype != torch.uint32:
        assert np.array_equal(cast(real, dtype).numpy(), wanted.astype(NUMPY[dtype]))
    big = torch.tensor([3e9, -3e9, 1e20, -1e20] * 16)
    if dtype == torch.int32:
        assert cast(big, dtype).tolist() == [2**31 - 1, -(2**31)] * 32


@triton.jit
def dot_kernel(
    x, y, z, o, M: tl.constexpr, K: tl.constexpr, NN: tl.constexpr, PRECISION: tl.constexpr, OUT: tl.constexpr
):
    i, j, k = tl.arange(0, M), tl.arange(0, NN), tl.arange(0, K)
    a = tl.load(x + i[:, None] * K + k[None, :])
    b = tl.load(y + k[:, None] * NN + j[None, :])
    at = i[:, None] * NN + j[None, :]
    if z is None:
        c = tl.dot(a, b, input_precision=PRECISION, out_dtype=OUT)
    else:
        c = tl.dot(a, b, tl.load(z + at), input_precision=PRECISION, out_dtype=OUT)
    tl.store(o + at, c)


def dot(x, y, z=None, precision="ieee", out=torch.float32):
    o = torch.zeros(x.shape[0], y.shape[1], dtype=out)
    kinds = {F32: tl.float32, HALF: tl.float16, F64: tl.float64, torch.int32: tl.int32}
    with interpreting():
        dot_kernel[(1,)](x, y, z, o, M=x.shape[0], K=x.shape[1], NN=y.shape[1], PRECISION=precision, OUT=kinds[out])
    return o


@pytest.mark.parametrize("dtype", [HALF, BF16, F32, *FP8], ids=str)
def test_dot_accumulates_in_float32(dtype):
    x, y = torch.randn(32, 64).to(dtype), torch.randn(64, 16).to(dtype)
    z = torch.randn(32, 16)
    wanted = x.double() @ y.double() if dtype not in FP8 else x.float().double() @ y.float().double()
    torch.testing.assert_close(dot(x, y).double(), wanted, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(dot(x, y, z).double(), wanted + z, rtol=1e-5, atol=1e-4)


def test_dot_of_other_types():
    x, y = torch.randint(-128, 128, (16, 64), dtype=torch.int8), torch.randint(-128, 128, (64, 16), dtype=torch.int8)
    assert torch.equal(dot(x, y, out=torch.int32), (x.long() @ y.long()).int())
    x, y = torch.randn(16, 32).half(), torch.randn(32, 16).half()
    torch.testing.assert_close(dot(x, y, out=HALF), (x.double() @ y.double()).half(), rtol=2e-3, atol=2e-3)
    x, y = torch.randn(16, 32).double(), torch.randn(32, 16).double()
    torch.testing.assert_close(dot(x, y, out=F64), x @ y)


@pytest.mark.parametrize(
    ("precision", "low", "high"),
    [("ieee", 0, 1e-6), ("tf32x3", 0, 3e-6), ("bf16x6", 0, 3e-6), ("bf16x3", 1e-6, 3e-5), ("tf32", 2e-4, 3e-3)],
)
def test_input_precision_errs_as_much_as_it_should(precision, low, high):
    x, y = torch.randn(64, 256), torch.randn(256, 64)
    wanted = x.double() @ y.double()
    error = ((dot(x, y, precision=precision) - wanted).norm() / wanted.norm()).item()
    assert low <= error <= high


@triton.jit
def dot3d_kernel(x, o):
    i = tl.arange(0, 16)
    at = tl.arange(0, 2)[:, None, None] * 256 + i[None, :, None] * 16 + i[None, None, :]
    a = tl.load(x + at)
    tl.store(o + at, tl.dot(a, a, input_precision="ieee"))


def test_batched_dot():
    x, o = torch.randn(2, 16, 16), torch.zeros(2, 16, 16)
    with interpreting():
        dot3d_kernel[(1,)](x, o)
    torch.testing.assert_close(o, x @ x, rtol=1e-5, atol=1e-5)


@triton.jit
def dot_scaled_kernel(x, sx, y, sy, o, XF: tl.constexpr, YF: tl.constexpr, KX: tl.constexpr, KY: tl.constexpr):
    i, g = tl.arange(0, 32), tl.arange(0, 2)
    a = tl.load(x + i[:, None] * KX + tl.arange(0, KX)[None, :])
    b = tl.load(y + tl.arange(0, KY)[:, None] * 32 + i[None, :])
    s = tl.load(sx + i[:, None] * 2 + g[None, :])
    t = tl.load(sy + i[:, None] * 2 + g[None, :])
    tl.store(o + i[:, None] * 32 + i[None, :], tl.dot_scaled(a, s, XF, b, t, YF))


def test_dot_scaled():
    e2m1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    x = torch.randn(32, 64).to(torch.float8_e4m3fn)
    codes = torch.randint(0, 16, (64, 32))
    packed = (codes[0::2] | (codes[1::2] << 4)).to(torch.uint8).contiguous()
    sx, sy = (torch.randint(120, 134, (32, 2), dtype=torch.uint8) for _ in range(2))
    o = torch.zeros(32, 32)
    with interpreting():
        dot_scaled_kernel[(1,)](x, sx, packed, sy, o, XF="e4m3", YF="e2m1", KX=64, KY=32)
    scale = lambda s: torch.exp2(s.double() - 127).repeat_interleave(32, 1)  # noqa: E731
    wanted = (x.double() * scale(sx)) @ (e2m1[codes].double() * scale(sy).t())
    torch.testing.assert_close(o.double(), wanted, rtol=1e-5, atol=1e-2)


@triton.jit
def atomic_kernel(p, x, at, o, OP: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    v, q = tl.load(x + i), p + tl.load(at + i)
    if OP == "add":
        r = tl.atomic_add(q, v, mask=i < N - 2)
    elif OP == "max":
        r = tl.atomic_max(q, v, mask=i < N - 2)
    elif OP == "min":
        r = tl.atomic_min(q, v, mask=i < N - 2)
    elif OP == "and":
        r = tl.atomic_and(q, v, mask=i < N - 2)
    elif OP == "or":
        r = tl.atomic_or(q, v, mask=i < N - 2)
    elif OP == "xor":
        r = tl.atomic_xor(q, v, mask=i < N - 2)
    else:
        r = tl.atomic_xchg(q, v, mask=i < N - 2)
    tl.store(o + i, r, mask=i < N - 2)


@pytest.mark.parametrize("op", ["add", "max", "min", "and", "or", "xor", "xchg"])
def test_atomics(op):
    change = {
        "add": lambda a, b: a + b, "max": np.maximum, "min": np.minimum, "and": lambda a, b: a & b,
        "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "xchg": lambda a, b: b,
    }[op]  # fmt: skip
    floats = {"add": (HALF, BF16, F32, F64), "max": (F32, F64), "min": (F32, F64), "xchg": (F32,)}.get(op, ())
    for dtype in (torch.int32, torch.uint32, torch.int64, torch.uint64, *floats):
        p = torch.randn(8).to(dtype) if dtype.is_floating_point else values(dtype, 11)[:8].clone()
        x = torch.randn(N).to(dtype) if dtype.is_floating_point else values(dtype, 12)
        at = torch.randint(0, 8, (N,), dtype=torch.int32)
        wanted, old = p.clone(), torch.zeros_like(x)
        for lane in range(N - 2):
            place = int(at[lane])
            old[lane] = wanted[place]
            if dtype.is_floating_point:
                wanted[place] = {"add": torch.add, "max": torch.maximum, "min": torch.minimum}.get(op, lambda a, b: b)(
                    wanted[place], x[lane]
                )
            else:
                with np.errstate(all="ignore"):
                    wanted.numpy()[place] = change(wanted.numpy()[place : place + 1], x.numpy()[lane : lane + 1])[0]
        o = torch.zeros_like(x)
        with interpreting():
            atomic_kernel[(1,)](p, x, at, o, OP=op, N=N)
        assert torch.equal(p, wanted)
        # Float extrema are two integer atomics, one for each sign: which came first is not lane order.
        if not (dtype.is_floating_point and op in ("max", "min")):
            assert torch.equal(o, old)


@triton.jit
def lock_kernel(lock, count):
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(count, tl.load(count) + 1)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


def test_a_lock_by_compare_and_swap():
    lock, count = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with interpreting():
        lock_kernel[(10,)](lock, count)
    assert (lock.item(), count.item()) == (0, 10)


if hasattr(tl, "atomic_load"):

    @triton.jit
    def atomic_access(x, o):
        tl.atomic_store(o, tl.atomic_load(x) + 1)
        ready = tl.atomic_poll(x, 5)
        tl.store(o + 1, ready.to(tl.int32))

    def test_atomic_load_store_and_poll():
        x, o = torch.tensor([5], dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
        with interpreting():
            atomic_access[(1,)](x, o)
        assert o.tolist() == [6, 1]


@triton.jit
def random_kernel(o, p, q, seed, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(o + i, tl.randint(seed, i))
    tl.store(p + i, tl.rand(seed, i))
    tl.store(q + i, tl.randn(seed, i))


@triton.jit
def random4_kernel(o, p, q, seed, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b, c, d = tl.randint4x(seed, i)
    tl.store(o + i, a ^ b ^ c ^ d)
    a, b, c, d = tl.rand4x(seed, i)
    tl.store(p + i, a + b + c + d)
    a, b, c, d = tl.randn4x(seed, i)
    tl.store(q + i, a + b + c + d)


def philox(seed, offsets, rounds=10):
    """Philox 4x32 (Salmon et al., 2011) of 32-bit counters (i, 0, 0, 0)."""
    mask = np.uint64(0xFFFFFFFF)
    c = [offsets.astype(np.uint64)] + [np.zeros(len(offsets), np.uint64) for _ in range(3)]
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    a, b = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
    for _ in range(rounds):
        high_b, low_b, high_a, low_a = (
            (b * c[2]) >> np.uint64(32),
            (b * c[2]) & mask,
            (a * c[0]) >> np.uint64(32),
            (a * c[0]) & mask,
        )
        c = [high_b ^ c[1] ^ k0, low_b, high_a ^ c[3] ^ k1, low_a]
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & mask, (k1 + np.uint64(0xBB67AE85)) & mask
    return c


def uniform(x):
    signed = x.astype(np.uint32).view(np.int32)
    return np.where(signed < 0, -signed - 1, signed).astype(np.float32) * np.float32(4.6566127342e-10)


def normal(u, v):
    u = np.maximum(1e-7, u.astype(np.float64))
    r = np.sqrt(-2 * np.log(u))
    return r * np.cos(2 * math.pi * v), r * np.sin(2 * math.pi * v)


@pytest.mark.parametrize("seed", [0, 1234, 2**40 + 5])
def test_random_numbers_are_philox(seed):
    o, p, q = torch.zeros(N, dtype=torch.int64), torch.zeros(N), torch.zeros(N)
    c = philox(seed, np.arange(N))
    with interpreting():
        random_kernel[(1,)](o, p, q, seed, N=N)
    assert np.array_equal(o.numpy().astype(np.uint32), c[0].astype(np.uint32))
    np.testing.assert_allclose(p.numpy(), uniform(c[0]), rtol=1e-6)
    np.testing.assert_allclose(q.numpy(), normal(uniform(c[0]), uniform(c[1]))[0], rtol=1e-4, atol=1e-5)
    with interpreting():
        random4_kernel[(1,)](o, p, q, seed, N=N)
    assert np.array_equal(o.numpy().astype(np.uint32), (c[0] ^ c[1] ^ c[2] ^ c[3]).astype(np.uint32))
    np.testing.assert_allclose(p.numpy(), sum(uniform(x) for x in c), rtol=1e-5)
    four = sum(sum(normal(uniform(c[k]), uniform(c[k + 1]))) for k in (0, 2))
    np.testing.assert_allclose(q.numpy(), four, rtol=1e-3, atol=1e-4)


GLOBAL = tl.constexpr(3)


@triton.jit
def helper(x, times: tl.constexpr = 2):
    for _ in tl.static_range(times):
        x = x * 2
    return x


@triton.jit
def flow_kernel(x, o, n, scale, FLAG: tl.constexpr, FUNCTION: tl.constexpr):
    tl.static_assert(FLAG >= 0)
    tl.static_print("flag", FLAG)
    tl.device_assert(n > 0, "n")
    total = 0
    for i in range(0, n, 2):
        total += i.to(tl.int32)
    for i in tl.range(n, num_stages=2):
        if i == 3 and FLAG == 1:
            total += 100
        elif i > 100 or not (n > 0):
            total = 0
    j = n
    while tl.condition(j > 0):
        j -= 1
    v = tl.load(x)
    a, b = v * scale, v + GLOBAL
    if FUNCTION is not None:
        b = FUNCTION(b)
    tl.store(o, a)
    tl.store(o + 1, b if n > 2 else a)
    tl.store(o + 2, total)
    tl.store(o + 3, j)
    if 0 < n < 100:
        tl.device_print("v", v)
    tl.store(o + 4, float("inf") if FLAG else -float("inf"))


def test_control_flow():
    o = torch.zeros(5)
    with interpreting() as recorder:
        flow_kernel[(1,)](torch.tensor([2.0]), o, 6, 0.5, FLAG=1, FUNCTION=helper)
    assert o.tolist() == [1.0, 20.0, 106.0, 0.0, math.inf]
    assert recorder.printed == ["(0, 0, 0) v: [2.]"]


@triton.jit
def scalar_kernel(x, o, scale):
    tl.store(o, tl.load(x) * scale)


def test_a_float_argument_is_float32():
    """A half times a float32 argument is float32, unlike a half times a Python scalar."""
    x, o = torch.tensor([1.0], dtype=HALF), torch.zeros(1)
    with interpreting():
        scalar_kernel[(1,)](x, o, 1 + 2**-20)
    assert o.item() == 1 + 2**-20


@triton.jit
def narrow_kernel(x, o, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    tl.store(o + i, v * v + v)
    tl.store(o + N, tl.sum(v, 0))
    tl.store(o + N + 1, tl.max(v, 0))


@pytest.mark.parametrize("dtype", [BF16, HALF], ids=str)
def test_each_operation_on_a_narrow_type_rounds(dtype):
    x = torch.randn(N).to(dtype)
    o = torch.zeros(N + 2, dtype=dtype)
    with interpreting():
        narrow_kernel[(1,)](x, o, N=N)
    assert torch.equal(o[:N], x * x + x)
    torch.testing.assert_close(o[N].float(), x.float().sum(), rtol=0.05, atol=0.05)
    assert o[N + 1] == x.max()


@triton.jit
def descriptor_functions(x, o):
    d = tl.make_tensor_descriptor(x, shape=[8, 32], strides=[32, 1], block_shape=[8, 16])
    e = tl.make_tensor_descriptor(o, shape=[8, 32], strides=[32, 1], block_shape=[8, 16])
    tl.store_tensor_descriptor(e, [0, 16], tl.load_tensor_descriptor(d, [0, 0]))
    e.atomic_add([0, 16], d.load([0, 16]))


def test_descriptor_functions():
    x, o = torch.randn(8, 32), torch.zeros(8, 32)
    with interpreting():
        descriptor_functions[(1,)](x, o)
    assert torch.equal(o[:, 16:], x[:, :16] + x[:, 16:])
    assert not o[:, :16].any()
