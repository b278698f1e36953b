"""The context-memory sub-agent: what limits a node, on which evidence, what to do next and what not to do again.

In: a candidate's evaluation, resources and lineage. Out: a `Diagnosis`. Left to others: the rules (`diagnose`), which
are what a brief has where no model is asked, or where it fails.

A model is asked once for each node, after its evaluation and before it is told: `ask` never waits, and a brief must
follow from the log alone. What it said is in the log (a note with topic `analysis`), so any brief can be composed
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Candidate, Cost
from kernelevolve.evaluation import Evaluation
from kernelevolve.events import ANALYSIS, LOOKUP, Event, Noted
from kernelevolve.graph import Graph
from kernelevolve.hardware import HardwareFigures
from kernelevolve.propose.asking import Asker
from kernelevolve.propose.diagnose import LIMITS, Diagnosis
from kernelevolve.propose.memory import lineage_of
from kernelevolve.propose.prose import details, fenced, fill, findings, hardware_text, listed, one_line, template

MOST_LINES, MOST_CHARACTERS = 6, 400


@dataclass
class Said:
    """What a model answers; see `prompts/analysis.md`."""

    limit: str
    evidence: list[str]
    directive: str
    avoid: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)


async def analyse(
    asker: Asker,
    graph: Graph,
    candidate: Candidate,
    found: Evaluation,
    ruled: Diagnosis,
    figures: HardwareFigures | None,
) -> Noted:
    """What a model says of a candidate that was just evaluated, for the log; or why the rules' diagnosis stays.

    Args:
        ruled: what the rules say.
    """
    prompt = fill(
        template("analysis"),
        {"limits": ", ".join(LIMITS), "case": case_text(graph, candidate, found, ruled, figures)},
    )
    reply = await asker.ask(prompt, Said)
    said, why = reply.said, reply.why or _lacking(reply.said)
    data: dict[str, Any] = {"candidate": candidate.id, "by": asker.name, "cost": codec.to_data(reply.cost)}
    if said is None or why:
        return Noted(ANALYSIS, f"{candidate.id}: by rules, since {asker.name} failed: {why}", {**data, "why": why})
    data |= {"limit": said.limit, "directive": _short(said.directive)}
    for name in ("evidence", "avoid", "later"):
        data[name] = [_short(line) for line in getattr(said, name)[:MOST_LINES]]
    return Noted(ANALYSIS, f"{candidate.id}: {said.limit}: {data['directive']}", data)


def _lacking(said: Said | None) -> str:
    """Why an answer is of no use; empty where it is."""
    if said is None:
        return "it gave no answer"
    if said.limit not in LIMITS:
        return f"it names no known limit: {one_line(said.limit)[:60]!r}"
    return "" if said.directive.strip() else "it gives no directive"


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS].rsplit(' ', 1)[0]} ..."


def case_text(
    graph: Graph, candidate: Candidate, found: Evaluation, ruled: Diagnosis, figures: HardwareFigures | None
) -> str:
    """All that a model is told of a candidate."""
    waits = graph.pending.get(candidate.brief)
    parents = waits.brief.parents if waits is not None else ()
    lineage = lineage_of(graph, parents)
    rules = [f"limited by {ruled.limit}: {one_line(ruled.evidence)}", *ruled.lines, *ruled.later]
    parts = [
        f"## The kernel {candidate.id}\n\n{fenced(candidate.source, 'python')}",
        f"Its writer said: {one_line(candidate.note)}" if candidate.note else "",
        "## What the harness found\n\n" + listed([*findings(found), *details(found)]),
        "## What rules made of it\n\n" + listed(rules),
        "## How it came about\n\n" + listed(lineage) if lineage else "It is a first kernel: nothing came before it.",
        "## The accelerator\n\n" + hardware_text(figures),
    ]
    return "\n\n".join(part for part in parts if part)


def diagnosis_of(graph: Graph, node: str, ruled: Diagnosis) -> Diagnosis:
    """What a brief tells of a node: what a model said of it, where one did, else what the rules say."""
    note = notes_of(graph, node).get(ANALYSIS)
    if note is None:
        return ruled
    if "why" in note:
        return replace(ruled, said=f"by rules: {note['by']} was asked and failed: {note['why']}")
    evidence = [str(line) for line in note["evidence"]] or [ruled.evidence]
    limit = str(note["limit"])
    return Diagnosis(
        limit, evidence[0], LIMITS[limit], (*evidence[1:], *ruled.lines), str(note["directive"]),
        tuple(note["later"]) or ruled.later, tuple(note["avoid"]), f"by {note['by']}; rules say: {ruled.limit}",
    )  # fmt: skip


class AnalysisReducer:
    """Keeps what sub-agents said, by candidate and topic."""

    name = "propose.analysis"

    def start(self) -> dict[str, dict[str, Any]]:
        return {}

    def fold(self, state: dict[str, dict[str, Any]], event: Event, graph: Graph) -> dict[str, dict[str, Any]]:
        if isinstance(event, Noted) and event.topic in (ANALYSIS, LOOKUP):
            state.setdefault(str(event.data["candidate"]), {})[event.topic] = event.data
        return state

    def save(self, state: dict[str, dict[str, Any]], graph: Graph) -> Any:
        """See `Restorable.save`."""
        return codec.to_data(state)

    def restore(self, data: Any, graph: Graph) -> dict[str, dict[str, Any]]:
        """See `Restorable.restore`."""
        return dict(data)


def notes_of(graph: Graph, node: str) -> Mapping[str, Any]:
    """What sub-agents said of a node, by topic."""
    state: Mapping[str, Mapping[str, Any]] = graph.reduced(AnalysisReducer.name)
    return state.get(node, {})


def spent_on(notes: tuple[Noted, ...]) -> Cost:
    """What sub-agents cost, of their notes."""
    return sum((codec.from_data(Cost, n.data["cost"]) for n in notes if n.topic in (ANALYSIS, LOOKUP)), Cost())
