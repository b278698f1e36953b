# ruff: noqa: E501, N803, SIM108 -- a table row is a line; kernels name their constants in capitals, and branch as kernels do
"""The interpreter's conversions, products, atomics, random numbers and control flow, by type, against torch and numpy."""

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kernelevolve.worker.interpret import interpreting

N = 64

HALF, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
BOOL = torch.bool
FLOATS = (HALF, BF16, F32, F64)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
NUMPY = {
    torch.int8: np.int8, torch.int16: np.int16, torch.int32: np.int32, torch.int64: np.int64, torch.uint8: np.uint8,
    torch.uint16: np.uint16, torch.uint32: np.uint32, torch.uint64: np.uint64, torch.bool: np.bool_,
}  # fmt: skip
INTS = tuple(NUMPY)[:-1]


def sat_cast(x, dtype):
    """torch's cast, with values beyond the range of OCP float8 saturating as ``cvt.satfinite`` does."""
    if dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        limit = torch.finfo(dtype).max
        x = torch.where(x.isnan(), x, x.clamp(-limit, limit))
    return x.to(dtype)


def values(dtype, seed):
    """Random integers of a type with its extremes."""
    limits = np.iinfo(NUMPY[dtype])
    x = np.random.default_rng(seed).integers(limits.min, limits.max, N, dtype=NUMPY[dtype], endpoint=True)
    x[:3] = [0, limits.min, limits.max]
    return torch.from_numpy(x)


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


@pytest.mark.parametrize("target", [HALF, BF16, *FP8], ids=str)
def test_random_bit_patterns_round_as_torch_rounds(target):
    bits = np.random.default_rng(17).integers(0, 2**32, 2**16, dtype=np.uint32)
    near = np.random.default_rng(18).integers(0x3000_0000, 0x4800_0000, 2**15, dtype=np.uint32)
    x = torch.from_numpy(np.concatenate([bits[: 2**15], near]).view(np.float32))
    got, wanted = cast(x, target), sat_cast(x, target)
    assert torch.equal(got.float().isnan(), wanted.float().isnan())
    number = ~wanted.float().isnan()
    assert torch.equal(
        got.view(torch.uint8 if target in FP8 else torch.int16)[number],
        wanted.view(torch.uint8 if target in FP8 else torch.int16)[number],
    )


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


def test_nothing_is_kept_on_the_types_that_the_compiler_shares():
    """Triton copies a global type when a function that names it compiles; what we keep there may not be copyable."""
    x, o = torch.randn(N), torch.zeros(N + 2)
    with interpreting():
        narrow_kernel[(1,)](x, o, N=N)
    shared = [t for t in vars(tl.core).values() if type(t) is tl.dtype]
    assert len(shared) > 10
    assert [vars(t) for t in shared] == [vars(tl.dtype(t.name)) for t in shared]
