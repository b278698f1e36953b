"""The universal operator: one path for every brief, from a first kernel to a crossover.

In: the graph and the parents that the policy selected. Out: a Brief (remember, diagnose, compose) and a writer's Answer
to it (write). Left to others: what kind of step this is: there are no kinds; a writer sees no parents, one, or several;
who answers which brief, and by which kind of move (`search.bandit`).
"""

from __future__ import annotations

from collections.abc import Callable

from kernelevolve.candidate import Brief
from kernelevolve.errors import NoMovesLeft, UncoveredOp, UsageError
from kernelevolve.evaluation import Evaluation
from kernelevolve.graph import Graph, Reducer
from kernelevolve.hardware import HardwareFigures
from kernelevolve.propose import Answer, Writer
from kernelevolve.propose.compose import compose
from kernelevolve.propose.diagnose import Diagnosis, diagnose
from kernelevolve.propose.memory import MemoryReducer, remember
from kernelevolve.propose.warm import WARM, SeedsReducer, answer_by_seed, brief_for_seed

Articles = Callable[[str], str]


class Operator:
    """Composes briefs and has them answered.

    Args:
        writer: who answers.
        others: who else may.
        figures: of the objective platform's hardware; None where they are not known.
        articles: knowledge for a query (the diagnosis, or the problem's name for a draft), as Markdown.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        others: tuple[Writer, ...] = (),
        figures: HardwareFigures | None = None,
        articles: Articles | None = None,
    ) -> None:
        self.writers = (writer, *others)
        names = [each.name for each in self.writers]
        if len(set(names)) != len(names):
            raise UsageError(f"writers must have different names, got {', '.join(names)}; leave one out")
        self._figures = figures
        self._articles = articles

    @property
    def reducers(self) -> tuple[Reducer, ...]:
        """What briefs and the writer need of the log at scale."""
        return (MemoryReducer(), SeedsReducer(), *(reducer for writer in self.writers for reducer in writer.reducers))

    def arms(self, parents: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Who may answer, and by which family of moves: each writer by its own choice first.

        Families are for going on from one parent: a draft makes no move, and a crossover takes the other parent's.
        """
        found: list[tuple[str, str]] = []
        for writer in self.writers:
            moves = tuple(getattr(writer, "moves", ())) if len(parents) == 1 else ()
            found += [(writer.name, move) for move in ("", *moves)]
        return tuple(found)

    def brief(self, graph: Graph, parents: tuple[str, ...], writer: str = "", prefer: str = "") -> Brief:
        """The next brief of the run: `parents` with a prompt and a diagnosis of the first one.

        Args:
            writer: who is to answer; default: the first writer.
            prefer: the family of moves to prefer; empty for the writer's own choice.
        """
        memory = remember(graph, parents)
        diagnosis = self.diagnose(graph.nodes[parents[0]].evaluation) if parents else None
        said = str(diagnosis) if diagnosis is not None else ""
        knowledge = self._articles(said or graph.created.problem.name) if self._articles is not None else ""
        prompt = compose(
            graph, parents, diagnosis=diagnosis, memory=memory, figures=self._figures, knowledge=knowledge,
            prefer=prefer,
        )  # fmt: skip
        move = {"from": list(parents), "limit": diagnosis.limit} if diagnosis is not None else {}
        if prefer:
            move["prefer"] = prefer
        name = writer or self.writers[0].name
        return Brief(f"b{graph.asked}", graph.asked, parents, prompt, move, said, memory.mode, name)

    def seed(self, graph: Graph) -> Brief | None:
        """The brief that the next candidate of an earlier run answers; None where none is left."""
        return brief_for_seed(graph)

    def diagnose(self, evaluation: Evaluation) -> Diagnosis:
        """What limits a candidate, by the rules and these figures."""
        return diagnose(evaluation, self._figures)

    async def write(self, brief: Brief, graph: Graph) -> tuple[str, Answer]:
        """Who answered, and the answer; see `Writer.write` for what it raises.

        Where the brief's writer has nothing to offer the others are asked, in their order.
        """
        if brief.writer == WARM:
            return WARM, answer_by_seed(brief, graph)
        said: list[NoMovesLeft | UncoveredOp] = []
        for writer in sorted(self.writers, key=lambda each: each.name != brief.writer):
            try:
                return writer.name, await writer.write(brief, graph)
            except (NoMovesLeft, UncoveredOp) as error:
                said.append(error)
        if len(said) == 1 or all(isinstance(error, UncoveredOp) for error in said):
            raise said[0]
        raise NoMovesLeft("; ".join(dict.fromkeys(map(str, said))))
