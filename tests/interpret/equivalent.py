"""Mutants that compute the same as the honest kernel they were made from, each with the reason.

In: a problem's name and a Mutant. Out: the reason, or an empty text for one that should have been rejected.
"""

from __future__ import annotations

from kernelevolve.selftest.mutants import Mutant

_COLUMN = "a remainder by the width is always a column, and what lies beyond the end is not stored"
_HIDDEN = "the score of a key beyond the length is -inf, its weight 0, whatever was read"

#: (problem or "", operator, part of the changed line) -> why nothing changes.
REASONS: dict[tuple[str, str, str], str] = {
    ("norm_of_batch", "mask dropped", "tl.load(mean + c)"): _COLUMN,
    ("norm_of_batch", "mask dropped", "tl.load(variance + c)"): _COLUMN,
    ("norm_of_batch", "mask dropped", "tl.load(gain + c)"): _COLUMN,
    ("norm_of_batch", "mask dropped", "tl.load(shift + c)"): _COLUMN,
    ("transposed_input", "mask dropped", "tl.load(z + r"): "a wider row goes on, and what lies beyond is not stored",
    ("gemm_library", "mask dropped", "tl.load(bias + i % width)"): _COLUMN,
    ("attention_lengths", "off by one", "b = tl.load(k + bt, mask=(cols[None, :] < length + 1)"): _HIDDEN,
    ("attention_lengths", "off by one", "c = tl.load(v + ct, mask=(cols[:, None] < length + 1)"): _HIDDEN,
    ("top_values", "off by one", "free = cols < width + 1"): "one more that holds -inf is never among the largest",
    ("attention_padding", "filler exchanged", "other=0.0"): "a length is never more than the width",
    ("top_values", "filler exchanged", "other=0.0"): "what is not free is -inf before anything is compared",
    ("permuted_rows", "mask dropped", "tl.load(x + source)"): "beyond the end the source is the first row",
}


def reason_for(problem: str, mutant: Mutant) -> str:
    """Why a mutant that survives is none; empty where nobody knows."""
    for (name, operator, part), reason in REASONS.items():
        if name in ("", problem) and operator == mutant.operator and part in mutant.change:
            return reason
    return ""
