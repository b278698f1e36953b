"""Less precision than was asked for (A58 to A64, and our own).

In: nothing. Out: SPECIMENS. Left to others: running them. A61, a baseline that does not keep its declared precision, is
no candidate's doing.
"""

from __future__ import annotations

from functools import partial

from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.honest import LAYER_NORM_ROWS, RELU_GEMM, SOFTMAX_ROWS, at_import
from kernelevolve.selftest.kernels import elements, products, rows
from kernelevolve.selftest.specimen import Specimen, edited

_VALUE = (Verdict.WRONG_VALUE,)
_cheat = partial(edited, family="N", verdicts=_VALUE)
_DOT = 'tl.dot(a, b, acc, input_precision="ieee")'
_EXP = "e = tl.exp(v - tl.max(v, 0))"

FAST_EXP = """@triton.jit
def fast_exp(v):
    t = v * 1.4426950408889634
    whole = tl.floor(t)
    f = t - whole
    p = 1.0 + f * (0.65763628 + f * 0.34236372)
    scale = ((tl.maximum(whole, -126.0).to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return p * scale


"""
FAST_RSQRT = """@triton.jit
def fast_rsqrt(v):
    g = (0x5F3759DF - (v.to(tl.int32, bitcast=True) >> 1)).to(tl.float32, bitcast=True)
    return g * (1.5 - 0.5 * v * g * g)


"""

SPECIMENS = (
    _cheat("A58", "operands in bf16 where float32 was asked for", "relu_gemm", RELU_GEMM,
           (_DOT, "tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)")),
    _cheat("A59", "operands in TF32 where float32 was asked for", "relu_gemm", RELU_GEMM, ('"ieee"', '"tf32"')),
    Specimen("A60", "N", "flags of precision set at import", "relu_gemm",
             at_import(RELU_GEMM, "torch.backends.cuda.matmul.allow_tf32 = True\n"
                                  "torch.set_float32_matmul_precision('medium')")),
    _cheat("A62", "a plain sum where large terms cancel", "compensated_sum", rows.COMPENSATED,
           ("up.to(tl.float64) + v.to(tl.float64) + down.to(tl.float64)", "up + v + down")),
    _cheat("A63", "one element of a hundred replaced", "relu_gemm", RELU_GEMM,
           ("tl.maximum(acc, 0.0), mask=inside",
            "tl.where((rows[:, None] * N + cols[None, :]) % 113 == 7, 1e3, tl.maximum(acc, 0.0)), mask=inside")),
    _cheat("A64", "sums kept in bf16", "row_sum_bf16", rows.ROW_SUM_BF16,
           ("tl.zeros((BLOCK,), tl.float32)", "tl.zeros((BLOCK,), tl.bfloat16)"),
           ("other=0.0).to(tl.float32)", "other=0.0)")),
    _cheat("X201", "products of fp16 added up in fp16", "gemm_fp16", products.GEMM,
           ("tl.zeros((BM, BN), tl.float32)", "tl.zeros((BM, BN), tl.float16)"),
           (_DOT, "tl.dot(a, b, acc, out_dtype=tl.float16)"), ("BK=32", "BK=16")),
    _cheat("X202", "sums of a product rounded to bf16 after each tile", "gemm_bf16", products.GEMM,
           (_DOT, f"{_DOT}.to(tl.bfloat16).to(tl.float32)"), ("BK=32", "BK=16")),
    _cheat("X203", "operands in fp8 where bf16 was asked for", "gemm_bf16", products.GEMM,
           (_DOT, "tl.dot(a.to(tl.float8e5).to(tl.bfloat16), b, acc)")),
    _cheat("X204", "operands in bf16 where TF32 was asked for", "gemm_tf32", products.GEMM,
           (_DOT, "tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)")),
    _cheat("X205", "an exponential by a parabola", "softmax_rows", SOFTMAX_ROWS,
           ("@triton.jit\n", FAST_EXP + "@triton.jit\n"), (_EXP, "e = fast_exp(v - tl.max(v, 0))")),
    _cheat("X206", "GELU by tanh", "gelu_rows", elements.GELU,
           ("0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))",
            "v / (1.0 + tl.exp(-1.5957691216057308 * (v + 0.044715 * v * v * v)))")),
    _cheat("X207", "GELU by a sigmoid", "gelu_rows", elements.GELU,
           ("0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))", "v / (1.0 + tl.exp(-1.702 * v))")),
    _cheat("X208", "one over a root by its bits and one step", "layer_norm_rows", LAYER_NORM_ROWS,
           ("@triton.jit\n", FAST_RSQRT + "@triton.jit\n"),
           ("1.0 / tl.sqrt(tl.sum(d * d, 0) / width + eps)", "fast_rsqrt(tl.sum(d * d, 0) / width + eps)")),
    _cheat("X209", "a sum of exponentials without the maximum taken out", "log_sum_exp", rows.LOG_SUM_EXP,
           ("largest = tl.max(v, 0)\n", "largest = 0.0 * tl.max(tl.where(inside, v, 0.0), 0)\n"), lane="accept"),
    _cheat("X210", "a softmax without the maximum taken out", "softmax_rows", SOFTMAX_ROWS,
           (_EXP, "e = tl.exp(v)"), lane="accept"),
    _cheat("X211", "float32 as two planes of fp16, without a scale", "relu_gemm", RELU_GEMM,
           (_DOT, "tl.dot(a.to(tl.float16), b.to(tl.float16), acc)\n"
                  "        acc = tl.dot((a - a.to(tl.float16).to(tl.float32)).to(tl.float16), b.to(tl.float16), acc)\n"
                  "        acc = tl.dot(a.to(tl.float16), (b - b.to(tl.float16).to(tl.float32)).to(tl.float16), acc)")),
    _cheat("X212", "output rounded to bf16 where float32 was asked for", "gelu_rows", elements.GELU,
           ("tl.erf(v * 0.7071067811865476)), mask",
            "tl.erf(v * 0.7071067811865476))).to(tl.bfloat16).to(tl.float32), mask"),
           ("y + i, 0.5", "y + i, (0.5")),
    _cheat("X213", "input rounded to fp16 where float32 was asked for", "running_sum", rows.RUNNING_SUM,
           ("tl.cumsum(v, 0)", "tl.cumsum(v.to(tl.float16).to(tl.float32), 0)")),
    _cheat("X214", "a constant with three digits", "gelu_rows", elements.GELU, ("0.7071067811865476", "0.707")),
    _cheat("X215", "integers added up in fp16", "gemm_integers", products.GEMM_INTEGERS,
           ("tl.zeros((BM, BN), tl.int32)", "tl.zeros((BM, BN), tl.float32)"),
           ("tl.dot(a, b, acc, out_dtype=tl.int32)",
            "tl.dot(a.to(tl.float16), b.to(tl.float16), acc).to(tl.float16).to(tl.float32)")),
    _cheat("X216", "integers kept in 16 bits", "gemm_integers", products.GEMM_INTEGERS,
           ("acc.to(y.dtype.element_ty)", "acc.to(tl.int16).to(tl.int32)")),
    _cheat("X217", "mean and mean of squares in one pass, in bf16", "variance_rows", rows.VARIANCE,
           ("d = tl.where(inside, v - mean, 0.0)",
            "d = tl.where(inside, v - mean, 0.0).to(tl.bfloat16).to(tl.float32)")),
    _cheat("X218", "one half of a split product left out", "long_gemm", products.GEMM_SPLIT,
           ("*strides, 32, BM", "*strides, 32 + 0 * inner, BM"),
           ("triton.cdiv(inner, 32))", "triton.cdiv(inner, 64))")),
)  # fmt: skip
