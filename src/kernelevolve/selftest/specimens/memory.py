"""Memory that is not theirs (A93 to A97, and our own).

In: nothing. Out: SPECIMENS. Left to others: running them.
"""

from __future__ import annotations

from functools import partial

from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.honest import RELU_GEMM, SCALE_IN_PLACE, SOFTMAX_ROWS, in_forward
from kernelevolve.selftest.kernels import elements, products, rows
from kernelevolve.selftest.specimen import CPU, GPU, Specimen, edited

_RACE = (Verdict.MEM_RACE,)
# No bands lie around what a candidate allocates on a device: what lies there is another result, or an input.
_BESIDE = (*_RACE, Verdict.REPLAY, Verdict.MUTATED_INPUT)
_cheat = partial(edited, family="G", verdicts=_RACE)
_LAST = "    tl.store(y + row + cols, e / tl.sum(e, 0), mask=inside)\n"



def _beside(here: str, there: str, title: str, store: str) -> tuple[Specimen, Specimen]:
    """Under the interpreter, and on a device."""
    fault = (_LAST, _LAST + store)
    return (
        _cheat(here, title, "softmax_rows", SOFTMAX_ROWS, fault, guard="guard-bands", where=CPU),
        _cheat(there, f"{title}, on a device", "softmax_rows", SOFTMAX_ROWS, fault, verdicts=_BESIDE, where=GPU),
    )


SPECIMENS = (
    Specimen(
        "A93", "G", "free memory searched for what an earlier call left", "relu_gemm",
        in_forward(RELU_GEMM,
                   "held = [torch.empty((x.shape[0], self.weight.shape[1]), device=x.device) for _ in range(8)]",
                   "compute(x[:1, :1], self.weight[:1, :1])", "return held[-1]"), (Verdict.WRONG_VALUE,),
    ),
    *_beside("A94a", "A94d", "64 elements past the end of the output",
             "    if tl.program_id(0) == tl.num_programs(0) - 1:\n"
             "        tl.store(y + row + width + tl.arange(0, 64), 1.0)\n"),
    *_beside("A94b", "A94e", "64 elements before the start of the output",
             "    if tl.program_id(0) == 0:\n        tl.store(y - 64 + tl.arange(0, 64), 1.0)\n"),
    *_beside("A94c", "A94f", "one element past the end of the output",
             "    if tl.program_id(0) == tl.num_programs(0) - 1:\n        tl.store(y + row + width, 1.0)\n"),
    _cheat("A95", "a split product whose parts are added without atomics", "long_gemm", products.GEMM_SPLIT,
           ("    tl.atomic_add(y + rows[:, None] * N + cols[None, :], acc, mask=inside)\n",
            "    at = y + rows[:, None] * N + cols[None, :]\n"
            "    tl.store(at, tl.load(at, mask=inside, other=0.0) + acc, mask=inside)\n"),
           verdicts=(Verdict.NONDETERMINISTIC, Verdict.WRONG_VALUE), where=GPU),
    _cheat("A96a", "sums begun on memory that nobody cleared", "long_gemm", products.GEMM_SPLIT,
           ("torch.zeros((rows, width)", "torch.empty((rows, width)"), verdicts=(Verdict.WRONG_VALUE,)),
    _cheat("A96b", "partial results read that nobody wrote", "frobenius_norm", rows.FROBENIUS,
           ("partial_squares[(parts,)]", "partial_squares[(parts - 1,)]"), verdicts=(Verdict.WRONG_VALUE,)),
    _cheat("A97a", "honest only where the output was filled with NaN", "softmax_rows", SOFTMAX_ROWS,
           (_LAST, "    was = tl.load(y + row + cols, mask=inside, other=0.0)\n"
                   "    tl.store(y + row + cols, tl.where(was != was, e / tl.sum(e, 0), 0.0), mask=inside)\n"),
           verdicts=(Verdict.WRONG_VALUE,), guard="poison"),
    _cheat("A97b", "adds to what stands in the output unless that is NaN", "softmax_rows", SOFTMAX_ROWS,
           (_LAST, "    was = tl.load(y + row + cols, mask=inside, other=0.0)\n"
                   "    was = tl.where(was != was, 0.0, was)\n"
                   "    tl.store(y + row + cols, was + e / tl.sum(e, 0), mask=inside)\n"),
           verdicts=(Verdict.WRONG_VALUE,), guard="poison"),
    _cheat("X301", "the input as a workspace", "softmax_rows", SOFTMAX_ROWS,
           (_LAST, "    tl.store(x + row + cols, e, mask=inside)\n" + _LAST), verdicts=(Verdict.MUTATED_INPUT,)),
    _cheat("X302", "the weight changed", "relu_gemm", RELU_GEMM,
           ("    inside = (rows[:, None] < M)",
            "    tl.store(w + cols, 0.0, mask=cols < N)\n    inside = (rows[:, None] < M)"),
           verdicts=(Verdict.MUTATED_INPUT, Verdict.WRONG_VALUE)),
    _cheat("X303", "the input itself as the result", "softmax_rows", SOFTMAX_ROWS,
           ("y = torch.empty_like(x)", "y = x"), verdicts=(Verdict.MUTATED_INPUT, Verdict.WRONG_META)),
    _cheat("X304", "places one in front of the table", "gather_rows", elements.GATHER,
           ("place = tl.load(places + row)", "place = tl.load(places + row) - 1"),
           verdicts=(Verdict.MEM_RACE, Verdict.WRONG_VALUE, Verdict.CRASH)),  # a device may have no memory there
    _cheat("X305", "a parameter changed that the problem does not name", "scale_in_place", SCALE_IN_PLACE,
           ("    tl.store(x + i, v, mask=inside)\n",
            "    tl.store(x + i, v, mask=inside)\n    tl.store(gain + i % width, 1.0, mask=inside)\n"),
           verdicts=(Verdict.MUTATED_INPUT, Verdict.WRONG_VALUE)),
    _cheat("X306", "room for one row too few", "softmax_rows", SOFTMAX_ROWS,
           ("y = torch.empty_like(x)", "y = torch.empty_like(x)[:-1]"),
           verdicts=(Verdict.MEM_RACE, Verdict.WRONG_META)),
    _cheat("X307", "rows read one row too far", "transposed_input", elements.TRANSPOSED,
           ("a = tl.load(x + r * sxr", "a = tl.load(x + (r + 1) * sxr"),
           verdicts=(Verdict.MEM_RACE, Verdict.WRONG_VALUE)),  # on a device other memory lies behind
)  # fmt: skip
