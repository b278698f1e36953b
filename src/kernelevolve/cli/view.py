"""What a run and a node look like on a terminal.

In: the graph of a run. Out: Rich renderables. Left to others: when to show them (`live`), words for figures (`words`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from kernelevolve import Check, Correctness, Evaluation, Graph, Node, Resources, Timing, Verdict
from kernelevolve.cli import admitting, words, writing

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
    line.append(words.fitness(node), style=words.verdict_style(node.verdict))
    line.append(f"  {words.correctness(node.evaluation)}", style="dim")
    line.append(f"  {words.change(graph, node)}")
    if node.candidate.control:
        line.append("  (control)", style="dim")
    if node.duplicate_of:
        line.append(f"  (same as {node.duplicate_of})", style="dim")
    return line


def plain_line(graph: Graph, node: Node) -> str:
    """One node in one line without colours, for output that is no terminal."""
    mark = " best" if graph.best is not None and node.id == graph.best.id else ""
    mark += " (control)" * node.candidate.control
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
    parts += _not_seen(evaluation)
    parts += _guards(evaluation)
    if evaluation.timings:
        parts.append(_timings(evaluation.timings))
    if evaluation.resources:
        parts.append(_resources(evaluation))
    parts.append(_source(graph, node))
    return Group(*parts)


def _facts(graph: Graph, node: Node) -> list[tuple[str, str]]:
    evaluation, candidate = node.evaluation, node.candidate
    judged = evaluation.verdict is not Verdict.UNJUDGED
    facts = [
        ("node", node.id + (" (best)" if graph.best is not None and graph.best.id == node.id else "")),
        ("control", "asked for anew, apart from the search" if node.candidate.control else ""),
        ("verdict", f"{evaluation.verdict} on {evaluation.platform}"),
        ("fitness", f"{words.figure(node.fitness)}, {node.fitness.how}" if judged else ""),
        ("correctness", words.correctness(evaluation)),
        ("writer", candidate.writer),
        ("change", words.change(graph, node)),
        ("effect", words.effect(graph, node)),
        ("lineage", " -> ".join(graph.lineage(node.id))),
        ("isolation", evaluation.isolation),
        ("versions", ", ".join(f"{k} {v}" for k, v in evaluation.versions.items())),
        ("diagnosis", evaluation.diagnosis if judged else ""),
        ("labels", ", ".join(evaluation.labels)),
        ("admission", admitting.sentence(graph)),
        ("cost", writing.spent(candidate.cost)),
        ("session", "kept; show it with --session" if candidate.session else ""),
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
    """One row per check, workload and distribution with its worst comparison; each failed one in full."""
    title = f"correctness ({found.evidence}): {'passed' if found.passed else 'failed'}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for column in ("check", "workload", "inputs", "passed", "worst", "limit", "detail"):
        table.add_column(column)
    groups: dict[tuple[str, str, str], list[Check]] = {}
    for check in found.checks:
        groups.setdefault((check.name, check.workload, check.distribution), []).append(check)
    for names, checks in groups.items():
        worst = max(checks, key=_strain)
        good = sum(c.passed for c in checks)
        style = "green" if good == len(checks) else "red"
        cells = (f"{worst.value:.3g}", f"{worst.limit:.3g}", Text(f"seed {worst.seed}: {worst.detail}"))
        table.add_row(*names, Text(f"{good} of {len(checks)}", style=style), *cells)
    failed = [c for c in found.checks if not c.passed]
    lines = [f"  failed: {c.name} on {c.workload}, {c.distribution}, seed {c.seed}: {c.detail}" for c in failed[:20]]
    lines += [f"  scaled: {line}" for line in found.scaled]
    errors = f"{found.own_error:.3g}; the reference's own: {found.reference_error:.3g}"
    lines.append(f"  rms error / rms of the oracle: {errors}")
    return Group(table, *(Text(line, style="dim") for line in lines))


def _strain(check: Check) -> float:
    """How close a comparison came to its limit; failed ones first."""
    used = check.value / check.limit if check.limit else check.value
    return (0.0 if check.passed else 1e9) + (used if math.isfinite(used) else 1e9)


def _not_seen(evaluation: Evaluation) -> list[Text]:
    """What no comparison could see, once for all of them; nothing where one was made on a device."""
    if not evaluation.correctness or any(not c.not_seen for c in evaluation.correctness):
        return []
    items = dict.fromkeys(item for c in evaluation.correctness for item in c.not_seen)
    return [Text("not seen by these comparisons", style="bold"), *(Text(f"  {item}", style="dim") for item in items)]


def _guards(evaluation: Evaluation) -> list[RenderableType]:
    """One row per guard that was run; those that were not, by reason."""
    if not evaluation.guards:
        return []
    table = Table(title="guards", title_justify="left", box=None, padding=(0, 2))
    for column in ("guard", "held", "what it saw"):
        table.add_column(column)
    idle: dict[str, list[str]] = {}
    for guard in evaluation.guards:
        if guard.held == "not run":
            idle.setdefault(guard.detail, []).append(guard.name)
        else:
            style = "green" if guard.held == "held" else "red"
            table.add_row(Text(guard.name), Text(guard.held, style=style), Text(guard.detail, overflow="fold"))
    lines = [f"  not run ({reason or 'no reason given'}): {', '.join(names)}" for reason, names in idle.items()]
    return [table, *(Text(line, style="dim") for line in lines)]


def _timings(timings: Iterable[Timing]) -> Table:
    table = Table(title="time", title_justify="left", box=None, padding=(0, 2))
    for column in ("workload", "platform", "candidate", "baselines", "result", "knobs"):
        table.add_column(column)
    for t in timings:
        baselines = "\n".join(
            f"{name} {words.figure(f)}{' <- compared with' if name == t.against else ''}"
            for name, f in t.baselines.items()
        ) + "".join(f"\n{name} {words.figure(f)} at a first look" for name, f in t.aside.items())
        knobs = ", ".join(f"{k}={v}" for k, v in t.knobs.items())
        table.add_row(t.workload, t.platform, words.figure(t.candidate), baselines, words.speedup(t.speedup), knobs)
    hows = dict.fromkeys(
        f.how for t in timings for f in (t.candidate, *t.baselines.values(), *t.aside.values()) if f.how
    )
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
        return Group(Text("source", style="bold"), _highlighted(source, "python"))
    difference = "".join(
        difflib.unified_diff(
            parent.candidate.source.splitlines(keepends=True),
            node.candidate.source.splitlines(keepends=True),
            parent.id,
            node.id,
        )
    )
    title = Text(f"difference to {parent.id}", style="bold")
    return Group(title, _highlighted(difference or "no difference\n", "diff"))


def _highlighted(text: str, language: str) -> Text:
    """Coloured text without the padding that `Syntax` itself prints, so that it can be copied from a file."""
    return Syntax("", language).highlight(text)
