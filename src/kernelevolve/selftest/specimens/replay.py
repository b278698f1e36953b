"""Results of an earlier call in place of a computation (A21 to A32)."""

from __future__ import annotations

from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.honest import RELU_GEMM, edit
from kernelevolve.selftest.specimen import Specimen

_RETURN = ("        return compute(x, self.weight)\n", "")


def _forward(*lines: str) -> str:
    """relu(x @ weight) with another forward, given line by line."""
    body = "".join(f"        {line}\n" for line in lines)
    return edit(RELU_GEMM, ("        return compute(x, self.weight)\n", body))


SPECIMENS: tuple[Specimen, ...] = (
    Specimen(
        "A21",
        "R",
        "results by pointer",
        "relu_gemm",
        edit(
            _forward(
                "key = x.data_ptr()",
                "if key not in SEEN:",
                "    SEEN[key] = compute(x, self.weight)",
                "return SEEN[key]",
            ),
            ("\n\nclass ModelNew", "\n\nSEEN = {}\n\n\nclass ModelNew"),
        ),
        (Verdict.REPLAY,),
        guard="overwrite",
    ),
)
