"""Features of a correct node that the archive of `map_elites` keeps apart: what it is, not how fast it is.

In: a node. Out: its cell. Left to others: finding out what limits a kernel (`propose.diagnose` has written it into the
evaluation), choosing among cells (`map_elites`).
"""

from __future__ import annotations

import re
from itertools import product
from typing import NamedTuple

from kernelevolve.graph import Node

#: What limits a correct kernel, as a diagnosis names it; anything else is `unknown`.
LIMITS = ("spills", "shared-memory", "launch", "latency", "occupancy", "compute", "bandwidth", "unknown")
#: Kernel launches of the objective platform's plan, by what they cost: one, a pair, a few, many.
LAUNCHES = ("1", "2", "3-4", "5+")
#: How products are computed: `none` without any, `default` where the source leaves it to the language.
PRECISIONS = ("none", "default", "tf32", "tf32x3", "bf16x3", "bf16x6", "ieee")
LANGUAGES = ("triton", "gluon")

_STATED = re.compile(r"""input_precision\s*=\s*["'](\w+)["']""")


class Cell(NamedTuple):
    """Where a node is kept in the archive."""

    limit: str
    launches: str
    precision: str
    language: str


def all_cells() -> tuple[Cell, ...]:
    """Every cell that there is."""
    return tuple(Cell(*features) for features in product(LIMITS, LAUNCHES, PRECISIONS, LANGUAGES))


def cell_of(node: Node) -> Cell:
    """The cell of a correct node."""
    limit = node.evaluation.diagnosis.partition(":")[0]
    source = node.candidate.source
    return Cell(
        limit if limit in LIMITS else "unknown",
        _launches(len(node.evaluation.resources.get(node.evaluation.platform, ()))),
        _precision(node, source),
        "gluon" if "triton.experimental.gluon" in source or "import gluon" in source else "triton",
    )


def _launches(count: int) -> str:
    return "1" if count <= 1 else "2" if count == 2 else "3-4" if count <= 4 else "5+"


def _precision(node: Node, source: str) -> str:
    """The tuned choice of a knob `PRECISION`, else what the source states first, else whether it has products."""
    chosen = (str(t.knobs["PRECISION"]) for t in node.evaluation.timings if "PRECISION" in t.knobs)
    stated = next(chosen, "") or next((m[1] for m in _STATED.finditer(source)), "")
    if stated in PRECISIONS:
        return stated
    return "default" if re.search(r"\bdot(?:_scaled)?\(|\bwgmma|\bmma_", source) else "none"
