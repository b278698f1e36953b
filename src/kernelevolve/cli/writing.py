"""Who answers a run's briefs: the options that say so, and what each arm has earned.

In: texts from the command line; the graph of a run. Out: option types; lines of text and plain data. Left to others:
what the names mean (`runs.writers_named`, `propose.model`, `search.bandit`), how a gain is counted (`search.arms`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from kernelevolve import Component, Cost, Earned, Graph, Node, earnings, model_named, to_data, writers_named
from kernelevolve.cli import words

WriterNames = Annotated[
    list[str],
    typer.Option(
        "--writer",
        help="who answers, NAME[:parameter=value,...]: built-in, or a plugin's; again for more; default: built-in, or "
        "the models that --model names",
    ),
]
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        help="a language model that answers, PROVIDER:MODEL[,option=value...], such as openai:gpt-5 or "
        "http://127.0.0.1:8000/v1:qwen3,steps=12; again for more; docs/writers.md has the options",
    ),
]
Choose = Annotated[
    str,
    typer.Option(
        "--choose",
        help="who chooses among writers and kinds of moves, NAME[:parameter=value,...]: first, or bandit, which is "
        "usual with several writers",
    ),
]
MOST = 12


def writers_of(names: Sequence[str], models: Sequence[str]) -> tuple[Component, ...]:
    """The writers that were asked for: those by name, then the models.

    Raises:
        UnknownName: a writer, a provider or an option that there is not.
        UsageError: it cannot be used as it is written.
    """
    called = tuple(model_named(text) for text in models)
    return (*(writers_named(list(names)) if names or not called else ()), *called)


def called(writer: Component) -> str:
    """A writer's name for people; a model's is that of the model."""
    model = writer.args.get("model")
    return str(model).partition(",")[0] if writer.name == "model" and model else writer.name


def resumed(graph: Graph) -> str:
    """Who answers a run that goes on; empty for the built-in engineer by itself."""
    created = graph.created
    return how_chosen((created.writer, *created.others), created.chooser).removeprefix(", ")


def how_chosen(writer: Sequence[Component], choose: Component) -> str:
    """`, writers built-in, other, by bandit (weight=2)`; empty for the built-in engineer by itself."""
    names = ", ".join(map(called, writer))
    if choose.name == "first" and names == "built-in":
        return ""
    args = ", ".join(f"{name}={value}" for name, value in choose.args.items())
    return f", writer{'s' * (len(writer) > 1)} {names}, by {choose.name}{f' ({args})' if args else ''}"


def facts(graph: Graph) -> list[dict[str, Any]]:
    """What each arm has earned, by what limited the parent."""
    return [
        {"writer": arm.writer, "move": arm.move, "context": context, **to_data(earned)}
        for (arm, context), earned in earnings(graph).items()
    ]


@dataclass(frozen=True)
class Share:
    """What one writer has done in a run: its candidates, those that are correct, its best one, what it cost."""

    candidates: int = 0
    correct: int = 0
    best: Node | None = None
    cost: Cost = field(default_factory=Cost)

    def with_node(self, node: Node) -> Share:
        """With one more candidate."""
        better = node.correct and (self.best is None or node.rank > self.best.rank)
        return Share(
            self.candidates + 1, self.correct + node.correct, node if better else self.best,
            self.cost + node.candidate.cost,
        )  # fmt: skip


def shares(graph: Graph) -> dict[str, Share]:
    """Who wrote what, in the order of their first candidates."""
    found: dict[str, Share] = {}
    for node in graph.nodes.values():
        writer = node.candidate.writer
        found[writer] = found.get(writer, Share()).with_node(node)
    return found


def authors(graph: Graph) -> list[str]:
    """Who wrote what; nothing where the built-in engineer wrote everything."""
    found = shares(graph)
    if not set(found) - {"built-in"}:
        return []
    heads = ["written by", *[""] * len(found)]
    return [f"  {head:<12} {name}: {_wrote(one)}" for head, (name, one) in zip(heads, found.items(), strict=False)]


def authors_facts(graph: Graph) -> dict[str, Any]:
    """The same as plain data."""
    return {
        name: {"candidates": one.candidates, "correct": one.correct, "best": one.best.id if one.best else None,
               "cost": to_data(one.cost)}
        for name, one in shares(graph).items()
    }  # fmt: skip


def _wrote(share: Share) -> str:
    best = f", the best {share.best.id} {words.fitness(share.best)}" if share.best else ""
    cost = spent(share.cost)
    count = f"{share.candidates} candidate{'s' * (share.candidates != 1)}, {share.correct} correct"
    return f"{count}{best}; {cost}" if cost else f"{count}{best}"


def spent(cost: Cost) -> str:
    """Tokens, money and calls in words; empty where no model was called."""
    if not (cost.calls or cost.tokens_in or cost.tokens_out):
        return ""
    text = f"{cost.tokens_in:,} tokens read and {cost.tokens_out:,} written in {cost.calls} calls"
    if cost.money_usd:
        text += f", {cost.money_usd:.4g} US dollars"
    return f"{text}, the price of {cost.unpriced:,} tokens is not known" if cost.unpriced else text


def lines(graph: Graph) -> list[str]:
    """What the arms have earned, those with the most gain first; nothing where there was no choice."""
    created = graph.created
    earned = earnings(graph)
    if created.chooser.name == "first" and not created.others and len({arm.writer for arm, _ in earned}) < 2:
        return []
    best = sorted(earned.items(), key=lambda pair: (-pair[1].gained, -pair[1].answers, str(pair[0])))
    out = [f"  arms         by {created.chooser.name}; gains over the parent beyond noise"]
    out += [f"  {'':<12} {arm} ({context}): {_said(sums)}" for (arm, context), sums in best[:MOST]]
    if len(best) > MOST:
        rest = sum(sums.answers for _, sums in best[MOST:])
        out.append(f"  {'':<12} and {len(best) - MOST} more with {rest} answers; --json has them all")
    return out


def _said(sums: Earned) -> str:
    text = f"{sums.gains} of {sums.answers} gained"
    if sums.gains:
        text += f", {math.exp(sums.gained):.3g}x in all"
    if not sums.priced:
        return f"{text}; cost unknown"
    seconds = sums.seconds + sums.evaluation_seconds
    cost = words.duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"
    if sums.money_usd:
        cost = f"{sums.money_usd:.3g} US dollars and {cost}"
    return f"{text}; {cost}{f' for {sums.priced} of them' if sums.priced < sums.answers else ''}"
