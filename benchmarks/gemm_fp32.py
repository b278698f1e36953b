"""Compares precision schemes for fp32-in, fp32-out matrix products: speed against cuBLAS fp32, error against fp64.

Comes in: `--sizes` and `--variants` (names below). Goes out: a table on stdout and, with `--out`, a JSON file with raw
times, errors and versions. `--emulate` needs no GPU: it reproduces the schemes in numpy, tensor-core accumulation
included, and prints their errors. It leaves to others: choosing a scheme for a problem and proving a kernel correct.

Schemes. `dot-*` leaves the split to `tl.dot` inside the loop. The others split each operand once into narrow planes in
a workspace and multiply planes: `fp16x3` (two fp16 planes, three products, exact power-of-two scale per row of A and
per column of B), `gluon-*` (the same by the kernel of `gemm_fp32_gluon.py`), `fp16x3w` (the low plane is kept 2^11
higher: elements of a row may span ten decades instead of six), `bf16x3`, `bf16x6` (three bf16 planes, six products).
Tensor cores round their fp32 accumulator toward zero at every k step, a bias that grows with K; so the partial sum of
each K tile starts at zero and is added with an ordinary fp32 addition ("promoted"), unless the variant's name ends in
`-raw`. Split after Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing the
FP32 theoretical peak performance" (2022).
"""
# ruff: noqa: N803  (kernel parameters carry the names of the matrices' dimensions)

import argparse
import dataclasses
import datetime
import json
import multiprocessing
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import triton
import triton.language as tl
from gemm_fp32_gluon import descriptor, planes_gemm_hopper
from triton.tools.tensor_descriptor import TensorDescriptor

NONFINITE = tl.constexpr(4096)  # added to a row's exponent when the row holds an infinity or a NaN
LOW_SHIFT = tl.constexpr(11)  # bits of significand of fp16: the low plane of fp16x3w is kept 2^11 higher
TOP_EXPONENT = tl.constexpr(14)  # a row's largest element is scaled into [2^14, 2^15), below fp16's 65504


# ---------------------------------------------------------------------------------------------------- device code


@triton.jit
def _power_of_two(exponent):
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def split_fp16(x_ptr, planes_ptr, exponent_ptr, lines, depth, line_stride, depth_stride, plane_stride,
               BLOCK_L: tl.constexpr, BLOCK_K: tl.constexpr, LOW_SCALED: tl.constexpr):  # fmt: skip
    """x (batch, lines, depth), any order of the last two -> two fp16 planes in x's order, one exponent per line."""
    line = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    batch = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK_K)
    base = batch * lines * depth
    offset = line[:, None] * line_stride + column[None, :] * depth_stride
    largest = tl.zeros([BLOCK_L, BLOCK_K], tl.float32)
    seen_nonfinite = tl.zeros([BLOCK_L, BLOCK_K], tl.int32)
    for k in tl.range(0, depth, BLOCK_K):
        mask = (line[:, None] < lines) & (column[None, :] + k < depth)
        x = tl.abs(tl.load(x_ptr + base + offset + k * depth_stride, mask=mask, other=0.0))
        finite = x < float("inf")
        largest = tl.maximum(largest, tl.where(finite, x, 0.0))
        seen_nonfinite = seen_nonfinite | tl.where(finite, 0, 1)
    top = (tl.max(largest, 1).to(tl.int32, bitcast=True) >> 23) - 127
    shift = tl.minimum(TOP_EXPONENT - top, 126)
    scale = _power_of_two(shift)[:, None]
    for k in tl.range(0, depth, BLOCK_K):
        mask = (line[:, None] < lines) & (column[None, :] + k < depth)
        x = tl.load(x_ptr + base + offset + k * depth_stride, mask=mask, other=0.0) * scale
        high = x.to(tl.float16)
        # A nonzero element keeps a nonzero high plane: infinity times it must stay an infinity of the right sign.
        tiny = tl.where(x > 0, 5.9604644775390625e-08, -5.9604644775390625e-08).to(tl.float16)
        high = tl.where((high == 0.0) & (x != 0.0), tiny, high)
        rest = x - high.to(tl.float32)
        if LOW_SCALED:
            rest = rest * 2048.0
        low = tl.where(tl.abs(x) < float("inf"), rest, 0.0).to(tl.float16)
        out = planes_ptr + base + offset + k * depth_stride
        tl.store(out, high, mask=mask)
        tl.store(out + plane_stride, low, mask=mask)
    flag = tl.where(tl.max(seen_nonfinite, 1) > 0, NONFINITE, 0)
    tl.store(exponent_ptr + batch * lines + line, shift + flag, mask=line < lines)


@triton.jit
def split_bf16(x_ptr, planes_ptr, count, plane_stride, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    """x (count,) fp32 -> two or three bf16 planes whose sum is x up to 2^-17 or 2^-25 of it (finite x only)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    x = tl.load(x_ptr + at, mask=mask, other=0.0)
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    tl.store(planes_ptr + at, high, mask=mask)
    tl.store(planes_ptr + plane_stride + at, middle, mask=mask)
    if PLANES == 3:
        tl.store(planes_ptr + 2 * plane_stride + at, (rest - middle.to(tl.float32)).to(tl.bfloat16), mask=mask)


@triton.jit
def _load_a(a, row, m, k, M, K, BM: tl.constexpr, BK: tl.constexpr, TMA: tl.constexpr, EVEN_K: tl.constexpr):
    """One (BM, BK) tile; `row` is the first row of the wanted plane and batch in the stack of planes."""
    if TMA:
        loaded = a.load([row + m, k])
    else:
        rows = tl.minimum(m + tl.arange(0, BM), M - 1)
        columns = k + tl.arange(0, BK)
        at = a + row.to(tl.int64) * K + rows[:, None] * K + columns[None, :]
        loaded = tl.load(at) if EVEN_K else tl.load(at, mask=columns[None, :] < K, other=0.0)
    return loaded


@triton.jit
def _load_b(b, row, n, k, N, K, BN: tl.constexpr, BK: tl.constexpr, TMA: tl.constexpr, EVEN_K: tl.constexpr,
            B_NK: tl.constexpr):  # fmt: skip
    """One (BK, BN) tile out of planes stored (N, K) where B_NK, else (K, N)."""
    if TMA:
        loaded = b.load([row + n, k]).T if B_NK else b.load([row + k, n])
    else:
        columns = tl.minimum(n + tl.arange(0, BN), N - 1)
        depth = k + tl.arange(0, BK)
        if B_NK:
            at = b + row.to(tl.int64) * K + columns[None, :] * K + depth[:, None]
        else:
            at = b + row.to(tl.int64) * N + depth[:, None] * N + columns[None, :]
        loaded = tl.load(at) if EVEN_K else tl.load(at, mask=depth[:, None] < K, other=0.0)
    return loaded


@triton.jit
def _epilogue(acc, bias_ptr, c_ptr, batch, rm, rn, M, N, BIAS: tl.constexpr, GELU: tl.constexpr):
    if BIAS:
        acc += tl.load(bias_ptr + rn, mask=rn < N, other=0.0)[None, :]
    if GELU:
        acc = 0.5 * acc * (1.0 + tl.erf(acc * 0.7071067811865476))
    at = c_ptr + batch.to(tl.int64) * M * N + rm[:, None].to(tl.int64) * N + rn[None, :]
    tl.store(at, acc, mask=(rm[:, None] < M) & (rn[None, :] < N))


@triton.jit
def _tile_origin(tile, M, N, BM: tl.constexpr, BN: tl.constexpr, GROUP_M: tl.constexpr):
    """Batch and first row and column of a tile; GROUP_M rows of tiles share their columns while in L2."""
    grid_m = tl.cdiv(M, BM)
    grid_n = tl.cdiv(N, BN)
    batch = tile // (grid_m * grid_n)
    inner = tile % (grid_m * grid_n)
    group = inner // (GROUP_M * grid_n)
    height = tl.minimum(grid_m - group * GROUP_M, GROUP_M)
    within = inner % (GROUP_M * grid_n)
    return batch, (group * GROUP_M + within % height) * BM, (within // height) * BN


@triton.jit(do_not_specialize=["batches"])
def planes_gemm(a, b, exponent_a, exponent_b, bias, c, M, N, K, batches, BM: tl.constexpr, BN: tl.constexpr,
                BK: tl.constexpr, GROUP_M: tl.constexpr, PLANES: tl.constexpr, SCALED: tl.constexpr,
                LOW_SCALED: tl.constexpr, PROMOTE: tl.constexpr, B_NK: tl.constexpr, EVEN_K: tl.constexpr,
                TMA: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr, FLATTEN: tl.constexpr):  # fmt: skip
    """c = act(a @ b + bias) from planes stacked (plane, batch, rows, columns); products are added smallest first."""
    tiles = batches * tl.cdiv(M, BM) * tl.cdiv(N, BN)
    b_rows = N if B_NK else K
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=FLATTEN):
        batch, m, n = _tile_origin(tile, M, N, BM, BN, GROUP_M)
        row_a = batch * M
        row_b = batch * b_rows
        acc = tl.zeros([BM, BN], tl.float32)
        for k in tl.range(0, K, BK):
            a0 = _load_a(a, row_a, m, k, M, K, BM, BK, TMA, EVEN_K)
            b0 = _load_b(b, row_b, n, k, N, K, BN, BK, TMA, EVEN_K, B_NK)
            a1 = _load_a(a, row_a + batches * M, m, k, M, K, BM, BK, TMA, EVEN_K)
            b1 = _load_b(b, row_b + batches * b_rows, n, k, N, K, BN, BK, TMA, EVEN_K, B_NK)
            part = tl.zeros([BM, BN], tl.float32) if PROMOTE else acc
            if PLANES == 3:
                a2 = _load_a(a, row_a + 2 * batches * M, m, k, M, K, BM, BK, TMA, EVEN_K)
                b2 = _load_b(b, row_b + 2 * batches * b_rows, n, k, N, K, BN, BK, TMA, EVEN_K, B_NK)
                part = tl.dot(a2, b0, part)
                part = tl.dot(a0, b2, part)
                part = tl.dot(a1, b1, part)
            part = tl.dot(a1, b0, part)
            part = tl.dot(a0, b1, part)
            if LOW_SCALED:
                part = part * 0.00048828125
            part = tl.dot(a0, b0, part)
            if PROMOTE:
                acc += part
            else:
                acc = part
        rm = m + tl.arange(0, BM)
        rn = n + tl.arange(0, BN)
        if SCALED:
            ea = tl.load(exponent_a + batch * M + rm, mask=rm < M, other=0)
            eb = tl.load(exponent_b + batch * N + rn, mask=rn < N, other=0)
            bad_a = ea > NONFINITE // 2
            bad_b = eb > NONFINITE // 2
            if tl.maximum(tl.max(bad_a.to(tl.int32), 0), tl.max(bad_b.to(tl.int32), 0)) > 0:
                # Infinity times a zero low plane is NaN; the high planes alone give the pattern that fp32 gives.
                high = tl.zeros([BM, BN], tl.float32)
                for k in tl.range(0, K, BK, num_stages=1):
                    high = tl.dot(_load_a(a, row_a, m, k, M, K, BM, BK, TMA, EVEN_K),
                                  _load_b(b, row_b, n, k, N, K, BN, BK, TMA, EVEN_K, B_NK), high)  # fmt: skip
                acc = tl.where(bad_a[:, None] | bad_b[None, :], high, acc)
            e = -(tl.where(bad_a, 0, ea)[:, None] + tl.where(bad_b, 0, eb)[None, :])
            half = e >> 1
            acc = acc * _power_of_two(half) * _power_of_two(e - half)
        _epilogue(acc, bias, c, batch, rm, rn, M, N, BIAS, GELU)


@triton.jit(do_not_specialize=["batches"])
def dot_gemm(a, b, bias, c, M, N, K, batches, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
             GROUP_M: tl.constexpr, PRECISION: tl.constexpr, B_NK: tl.constexpr, EVEN_K: tl.constexpr,
             TMA: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr):  # fmt: skip
    """c = act(a @ b + bias) straight from fp32 operands, the split left to tl.dot."""
    batch, m, n = _tile_origin(tl.program_id(0), M, N, BM, BN, GROUP_M)
    b_rows = N if B_NK else K
    acc = tl.zeros([BM, BN], tl.float32)
    for k in tl.range(0, K, BK):
        at = _load_a(a, batch * M, m, k, M, K, BM, BK, TMA, EVEN_K)
        bt = _load_b(b, batch * b_rows, n, k, N, K, BN, BK, TMA, EVEN_K, B_NK)
        acc = tl.dot(at, bt, acc, input_precision=PRECISION)
    _epilogue(acc, bias, c, batch, m + tl.arange(0, BM), n + tl.arange(0, BN), M, N, BIAS, GELU)


# ------------------------------------------------------------------------------------------------------ host side


@dataclasses.dataclass(frozen=True)
class Size:
    """One product: a (batch, m, k) by b, stored (batch, k, n) or, where `b_nk`, (batch, n, k); fp32, contiguous."""

    batch: int
    m: int
    n: int
    k: int
    b_nk: bool = False
    bias: bool = False
    gelu: bool = False

    @property
    def flop(self) -> float:
        return 2.0 * self.batch * self.m * self.n * self.k


SIZES = {
    "square": Size(1, 4096, 4096, 4096),
    "batched": Size(128, 512, 2048, 1024),
    "linear": Size(1, 1024, 8192, 8192, b_nk=True, bias=True),
    "linear-gelu": Size(1, 1024, 8192, 8192, b_nk=True, bias=True, gelu=True),
    "skinny": Size(1, 32768, 32768, 32),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A scheme with a tile shape and launch options; `persistent` launches one program per multiprocessor."""

    scheme: str
    bm: int = 128
    bn: int = 128
    bk: int = 64
    warps: int = 8
    stages: int = 3
    group_m: int = 8
    tma: bool = False
    persistent: bool = False
    flatten: bool = False
    promote: bool = True

    @property
    def name(self) -> str:
        flags = [word for word in ("tma", "persistent", "flatten") if getattr(self, word)]
        tile = f"{self.bm}x{self.bn}x{self.bk}-w{self.warps}-s{self.stages}"
        return "-".join([self.scheme, tile, *flags, *([] if self.promote else ["raw"])])

    @property
    def gluon(self) -> bool:
        return self.scheme.startswith("gluon-")

    @property
    def low_scaled(self) -> bool:
        return self.scheme.endswith("fp16x3w")

    @property
    def planes(self) -> int:
        """Narrow planes per operand; 0 where tl.dot splits by itself."""
        if self.scheme.startswith("dot-"):
            return 0
        return 3 if self.scheme == "bf16x6" else 2

    @property
    def plane_dtype(self) -> torch.dtype:
        return torch.float16 if "fp16" in self.scheme.replace("bf16", "") else torch.bfloat16

    def options(self) -> dict[str, int]:
        return {"num_warps": 4} if self.gluon else {"num_warps": self.warps, "num_stages": self.stages}

    def fits(self, size: Size) -> bool:
        """Bulk copies of a last, partial K tile would read the next plane; the Gluon kernel has no GELU."""
        return not (self.tma and size.k % self.bk) and not (self.gluon and size.gelu)

    def constants(self, size: Size) -> dict[str, object]:
        common = {"BM": self.bm, "BN": self.bn, "BK": self.bk, "GROUP_M": self.group_m, "B_NK": size.b_nk,
                  "EVEN_K": size.k % self.bk == 0, "TMA": self.tma, "BIAS": size.bias, "GELU": size.gelu}  # fmt: skip
        if self.gluon:
            mine = {key: common[key] for key in ("BM", "BN", "BK", "GROUP_M", "B_NK", "BIAS")}
            return mine | {"STAGES": self.stages, "SCALED": True, "LOW_SCALED": self.low_scaled}
        if not self.planes:
            return common | {"PRECISION": self.scheme.removeprefix("dot-")}
        return common | {"PLANES": self.planes, "SCALED": self.plane_dtype == torch.float16,
                         "LOW_SCALED": self.low_scaled, "PROMOTE": self.promote,
                         "FLATTEN": self.flatten}  # fmt: skip


VARIANTS = [
    Variant("dot-ieee", 64, 128, 16, 8, 3),
    Variant("dot-tf32x3", 128, 128, 32, 8, 3),
    Variant("dot-bf16x3", 128, 128, 32, 8, 3),
    Variant("dot-bf16x6", 128, 128, 32, 8, 3),
    Variant("dot-bf16x6", 128, 64, 32, 4, 3),
    Variant("fp16x3"),
    Variant("fp16x3", tma=True),
    Variant("fp16x3", tma=True, persistent=True),
    Variant("fp16x3", stages=2, tma=True, persistent=True, flatten=True),
    Variant("fp16x3", bk=32, stages=4, tma=True),
    Variant("fp16x3", 64, 128, 64, 4, 2, tma=True),
    Variant("fp16x3", 128, 64, 64, 4, 2, tma=True),
    Variant("fp16x3", 64, 256, 64, 8, 2, tma=True),
    Variant("fp16x3", 128, 256, 64, 8, 2, tma=True, promote=False),
    Variant("gluon-fp16x3", tma=True, persistent=True),
    Variant("gluon-fp16x3", bk=32, stages=6, tma=True, persistent=True),
    Variant("gluon-fp16x3", 192, 128, 64, 12, 2, tma=True, persistent=True),
    Variant("gluon-fp16x3", 192, 128, 32, 12, 5, tma=True, persistent=True),
    Variant("gluon-fp16x3w", tma=True, persistent=True),
    Variant("gluon-fp16x3w", 192, 128, 64, 12, 2, tma=True, persistent=True),
    Variant("fp16x3w", tma=True),
    Variant("bf16x3", tma=True),
    Variant("bf16x6", stages=2, tma=True),
    Variant("bf16x6", bk=32, stages=4, tma=True),
    Variant("bf16x6", bk=32, stages=4),
    Variant("bf16x6", 128, 256, 32, 8, 3, tma=True, promote=False),
]


def _split_fp16(x: torch.Tensor, planes: torch.Tensor, exponents: torch.Tensor, lines: int, low_scaled: bool) -> None:
    """x (batch, rows, columns) contiguous -> planes (2, batch, rows, columns); `lines`: the scaled axis, 1 or 2."""
    batch, rows, columns = x.shape
    if lines == 1:
        count, depth, line_stride, depth_stride = rows, columns, columns, 1
        block_k = min(triton.next_power_of_2(columns), 4096)
        block_l = max(1, min(128, 4096 // block_k))
    else:
        count, depth, line_stride, depth_stride = columns, rows, 1, columns
        block_l, block_k = 32, min(triton.next_power_of_2(rows), 256)
    grid = (triton.cdiv(count, block_l), batch)
    split_fp16[grid](x, planes, exponents, count, depth, line_stride, depth_stride, x.numel(),
                     BLOCK_L=block_l, BLOCK_K=block_k, LOW_SCALED=low_scaled, num_warps=8)  # fmt: skip


class Runner:
    """A variant bound to a size: owns the workspace; a call enqueues splits and product on the current stream."""

    def __init__(self, variant: Variant, size: Size, device: str = "cuda") -> None:
        self.variant, self.size = variant, size
        empty = lambda shape, dtype: torch.empty(shape, dtype=dtype, device=device)  # noqa: E731
        if variant.planes:
            b_shape = (size.n, size.k) if size.b_nk else (size.k, size.n)
            self.planes_a = empty((variant.planes, size.batch, size.m, size.k), variant.plane_dtype)
            self.planes_b = empty((variant.planes, size.batch, *b_shape), variant.plane_dtype)
            self.exponent_a = empty((size.batch, size.m), torch.int32)
            self.exponent_b = empty((size.batch, size.n), torch.int32)
        self.tiles = size.batch * triton.cdiv(size.m, variant.bm) * triton.cdiv(size.n, variant.bn)
        self.programs = self.tiles
        if variant.persistent:
            self.programs = min(self.tiles, torch.cuda.get_device_properties(0).multi_processor_count)
        if not variant.fits(size):
            raise ValueError(f"{variant.name} cannot do {size}: choose another variant")

    def split(self, a: torch.Tensor, b: torch.Tensor) -> None:
        if self.variant.plane_dtype == torch.float16 and self.variant.planes:
            low_scaled = self.variant.low_scaled
            _split_fp16(a, self.planes_a, self.exponent_a, 1, low_scaled)
            _split_fp16(b, self.planes_b, self.exponent_b, 1 if self.size.b_nk else 2, low_scaled)
        elif self.variant.planes:
            for x, planes in ((a, self.planes_a), (b, self.planes_b)):
                grid = (triton.cdiv(x.numel(), 2048),)
                split_bf16[grid](x, planes, x.numel(), x.numel(), PLANES=self.variant.planes, BLOCK=2048, num_warps=8)

    def product(self, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor, c: torch.Tensor) -> None:
        v, s = self.variant, self.size
        left, right = (self.planes_a, self.planes_b) if v.planes else (a, b)
        block = [v.bn, v.bk] if s.b_nk else [v.bk, v.bn]
        fixed = v.constants(s) | v.options()
        if v.gluon:
            left = descriptor(left, left.numel() // s.k, s.k, [64, v.bk])
            right = descriptor(right, right.numel() // right.shape[-1], right.shape[-1], block)
            planes_gemm_hopper[(self.programs,)](left, right, self.exponent_a, self.exponent_b, bias, c, s.m, s.n, s.k,
                                                 s.batch, **fixed)  # fmt: skip
            return
        if v.tma:
            left = TensorDescriptor.from_tensor(left.view(-1, s.k), [v.bm, v.bk])
            right = TensorDescriptor.from_tensor(right.view(-1, right.shape[-1]), block)
        if v.planes:
            planes_gemm[(self.programs,)](left, right, self.exponent_a, self.exponent_b, bias, c, s.m, s.n, s.k,
                                          s.batch, **fixed)  # fmt: skip
        else:
            dot_gemm[(self.tiles,)](left, right, bias, c, s.m, s.n, s.k, s.batch, **fixed)

    def __call__(self, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor, c: torch.Tensor) -> None:
        self.split(a, b)
        self.product(a, b, bias, c)


def reference(size: Size, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The same product by PyTorch in the dtype given: cuBLAS fp32 with TF32 off, or the fp64 oracle."""
    used_bias = bias if size.bias else None
    if size.b_nk:
        out = torch.nn.functional.linear(a, b[0], used_bias)
    elif size.batch == 1:
        out = torch.mm(a[0], b[0])[None]
    else:
        out = torch.bmm(a, b)
    return torch.nn.functional.gelu(out) if size.gelu else out


DISTRIBUTIONS = ("uniform", "normal", "small", "student", "pareto", "affine", "mixed", "mixed-k", "integers")


def draw(kind: str, shape: tuple[int, ...], depth_axis: int, inverse: bool, rng: torch.Generator) -> torch.Tensor:
    """fp32 values; `mixed-k` scales the summed axis over 10^-3..10^3, inversely in b, so that all products matter."""
    def normal() -> torch.Tensor:
        return torch.randn(shape, generator=rng, device=rng.device)

    def uniform(of: tuple[int, ...] = shape) -> torch.Tensor:
        return torch.rand(of, generator=rng, device=rng.device)

    if kind == "uniform":
        return uniform()
    if kind == "small":
        return 1e-3 * normal()
    if kind == "student":
        return normal() / ((normal() ** 2 + normal() ** 2 + normal() ** 2) / 3).sqrt()
    if kind == "pareto":
        return normal().sign() * (1 - uniform()) ** (-1 / 1.5)
    if kind == "affine":
        line = (*shape[:-2], shape[-2], 1) if depth_axis == -1 else (*shape[:-2], 1, shape[-1])
        return (0.5 + 7.5 * uniform(line)) * normal() + 6 * uniform(line) - 3
    if kind == "mixed":
        return normal() * 10 ** (6 * uniform() - 3)
    if kind == "mixed-k":
        k = shape[depth_axis]
        spread = 10 ** (6 * torch.rand(k, generator=torch.Generator().manual_seed(7)).to(rng.device) - 3)
        spread = (1 / spread if inverse else spread).reshape((1, k) if depth_axis == -1 else (k, 1))
        return normal() * spread
    if kind == "integers":
        return torch.randint(-8, 9, shape, generator=rng, device=rng.device).float()
    return normal()


def inputs(kind: str, size: Size, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a = draw(kind, (size.batch, size.m, size.k), -1, False, rng)
    b_shape = (size.batch, size.n, size.k) if size.b_nk else (size.batch, size.k, size.n)
    b = draw(kind, b_shape, -1 if size.b_nk else -2, True, rng)
    bias = torch.randn(size.n, generator=rng, device=rng.device)
    return a, b, bias


def error(out: torch.Tensor, oracle: torch.Tensor, own: torch.Tensor, mass: torch.Tensor) -> dict[str, float]:
    """rms error over rms of the centred oracle, and the worst element over its allowance (fails above 1).

    Allowance per element: max(4 * largest error of fp32 cuBLAS, 8 u |oracle| + 8 u mass), u = 2^-24, mass = |a| @ |b|.
    """
    unit = 2.0**-24
    wrong = (out.double() - oracle).abs()
    own_wrong = (own.double() - oracle).abs()
    allowed = (8 * unit * (oracle.abs() + mass)).clamp_min(4 * own_wrong.max().item())
    spread = (oracle - oracle.mean()).square().mean().sqrt().item()
    rms = wrong.square().mean().sqrt().item() / spread
    own_rms = own_wrong.square().mean().sqrt().item() / spread
    return {"rms": rms, "cublas_rms": own_rms, "budget": max(2 * own_rms, 5e-6),
            "element": (wrong / allowed).nan_to_num(0.0).max().item()}  # fmt: skip


def check(runners: list[Runner], size: Size, kind: str, limit: int) -> dict[str, dict[str, float]]:
    """Errors of every runner on one draw, over at most `limit` outputs (whole rows of whole batches first)."""
    rng = torch.Generator("cuda").manual_seed(11)
    a, b, bias = inputs(kind, size, rng)
    own = reference(size, a, b, bias)
    batches = max(1, min(size.batch, limit // (size.m * size.n)))
    rows = max(1, min(size.m, limit // (size.n * batches)))
    part = (slice(0, batches), slice(0, rows))
    a64, b64 = a[part].double(), b[:batches].double()
    oracle = reference(size, a64, b64, bias.double())
    plain = dataclasses.replace(size, bias=False, gelu=False)
    mass = reference(plain, a64.abs(), b64.abs(), bias.double())
    c = torch.empty_like(own)
    errors = {}
    for runner in runners:
        c.fill_(float("nan"))
        runner(a, b, bias, c)
        errors[runner.variant.name] = error(c[part], oracle, own[part], mass)
        if not bool(torch.isfinite(c).all()):
            errors[runner.variant.name]["rms"] = float("inf")
    return errors


def measure(runners: list[Runner], size: Size, repetitions: int) -> dict[str, list[float]]:
    """Interleaved times in ms, all caches displaced before each call; the order turns round every repetition."""
    rng = torch.Generator("cuda").manual_seed(3)
    a, b, bias = inputs("uniform", size, rng)
    c = torch.empty((size.batch, size.m, size.n), device="cuda")
    calls = {"cublas": lambda: reference(size, a, b, bias)}
    for runner in runners:
        calls[runner.variant.name] = lambda runner=runner: runner(a, b, bias, c)
        if runner.variant.planes:
            calls[runner.variant.name + " (split)"] = lambda runner=runner: runner.split(a, b)
    flush = torch.empty(64 * 1024 * 1024, dtype=torch.int32, device="cuda")
    events = {name: [] for name in calls}
    for repetition in range(repetitions + 2):
        order = list(calls) if repetition % 2 else list(reversed(calls))
        for name in order:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            begin.record()
            calls[name]()
            end.record()
            if repetition >= 2:
                events[name].append((begin, end))
        torch.cuda.synchronize()
    return {name: [begin.elapsed_time(end) for begin, end in pairs] for name, pairs in events.items()}


def _compile_one(job: tuple[Variant, Size]) -> tuple[str, float, str]:
    variant, size = job
    small = dataclasses.replace(size, batch=min(size.batch, 2), m=256, n=256, k=min(size.k, 256))
    begin = time.monotonic()
    rng = torch.Generator("cuda").manual_seed(1)
    a, b, bias = inputs("normal", small, rng)
    c = torch.empty((small.batch, small.m, small.n), device="cuda")
    try:
        Runner(variant, small)(a, b, bias, c)
        torch.cuda.synchronize()
    except Exception as failure:  # any compiler error is a result of this benchmark, to be reported per variant
        return variant.name, time.monotonic() - begin, f"{type(failure).__name__}: {failure}"[:300]
    return variant.name, time.monotonic() - begin, ""


def warm_cache(jobs: list[tuple[Variant, Size]], processes: int) -> dict[str, str]:
    """Compiles into Triton's disk cache in parallel children; returns what failed, by variant name."""
    failed = {}
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=4) as pool:
        pending = [(job, pool.apply_async(_compile_one, (job,))) for job in jobs]
        for job, result in pending:
            try:
                name, seconds, why = result.get(timeout=40)
            except multiprocessing.TimeoutError:
                name, seconds, why = job[0].name, 40.0, "no answer within 40 s (crashed or hung)"
            if why:
                failed[name] = why
                print(f"left out {name} after {seconds:.0f} s: {why}", flush=True)
    return failed


def report(name: str, size: Size, times: dict[str, list[float]], errors: dict[str, dict]) -> None:
    base = statistics.median(times["cublas"])
    print(f"\n{name}: {size}\n{'variant':58s} {'ms':>8s} {'TFLOP/s':>8s} {'x cuBLAS':>8s} {'split ms':>8s}")
    for variant, raw in times.items():
        if variant.endswith(" (split)"):
            continue
        ms = statistics.median(raw)
        split = times.get(variant + " (split)")
        print(f"{variant:58s} {ms:8.3f} {size.flop / ms / 1e9:8.1f} {base / ms:8.2f} "
              f"{statistics.median(split) if split else 0:8.3f}")  # fmt: skip
    for kind, rows in errors.items():
        print(f"  errors, {kind}: cuBLAS rms {next(iter(rows.values()))['cublas_rms']:.2e}")
        for variant, found in rows.items():
            verdict = "ok" if found["rms"] <= found["budget"] and found["element"] <= 1 else "OVER BUDGET"
            print(f"    {variant:56s} rms {found['rms']:.2e} of {found['budget']:.2e}, "
                  f"element {found['element']:.2f}  {verdict}")  # fmt: skip


def benchmark(arguments: argparse.Namespace) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    sizes = {name: SIZES[name] for name in arguments.sizes.split(",")}
    wanted = [v for v in VARIANTS if v.name.startswith(tuple(arguments.variants.split(",")))]
    jobs = {}
    for size in sizes.values():
        for variant in wanted:
            if variant.fits(size):
                jobs.setdefault((variant, str(variant.constants(size))), (variant, size))
    begin = time.monotonic()
    failed = warm_cache(list(jobs.values()), arguments.processes)
    print(f"compiled {len(jobs)} in {time.monotonic() - begin:.0f} s", flush=True)
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
        "python": platform.python_version(), "failed": failed, "sizes": {},
    }  # fmt: skip
    for name, size in sizes.items():
        runners = [Runner(v, size) for v in wanted if v.name not in failed and v.fits(size)]
        times = measure(runners, size, arguments.repetitions)
        kinds = arguments.distributions.split(",") if name == next(iter(sizes)) else ["uniform", "normal"]
        errors = {kind: check(runners, size, kind, arguments.limit) for kind in kinds}
        report(name, size, times, errors)
        record["sizes"][name] = {"size": dataclasses.asdict(size), "times_ms": times, "errors": errors}
        print(f"[{time.monotonic() - begin:.0f} s]", flush=True)
        if arguments.out:
            Path(arguments.out).write_text(json.dumps(record, indent=1))
        del runners
        torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------------------------ emulation


def toward_zero(x: np.ndarray) -> np.ndarray:
    """fp64 -> the nearest fp32 value not larger in magnitude."""
    rounded = x.astype(np.float32)
    over = np.abs(rounded.astype(np.float64)) > np.abs(x)
    return np.where(over, np.nextafter(rounded, np.float32(0)), rounded)


def to_bf16(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(x)).bfloat16().float().numpy()


def emulated_planes(x: np.ndarray, scheme: str) -> tuple[list[np.ndarray], np.ndarray]:
    """x (lines, depth) fp32 -> planes as fp32 arrays and one exponent per line, as the split kernels make them."""
    if scheme.startswith("bf16"):
        planes, rest = [], x
        for _ in range(3 if scheme == "bf16x6" else 2):
            planes.append(to_bf16(rest))
            rest = rest - planes[-1]
        return planes, np.zeros(len(x), np.int64)
    top = np.frexp(np.abs(x).max(1))[1] - 1
    shift = np.minimum(int(TOP_EXPONENT) - top, 126)
    x = x * np.exp2(shift.astype(np.float32))[:, None]
    high = x.astype(np.float16)
    high = np.where((high == 0) & (x != 0), np.copysign(np.float16(2.0**-24), x).astype(np.float16), high)
    rest = (x - high.astype(np.float32)) * np.float32(2048 if scheme == "fp16x3w" else 1)
    return [high.astype(np.float32), rest.astype(np.float16).astype(np.float32)], shift


def emulated_product(a: np.ndarray, b: np.ndarray, scheme: str, tile: int, promote: bool) -> np.ndarray:
    """a (m, k) by b (n, k): tensor-core steps of 16 along k, each exact and then rounded toward zero to fp32."""
    planes_a, shift_a = emulated_planes(a, scheme)
    planes_b, shift_b = emulated_planes(b, scheme)
    pairs = [(1, 0), (0, 1), (0, 0)]
    if scheme == "bf16x6":
        pairs = [(2, 0), (0, 2), (1, 1), *pairs]
    acc = np.zeros((len(a), len(b)), np.float32)
    for k in range(0, a.shape[1], tile):
        part = np.zeros_like(acc) if promote else acc
        for i, j in pairs:
            if scheme == "fp16x3w" and (i, j) == (0, 0):
                part = part * np.float32(2.0**-11)
            for step in range(k, min(k + tile, a.shape[1]), 16):
                left = planes_a[i][:, step : step + 16].astype(np.float64)
                right = planes_b[j][:, step : step + 16].astype(np.float64)
                part = toward_zero(part + left @ right.T)
        acc = acc + part if promote else part
    return (acc * np.exp2(-(shift_a[:, None] + shift_b[None, :]).astype(np.float64))).astype(np.float32)


def emulate() -> None:
    """Prints rms errors of every scheme, distribution and depth beside fp32 BLAS and the fp32-strict budget."""
    rng = torch.Generator().manual_seed(5)
    schemes = [("fp16x3", 64, True), ("fp16x3w", 64, True), ("bf16x3", 64, True), ("bf16x6", 64, True),
               ("bf16x6", 32, True), ("fp16x3", 64, False), ("bf16x6", 64, False)]  # fmt: skip
    labels = [f"{s}/{t}" + ("" if p else "-raw") for s, t, p in schemes]
    print("rms error / rms of the centred oracle; '!' = beyond max(2 x BLAS fp32, 5e-6); 'e' = element rule broken")
    print(f"{'k':>5s} {'values':10s} {'fp32':>8s} " + " ".join(f"{label:>12s}" for label in labels))
    for k in (1024, 4096, 8192):
        size = Size(1, 96, 96, k, b_nk=True)
        for kind in DISTRIBUTIONS:
            a, b, bias = inputs(kind, size, rng)
            oracle = reference(size, a.double(), b.double(), bias)
            mass = reference(size, a.double().abs(), b.double().abs(), bias)
            own = reference(size, a, b, bias)
            cells = []
            for scheme, tile, promote in schemes:
                out = emulated_product(a[0].numpy(), b[0].numpy(), scheme, tile, promote)
                found = error(torch.from_numpy(out)[None], oracle, own, mass)
                mark = ("!" if found["rms"] > found["budget"] else "") + ("e" if found["element"] > 1 else "")
                cells.append(f"{found['rms']:.1e}{mark:2s}")
            print(f"{k:5d} {kind:10s} {found['cublas_rms']:8.1e} " + " ".join(f"{c:>12s}" for c in cells), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="square,batched,linear", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--variants", default="", help="comma-separated beginnings of variant names; default: all")
    parser.add_argument("--distributions", default=",".join(DISTRIBUTIONS), help="for the first size")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--processes", type=int, default=12, help="for compiling")
    parser.add_argument("--limit", type=int, default=1 << 24, help="most outputs compared with fp64 per check")
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--emulate", action="store_true", help="print emulated errors; needs no GPU")
    arguments = parser.parse_args()
    if arguments.emulate:
        emulate()
    elif torch.cuda.is_available():
        benchmark(arguments)
    else:
        parser.error("no CUDA device: run with --emulate, or on a machine with a GPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
