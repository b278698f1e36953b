"""Briefs on the command line: the options that say what goes into them, their page, and making them again.

In: texts from the command line; a run's folder. Out: fields of `Settings`; lines and plain data. Left to others:
composing (`propose`), composing again (`kernelevolve.replay_briefs`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kernelevolve import Brief, Graph, NotConfirmed, read_brief, replay_briefs, to_data
from kernelevolve.cli import places
from kernelevolve.cli.door import Door, print_lines

Analysis = Annotated[
    str | None,
    typer.Option("--analysis", help="who says what limits a candidate: rules (no cost), or a model, PROVIDER:NAME"),
]
Lookup = Annotated[
    str | None,
    typer.Option("--lookup", help="who chooses what briefs quote of the library: rules, none, or a model"),
]
PromptTokens = Annotated[
    int | None, typer.Option("--prompt-tokens", help="most tokens of a brief's prompt, from 8000 to 1000000")
]


def briefed(analysis: str | None, lookup: str | None, prompt_tokens: int | None) -> dict[str, Any]:
    """The fields of `Settings` that were given."""
    given = {"analysis": analysis, "lookup": lookup, "prompt_tokens": prompt_tokens}
    return {name: value for name, value in given.items() if value is not None}


def show_brief(door: Door, place: Path, graph: Graph, name: str) -> None:
    """The exact prompt of a brief, or of a node's, then what it is made of."""
    node = graph.nodes.get(name)
    brief = read_brief(place, node.candidate.brief if node is not None else name)
    print_lines(door, [brief.prompt.rstrip("\n"), "", *_sections(brief)])
    door.finish(
        {
            "verdict": node.verdict.value if node is not None else None,
            "correct": node.correct if node is not None else False,
            "brief": to_data(brief),
            "tokens": _total(brief),
            "pending": brief.id in graph.pending,
        }
    )


def _total(brief: Brief) -> int:
    return sum(section.tokens for section in brief.sections if section.kept)


def _sections(brief: Brief) -> list[str]:
    if not brief.sections:
        return [f"--- brief {brief.id}: no sections are known of it (a seed of a warm start, or of an older log)"]
    lines = [f"--- brief {brief.id} for {brief.writer or 'its writer'}: about {_total(brief)} tokens"]
    width = max(len(section.name) for section in brief.sections)
    for section in brief.sections:
        left = "" if section.kept else "  left out"
        lines.append(f"{section.name:<{width}} {section.tokens:>8}{left}{f': {section.why}' if section.why else ''}")
    return lines


def replay_run(door: Door, folder: Path) -> None:
    """Composes the briefs of the runs in a folder again, and says where they come out different."""
    found = {str(place): replay_briefs(place) for place in places.runs_in(folder)}
    lines: list[str] = []
    for name, done in found.items():
        lines.append(f"{name}: {done.same} of {done.briefs} briefs are the same, byte for byte")
        if done.first is not None:
            first = done.first
            lines += [
                f"  first difference: brief {first.brief}, section {first.section or 'none'}",
                f"    then: {first.asked[:200]}",
                f"    here: {first.again[:200]}",
                f"  why: {first.why}",
            ]
    print_lines(door, lines)
    same = all(done.first is None for done in found.values())
    one = to_data(next(iter(found.values())))
    data = one if len(found) == 1 else {"runs": {name: to_data(done) for name, done in found.items()}}
    door.finish({"verdict": None, "correct": False, "status": "reproduced" if same else "different", **data})
    if not same:
        differing = [f"{name} ({done.briefs - done.same})" for name, done in found.items() if done.first is not None]
        raise NotConfirmed(f"briefs come out different here: {', '.join(differing)}")
