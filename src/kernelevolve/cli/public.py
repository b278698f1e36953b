"""Where the commands get problems, platforms and equipment from, by name.

In: names from the command line. Out: values, and a workshop to run with. Left to others: what they do; these are thin
names over the public ones, in one place so that tests can put fakes there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version as _installed
from pathlib import Path
from typing import Any

from kernelevolve import Graph, Problem, Settings, open_suite, plugins


@contextlib.contextmanager
def workshop(problem: Problem, device: str, **more: Any) -> Iterator[Any]:
    """What runs of this problem work with on this machine; its processes end with the context."""
    from kernelevolve import Workshop

    made = Workshop(problem, device=device, **more)
    try:
        yield made
    finally:
        made.close()


def sealing(unsealed: bool) -> dict[str, bool]:
    """The arguments of a workshop that say whether foreign code is sealed."""
    return {"seal": False} if unsealed else {}


def version() -> str:
    """Of the installed package."""
    return _installed("kernelevolve")


def platforms() -> tuple[str, ...]:
    """Names of the registered platforms."""
    return plugins.names("platforms")


def platform(name: str) -> Any:
    """The platform registered under `name`."""
    return plugins.load("platforms", name)


def absent(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the platforms of which this machine has no accelerator."""
    from kernelevolve import absent_platforms

    return absent_platforms(names)


def suites() -> tuple[str, ...]:
    """Names of the registered suites."""
    return plugins.names("suites")


def problems(suite: str, path: Path | None = None) -> tuple[str, ...]:
    """Names of a suite's problems."""
    return open_suite(suite, path).names()


def settings_of(graph: Graph) -> Settings:
    """The settings in force in a run."""
    facts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in graph.settings.items()}
    return Settings(**facts)
