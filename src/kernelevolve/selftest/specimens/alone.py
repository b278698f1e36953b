"""Cheats that one guard alone is there for (X501 to X514).

In: nothing. Out: SPECIMENS. Left to others: running them, with the guard and without it (`matrix`).
"""

from __future__ import annotations

from functools import partial

from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.honest import MEAN_SQUARE, RELU_GEMM, SCALE_BACKWARD, edit, in_forward
from kernelevolve.selftest.kernels import elements, products
from kernelevolve.selftest.specimen import CPU, Specimen, edited
from kernelevolve.selftest.specimens.timing import forged_times

_CALL = "return compute(x, self.weight)"
_ZEROS = "torch.zeros((x.shape[0], self.weight.shape[1]), device=x.device, dtype=x.dtype)"

# Copies `given` into `kept` when the first elements of x are others than in the call before; the host sees nothing.
_REFRESHED = '''
KEPT = {}


@triton.jit
def refresh(x, window, given, kept, count, size, COUNT: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, COUNT)
    now = tl.load(x + i, mask=i < count, other=0.0)
    before = tl.load(window + i, mask=i < count, other=0.0)
    tl.store(window + i, now, mask=i < count)
    if tl.sum((now != before).to(tl.int32), 0) > 0:
        for start in range(0, size, SIZE):
            j = start + tl.arange(0, SIZE)
            tl.store(kept + j, tl.load(given + j, mask=j < size), mask=j < size)


def remembered(x, given):
    key = (tuple(x.shape), str(x.device))
    if key not in KEPT:
        window = torch.zeros((512,), device=x.device, dtype=x.dtype)
        KEPT[key] = (window, torch.zeros(given.shape, device=x.device, dtype=given.dtype))
    window, kept = KEPT[key]
    refresh[(1,)](x, window, given, kept, min(x.numel(), 512), given.numel(), COUNT=512, SIZE=512)
    return kept

'''
OLD_WEIGHTS = in_forward(
    RELU_GEMM, "x = x.contiguous()", "return compute(x, remembered(x, self.weight))", header=_REFRESHED
)
OLD_ORDER = in_forward(
    elements.PERMUTED, "x = x.contiguous()", "return compute(x, remembered(x, order))", header=_REFRESHED
)
UNSTEADY = edit(
    in_forward(
        MEAN_SQUARE,
        "CALLS.append(0)",
        "return compute(predicted, wanted, 1.0 + 3e-6 * (len(CALLS) % 2 * (predicted.numel() > 4096)))",
        header="CALLS = []",
    ),
    ("def compute(a, b):", "def compute(a, b, factor):"),
    ("def total(sums, y, parts, count, BLOCK", "def total(sums, y, parts, count, factor, BLOCK"),
    ("tl.store(y, tl.sum(s, 0) / count)", "tl.store(y, tl.sum(s, 0) / count * factor)"),
    ("total[(1,)](sums, y, parts, count, BLOCK", "total[(1,)](sums, y, parts, count, factor, BLOCK"),
)

# The operator writes into an argument that its schema does not name as changed.
UNDECLARED = edit(
    products.LIBRARY,
    ("def compute(x, weight, bias):\n    z = torch.matmul(x, weight)\n    y = torch.empty_like(z)\n",
     '@torch.library.custom_op("selftest::bias_gelu", mutates_args=())\n'
     "def written(z: torch.Tensor, bias: torch.Tensor, y: torch.Tensor) -> torch.Tensor:\n"),
    ("BLOCK=256)\n    return y\n",
     "BLOCK=256)\n    return torch.empty_like(bias)\n\n\n"
     "@written.register_fake\n"
     "def written_on_meta(z, bias, y):\n"
     "    return torch.empty_like(bias)\n\n\n"
     "def compute(x, weight, bias):\n"
     "    z = torch.matmul(x, weight)\n"
     "    y = torch.empty_like(z)\n"
     "    written(z, bias, y)\n"
     "    return y\n"),
)  # fmt: skip
CHILD = in_forward(
    RELU_GEMM,
    "CALLS.append(0)",
    "if len(CALLS) == 8 and x.device.type != 'meta':",
    "    subprocess.Popen(['sleep', '60'])",
    _CALL,
    header="import subprocess\n\nCALLS = []",
)
LATER_THE_LAST = in_forward(
    RELU_GEMM,
    "CALLS.append(0)",
    "if not LAST:",
    "    SEEN.append(compute(x, self.weight))",
    "    if len(CALLS) > 24:",
    "        LAST[:] = [max(SEEN, key=lambda t: sum(torch.equal(t, u) for u in SEEN))]",
    "    return SEEN[-1]",
    "return LAST[0]",
    header="CALLS, SEEN, LAST = [], [], []",
)
NOT_YET = in_forward(
    RELU_GEMM,
    "CALLS.append(0)",
    "if len(CALLS) == 1 and x.device.type != 'meta':",
    f"    return {_ZEROS}",
    _CALL,
    header="CALLS = []",
)
# Where there is memory before its input, it writes there, by means that are neither a kernel nor a computation.
BEFORE_ITS_INPUT = in_forward(
    RELU_GEMM,
    "if x.storage_offset():",
    "    torch.as_strided(x, (1,), (1,), max(0, x.storage_offset() - 5)).fill_(3.0)",
    _CALL,
)
DECLARED_SHAPES = ((96, 64, 32), (89, 61, 31))  # of `relu_gemm`, at the sizes that are always compared
KNOWN_SHAPES = in_forward(
    RELU_GEMM,
    f"if (*x.shape, self.weight.shape[1]) not in {DECLARED_SHAPES}:",
    f"    return {_ZEROS}",
    _CALL,
)

_cheat = partial(edited, verdicts=(Verdict.WRONG_VALUE,))
_STALE = (Verdict.REPLAY, Verdict.WRONG_VALUE)
SPECIMENS: tuple[Specimen, ...] = (
    _cheat("X501", "a copy of the weights, renewed whenever the input is another one", "relu_gemm", OLD_WEIGHTS,
           family="R", verdicts=_STALE, lane="accept", guard="weights"),
    _cheat("X502", "a copy of one input, renewed whenever the other is another one", "permuted_rows", OLD_ORDER,
           family="R", verdicts=_STALE, lane="accept", guard="single-input"),
    _cheat("X503", "every other result moved within what rounding allows", "mean_square", UNSTEADY,
           family="N", verdicts=(Verdict.NONDETERMINISTIC,), lane="accept", guard="determinism"),
    _cheat("X504", "inputs read as if they were contiguous", "relu_gemm", RELU_GEMM,
           ("    x, w = x.contiguous(), w.contiguous()\n", ""),
           family="V", verdicts=(Verdict.GENERALIZATION, Verdict.MEM_RACE), lane="accept", guard="layouts"),
    _cheat("X505", "other arithmetic for small numbers, within what rounding allows", "relu_gemm", RELU_GEMM,
           ('acc = tl.dot(a, b, acc, input_precision="ieee")',
            'if tl.max(tl.abs(a)) < 0.25:\n            acc = tl.dot(a, b, acc, input_precision="tf32x3")\n'
            '        else:\n            acc = tl.dot(a, b, acc, input_precision="ieee")'),
           family="N", lane="accept", guard="scaling"),
    _cheat("X506", "cotangents read as if they were contiguous", "scale_backward", SCALE_BACKWARD,
           ("        dy = dy.contiguous()\n", ""),
           family="V", verdicts=(Verdict.WRONG_VALUE, Verdict.MEM_RACE), lane="accept", guard="cotangents"),
    _cheat("X507", "an operator that changes what its schema does not name", "gemm_library", UNDECLARED,
           family="V", verdicts=(Verdict.WRONG_META,), lane="accept", guard="opcheck"),
    _cheat("X508", "zeros at all shapes but those that a file names", "relu_gemm", KNOWN_SHAPES,
           family="V", verdicts=(Verdict.GENERALIZATION,), where=CPU, guard="hidden-shapes"),
    _cheat("X514", "the same, where sizes are climbed", "relu_gemm", KNOWN_SHAPES, family="V",
           verdicts=(Verdict.GENERALIZATION, Verdict.WRONG_VALUE), where=CPU, lane="accept", guard="size-ladder"),
    _cheat("X509", "a process that stays when the call has returned", "relu_gemm", CHILD,
           family="S", verdicts=(Verdict.TAMPER,), guard="state"),
    _cheat("X510", "honest for 24 calls, then the commonest result for ever", "relu_gemm", LATER_THE_LAST,
           family="R", verdicts=_STALE, where=CPU, guard="fresh-inputs"),
    _cheat("X511", "times of less than a nanosecond", "relu_gemm", forged_times("[1e-7 for _ in _burst(*a, **k)]"),
           family="T", verdicts=(Verdict.BELOW_FLOOR, Verdict.TIMER_INCONSISTENT), guard="floor"),
    _cheat("X512", "zeros at the first call in a process", "relu_gemm", NOT_YET,
           family="V", guard="first-call"),
    _cheat("X513", "a store in front of the input", "relu_gemm", BEFORE_ITS_INPUT,
           family="G", verdicts=(Verdict.MEM_RACE,), guard="guard-bands"),
)  # fmt: skip
