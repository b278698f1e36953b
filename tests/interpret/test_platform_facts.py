"""What briefs say of `tl.dot` on each platform, as the compiler does it: every statement is compiled for its target."""

from __future__ import annotations

import re

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.compiler.errors import CompilationError

from kernelevolve import plugins
from kernelevolve.platforms import Platform

NVIDIA, AMD = ("a100", "h100", "b200"), ("mi300x", "mi350x")
PRECISIONS = ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")
#: What multiplies in machine code, as patterns.
TF32, PLAIN = r"mma\S*tf32|_xf32\b", r"fma\.rn\.f32|v_mfma_f32_\d+x\d+x\d+_f32"


@triton.jit
def product(a, b, c, rows: tl.constexpr, columns: tl.constexpr, inner: tl.constexpr, precision: tl.constexpr):
    m, n, k = tl.arange(0, rows), tl.arange(0, columns), tl.arange(0, inner)
    x, y = tl.load(a + m[:, None] * inner + k[None, :]), tl.load(b + k[:, None] * columns + n[None, :])
    z = tl.dot(x, y) if precision == "" else tl.dot(x, y, input_precision=precision)
    tl.store(c + m[:, None] * columns + n[None, :], z)


def platform_of(name: str) -> Platform:
    return plugins.load("platforms", name)


def compiled(name: str, dtype: str, sides: tuple[int, int, int], precision: str = "", **options: int) -> str:
    """Machine code of a product of one tile."""
    target = platform_of(name).target
    kinds = {"a": f"*{dtype}", "b": f"*{dtype}", "c": "*i32" if dtype == "i8" else "*fp32"}
    constants = dict(zip(("rows", "columns", "inner"), sides, strict=True)) | {"precision": precision}
    source = ASTSource(product, kinds, constexprs=constants)
    target = GPUTarget(target.backend, target.arch, target.warp_size)
    asm = triton.compile(source, target=target, options=options).asm
    return asm["ptx"] if "ptx" in asm else asm["amdgcn"]


@pytest.mark.parametrize("name", [*NVIDIA, *AMD])
def test_what_a_product_of_fp32_is_by_default(name: str) -> None:
    rules, code = platform_of(name).rules, compiled(name, "fp32", (32, 32, 16))
    if name in NVIDIA:
        assert "fp32 is **one tf32 product** (11 bits) unless `input_precision` is given" in " ".join(rules.split())
    else:
        assert "**one tf32 product** on gfx942" in rules and "plain fp32\n  on gfx950" in rules
    tf32 = name != "mi350x"
    assert bool(re.search(TF32, code)) == tf32
    assert bool(re.search(PLAIN, code)) != tf32


@pytest.mark.parametrize("name", ["h100", *AMD])
def test_exactly_the_named_precisions_build(name: str) -> None:
    builds = platform_of(name).input_precisions
    for precision in PRECISIONS:
        if precision not in builds:
            with pytest.raises(CompilationError, match="input_precision must be one of"):
                compiled(name, "fp32", (16, 16, 16), precision)
            continue
        code = compiled(name, "fp32", (16, 16, 16), precision)
        assert bool(re.search(TF32, code)) == ("tf32" in precision)
        assert not (precision == "ieee" and re.search(r"bf16", code))


def test_least_sides_on_nvidia() -> None:
    rules = " ".join(platform_of("h100").rules.split())
    assert "needs K of at least 16, for fp8 and int8 of at least 32. M and N may be smaller than 16" in rules
    for dtype, least in (("fp16", 16), ("bf16", 16), ("fp8e4nv", 32), ("i8", 32)):
        assert "mma" in compiled("h100", dtype, (1, 1, least))
        with pytest.raises(CompilationError, match=f"K >= {least}"):
            compiled("h100", dtype, (16, 16, least // 2))
    # From 3.9 on fp32 may have K of 8.
    assert "mma" in compiled("h100", "fp32", (1, 1, 16))
    with pytest.raises(CompilationError, match=r"K >= (8|16)"):
        compiled("h100", "fp32", (16, 16, 4))


@pytest.mark.parametrize("name", AMD)
def test_small_sides_on_amd_are_slow(name: str) -> None:
    assert "Keep every side of a `tl.dot` at 16 or more" in platform_of(name).rules
    assert re.search(r"v_mfma_f32_16x16x(16|32)", compiled(name, "fp16", (16, 16, 32)))
    assert not re.search(r"v_mfma_f32_(16x16|32x32)", compiled(name, "fp16", (4, 4, 16)))


def test_options_of_one_vendor_are_refused_by_the_other() -> None:
    assert "`waves_per_eu` and `matrix_instr_nonkdim` do not exist" in platform_of("h100").rules
    assert "`maxnreg`\n  and `num_ctas` above 1 do not exist here" in platform_of("mi300x").rules
    known = {name: _options(name) for name in ("h100", "mi300x")}
    assert {"maxnreg", "num_ctas"} <= known["h100"] and not {"waves_per_eu", "matrix_instr_nonkdim"} & known["h100"]
    assert {"waves_per_eu", "matrix_instr_nonkdim", "kpack"} <= known["mi300x"] and "maxnreg" not in known["mi300x"]
    with pytest.raises(ValueError, match="num_ctas"):
        compiled("mi300x", "fp16", (16, 16, 16), num_ctas=2)


def _options(name: str) -> set[str]:
    """Launch options that the backend of a platform knows; a launch with another one fails."""
    target = platform_of(name).target
    backend = make_backend(GPUTarget(target.backend, target.arch, target.warp_size))
    return set(vars(backend.parse_options({})))
