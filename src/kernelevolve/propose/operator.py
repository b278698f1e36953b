"""The universal operator: one path for every brief, from a first kernel to a crossover.

In: the graph and the parents that the policy selected. Out: a Brief (remember, diagnose, compose) and a writer's Answer
to it (write). Left to others: what kind of step this is: there are no kinds; a writer sees no parents, one, or several.
"""

from __future__ import annotations

from collections.abc import Callable

from kernelevolve.candidate import Brief
from kernelevolve.evaluation import Evaluation
from kernelevolve.graph import Graph, Reducer
from kernelevolve.hardware import HardwareFigures
from kernelevolve.propose import Answer, Writer
from kernelevolve.propose.compose import compose
from kernelevolve.propose.diagnose import Diagnosis, diagnose
from kernelevolve.propose.memory import MemoryReducer, remember

Articles = Callable[[str], str]


class Operator:
    """Composes briefs and has them answered.

    Args:
        writer: who answers.
        figures: of the objective platform's hardware; None where they are not known.
        articles: knowledge for a query (the diagnosis, or the problem's name for a draft), as Markdown.
    """

    def __init__(
        self, writer: Writer, *, figures: HardwareFigures | None = None, articles: Articles | None = None
    ) -> None:
        self.writer = writer
        self._figures = figures
        self._articles = articles

    @property
    def reducers(self) -> tuple[Reducer, ...]:
        """What briefs and the writer need of the log at scale."""
        return (MemoryReducer(), *self.writer.reducers)

    def brief(self, graph: Graph, parents: tuple[str, ...]) -> Brief:
        """The next brief of the run: `parents` with a prompt, a diagnosis of the first one, and the built-in's move."""
        memory = remember(graph, parents)
        diagnosis = self.diagnose(graph.nodes[parents[0]].evaluation) if parents else None
        said = str(diagnosis) if diagnosis is not None else ""
        knowledge = self._articles(said or graph.created.problem.name) if self._articles is not None else ""
        prompt = compose(graph, parents, diagnosis=diagnosis, memory=memory, figures=self._figures, knowledge=knowledge)
        move = {"from": list(parents), "limit": diagnosis.limit} if diagnosis is not None else {}
        return Brief(f"b{graph.asked}", graph.asked, parents, prompt, move, said, memory.mode)

    def diagnose(self, evaluation: Evaluation) -> Diagnosis:
        """What limits a candidate, by the rules and these figures."""
        return diagnose(evaluation, self._figures)

    async def write(self, brief: Brief, graph: Graph) -> Answer:
        """The writer's answer; see `Writer.write` for what it raises."""
        return await self.writer.write(brief, graph)
