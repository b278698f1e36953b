"""The family of a captured reference: what it computes, apart from its sizes.

In: a `Program`. Out: a `Family`. Left to others: comparing families (`kernelevolve.family`).
"""

from __future__ import annotations

import math
from collections import Counter

from kernelevolve.family import Family
from kernelevolve.translate.baseline import VIEWS
from kernelevolve.translate.ir import Program


def family_of(program: Program) -> Family:
    """See `Family` for what is counted."""
    sizes = program.at_full_size()
    # `aten.add.Tensor` is `add`.
    names = (op.op.split(".")[1] if "." in op.op else op.op for op in program.ops)
    values = [tensor.value for tensor in program.tensors]
    extents = [extent.evaluate(sizes) for value in values for extent in value.shape]
    return Family(
        dict(sorted(Counter(name for name in names if name not in VIEWS).items())),
        tuple(value.dtype for value in values),
        tuple(len(value.shape) for value in values),
        tuple(round(math.log2(max(extent, 1)), 3) for extent in extents),
    )
