"""One honest kernel for each problem that has one here: what mutants are made from.

In: nothing. Out: texts by problem. Left to others: see the package.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernelevolve.selftest.kernels import choices, elements, products, rows

KNOWN: Mapping[str, str] = {
    "attention_lengths": choices.ATTENTION,
    "attention_padding": rows.PADDED,
    "batch_training": elements.BATCH_TRAINING,
    "causal_scores": products.CAUSAL,
    "compensated_sum": rows.COMPENSATED,
    "cross_entropy": rows.CROSS_ENTROPY,
    "dropout_given": elements.DROPOUT,
    "expert_gemm": products.EXPERTS,
    "frobenius_norm": rows.FROBENIUS,
    "gather_rows": elements.GATHER,
    "gelu_rows": elements.GELU,
    "gemm_bf16": products.GEMM,
    "gemm_fp16": products.GEMM,
    "gemm_fp8": products.GEMM_FP8,
    "gemm_integers": products.GEMM_INTEGERS,
    "gemm_library": products.LIBRARY,
    "gemm_static": products.GEMM_WEIGHT,
    "gemm_tf32": products.GEMM,
    "largest_place": choices.LARGEST_PLACE,
    "log_sum_exp": rows.LOG_SUM_EXP,
    "long_chain": elements.CHAIN,
    "long_gemm": products.GEMM,
    "masked_mean": rows.MASKED_MEAN,
    "norm_backward": choices.NORM_BACKWARD,
    "norm_of_batch": elements.NORM_OF_BATCH,
    "one_column": products.ONE_COLUMN,
    "permuted_rows": elements.PERMUTED,
    "quantise_rows": rows.QUANTISE,
    "row_sum_bf16": rows.ROW_SUM_BF16,
    "running_sum": rows.RUNNING_SUM,
    "smallest_in_rows": rows.SMALLEST,
    "softmax_classes": rows.SOFTMAX_CLASSES,
    "top_values": choices.TOP_VALUES,
    "transposed_input": elements.TRANSPOSED,
    "triangular_inverse": products.TRIANGULAR,
    "turned": elements.TURNED,
    "variance_rows": rows.VARIANCE,
}
