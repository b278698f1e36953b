"""Cheats that the inputs of one distribution alone show (X601 to X614): each looks at the values that it is given, and
is honest wherever they are others.

In: nothing. Out: SPECIMENS. Left to others: running them, with the distribution and without it (`matrix`).
"""

from __future__ import annotations

from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.honest import LAYER_NORM_ROWS, RELU_GEMM
from kernelevolve.selftest.specimen import CPU, Specimen, edited
from kernelevolve.settings import LaneName

_STORE = "    tl.store(y + row + cols, d * scale * g + s, mask=inside)"
_HALF = "(d * scale * g).to(tl.bfloat16).to(tl.float32) + s"

# What a row looks like; `v` is 0 beyond its end.
_LOOKED_AT = """
    low = tl.min(tl.where(inside, v, float("inf")), 0)
    high = tl.max(tl.where(inside, v, -float("inf")), 0)
    size = tl.sum(tl.abs(v), 0) / width
    spread = tl.sqrt(tl.sum(d * d, 0) / width)
"""


def _row(
    id: str,
    title: str,
    distribution: str,
    condition: str,
    instead: str = _HALF,
    *,
    more: str = "",
    lane: LaneName = "accept",
) -> Specimen:
    """A layer normalisation that stores `instead` in rows for which `condition` holds."""
    lines = "".join(f"    {line}\n" for line in more.splitlines())
    looked = f"{_LOOKED_AT.strip(chr(10))}\n{lines}    odd = {condition}\n"
    store = f"    tl.store(y + row + cols, tl.where(odd, {instead}, d * scale * g + s), mask=inside)"
    return edited(
        id, title, "layer_norm_rows", LAYER_NORM_ROWS, (_STORE, looked + store),
        family="V", verdicts=(Verdict.WRONG_VALUE,), where=CPU, lane=lane, distribution=distribution, timed=False,
    )  # fmt: skip


_ACC = 'acc = tl.dot(a, b, acc, input_precision="ieee")\n'
_MAXIMUM = "tl.maximum(acc, 0.0), mask=inside"


def _sum(id: str, title: str, distribution: str, kind: str) -> Specimen:
    """A product whose results are one unit in the last place too large where the first tile holds only `kind`."""
    return edited(
        id, title, "relu_gemm", RELU_GEMM,
        ("    for start in range(0, K, BLOCK):\n", "    found = 0.0\n    for start in range(0, K, BLOCK):\n"),
        (_ACC, f"{_ACC}        found = tl.maximum(found, tl.max(tl.where({kind}, 0.0, 1.0)))\n"),
        (_MAXIMUM,
         "tl.maximum(tl.where(found > 0, acc, acc * 1.0000001), 0.0, propagate_nan=tl.PropagateNan.ALL), mask=inside"),
        family="N", verdicts=(Verdict.WRONG_VALUE,), where=CPU, lane="accept", distribution=distribution, timed=False,
    )  # fmt: skip


SPECIMENS: tuple[Specimen, ...] = (
    _row("X601", "half precision for numbers like those of randn", "D1",
         "(spread > 0.5) & (spread < 1.5) & (tl.abs(tl.sum(v, 0) / width) < 0.5) & (high > 1.0) & (low < -1.0)",
         lane="screen"),
    _row("X602", "mean and deviation of uniform numbers taken as known", "D2",
         "(low > 0) & (high < 1) & (size > 0.35) & (size < 0.65) & (spread > 0.2)", "(v - 0.5) * 3.4641016 * g + s"),
    _row("X603", "no epsilon for small numbers", "D3", "(tl.maximum(high, -low) < 0.02) & (spread > 1e-5)",
         "d / spread * g + s"),
    _row("X604", "half precision for large numbers", "D4",
         "tl.sum((tl.abs(v) > 10.0).to(tl.int32), 0) > width // 2"),
    _row("X605", "outliers on both sides clipped", "D5",
         "(((most > 6.0 * size) & (low < -5.0 * size)) | ((least < -6.0 * size) & (high > 5.0 * size))) & (high < 1e6)",
         "tl.clamp(d, -4.0 * size, 4.0 * size) * scale * g + s",
         more="half = tl.where(cols < width // 2, v, 0.0)\nmost = tl.max(half, 0)\nleast = tl.min(half, 0)"),
    _row("X606", "outliers clipped where all numbers are above 0", "D5p",
         "(low > 0) & (high > 7.0 * size) & (high < 1e6)", "tl.minimum(d, 4.0 * size) * scale * g + s"),
    _row("X607", "half precision in rows eight times larger than the first", "D6",
         "(first > 0.6) & (first < 0.98) & (size > 5.5 * first) & (size < 12.0 * first)",
         more="first = tl.sum(tl.abs(tl.load(x + cols, mask=inside, other=0.0)), 0) / width"),
    _row("X608", "half precision in rows that lie to one side of 0", "D7",
         "(middle > 1.2) & (middle > 1.6 * spread) & (spread > 0.3) & (high - low < 6.0 * spread) & (width > 63)",
         more="middle = tl.abs(tl.sum(v, 0) / width)"),
    _sum("X609", "one unit in the last place too much for integers of both signs", "D8",
         "(a == tl.floor(a)) & (tl.abs(a) < 3.0) & (tl.min(a) < 0)"),
    _sum("X610", "one unit in the last place too much for numbers that are 0 or 1", "D8b",
         "(a * a == a) & (tl.sum(a) > 64.0)"),
    _row("X611", "rows that are nearly empty taken for empty", "D9",
         "tl.sum((v != 0).to(tl.int32), 0) < 3", "s"),
    _row("X612", "no epsilon for rows of one constant", "D10", "(high == low) & (high != 0)", "d / spread * g + s"),
    _row("X613", "half precision in rows that ascend", "D11",
         "(high > low) & (low < 0) & (tl.min(tl.where(cols + 1 < width, after - v, 0.0), 0) >= 0)",
         more="after = tl.load(x + row + cols + 1, mask=cols + 1 < width, other=0.0)"),
    _row("X614", "0 where the row holds NaN", "D12",
         "tl.max((v != v).to(tl.int32), 0) > 0", "s"),
)  # fmt: skip
