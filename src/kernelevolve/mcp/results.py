"""What each tool gives, as typed data: the schemas that clients see.

In: values of the public names. Out: frozen models. Left to others: the short texts beside them (`told`).
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kernelevolve import Brief, Graph, Report, to_data
from kernelevolve.mcp.desk import State, Ticket


class Result(BaseModel):
    """What all results have in common."""

    model_config = ConfigDict(frozen=True)


class SuiteFound(Result):
    """One suite."""

    suite: str
    problems: list[str] = Field(description="names for create_run, such as recsys:rms_norm_residual")
    note: str = Field(default="", description="why there are none, or that there are more")


class Problems(Result):
    """What list_problems gives."""

    suites: list[SuiteFound]


class BriefGiven(Result):
    """A brief that waits for an answer."""

    brief: str = Field(description="name it in submit, as RUN/BRIEF")
    parents: list[str] = Field(description="ids of the nodes to start from; none for a first kernel")
    prompt: str = Field(description="what is wanted, as Markdown: read it whole")


class Briefs(Result):
    """What ask gives."""

    run: str
    briefs: list[BriefGiven]


class TicketFound(Result):
    """What became of a brief."""

    ticket: str = Field(description="name it in show, as RUN/BRIEF")
    state: State
    stage: str = Field(default="", description="the rung at work while it is evaluated")
    node: str = Field(default="", description="id of the candidate, n0, n1, ...")
    verdict: str | None = None
    correct: bool | None = None
    fitness: dict[str, Any] | None = Field(default=None, description="0 unless correct; with its evidence")
    said: str = Field(default="", description="why it stopped or was dropped")
    seconds: float = Field(default=0.0, description="since the evaluation began")


class RunFound(Result):
    """One run."""

    run: str = Field(description="name it in the other tools")
    id: str
    problem: str
    platform: str
    candidates: int = Field(description="evaluated")
    most_candidates: int
    best: str | None = Field(default=None, description="id of the best correct node")
    fitness: dict[str, Any] | None = None
    waiting: list[str] = Field(default_factory=list, description="briefs that wait for an answer")
    tickets: list[TicketFound] = Field(default_factory=list, description="what is evaluated, or waits for it")
    ended: str = Field(default="", description="why the run ended")
    nodes: list[str] = Field(default_factory=list)


class Shown(Result):
    """What show gives: the run, and the node or ticket that was asked for."""

    run: RunFound
    ticket: TicketFound | None = None
    source: str = Field(default="", description="of the node that was asked for")
    prompt: str = Field(default="", description="of the brief that was asked for")


class Reported(Result):
    """What check, compile and interpret give."""

    ok: bool
    facts: dict[str, Any]


class Best(Result):
    """The best correct kernel."""

    run: str
    node: str | None = None
    verdict: str | None = None
    fitness: dict[str, Any] | None = None
    source: str = Field(default="", description="at its tuned choice of knobs")
    file: str = ""
    receipt: str = Field(default="", description="file for `kernelevolve verify`")


class Passage(Result):
    """A part of an article."""

    path: str
    heading: str
    text: str


class Passages(Result):
    """What look_up gives."""

    passages: list[Passage]


def given(graph: Graph, brief: Brief) -> BriefGiven:
    """A brief as it is given to a guest."""
    return BriefGiven(brief=f"{graph.created.run}/{brief.id}", parents=list(brief.parents), prompt=brief.prompt)


def ticket(found: Ticket) -> TicketFound:
    """A ticket as data."""
    node = found.node
    return TicketFound(
        ticket=f"{found.run}/{found.brief}", state=found.state, stage=found.stage, node=found.candidate,
        verdict=str(node.verdict) if node else None, correct=node.correct if node else None,
        fitness=to_data(node.fitness) if node else None, said=found.said, seconds=round(found.seconds, 1),
    )  # fmt: skip


def run(graph: Graph, folder: str, tickets: list[TicketFound]) -> RunFound:
    """A run as data."""
    created, best = graph.created, graph.best
    return RunFound(
        run=folder, id=created.run, problem=f"{created.problem.suite}:{created.problem.name}",
        platform=created.platform, candidates=len(graph.nodes), most_candidates=int(graph.settings["candidates"]),
        best=best.id if best else None, fitness=to_data(best.fitness) if best else None,
        waiting=[name for name, waits in graph.pending.items() if waits.candidate is None],
        tickets=tickets, ended=graph.finished, nodes=list(graph.nodes)[-50:],
    )  # fmt: skip


def reported(found: Report) -> Reported:
    """A report as data."""
    return Reported(ok=found.ok, facts=dict(to_data(found.facts)))
