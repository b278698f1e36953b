"""The options that say what a brief remembers.

In: texts from the command line. Out: fields of `Settings`, and the graphs of earlier runs. Left to others: what is made
of them (`propose.memory`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from kernelevolve import Graph, UsageError, read_run
from kernelevolve.cli import places

MemoryModes = Annotated[
    str | None,
    typer.Option(
        "--memory",
        help="what a brief is told of this run: none, trajectory, siblings or both; of several, such as "
        "none,both, each brief draws one",
    ),
]
Recall = Annotated[
    str | None,
    typer.Option("--recall", help="chance of each note from --earlier, from LOW at first to HIGH, such as 0.1:0.5"),
]
Earlier = Annotated[
    Path | None, typer.Option("--earlier", help="tell briefs what earlier runs found: a run, or a folder of runs")
]


def remembered(memory: str | None, recall: str | None) -> dict[str, Any]:
    """The fields of `Settings` that were given.

    Raises:
        UsageError: a text that is no schedule.
    """
    given: dict[str, Any] = {}
    if memory is not None:
        given["memory"] = tuple(mode.strip() for mode in memory.split(","))
    if recall is not None:
        match = re.fullmatch(r"(\d*\.?\d+):(\d*\.?\d+)", recall.strip())
        if not match:
            raise UsageError(f"--recall {recall!r} is no schedule; write LOW:HIGH, such as 0.1:0.5")
        given["recall"] = (float(match[1]), float(match[2]))
    return given


def earlier_runs(folder: Path | None, recall: str | None, warm_start: str = "none") -> list[Graph]:
    """The runs that `folder` is or holds.

    Args:
        warm_start: another place where notes come from, unless it is `none`.

    Raises:
        UsageError: there is none, or a schedule without a folder.
    """
    if folder is None:
        if recall is not None and warm_start == "none":
            raise UsageError("--recall says how often notes of earlier runs are told; give their folder: --earlier")
        return []
    found = places.all_runs(folder) or places.runs_in(folder)
    return [read_run(place) for place in found]
