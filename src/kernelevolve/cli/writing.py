"""Who answers a run's briefs: the options that say so, and what each arm has earned.

In: texts from the command line; the graph of a run. Out: option types; lines of text and plain data. Left to others:
what the names mean (`runs.writers_named`, `search.bandit`), how a gain is counted (`search.arms`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from kernelevolve import Component, Earned, Graph, earnings, to_data
from kernelevolve.cli import words

WriterNames = Annotated[
    list[str],
    typer.Option("--writer", help="who answers, NAME[:parameter=value,...]: built-in, or a plugin's; again for more"),
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


def how_chosen(writer: Sequence[Component], choose: Component) -> str:
    """`, writers built-in, other, by bandit (weight=2)`; empty for the built-in engineer by itself."""
    names = ", ".join(each.name for each in writer)
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
