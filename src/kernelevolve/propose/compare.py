"""What each of several parents is better at, so that a crossover has a reason.

In: evaluated nodes. Out: lines of text, each figure with its evidence. Left to others: which parents (`search`).
"""

from __future__ import annotations

from collections.abc import Sequence

from kernelevolve.evaluation import Resources, Timing
from kernelevolve.graph import Node

#: Two times of a workload are told apart from this ratio on; smaller gaps are within what re-measuring moves.
APART = 1.01


def compare_parents(nodes: Sequence[Node]) -> tuple[str, ...]:
    """For each check and workload, and by what the compiler made of the launches, who is better and by how much."""
    if len(nodes) < 2:
        return ()
    return (*_verdicts(nodes), *_checks(nodes), *_workloads(nodes), *_resources(nodes))


def _verdicts(nodes: Sequence[Node]) -> list[str]:
    if all(node.correct for node in nodes):
        return []
    return [
        f"{node.id} is {'correct' if node.correct else f'not correct ({node.verdict.value})'}: "
        f"{_climbed(node)} rungs passed"
        for node in nodes
    ]


def _climbed(node: Node) -> int:
    return sum(rung.status == "passed" for rung in node.evaluation.rungs)


def _checks(nodes: Sequence[Node]) -> list[str]:
    failed = {
        node.id: {
            (c.name, c.workload, c.distribution)
            for correctness in node.evaluation.correctness
            for c in correctness.checks
            if not c.passed
        }
        for node in nodes
    }
    lines = []
    for name, workload, distribution in sorted(set().union(*failed.values())):
        fails = [node.id for node in nodes if (name, workload, distribution) in failed[node.id]]
        able = [node.id for node in nodes if node.id not in fails and node.evaluation.correctness]
        if able:
            lines.append(
                f"check {name} of {workload} under {distribution}: {', '.join(able)} passes, {', '.join(fails)} fails"
            )
    return lines[:8]


def _times(node: Node) -> dict[str, Timing]:
    found = node.evaluation
    return {t.workload: t for t in found.timings if t.platform == found.platform and t.mode == "cold"}


def _workloads(nodes: Sequence[Node]) -> list[str]:
    times = {node.id: _times(node) for node in nodes}
    lines = []
    for workload in sorted(set().union(*times.values())):
        # Times of different evidence are not compared.
        by = {name: t[workload].candidate for name, t in times.items() if workload in t}
        best = min(by, key=lambda name: (-by[name].evidence.rank, by[name].value))
        for other in by:
            ratio = by[other].value / by[best].value if by[best].value > 0 else 0.0
            if other != best and by[other].evidence is by[best].evidence:
                gap = f"{ratio:.3g} times as fast as {other}" if ratio >= APART else f"no faster than {other}"
                lines.append(
                    f"workload {workload}: {best} is {gap} ({by[best].value:.4g} against {by[other].value:.4g} "
                    f"{by[best].unit}, {by[best].evidence.value})"
                )
    return lines


def _resources(nodes: Sequence[Node]) -> list[str]:
    made = {node.id: node.evaluation.resources.get(node.evaluation.platform, ()) for node in nodes}
    if not all(made.values()):
        return []
    return [f"{name}: {_used(launches)} (compiled)" for name, launches in made.items()]


def _used(launches: Sequence[Resources]) -> str:
    return (
        f"{len(launches)} kernel{'s' * (len(launches) > 1)}, at most {max(r.registers for r in launches)} registers, "
        f"{max(r.spill_bytes for r in launches)} bytes spilled, {max(r.shared_bytes for r in launches)} bytes shared, "
        f"least occupancy {min(r.occupancy for r in launches):.2f}"
    )
