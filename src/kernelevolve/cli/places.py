"""Where runs live on disk.

In: folders and texts from the command line. Out: paths. Left to others: what a run's folder holds (`run`), printing.

A run is one folder. Several platforms are siblings: `FOLDER/h100`, `FOLDER/mi300x`; they share `FOLDER/builds`.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from kernelevolve import Graph, Problem, UsageError

LOG = "log.sqlite"
KERNEL = "best.py"
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def new_folder(problem: Problem, within: Path = Path("runs")) -> Path:
    """A folder for a new run that does not exist yet."""
    name = f"{problem.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = within / name
    number = 2
    while folder.exists():
        folder = within / f"{name}-{number}"
        number += 1
    return folder


@contextlib.contextmanager
def claimed(problem: Problem, within: Path = Path("runs")) -> Iterator[Path]:
    """A new folder that no other process takes in the same moment; gone again where an error leaves it empty."""
    while not made(folder := new_folder(problem, within)):
        if not folder.exists():  # it cannot be made: the run's store says why
            break
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def made(folder: Path) -> bool:
    """Makes the folder; False where it was there before, or cannot be made, which the run's store then says."""
    try:
        folder.mkdir(parents=True)
    except OSError:
        return False
    return True


def place(folder: Path, platform: str, platforms: tuple[str, ...]) -> Path:
    """Where the run of one of several platforms lies."""
    return folder if len(platforms) == 1 else folder / platform


def builds(run: Path) -> Path:
    """The folder for builds: the siblings' own, where the run has siblings."""
    shared = run.parent / "builds"
    return shared if shared.is_dir() else run / "builds"


def runs_in(folder: Path) -> tuple[Path, ...]:
    """The runs that `folder` is or holds directly, sorted by name.

    Raises:
        UsageError: there is none.
    """
    if (folder / LOG).is_file():
        return (folder,)
    found = tuple(sorted(p.parent for p in folder.glob(f"*/{LOG}")))
    if not found:
        raise UsageError(f"{folder} holds no run; `kernelevolve list` shows the runs in a folder")
    return found


def all_runs(folder: Path) -> tuple[Path, ...]:
    """All runs and siblings in a folder of runs, sorted by name."""
    return tuple(sorted(p.parent for pattern in (f"*/{LOG}", f"*/*/{LOG}") for p in folder.glob(pattern)))


def save_kernel(graph: Graph, run: Path) -> Path | None:
    """Writes the best candidate at its tuned choice into the run's folder; None where nothing is correct."""
    if graph.best is None:
        return None
    path = run / KERNEL
    path.write_text(graph.best.evaluation.tuned_source or graph.best.candidate.source, encoding="utf-8")
    return path


def read_kernel(path: Path) -> str:
    """The text of a kernel file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}; give a .py file that defines ModelNew") from error


def seconds(text: str, option: str = "--time") -> float:
    """`90`, `90s`, `5m` or `2h` as seconds.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match or float(match[1]) <= 0:
        raise UsageError(f"{option} {text!r} is no time; write 90s, 5m or 2h")
    return float(match[1]) * _UNITS[match[2]]
