"""The universal operator: one path for every brief, from a first kernel to a crossover.

In: the graph and the parents that the policy selected. Out: a Brief (remember, diagnose, retrieve, compose) and a
writer's Answer to it (write). Left to others: what kind of step this is: there are no kinds; a writer sees no parents,
one, or several; who answers which brief, and by which kind of move (`search.bandit`).

A brief depends on nothing but the log, the hardware's figures and the library, so that it can be composed again
(`recompose`). Models that diagnose or look things up are asked after an evaluation (`examine`), and the log has what
they said.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from kernelevolve import codec
from kernelevolve.candidate import Brief, Candidate
from kernelevolve.errors import NoMovesLeft, UncoveredOp, UsageError
from kernelevolve.evaluation import Evaluation, Evidence
from kernelevolve.events import ANALYSIS, LOOKUP, MADE_FROM, Noted
from kernelevolve.graph import Graph, Reducer
from kernelevolve.hardware import HardwareFigures
from kernelevolve.knowledge.library import Library
from kernelevolve.propose import Answer, Writer
from kernelevolve.propose.analysis import AnalysisReducer, analyse, diagnosis_of, notes_of
from kernelevolve.propose.asking import Asker
from kernelevolve.propose.compose import Context, compose
from kernelevolve.propose.deep import Passage, look_up, look_up_by_model, wanted
from kernelevolve.propose.diagnose import Diagnosis, diagnose
from kernelevolve.propose.memory import MemoryReducer, remember
from kernelevolve.propose.steering import SteeringReducer
from kernelevolve.propose.subject import TracedReducer
from kernelevolve.propose.warm import WARM, SeedsReducer, answer_by_seed, brief_for_seed
from kernelevolve.settings import NOBODY, PROMPT_TOKENS, RULES


@dataclass(frozen=True)
class Composer:
    """Composes briefs, from the log and these two alone.

    Attributes:
        figures: of the objective platform's hardware; None where they are not known.
        rules: of that platform for writers, as Markdown.
        library: what is known before the run; None where nothing is.
    """

    figures: HardwareFigures | None = None
    library: Library | None = None
    rules: str = ""

    @property
    def reducers(self) -> tuple[Reducer, ...]:
        """What it needs of the log at scale."""
        return (MemoryReducer(), SeedsReducer(), AnalysisReducer(), SteeringReducer(), TracedReducer())

    def brief(self, graph: Graph, parents: tuple[str, ...], writer: str, prefer: str = "") -> Brief:
        """See `Operator.brief`."""
        memory = remember(graph, parents)
        diagnosis = self.diagnose(graph, parents[0]) if parents else None
        passages, unknown = self.retrieve(graph, parents, diagnosis)
        context = Context(
            graph.created.problem, graph.created.platform, tuple(graph.nodes[p] for p in parents), diagnosis, memory,
            self.figures, passages, tuple(graph.reduced(SteeringReducer.name)), prefer, unknown, self.rules,
        )  # fmt: skip
        prompt, sections = compose(context, int(graph.settings.get("prompt_tokens") or PROMPT_TOKENS))
        move = {"from": list(parents), "limit": diagnosis.limit} if diagnosis is not None else {}
        if prefer:
            move["prefer"] = prefer
        said = str(diagnosis) if diagnosis is not None else ""
        return Brief(
            f"b{graph.asked}", graph.asked, parents, prompt, move, said, memory.mode, writer, sections=sections
        )

    def diagnose(self, graph: Graph, node: str) -> Diagnosis:
        """What limits a node: as a model said, or by the rules."""
        return diagnosis_of(graph, node, diagnose(graph.nodes[node].evaluation, self.figures))

    def retrieve(
        self, graph: Graph, parents: tuple[str, ...], diagnosis: Diagnosis | None
    ) -> tuple[tuple[Passage, ...], str]:
        """Passages for the next child of `parents`; or none, and why."""
        if graph.settings.get("lookup", RULES) == NOBODY:
            return (), f"lookup is {NOBODY}"
        if self.library is None:
            return (), "nothing was looked up"
        want = wanted(
            graph.created.problem, graph.created.platform, diagnosis, graph.reduced(TracedReducer.name),
            measured=any(_is_measured(graph.nodes[parent].evaluation) for parent in parents),
        )  # fmt: skip
        noted = notes_of(graph, parents[0]).get(LOOKUP) if parents else None
        return look_up(self.library, want, noted), "the library has nothing on it"

    def made_from(self) -> Noted | None:
        """What briefs are made from beside the log, for the log; None where there is nothing beside it."""
        if self.figures is None and self.library is None:
            return None
        library = self.library.digest if self.library is not None else ""
        data = {
            "figures": codec.to_data(self.figures), "rules": self.rules, "library": library, "code": code_digest(),
        }  # fmt: skip
        return Noted(MADE_FROM, f"briefs quote {f'library {library[:19]}' if library else 'no library'}", data)

    def again(self, graph: Graph, brief: Brief) -> Brief:
        """`brief` composed anew from the graph as it was before it was asked for."""
        if brief.writer == WARM and (seed := brief_for_seed(graph)) is not None:
            return seed
        return self.brief(graph, brief.parents, brief.writer, str(brief.move.get("prefer", "")))


def _is_measured(evaluation: Evaluation) -> bool:
    return any(timing.candidate.evidence is Evidence.MEASURED for timing in evaluation.timings)


@functools.cache
def code_digest() -> str:
    """A digest of what composes: the files of this package, and its prompts."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    for file in sorted((*root.glob("*.py"), *root.glob("prompts/*.md"))):
        digest.update(file.name.encode() + file.read_bytes())
    return f"sha256:{digest.hexdigest()}"


class Operator:
    """Composes briefs and has them answered.

    Args:
        writer: who answers.
        others: who else may.
        figures, rules, library: see `Composer`.
        analyst, searcher: models that diagnose, and that look things up; None where rules do.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        others: tuple[Writer, ...] = (),
        figures: HardwareFigures | None = None,
        rules: str = "",
        library: Library | None = None,
        analyst: Asker | None = None,
        searcher: Asker | None = None,
    ) -> None:
        self.writers = (writer, *others)
        names = [each.name for each in self.writers]
        if len(set(names)) != len(names):
            raise UsageError(f"writers must have different names, got {', '.join(names)}; leave one out")
        self.composer = Composer(figures, library, rules)
        self._analyst, self._searcher = analyst, searcher

    @property
    def reducers(self) -> tuple[Reducer, ...]:
        """What briefs and the writer need of the log at scale."""
        return (*self.composer.reducers, *(reducer for writer in self.writers for reducer in writer.reducers))

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

        Raises:
            UsageError: what every brief must tell does not fit into a prompt.
        """
        return self.composer.brief(graph, parents, writer or self.writers[0].name, prefer)

    def seed(self, graph: Graph) -> Brief | None:
        """The brief that the next candidate of an earlier run answers; None where none is left."""
        return brief_for_seed(graph)

    def diagnose(self, evaluation: Evaluation) -> Diagnosis:
        """What limits a candidate, by the rules and these figures."""
        return diagnose(evaluation, self.composer.figures)

    async def examine(self, graph: Graph, candidate: Candidate, found: Evaluation) -> AsyncIterator[Noted]:
        """What models say of a candidate that was just evaluated, for the log; nothing where none is asked, or where
        the log has it already.

        Nobody goes on from a candidate of the control, so none is asked about it.
        """
        known = notes_of(graph, candidate.id)
        ruled = self.diagnose(found)
        if self._analyst is not None and not candidate.control and ANALYSIS not in known:
            note = await analyse(self._analyst, graph, candidate, found, ruled, self.composer.figures)
            yield note
            if "limit" in note.data:
                ruled = Diagnosis(str(note.data["limit"]), ruled.evidence, (), directive=str(note.data["directive"]))
        library = self.composer.library
        if self._searcher is not None and library is not None and not candidate.control and LOOKUP not in known:
            want = wanted(
                graph.created.problem, graph.created.platform, ruled, graph.reduced(TracedReducer.name),
                measured=_is_measured(found),
            )  # fmt: skip
            need = f"Go on from {candidate.id}, which is limited by {ruled}. {ruled.directive}"
            yield await look_up_by_model(self._searcher, library, candidate, want, need)

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
