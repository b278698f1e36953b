"""Failure: what said no to a candidate, and everything that replays exactly that check.

In: what the rung that said no knew. Out: a frozen value, which is kept beside the log and goes into receipts. Left to
others: finding it (`evaluate`), running it again (`evaluate.replay`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from kernelevolve.candidate import Choice
from kernelevolve.evaluation import Rung, Verdict


@dataclass(frozen=True)
class Failure:
    """One check that failed, as data.

    Attributes:
        message: the line of the rung's report.
        lane: name of the lane in which it was judged.
        guard: name of the guard that failed; empty where a rung itself said no.
        workload, size: which inputs, e.g. `declared` at `scaled`; empty where no input was drawn.
        device: `cpu` under the interpreter, torch's name of an accelerator, or empty where nothing was run.
        seed, distribution, redraw_state: of the case; seed is -1 where no input was drawn.
        statistic, value, limit: the first failing one, see `Check`; empty where nothing was compared.
        choice: the knobs.
        more: what only the guard itself understands.
    """

    verdict: Verdict
    rung: Rung
    platform: str
    lane: str
    message: str
    guard: str = ""
    workload: str = ""
    size: str = ""
    device: str = ""
    seed: int = -1
    distribution: str = ""
    redraw_state: bool = True
    statistic: str = ""
    value: float = 0.0
    limit: float = 0.0
    choice: Mapping[str, Choice] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


def failure_of(artefact: Mapping[str, Any], **known: Any) -> Failure:
    """A Failure from what was said where it failed (`evaluate.correct.Failed.artefact`); names that are no field of it
    go into `more`."""
    names = {f.name for f in fields(Failure)} - {"more"}
    more = {k: v for k, v in artefact.items() if k not in names}
    return Failure(**{**{k: v for k, v in artefact.items() if k in names}, **known}, more=more)
