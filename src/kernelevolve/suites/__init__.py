"""Where problems come from.

In: a suite's name, or a file. Out: Problems. Left to others: running them; nothing here executes a problem file.

A suite is a class built as `Class(path)`, where `path` is where its files are (None = the suite's own default), with

    names() -> tuple[str, ...]       the problems it has, in a stable order
    load(name) -> Problem            one of them; raises UnknownName with the known ones

and is registered under `kernelevolve.suites`, ours as well as a stranger's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from kernelevolve import plugins
from kernelevolve.errors import UnknownName, UsageError
from kernelevolve.problem import Problem, read_problem


class Suite(Protocol):
    """A named collection of problems; see the module's docstring for what an author promises."""

    def names(self) -> tuple[str, ...]:
        """The problems it has, in a stable order."""
        ...

    def load(self, name: str) -> Problem:
        """The problem called `name`."""
        ...


def open_suite(name: str, path: Path | None = None) -> Suite:
    """The suite registered under `name`, reading from `path`.

    Raises:
        UnknownName: nobody registered it.
        UsageError: its files are not where they should be.
    """
    suite: Suite = plugins.load("suites", name)(path)
    return suite


def load_problem(name: str, path: Path | None = None) -> Problem:
    """The problem in a .py file, or `SUITE:NAME` such as `kernelbench:level1/19`.

    Args:
        path: where the suite's files are, where it has no default of its own.

    Raises:
        ProblemError: the file cannot be used.
        UsageError: it is neither a file nor a suite's problem.
    """
    if Path(name).suffix == ".py" or Path(name).is_file():
        return read_problem(Path(name))
    suite, colon, rest = name.partition(":")
    if not colon:
        raise UsageError(
            f"{name!r} is no .py file and no SUITE:NAME; known suites: {', '.join(plugins.names('suites'))}"
        )
    return open_suite(suite, path).load(rest)


def by_prefix(wanted: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is `wanted`, or whose last part is it or starts with it and `_`; None unless unique."""
    known = list(names)
    if wanted in known:
        return wanted
    folder, _, last = wanted.rpartition("/")
    fits = [
        n
        for n in known
        if (not folder or n.rpartition("/")[0] == folder)
        and (n.rpartition("/")[2] == last or n.rpartition("/")[2].startswith(last + "_"))
    ]
    return fits[0] if len(fits) == 1 else None


def unknown(kind: str, name: str, names: Iterable[str]) -> UnknownName:
    """The error for a name that a suite does not have; long lists are cut to names that look alike."""
    known = list(names)
    if len(known) > 20:
        last = name.rpartition("/")[2].lower()
        alike = [n for n in known if last and last in n.lower()]
        known = (alike or known)[:10]
    return UnknownName(kind, name, known)
