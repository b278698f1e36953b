"""What a run and a node look like on a terminal.

In: the graph of a run. Out: Rich renderables. Left to others: when to show them (`live`), words for figures (`words`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from kernelevolve import Correctness, Evaluation, Graph, Node, Resources, Timing
from kernelevolve.cli import words

_RUNG_MARK = {"passed": "[green]passed[/]", "failed": "[red]failed[/]", "skipped": "[yellow]skipped[/]"}


def tree(graph: Graph, *, most: int = 40) -> Tree:
    """The nodes under their first parents; in a large run the best lineage and the newest, at most `most` in all."""
    created = graph.created
    root = Tree(
        Text.from_markup(f"[bold]{escape(created.problem.name)}[/] on [bold]{escape(created.platform)}[/]"),
        guide_style="dim",
    )
    shown = _shown(graph, most)
    hidden = len(graph.nodes) - len(shown)
    branches: dict[str, Tree] = {}
    for node in graph.nodes.values():
        if node.id in shown:
            above = next((branches[p] for p in node.parents if p in branches), root)
            branches[node.id] = above.add(node_line(graph, node))
    for pending in graph.pending.values():
        above = next((branches[p] for p in pending.brief.parents if p in branches), root)
        state = "evaluating" if pending.candidate else "writing"
        name = pending.candidate.id if pending.candidate else pending.brief.id
        above.add(Text(f"{name} {state} ...", style="dim"))
    if hidden:
        root.add(Text(f"{hidden} more; `kernelevolve show RUN NODE` shows any of them", style="dim"))
    return root


def _shown(graph: Graph, most: int) -> set[str]:
    if len(graph.nodes) <= most:
        return set(graph.nodes)
    best = list(graph.lineage(graph.best.id)) if graph.best else []
    newest = list(graph.nodes)[-(most - min(len(best), most // 2)) :]
    return {*best[-(most // 2) :], *newest}


def node_line(graph: Graph, node: Node) -> Text:
    """One node in one line: id, fitness or verdict, evidence of correctness, what changed."""
    best = graph.best is not None and node.id == graph.best.id
    line = Text()
    line.append(f"{node.id} ", style="bold")
    if best:
        line.append("best ", style="bold green")
    line.append(words.fitness(node), style=words.verdict_style(node.evaluation.verdict))
    line.append(f"  {words.correctness(node.evaluation)}", style="dim")
    line.append(f"  {words.change(graph, node)}")
    if node.duplicate_of:
        line.append(f"  (same as {node.duplicate_of})", style="dim")
    return line


def plain_line(graph: Graph, node: Node) -> str:
    """One node in one line without colours, for output that is no terminal."""
    mark = " best" if graph.best is not None and node.id == graph.best.id else ""
    return (
        f"{node.id}{mark}: {words.fitness(node)}, {words.correctness(node.evaluation)}, "
        f"{node.evaluation.seconds:.1f} s: {words.change(graph, node)}"
    )


def node_page(graph: Graph, node: Node) -> RenderableType:
    """A node in full: where it came from, every rung and figure, and the difference to its parent."""
    evaluation = node.evaluation
    head = Table.grid(padding=(0, 2))
    for name, value in _facts(graph, node):
        head.add_row(Text(name, style="bold"), Text(value))
    parts: list[RenderableType] = [head, _rungs(evaluation)]
    parts += [_correctness(c) for c in evaluation.correctness]
    if evaluation.timings:
        parts.append(_timings(evaluation.timings))
    if evaluation.resources:
        parts.append(_resources(evaluation))
    parts.append(_source(graph, node))
    return Group(*parts)


def _facts(graph: Graph, node: Node) -> list[tuple[str, str]]:
    evaluation, candidate = node.evaluation, node.candidate
    facts = [
        ("node", node.id + (" (best)" if graph.best is not None and graph.best.id == node.id else "")),
        ("verdict", f"{evaluation.verdict} on {evaluation.platform}"),
        ("fitness", words.figure(node.fitness)),
        ("correctness", words.correctness(evaluation)),
        ("writer", candidate.writer),
        ("change", words.change(graph, node)),
        ("effect", words.effect(graph, node)),
        ("lineage", " -> ".join(graph.lineage(node.id))),
        ("isolation", evaluation.isolation),
        ("versions", ", ".join(f"{k} {v}" for k, v in evaluation.versions.items())),
        ("diagnosis", evaluation.diagnosis),
        ("labels", ", ".join(evaluation.labels)),
        ("tokens", f"{candidate.cost.tokens_in + candidate.cost.tokens_out}" if candidate.cost.tokens_in else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _rungs(evaluation: Evaluation) -> Table:
    table = Table(title="rungs", title_justify="left", box=None, padding=(0, 2))
    for column in ("rung", "platform", "status", "seconds", "what it saw"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for rung in evaluation.rungs:
        table.add_row(
            rung.rung,
            rung.platform,
            _RUNG_MARK[rung.status],
            f"{rung.seconds:.2f}",
            Text(rung.message, overflow="fold"),
        )
    return table


def _correctness(found: Correctness) -> RenderableType:
    title = f"correctness ({found.evidence}): {'passed' if found.passed else 'failed'}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for column in ("check", "workload", "inputs", "seed", "value", "limit", "result", "detail"):
        table.add_column(column)
    for check in found.checks:
        table.add_row(
            check.name,
            check.workload,
            check.distribution,
            str(check.seed),
            f"{check.value:.3g}",
            f"{check.limit:.3g}",
            "[green]passed[/]" if check.passed else "[red]failed[/]",
            Text(check.detail),
        )
    notes = [f"scaled: {line}" for line in found.scaled]
    if found.not_seen:
        notes.append(f"not seen by this rung: {', '.join(found.not_seen)}")
    notes.append(
        f"rms error / rms of the oracle: {found.own_error:.3g}; the reference's own: {found.reference_error:.3g}"
    )
    return Group(table, *(Text(f"  {n}", style="dim") for n in notes))


def _timings(timings: Iterable[Timing]) -> Table:
    table = Table(title="time", title_justify="left", box=None, padding=(0, 2))
    for column in ("workload", "platform", "candidate", "baselines", "result", "knobs"):
        table.add_column(column)
    for t in timings:
        baselines = "\n".join(
            f"{name} {words.figure(f)}{' <- compared with' if name == t.against else ''}"
            for name, f in t.baselines.items()
        )
        knobs = ", ".join(f"{k}={v}" for k, v in t.knobs.items())
        table.add_row(t.workload, t.platform, words.figure(t.candidate), baselines, words.speedup(t.speedup), knobs)
    hows = dict.fromkeys(f.how for t in timings for f in (t.candidate, *t.baselines.values()) if f.how)
    table.caption = "\n".join(hows)
    table.caption_justify = "left"
    return table


def _resources(evaluation: Evaluation) -> Table:
    table = Table(title="resources (compiled)", title_justify="left", box=None, padding=(0, 2))
    for column in (
        "platform",
        "kernel",
        "target",
        "registers",
        "spilled",
        "shared",
        "warps",
        "occupancy",
        "instructions",
    ):
        table.add_column(column)
    for platform, launches in evaluation.resources.items():
        for r in launches:
            table.add_row(platform, *_resource(r))
    return table


def _resource(r: Resources) -> tuple[str, ...]:
    mix = ", ".join(f"{k} {v}" for k, v in r.instructions.items() if v)
    return (
        r.kernel,
        r.target,
        str(r.registers),
        f"{r.spill_bytes} B",
        words.size(r.shared_bytes),
        str(r.warps),
        f"{r.occupancy:.0%}",
        mix,
    )


def _source(graph: Graph, node: Node) -> RenderableType:
    source = node.evaluation.tuned_source or node.candidate.source
    parent = graph.nodes.get(node.parents[0]) if node.parents else None
    if parent is None:
        return Group(Text("source", style="bold"), Syntax(source, "python", word_wrap=True))
    difference = "".join(
        difflib.unified_diff(
            parent.candidate.source.splitlines(keepends=True),
            node.candidate.source.splitlines(keepends=True),
            parent.id,
            node.id,
        )
    )
    title = Text(f"difference to {parent.id}", style="bold")
    return Group(title, Syntax(difference or "no difference\n", "diff", word_wrap=True))
