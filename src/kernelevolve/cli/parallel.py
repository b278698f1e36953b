"""The options that say how much is done side by side.

In: texts from the command line. Out: fields of `Settings`. Left to others: what they mean (`drive`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from kernelevolve import UsageError
from kernelevolve.cli import places

Parallel = Annotated[
    str | None,
    typer.Option(
        "--parallel",
        help="WRITERS:SEATS[:WAITING]: briefs that are written and candidates that are evaluated at the same time, and "
        "most candidates that wait for a seat, such as 8:2",
    ),
]
AnswerTime = Annotated[
    str | None, typer.Option("--answer-time", help="after which a brief that nobody answered is dropped, such as 10m")
]


def side_by_side(parallel: str | None, answer_time: str | None) -> dict[str, Any]:
    """The fields of `Settings` that were given.

    Raises:
        UsageError: a text that is none of these.
    """
    given: dict[str, Any] = {}
    if parallel is not None:
        match = re.fullmatch(r"(\d+):(\d+)(?::(\d+))?", parallel.strip())
        if not match or not int(match[1]) or not int(match[2]):
            raise UsageError(f"--parallel {parallel!r}: write WRITERS:SEATS[:WAITING], such as 8:2 or 8:2:4")
        given |= {"writers": int(match[1]), "seats": int(match[2]), "waiting": int(match[3]) if match[3] else None}
    if answer_time is not None:
        given["answer_seconds"] = places.seconds(answer_time, "--answer-time")
    return given
