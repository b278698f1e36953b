"""The page docs/cli.md, written from the commands themselves so that it cannot drift.

In: the Typer app and the errors with their exit codes. Out: Markdown on stdout: `python -m kernelevolve.cli.reference`.
Left to others: comparing it with the file (a test does).
"""

from __future__ import annotations

import inspect
from typing import Any

import typer

from kernelevolve import KernelEvolveError
from kernelevolve.cli.app import app
from kernelevolve.cli.door import INTERRUPTED, UNEXPECTED
from kernelevolve.cli.racing import RUN

_HEAD = """# Command line

Written by `make docs` from the commands; do not edit.

People read stderr or the terminal; scripts pass `--json` and read the last line of stdout: one object that always has
`verdict` (null where no candidate was evaluated) and `correct`. Every figure in it is an object with `value`, `unit`,
`evidence` and `how`.
"""
_UNEXPECTED = (
    "a bug in kernelevolve or in a plugin; the traceback is on stderr, and in the run's folder where there is one "
    "(`traceback` of the result object)"
)
_INTERRUPTED = "a run that Ctrl-C ended cleanly; `kernelevolve resume` goes on with it"


def page() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    parts = [_HEAD]
    for name, command in sorted(group.commands.items()):
        inner = getattr(command, "commands", None)
        if inner is None:
            parts.append(_command(name, command))
        else:  # `race` alone is `race run`
            names = {one: name if one == RUN else f"{name} {one}" for one in sorted(inner, reverse=True)}
            parts += [_command(full, inner[one]) for one, full in names.items()]
    parts += ["## Options of every command\n", _parameters(group.params), "\n## Exit codes\n", _exit_codes()]
    return "\n".join(parts)


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    usage = " ".join(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in arguments)
    text = inspect.cleandoc(command.help or "")
    return f"## kernelevolve {name}\n\n`kernelevolve {name}{' ' + usage if usage else ''} [OPTIONS]`\n\n{text}\n\n" + (
        _parameters(command.params)
    )


def _parameters(parameters: list[Any]) -> str:
    rows = []
    for p in parameters:
        if p.name in ("help", "install_completion", "show_completion"):
            continue
        name = ", ".join(f"`{o}`" for o in p.opts) if p.opts[0].startswith("-") else f"`{p.name.upper()}`"
        default = p.default
        shown = ", ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        has_default = default not in (None, False, [], ()) and not callable(default)
        rows.append(f"| {name} | {p.help or ''}{f' (default: {shown})' if has_default else ''} |")
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows]) + "\n" if rows else ""


def _exit_codes() -> str:
    rows = [(0, "the command did what it was asked to")]
    waiting = [KernelEvolveError]
    seen: set[int] = set()
    while waiting:
        kind = waiting.pop(0)
        waiting += sorted(kind.__subclasses__(), key=lambda k: k.exit_code)
        if kind.exit_code not in seen and kind.__module__ == KernelEvolveError.__module__:
            seen.add(kind.exit_code)
            first = inspect.cleandoc(kind.__doc__ or "").splitlines()[0]
            text = "any other error" if kind is KernelEvolveError else first[0].lower() + first[1:].rstrip(".")
            rows.append((kind.exit_code, f"{kind.__name__}: {text}"))
    rows += [(UNEXPECTED, _UNEXPECTED), (INTERRUPTED, _INTERRUPTED)]
    return "\n".join(["| code | meaning |", "| --- | --- |", *(f"| {c} | {t} |" for c, t in sorted(rows))]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
