"""How far the exact result moves when every input moves by about one rounding: a second opinion on rare large errors.

In: an opened leaf's statistics; the fp64 model's inputs and parameters. Out: whether the leaf needs it, nudged inputs,
and the largest move seen. Left to others: running the model (`reference`), the rule that uses it (`accept`).

Where the reference's errors have a heavy tail, a few elements at which the problem is badly conditioned decide
max|R-O|: two logits of a softmax that nearly tie, a sum that cancels. Another honest order of summation errs most at
another such element, so max|R-O| of one run says little. Measured on attention with inputs D6 (fp32, 16 x 16 heads of
8 x 16, 400 draws of sequential fp32 sums, BLAS, tf32x3 and fp16 planes each): 4 max|R-O| alone rejects 16 of 1,600
honest results, up to 1.6 times beyond it; with the largest of R's error and three nudges none, the worst at 0.52 of the
limit. The limit is never raised beyond `MOST` times, because at a jump of the reference (floor, a comparison) a nudge
moves the result by the height of the jump.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from kernelevolve.judge.leaf import CHUNK, Leaf

#: Largest over rms error from which a leaf counts as heavy-tailed; 10^9 errors of a normal distribution reach 6.1.
TAIL = 8.0
#: Nudged runs.
DRAWS = 3
#: The most by which a nudge may raise the limit.
MOST = 4.0


def heavy_tailed(leaf: Leaf) -> bool:
    """Whether a few elements decide the reference's largest error."""
    return leaf.floating and not leaf.few and leaf.reference_max > TAIL * leaf.reference_rms > 0


def nudge(tensors: Iterable[Any], unit: float, generator: Any) -> list[Any]:
    """Each floating tensor times 1 + d, d uniform within four roundings (`4 unit`), as the split schemes of a strict
    budget leave them; the others as they are."""
    moved = []
    for value in tensors:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            factor = torch.rand(value.shape, generator=generator, device=value.device, dtype=value.dtype)
            value = value.detach() * factor.mul_(8.0 * unit).add_(1.0 - 4.0 * unit)
        moved.append(value)
    return moved


def largest_move(leaf: Leaf, moved: Any) -> float:
    """max|moved - O| over the elements where both are finite."""
    largest = 0.0
    o_flat, m_flat = leaf.oracle.reshape(-1), moved.detach().reshape(-1)
    for start in range(0, o_flat.numel(), CHUNK):
        delta = (m_flat[start : start + CHUNK].double() - o_flat[start : start + CHUNK].double()).abs_()
        largest = max(largest, torch.where(delta.isfinite(), delta, 0.0).max().item())
    return largest


def largest_error(leaf: Leaf) -> float:
    """max|R-O|, or the largest move of O under nudges where that is larger, up to `MOST` times max|R-O|."""
    if leaf.few:
        return leaf.pool.largest
    return max(leaf.reference_max, min(leaf.sensitivity, MOST * leaf.reference_max))
