"""How figures, verdicts and times are written for people: never a number without its evidence.

In: frozen values. Out: short texts. Left to others: layout (`view`, `summary`).
"""

from __future__ import annotations

from kernelevolve import Evaluation, Evidence, Figure, Graph, Node, Verdict

STYLE = {
    Evidence.MEASURED: "green",
    Evidence.COMPILED: "cyan",
    Evidence.MODELLED: "yellow",
    Evidence.INTERPRETED: "yellow",
}


def figure(value: Figure) -> str:
    """`0.254 ms (modelled)`, with the interval where there is one."""
    number, unit = value.value, value.unit
    scale = 1.0
    if unit == "ms" and 0 < number < 0.1:
        scale, unit = 1e3, "us"
    interval = ""
    if value.low is not None and value.high is not None:
        interval = f" [{value.low * scale:.3g}, {value.high * scale:.3g}]"
    return f"{number * scale:.3g} {unit}{interval} ({value.evidence})"


def speedup(value: Figure) -> str:
    """`1.83x modelled speedup`; the word stands alone only where both sides were measured."""
    qualifier = "" if value.evidence is Evidence.MEASURED else f"{value.evidence} "
    interval = f" [{value.low:.2f}, {value.high:.2f}]" if value.low is not None and value.high is not None else ""
    return f"{value.value:.2f}x{interval} {qualifier}speedup"


def fitness(node: Node) -> str:
    """The node's fitness as a speedup, or its verdict where there is none."""
    if not node.correct or node.fitness.value <= 0:
        return str(node.verdict)
    return speedup(node.fitness)


def correctness(evaluation: Evaluation) -> str:
    """`correct (measured)`, `wrong (interpreted)` or `not compared`: by the strongest comparison that was made."""
    if not evaluation.correctness:
        return "not compared"
    strongest = max(evaluation.correctness, key=lambda c: c.evidence.rank)
    passed = all(c.passed for c in evaluation.correctness)
    return f"{'correct' if passed else 'wrong'} ({strongest.evidence})"


def verdict_style(verdict: Verdict) -> str:
    """Green for a valid result, yellow for what is not the candidate's, red for a breach, plain red for a fault."""
    return {"valid": "green", "fault": "red", "breach": "bold red", "not-the-candidate": "yellow"}[verdict.family]


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(amount: float) -> str:
    """Bytes in the largest fitting binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit always fits")


def change(graph: Graph, node: Node) -> str:
    """What the node changed, in one line: its writer's note, else that it is a draft."""
    note = " ".join(node.candidate.note.split())
    if node.candidate.origin:
        return f"from run {node.candidate.origin.replace('/', ', ')}: {note}"
    return note or ("first kernel" if not node.parents else f"child of {', '.join(node.parents)}")


def effect(graph: Graph, node: Node) -> str:
    """`accepted` if a correct node beats its best parent, else why not."""
    if node.verdict is Verdict.UNJUDGED:
        return "none: the climb ended before anything was judged"
    if not node.correct:
        return f"rejected: {node.verdict}"
    if node.duplicate_of:
        return f"rejected: same as {node.duplicate_of}"
    parents = [graph.nodes[p] for p in node.parents if p in graph.nodes]
    if not parents:
        return "accepted: first kernel"
    best = max(parents, key=lambda p: p.rank)
    if node.rank > best.rank:
        return f"accepted: {node.fitness.value:.2f}x from {best.fitness.value:.2f}x"
    return f"rejected: {node.fitness.value:.2f}x is no better than {best.id}'s {best.fitness.value:.2f}x"
