"""The public names that the commands use, in one place.

In: names of problems, platforms and suites. Out: values and runs. Left to others: what they do.
"""

from __future__ import annotations

from importlib.metadata import version as _installed
from pathlib import Path
from typing import Any

from kernelevolve import codec, plugins
from kernelevolve.graph import Graph
from kernelevolve.problem import Problem, read_problem
from kernelevolve.run import create_run, open_run, read_run
from kernelevolve.settings import Settings

__all__ = [
    "create_run",
    "equip",
    "load_problem",
    "open_run",
    "platform",
    "platforms",
    "problems",
    "read_run",
    "settings_of",
    "suites",
    "version",
]


def equip(created: Any, builds: Path) -> Any:
    raise NotImplementedError


def version() -> str:
    """Of the installed package."""
    return _installed("kernelevolve")


def platforms() -> tuple[str, ...]:
    """Names of the registered platforms."""
    return plugins.names("platforms")


def platform(name: str) -> Any:
    """The platform registered under `name`."""
    return plugins.load("platforms", name)


def suites() -> tuple[str, ...]:
    """Names of the registered suites."""
    return plugins.names("suites")


def problems(suite: str, path: Path | None = None) -> tuple[str, ...]:
    """Names of a suite's problems."""
    raise NotImplementedError


def load_problem(name: str, path: Path | None = None) -> Problem:
    """The problem in a .py file, or `SUITE:NAME`."""
    return read_problem(Path(name))


def settings_of(graph: Graph) -> Settings:
    """The settings in force in a run."""
    return codec.from_data(Settings, codec.to_data(graph.settings))
