# ruff: noqa: E501 -- a table row is a line; kernels name their constants in capitals, and branch as kernels do
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


def correct_sqrt(x):
    """The correctly rounded root: torch's own is one ulp off for some float64 values on processors with AVX-512."""
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.sqrt(x.numpy()))


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
    "sqrt": [("tl.sqrt(a)", f64(correct_sqrt), (F32, F64), None)],
    "sqrt_rn": [("tl.sqrt_rn(a)", f64(correct_sqrt), (F32,), None)],
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
