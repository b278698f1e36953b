"""Mode `graph`: whether both arms of a timing can be captured as CUDA graphs, and what was timed in every process.

In: conversations that are to be asked. Out: a Guard that says so. Left to others: capturing (`tensors.graphs`), timing
the replays as any other calls (`session`, `tensors.clock`).

Not everything that is right can be captured: whoever cannot is timed without graphs, and that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kernelevolve.evaluate.asking import Failed
from kernelevolve.evaluate.timing import CANDIDATE, Timed
from kernelevolve.evaluation import Guard, Verdict
from kernelevolve.wire import Message

MODE = "graph"
ENDED = (Verdict.CRASH, Verdict.TIMEOUT, Verdict.OOM)  # how a process ends that was asked for what it cannot do
Ask = Callable[[str, Mapping[str, Any]], Message]


def captured(asks: Mapping[str, Ask], workload: str, warm: Mapping[str, Any]) -> Guard:
    """Has every arm capture its calls; the guard `graph` holds where all of them have.

    Args:
        asks: puts a question to each arm, the candidate's first: what cannot be captured there ends it.
        warm: the question `warm`, after which an arm has its ring.
    """
    for name in sorted(asks, key=lambda arm: arm != CANDIDATE):
        try:
            asks[name]("warm", warm)
            why = str(asks[name]("capture", {}).body["why"])
        except Failed as failed:
            if failed.verdict not in ENDED:
                raise
            why = str(failed)
        if why:
            return Guard(MODE, "not run", f"{workload}: {name} cannot be captured: {why}")
    return Guard(MODE, "held", f"{workload}: one call per slot was captured in each of {len(asks)} arms")


def by_mode(runs: Sequence[Sequence[Timed]]) -> list[tuple[Timed, ...]]:
    """The times of several processes, mode by mode: those modes in which all of them were timed, in order."""
    named = [{timed.timing.mode: timed for timed in run} for run in runs]
    return [tuple(run[mode] for run in named) for mode in named[0] if all(mode in run for run in named)]
