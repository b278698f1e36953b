# ruff: noqa: E501 -- a table row is a line
# ruff: noqa: N803 -- a table row is a line; kernels name their constants in capitals, and branch as kernels do
"""Device library functions: every symbol is known or refused by name, and values agree with torch and numpy."""

import ast
import inspect
import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice as generic
from triton.language.extra.cuda import libdevice as nvidia
from triton.language.extra.hip import libdevice as amd

from kernelevolve.worker.interpret import CannotBeSeen, interpreting, libdevice

N = 64

# Bessel functions of integer order and a bit trick of old drivers: no reference at hand, refused by name.
REFUSED = {"__nv_jn", "__nv_jnf", "__nv_yn", "__nv_ynf", "__nv_rcp64h"}


def symbols(module):
    tree = ast.parse(inspect.getsource(module))
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return {t for t in texts if t.startswith(("__nv_", "__ocml_", "__triton_hip_"))}


def test_every_symbol_is_known_or_listed():
    found = symbols(nvidia) | symbols(amd)
    assert len(found) > 300
    assert {s for s in found if not libdevice.known(s)} == REFUSED


def test_every_generic_function_finds_a_library():
    names = {n for n, f in vars(generic).items() if inspect.isfunction(f)}
    assert {n for n in names if not hasattr(nvidia, n) and not hasattr(amd, n)} == set()


UNARY = {
    "acos": torch.acos, "acosh": torch.acosh, "asin": torch.asin, "asinh": torch.asinh, "atan": torch.atan,
    "atanh": torch.atanh, "cbrt": lambda x: x.sign() * x.abs() ** (1 / 3), "ceil": torch.ceil, "cos": torch.cos,
    "cosh": torch.cosh, "cospi": lambda x: torch.cos(math.pi * x), "cyl_bessel_i0": torch.special.i0,
    "cyl_bessel_i1": torch.special.i1, "erf": torch.erf, "erfc": torch.erfc, "erfcx": torch.special.erfcx,
    "erfinv": torch.erfinv, "erfcinv": lambda x: torch.erfinv(1 - x), "exp": torch.exp, "exp10": lambda x: 10**x,
    "exp2": torch.exp2, "expm1": torch.expm1, "abs": torch.abs, "floor": torch.floor,
    "j0": torch.special.bessel_j0, "j1": torch.special.bessel_j1, "lgamma": torch.lgamma, "log": torch.log,
    "log10": torch.log10, "log1p": torch.log1p, "log2": torch.log2, "nearbyint": torch.round, "normcdf": torch.special.ndtr,
    "normcdfinv": torch.special.ndtri, "rcbrt": lambda x: 1 / (x.sign() * x.abs() ** (1 / 3)), "rint": torch.round,
    "round": lambda x: x.sign() * (x.abs() + 0.5).floor(), "rsqrt": torch.rsqrt, "sin": torch.sin, "sinh": torch.sinh,
    "sinpi": lambda x: torch.sin(math.pi * x), "sqrt": torch.sqrt, "tan": torch.tan, "tanh": torch.tanh,
    "tgamma": lambda x: torch.tensor([math.gamma(v) if v != math.floor(v) else math.nan for v in x.tolist()], dtype=x.dtype),
    "trunc": torch.trunc, "y0": torch.special.bessel_y0, "y1": torch.special.bessel_y1,
    "isnan": torch.isnan, "isinf": torch.isinf, "signbit": torch.signbit, "logb": lambda x: x.abs().log2().floor(),
    "ilogb": lambda x: x.abs().log2().floor(), "saturatef": lambda x: x.clamp(0, 1), "rcp_rn": lambda x: 1 / x,
    "fast_expf": torch.exp, "fast_logf": torch.log, "fast_sinf": torch.sin, "fast_cosf": torch.cos, "fast_tanf": torch.tan,
    "fast_log2f": torch.log2, "fast_log10f": torch.log10, "fast_exp10f": lambda x: 10**x, "llrint": torch.round,
    "finitef": torch.isfinite, "float2int_rz": torch.trunc, "float2int_rn": torch.round, "float2int_ru": torch.ceil,
    "float2int_rd": torch.floor, "float_as_int": lambda x: x.float().view(torch.int32),
}  # fmt: skip
BINARY = {
    "atan2": torch.atan2, "copysign": torch.copysign, "fdim": lambda x, y: (x - y).clamp(min=0), "fmod": torch.fmod,
    "hypot": torch.hypot, "pow": torch.pow, "remainder": lambda x, y: x - y * (x / y).round(), "nextafter": torch.nextafter,
    "rhypot": lambda x, y: 1 / torch.hypot(x, y), "add_rn": torch.add, "mul_rn": torch.mul, "div_rn": torch.div,
    "sub_rn": torch.sub, "fast_dividef": torch.div, "fast_powf": torch.pow,
}  # fmt: skip
INTEGER = {
    "popc": lambda x: int(x).bit_count() if x >= 0 else (int(x) & 0xFFFFFFFF).bit_count(),
    "clz": lambda x: 32 - (int(x) & 0xFFFFFFFF).bit_length(),
    "ffs": lambda x: (int(x) & -int(x)).bit_length() if x else 0,
    "brev": lambda x: int(f"{int(x) & 0xFFFFFFFF:032b}"[::-1], 2),
    "abs": abs,
}
POSITIVE = {"acosh": (1, 5), "lgamma": (0.5, 5), "log": (0.1, 5), "log10": (0.1, 5), "log2": (0.1, 5), "log1p": (0, 5),
            "sqrt": (0, 5), "rsqrt": (0.1, 5), "rcbrt": (0.1, 5), "acos": (-1, 1), "asin": (-1, 1), "atanh": (-0.9, 0.9),
            "erfinv": (-0.9, 0.9), "erfcinv": (0.1, 1.9), "normcdfinv": (0.1, 0.9), "y0": (0.5, 5), "y1": (0.5, 5),
            "tgamma": (0.5, 5), "fast_logf": (0.1, 5), "fast_log2f": (0.1, 5), "fast_log10f": (0.1, 5),
            "pow": (0.1, 5), "fast_powf": (0.1, 5), "fmod": (0.1, 5)}  # fmt: skip


def kernel_text(name, module, arguments):
    loads = "".join(f"    v{k} = tl.load(x{k} + i)\n" for k in range(arguments))
    pointers = ", ".join(f"x{k}" for k in range(arguments))
    values = ", ".join(f"v{k}" for k in range(arguments))
    return f"""
@triton.jit
def k_{module}_{name}({pointers}, o, N: tl.constexpr):
    i = tl.arange(0, N)
{loads}    tl.store(o + i, {module}.{name}({values}))
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    import importlib.util

    text = [
        "import triton\nimport triton.language as tl\nfrom triton.language.extra import libdevice\n"
        "from triton.language.extra.hip import libdevice as hip\n"
    ]
    for table, arguments in ((UNARY, 1), (BINARY, 2), (INTEGER, 1)):
        for name in table:
            if table is INTEGER and name in UNARY:
                continue
            text.append(kernel_text(name, "libdevice", arguments))
            if hasattr(amd, name):
                text.append(kernel_text(name, "hip", arguments))
    path = tmp_path_factory.mktemp("libdevice") / "generated.py"
    path.write_text("".join(text))
    spec = importlib.util.spec_from_file_location("generated_libdevice", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs(name, dtype, seed):
    low, high = POSITIVE.get(name, (-4, 4))
    x = torch.from_numpy(np.random.default_rng(seed).uniform(low, high, N)).to(dtype)
    if name in ("isnan", "isinf", "finitef"):
        x[:3] = torch.tensor([math.nan, math.inf, -math.inf])
    if name in ("rint", "nearbyint", "llrint", "float2int_rn"):
        x[:4] = torch.tensor([0.5, 1.5, -0.5, 2.5])
    return x


@pytest.mark.parametrize("library", ["libdevice", "hip"])
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_float_functions(kernels, name, library):
    kernel = getattr(kernels, f"k_{library}_{name}", None)
    if kernel is None:
        pytest.skip("the library has no such function")
    reference = UNARY.get(name) or BINARY[name]
    single = name.startswith(("fast", "float")) or name in ("saturatef", "finitef")
    for dtype in (torch.float32,) if single else (torch.float32, torch.float64):
        x = [inputs(name, dtype, k) for k in range(2 if name in BINARY else 1)]
        wanted = reference(*x) if name == "nextafter" else reference(*(v.double() for v in x))
        if wanted.dtype.is_floating_point and not name.startswith(("float2", "llrint", "ilogb")):
            o = torch.zeros(N, dtype=dtype)
            wanted = wanted.to(dtype)
        else:
            o = torch.zeros(N, dtype=torch.int32)
        with interpreting():
            kernel[(1,)](*x, o, N=N)
        if o.dtype.is_floating_point:
            tolerance = 1e-6 if dtype == torch.float32 else 1e-12
            torch.testing.assert_close(o, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            assert torch.equal(o.long(), wanted.long())


@pytest.mark.parametrize("name", [n for n in INTEGER if n not in UNARY])
def test_integer_functions(kernels, name):
    x = torch.from_numpy(np.random.default_rng(3).integers(-(2**31), 2**31, N)).int()
    x[:3] = torch.tensor([0, 1, -1])
    o = torch.zeros_like(x)
    with interpreting():
        getattr(kernels, f"k_libdevice_{name}")[(1,)](x, o, N=N)
    assert o.tolist() == [((INTEGER[name](v) + 2**31) % 2**32) - 2**31 for v in x.tolist()]


@triton.jit
def directed_kernel(x, y, o, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(o + i, generic.add_ru(a, b))
    tl.store(o + N + i, generic.add_rd(a, b))
    tl.store(o + 2 * N + i, generic.mul_rz(a, b))
    tl.store(o + 3 * N + i, generic.fma(a, b, a))


def test_directed_rounding():
    x, y = torch.randn(N), torch.randn(N)
    o = torch.zeros(4, N)
    with interpreting():
        directed_kernel[(1,)](x, y, o, N=N)
    exact = x.double() + y.double()
    assert (o[0].double() >= exact).all()
    assert (o[1].double() <= exact).all()
    assert ((o[0] == o[1]) | (torch.nextafter(o[1], torch.tensor(math.inf)) == o[0])).all()
    product = x.double() * y.double()
    assert (o[2].double().abs() <= product.abs()).all()
    assert torch.equal(o[3], (product + x.double()).float())


@triton.jit
def refused_kernel(x, o):
    tl.store(o, generic.jn(2, tl.load(x)))


def test_an_unknown_function_is_refused_by_name():
    x = torch.ones(1)
    with interpreting(), pytest.raises(CannotBeSeen, match="__nv_jnf"):
        refused_kernel[(1,)](x, x)
