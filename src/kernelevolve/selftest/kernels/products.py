"""Honest kernels of matrix products.

In: nothing. Out: texts of candidates by problem. Left to others: see the package.
"""

from __future__ import annotations

from kernelevolve.selftest.kernels import HEAD, forward_of

_KERNEL = """@triton.jit
def product(x, w, y, M, N, K, sxm, sxk, swk, swn, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        inner = k + tl.arange(0, BK)
        at = x + rows[:, None] * sxm + inner[None, :] * sxk
        bt = w + inner[:, None] * swk + cols[None, :] * swn
        a = tl.load(at, mask=(rows[:, None] < M) & (inner[None, :] < K), other=0.0)
        b = tl.load(bt, mask=(inner[:, None] < K) & (cols[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    inside = (rows[:, None] < M) & (cols[None, :] < N)
    tl.store(y + rows[:, None] * N + cols[None, :], acc.to(y.dtype.element_ty), mask=inside)


def compute(x, w):
    rows, inner = x.shape
    width = w.shape[1]
    y = torch.empty((rows, width), device=x.device, dtype=x.dtype)
    grid = (triton.cdiv(rows, 16), triton.cdiv(width, 16))
    strides = (x.stride(0), x.stride(1), w.stride(0), w.stride(1))
    product[grid](x, w, y, rows, width, inner, *strides, BM=16, BN=16, BK=32)
    return y


"""
_WEIGHT = "self.weight = nn.Parameter(torch.randn(inner, width))"

#: Two tensors, in any floating dtype: `long_gemm`, `gemm_bf16`, `gemm_fp16`, `gemm_tf32`.
GEMM = HEAD + _KERNEL + forward_of("compute(a, b)", arguments="a, b")
#: A parameter: `gemm_static`.
GEMM_WEIGHT = HEAD + _KERNEL + forward_of("compute(x, self.weight)", init=_WEIGHT, constructor="inner, width")
#: One output column: `one_column`.
ONE_COLUMN = (
    HEAD
    + """@triton.jit
def column(x, w, y, K, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    acc = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        a = tl.load(x + row * K + k, mask=k < K, other=0.0)
        acc += a * tl.load(w + k, mask=k < K, other=0.0)
    tl.store(y + row, tl.sum(acc, 0))


def compute(x, w):
    rows, inner = x.shape
    y = torch.empty((rows, 1), device=x.device, dtype=x.dtype)
    column[(rows,)](x, w, y, inner, BLOCK=32)
    return y


"""
    + forward_of(
        "compute(x.contiguous(), self.weight)",
        init="self.weight = nn.Parameter(torch.randn(inner, 1))",
        constructor="inner",
    )
)
#: Products of int8 numbers: `gemm_integers`.
GEMM_INTEGERS = (
    GEMM.replace("tl.zeros((BM, BN), tl.float32)", "tl.zeros((BM, BN), tl.int32)")
    .replace("other=0.0", "other=0")
    .replace('tl.dot(a, b, acc, input_precision="ieee")', "tl.dot(a, b, acc, out_dtype=tl.int32)")
    .replace("dtype=x.dtype", "dtype=torch.int32")
)
#: Products of fp8 numbers: `gemm_fp8`.
GEMM_FP8 = GEMM.replace("dtype=x.dtype", "dtype=torch.bfloat16").replace(', input_precision="ieee"', "")
#: Sums of parts of the inner dimension, added up by atomics.
GEMM_SPLIT = (
    GEMM.replace("swn, BM", "swn, PART, BM")
    .replace("range(0, K, BK)", "range(tl.program_id(2) * PART, min(K, (tl.program_id(2) + 1) * PART), BK)")
    .replace("tl.store(y + rows[:, None] * N + cols[None, :], acc.to(y.dtype.element_ty), mask=inside)",
             "tl.atomic_add(y + rows[:, None] * N + cols[None, :], acc, mask=inside)")
    .replace("torch.empty((rows, width)", "torch.zeros((rows, width)")
    .replace("triton.cdiv(width, 16))", "triton.cdiv(width, 16), triton.cdiv(inner, 32))")
    .replace("*strides, BM", "*strides, 32, BM")
)  # fmt: skip
#: A library product and a kernel for the rest: `gemm_library`.
LIBRARY = (
    HEAD
    + """@triton.jit
def bias_gelu(x, bias, y, count, width, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    v = tl.load(x + i, mask=inside) + tl.load(bias + i % width, mask=inside)
    tl.store(y + i, 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476)), mask=inside)


def compute(x, weight, bias):
    z = torch.matmul(x, weight)
    y = torch.empty_like(z)
    bias_gelu[(triton.cdiv(z.numel(), 256),)](z, bias, y, z.numel(), z.shape[-1], BLOCK=256)
    return y


"""
    + forward_of(
        "compute(x, self.weight, self.bias)",
        init=_WEIGHT + "\nself.bias = nn.Parameter(torch.randn(width))",
        constructor="inner, width",
    )
)
#: Each token times the weight of its expert: `expert_gemm`. One program per expert and tile of tokens at most.
EXPERTS = (
    HEAD
    + """@triton.jit
def expert_gemm(x, offsets, w, y, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    expert = tl.program_id(0)
    first = tl.load(offsets + expert)
    last = tl.load(offsets + expert + 1)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    for start in range(first, last, BM):
        rows = start + tl.arange(0, BM)
        acc = tl.zeros((BM, BN), tl.float32)
        for k in range(0, K, BK):
            inner = k + tl.arange(0, BK)
            a = tl.load(x + rows[:, None] * K + inner[None, :], mask=(rows[:, None] < last) & (inner[None, :] < K),
                        other=0.0)
            b = tl.load(w + expert * K * N + inner[:, None] * N + cols[None, :],
                        mask=(inner[:, None] < K) & (cols[None, :] < N), other=0.0)
            acc = tl.dot(a, b, acc, input_precision="ieee")
        inside = (rows[:, None] < last) & (cols[None, :] < N)
        tl.store(y + rows[:, None] * N + cols[None, :], acc, mask=inside)


def compute(x, offsets, w):
    experts, inner, width = w.shape
    y = torch.empty((x.shape[0], width), device=x.device, dtype=x.dtype)
    grid = (experts, triton.cdiv(width, 16))
    expert_gemm[grid](x.contiguous(), offsets, w, y, width, inner, BM=16, BN=16, BK=16)
    return y


"""
    + forward_of(
        "compute(x, offsets, self.weight)",
        init="self.weight = nn.Parameter(torch.randn(experts, inner, width))",
        constructor="experts, inner, width",
        arguments="x, offsets",
    )
)
#: `causal_scores`: tiles above the diagonal are filled without a product.
CAUSAL = (
    HEAD
    + """@triton.jit
def causal_scores(q, k, y, N, K, BLOCK: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    if tl.program_id(1) <= tl.program_id(0):
        for start in range(0, K, BK):
            inner = start + tl.arange(0, BK)
            a = tl.load(q + rows[:, None] * K + inner[None, :], mask=(rows[:, None] < N) & (inner[None, :] < K),
                        other=0.0)
            b = tl.load(k + cols[None, :] * K + inner[:, None], mask=(cols[None, :] < N) & (inner[:, None] < K),
                        other=0.0)
            acc = tl.dot(a, b, acc, input_precision="ieee")
    acc = tl.where(cols[None, :] > rows[:, None], -float("inf"), acc)
    tl.store(y + rows[:, None] * N + cols[None, :], acc, mask=(rows[:, None] < N) & (cols[None, :] < N))


def compute(q, k):
    side, width = q.shape
    y = torch.empty((side, side), device=q.device, dtype=q.dtype)
    grid = (triton.cdiv(side, 16), triton.cdiv(side, 16))
    causal_scores[grid](q.contiguous(), k.contiguous(), y, side, width, BLOCK=16, BK=16)
    return y


"""
    + forward_of("compute(q, k)", arguments="q, k")
)
#: Forward substitution, one matrix per program: `triangular_inverse`.
TRIANGULAR = (
    HEAD
    + """@triton.jit
def invert(x, y, SIDE: tl.constexpr):
    here = tl.program_id(0) * SIDE * SIDE
    cols = tl.arange(0, SIDE)
    at = here + cols[:, None] * SIDE + cols[None, :]
    solved = tl.where(cols[:, None] == cols[None, :], 1.0, 0.0)
    for i in range(1, SIDE):
        row = tl.load(x + here + i * SIDE + cols)
        row = tl.where(cols < i, row, 0.0)
        change = tl.sum(row[:, None] * solved, 0)
        solved = tl.where(cols[:, None] == i, solved - change[None, :], solved)
    tl.store(y + at, solved)


def compute(x):
    y = torch.empty_like(x)
    invert[(x.shape[0],)](x.contiguous(), y, SIDE=x.shape[-1])
    return y


"""
    + forward_of("compute(x)")
)
