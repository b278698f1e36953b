"""What guests are told, as short texts: tickets, verdicts, runs.

In: tickets and graphs. Out: Markdown of a few lines, every figure with its evidence. Left to others: the same as data
(`results`), the protocol.
"""

from __future__ import annotations

from kernelevolve import Artefacts, Graph, KernelEvolveError, Node, StoreError
from kernelevolve.cli import words
from kernelevolve.mcp.desk import ASKED, DONE, DROPPED, EVALUATING, Ticket

_ERROR = 4000  # characters of a rung's error, its end
_CHECKS = 6
_NEXT = {
    "RunBusy": "look with show and best, which need no ownership; or have the other process ended, or share one "
    "server: kernelevolve mcp --http",
    "ForeignBrief": "give the run that asked this brief",
    "RunEnded": "look at best, or have the user give the run more",
    "UnknownName": "use one of the known names",
    "ProblemError": "have the problem file repaired; list_problems has problems that work",
    "UncoveredOp": "write the first kernel yourself: ask for a brief",
    "StoreFull": "make room on the disk; the run is intact",
    "MachineError": "try again; it is the machine's fault and counts against nobody",
    "MissingDevice": "start the server with --device none to build and model without one",
    "SeatLost": "try again; it is the machine's fault and counts against nobody",
    "NoMovesLeft": "look at best: there is nothing left to try",
}


def next_step(error: KernelEvolveError) -> str:
    """What to do after an error, where its own text does not say it all."""
    return next((_NEXT[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _NEXT), "")


def ticket(found: Ticket, graph: Graph, artefacts: Artefacts | None = None) -> str:
    """What became of a brief."""
    name = f"{found.brief}, candidate {found.candidate}" if found.candidate else found.brief
    if found.state == DONE and found.node is not None:
        return verdict(found.node, graph, artefacts)
    if found.state == EVALUATING:
        doing = found.said or f"at {found.stage}, for {words.duration(found.seconds)}"
        return f"{name}: being evaluated ({doing}); look again with show"
    if found.state == ASKED:
        return f"{name}: waits for an answer"
    if found.state == DROPPED:
        return f"{name}: dropped: {found.said}"
    why = found.said or "its evaluation was interrupted"
    return f"{name}: not evaluated: {why}; submit the same source again to have it evaluated"


def verdict(node: Node, graph: Graph, artefacts: Artefacts | None = None) -> str:
    """A node's verdict with what it rests on, and what failed in full."""
    found = node.evaluation
    lines = [f"{node.id} (answer to {node.candidate.brief}): {headline(node)}"]
    if node.duplicate_of:
        lines.append(f"the same program as {node.duplicate_of}; it was not measured again")
    for rung in (rung for rung in found.rungs if rung.status == "failed"):
        lines.append(f"failed at {rung.rung.value}: {rung.message}")
    lines += _checks(node)
    lines += _errors(node, artefacts)
    for timing in found.timings:
        others = ", ".join(f"{name} {words.figure(figure)}" for name, figure in timing.baselines.items())
        lines.append(f"{timing.workload}: {words.figure(timing.candidate)} against {others}; knobs {_knobs(timing)}")
    for built in found.resources.get(found.platform, ()):
        lines.append(
            f"{built.kernel} ({built.target}): {built.registers} registers a thread, {built.spill_bytes} bytes "
            f"spilled, {built.shared_bytes} bytes shared, occupancy {built.occupancy:.0%} (compiled)"
        )
    if found.diagnosis and node.correct:
        lines.append(f"limited by: {found.diagnosis}")
    lines += [f"label: {label}" for label in found.labels]
    best = graph.best
    if best is not None:
        lines.append(f"best of the run: {best.id}, {words.fitness(best)}")
    return "\n".join(lines)


def headline(node: Node) -> str:
    """`OK_FASTER, 1.83x speedup, correct (measured)`."""
    fast = f", {words.fitness(node)}" if node.correct and node.fitness.value > 0 else ""
    return f"{node.verdict}{fast}, {words.correctness(node.evaluation)}"


def run(graph: Graph, folder: str) -> str:
    """A run in a few lines."""
    created, best = graph.created, graph.best
    waits = [name for name, pending in graph.pending.items() if pending.candidate is None]
    written = [name for name, pending in graph.pending.items() if pending.candidate is not None]
    lines = [
        f"run {created.run} in {folder}: {created.problem.suite}:{created.problem.name} on {created.platform}",
        f"candidates: {len(graph.nodes)} evaluated of at most {graph.settings['candidates']}",
        f"best: {best.id}, {headline(best)}" if best else "best: none is correct yet",
    ]
    lines += [f"waiting for an answer: {', '.join(waits)}"] if waits else []
    lines += [f"being evaluated or waiting for it: {', '.join(written)}"] if written else []
    lines += [f"ended: {graph.finished}"] if graph.finished else []
    for node in list(graph.nodes.values())[-10:]:
        lines.append(f"- {node.id} ({node.candidate.writer}): {headline(node)}; {words.change(graph, node)}")
    return "\n".join(lines)


def _checks(node: Node) -> list[str]:
    wrong = [check for each in node.evaluation.correctness for check in each.checks if not check.passed]
    return [
        f"check {c.name} of {c.workload} under {c.distribution}: {c.value:.3g}, limit {c.limit:.3g}. {c.detail}"
        for c in wrong[:_CHECKS]
    ]


def _errors(node: Node, artefacts: Artefacts | None) -> list[str]:
    if artefacts is None:
        return []
    try:
        texts = artefacts.errors(node.id)
    except StoreError as error:
        return [f"the whole error cannot be read: {error}"]
    return [f"{name}:\n{text[-_ERROR:].rstrip()}" for name, text in texts.items()]


def _knobs(timing: object) -> str:
    knobs = getattr(timing, "knobs", {})
    return ", ".join(f"{name}={value}" for name, value in knobs.items()) or "none"
