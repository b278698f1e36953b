"""How one invocation talks, and what commands have in common.

In: options and data. Out: a console for people, one result object for scripts. Left to others: the commands.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from kernelevolve import UnknownName, UsageError, holds_run
from kernelevolve.cli import public

INTERRUPTED = 130
# EX_SOFTWARE of sysexits.h.
UNEXPECTED = 70

_FILE_WIDTH = 160


@dataclass
class Door:
    """How one invocation talks.

    Attributes:
        debug: show tracebacks.
        json: stdout belongs to the result object.
        finished: the result object has been printed.
        folder: of the run at hand, where a traceback is kept.
    """

    debug: bool = False
    json: bool = False
    finished: bool = False
    folder: Path | None = None

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


PROBLEM = "a .py file that defines Model and get_inputs, or SUITE:NAME such as recsys:rms_norm_residual"

Device = Annotated[
    str, typer.Option("--device", help="auto (the first that is the platform), none, or torch's name of one")
]

Unsealed = Annotated[bool, typer.Option("--unsealed", help="run foreign code without isolation; the result says so")]

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


def unexpected(door: Door, error: Exception) -> dict[str, Any]:
    """Tells people of an error that nobody foresaw, keeps its traceback, and gives scripts their result object."""
    text = "".join(traceback.format_exception(error))
    kept = "stderr"
    if door.folder is not None and door.folder.is_dir():
        file = door.folder / f"traceback-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        # Where not even this can be written, such as on a full disk, stderr has it.
        with contextlib.suppress(OSError):
            file.write_text(text, encoding="utf-8")
            kept = str(file)
    said = " ".join(f"{type(error).__name__}: {error}".split())
    lines = [text.rstrip(), f"error: unexpected {said}"]
    lines.append(f"This is a bug in kernelevolve or in a plugin: report it with the traceback above (kept in {kept}).")
    if door.folder is not None and (holds_run(door.folder) or any(map(holds_run, door.folder.glob("*/")))):
        lines.append(f"everything so far is kept, go on with: kernelevolve resume {door.folder}")
    print("\n".join(lines), file=sys.stderr)
    return {"verdict": None, "correct": False, "error": said, "kind": type(error).__name__, "traceback": kept}


@contextlib.contextmanager
def interruptible(door: Door) -> Iterator[None]:
    """Ctrl-C before or after the search itself, while processes start or end, leaves with the same code."""
    try:
        yield
    except KeyboardInterrupt:
        if not door.finished:
            begun = door.folder is not None and (holds_run(door.folder) or any(map(holds_run, door.folder.glob("*/"))))
            kept = f"go on with: kernelevolve resume {door.folder}" if begun else "nothing had begun: start it again"
            print(f"interrupted; everything so far is kept, {kept}", file=sys.stderr)
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
