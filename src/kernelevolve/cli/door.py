"""How one invocation talks, and what commands have in common.

In: options and data. Out: a console for people, one result object for scripts. Left to others: the commands.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from kernelevolve import UnknownName, UsageError
from kernelevolve.cli import public

INTERRUPTED = 130

_FILE_WIDTH = 160


@dataclass
class Door:
    """How one invocation talks.

    Attributes:
        debug: show tracebacks.
        json: stdout belongs to the result object.
        finished: the result object has been printed.
    """

    debug: bool = False
    json: bool = False
    finished: bool = False

    @property
    def console(self) -> Console:
        """For people: stdout, or stderr where stdout belongs to scripts."""
        console = Console(stderr=self.json)
        # Without a terminal nobody has a width; tables must not be cut for a log file.
        return console if console.is_terminal else Console(stderr=self.json, width=_FILE_WIDTH)

    def finish(self, data: dict[str, Any]) -> None:
        """Prints the result object where it was asked for."""
        if self.json:
            typer.echo(json.dumps(data, allow_nan=False))
            self.finished = True


RunFolder = Annotated[Path, typer.Argument(help="the folder of a run, or of sibling runs")]

Json = Annotated[bool, typer.Option("--json", help="people read stderr; the last line of stdout is one result object")]

SuitePath = Annotated[
    Path | None, typer.Option("--suite-path", help="where a suite's files are, such as a checkout of KernelBench")
]


def door_of(context: typer.Context, as_json: bool) -> Door:
    """The invocation's door; `as_json` as the command was given it."""
    door = context.ensure_object(Door)
    door.json = as_json
    return door


@contextlib.contextmanager
def interruptible(door: Door) -> Iterator[None]:
    """Ctrl-C before or after the search itself, while processes start or end, leaves with the same code."""
    try:
        yield
    except KeyboardInterrupt:
        if not door.finished:
            door.finish({"verdict": None, "correct": False, "error": "interrupted"})
        raise typer.Exit(INTERRUPTED) from None


def known_platforms(names: list[str]) -> tuple[str, ...]:
    """The platforms asked for.

    Raises:
        UsageError: one is given twice.
        UnknownName: nobody registered it.
    """
    if len(set(names)) != len(names):
        raise UsageError(f"--platform is given twice: {', '.join(names)}")
    known = public.platforms()
    for name in names:
        if name not in known:
            raise UnknownName("platform", name, known)
    return tuple(names)


def print_lines(door: Door, lines: list[str] | tuple[str, ...]) -> None:
    """Prints lines as they are, for people."""
    for line in lines:
        door.console.print(line, markup=False, highlight=False, soft_wrap=True)
