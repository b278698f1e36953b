"""What a candidate is worth: how many times faster than PyTorch, over all workloads.

In: a problem and an evaluation. Out: a Figure in x; 0 unless correct. Left to others: measuring (`evaluate`).

Fitness = exp(sum_w weight_w * ln(t(baseline)_w / t(candidate)_w) / sum_w weight_w), the weighted geometric mean, the
only mean of ratios whose order does not depend on which side is the denominator (Fleming and Wallace, CACM 29(3),
1986). The baseline of a workload is the faster of eager and torch.compile, and its time has the same evidence as the
candidate's. A modelled one is rounded to what a model can tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kernelevolve.evaluation import Evaluation, Evidence, Figure, Timing, speedup
from kernelevolve.problem import Problem, Workload

BASELINES = ("eager", "compile")
UNIT = "x"
#: Significant digits of a modelled fitness.
MODELLED_DIGITS = 3


def fitness(problem: Problem, evaluation: Evaluation) -> Figure:
    """The fitness of `evaluation`, with the weakest evidence among the times it rests on.

    A correct candidate with a workload that has no time, or no baseline of the same evidence, has fitness 0 and says
    so.
    """
    found = [c.evidence for c in evaluation.correctness]
    seen = max(found, key=lambda e: e.rank, default=Evidence.INTERPRETED)
    if not evaluation.correct:
        return Figure(0.0, UNIT, seen, f"not correct: {evaluation.verdict.value}")
    timings = {t.workload: t for t in evaluation.timings if t.platform == evaluation.platform and t.mode == "cold"}
    ratios: list[tuple[Workload, Figure]] = []
    for workload in problem.workloads:
        ratio = _ratio(timings[workload.name]) if workload.name in timings else None
        if ratio is None:
            return Figure(
                0.0, UNIT, Evidence.INTERPRETED, f"correct, but workload {workload.name!r} has no comparable time"
            )
        ratios.append((workload, ratio))
    return _mean(ratios)


def _ratio(timing: Timing) -> Figure | None:
    """t(fastest baseline) / t(candidate) of one workload; None without a baseline of the same evidence."""
    rivals = {
        name: figure
        for name, figure in timing.baselines.items()
        if name in BASELINES and figure.evidence is timing.candidate.evidence
    }
    if not rivals:
        return None
    against = min(rivals, key=lambda name: rivals[name].value)
    if against == timing.against and timing.speedup.evidence is timing.candidate.evidence:
        # The clock's own ratio is paired and so has the tighter interval.
        return timing.speedup
    return speedup(rivals[against], timing.candidate)


def _mean(ratios: Sequence[tuple[Workload, Figure]]) -> Figure:
    total = sum(workload.weight for workload, _ in ratios)

    def mean(values: Sequence[float]) -> float:
        logs = sum(workload.weight * math.log(v) for (workload, _), v in zip(ratios, values, strict=True))
        return math.exp(logs / total)

    evidence = min((r.evidence for _, r in ratios), key=lambda e: e.rank)
    lows = [r.low for _, r in ratios if r.low]
    highs = [r.high for _, r in ratios if r.high]
    bounded = len(lows) == len(highs) == len(ratios)
    how = f"weighted geometric mean over {len(ratios)} workload{'s' if len(ratios) > 1 else ''} of {ratios[0][1].how}"
    if len({workload.weight for workload, _ in ratios}) > 1:
        how += f"; weights {', '.join(f'{workload.name} {workload.weight:g}' for workload, _ in ratios)}"
    low, high = (mean(lows), mean(highs)) if bounded else (None, None)
    value = mean([r.value for _, r in ratios])
    if evidence is Evidence.MODELLED:
        # A model does not tell a thousandth apart: equals stay equal, and the earliest of them stays the best.
        value = float(f"{value:.{MODELLED_DIGITS}g}")
    return Figure(value, UNIT, evidence, how, low, high)
