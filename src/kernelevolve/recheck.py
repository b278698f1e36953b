"""What is claimed, run again: `verify` a receipt, `replay_failure` a check that failed.

In: a receipt that somebody gave, or a Failure of a run. Out: whether it comes out the same here, and how not. Left to
others: comparing (`evaluate.receipt`), running one check (`evaluate.replay`), printing (`cli`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from kernelevolve.candidate import Candidate
from kernelevolve.equipment import Workshop
from kernelevolve.errors import MissingDevice, ProblemError, UsageError
from kernelevolve.evaluate.circumstances import harness
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluate.receipt import differences, inconsistencies
from kernelevolve.evaluate.replay import Replayed, replay
from kernelevolve.evaluation import Evaluation
from kernelevolve.events import Component, Created
from kernelevolve.problem import Problem
from kernelevolve.receipt import Failure, Receipt
from kernelevolve.search.fitness import fitness

COMPILERS = ("triton", "ptxas")


@dataclass(frozen=True)
class Verified:
    """What running a receipt again showed.

    Attributes:
        how: every difference, or why nothing could be compared; what was confirmed otherwise.
        evaluation: made here; None where none was.
    """

    status: Literal["confirmed", "different", "cannot compare"]
    how: tuple[str, ...]
    evaluation: Evaluation | None = None


def verify(receipt: Receipt, claimed_id: str, *, device: str = "auto", seal: bool = True) -> Verified:
    """Runs a receipt again, here.

    Args:
        claimed_id: what the file says that the receipt's id is.
        seal: false runs the candidate without isolation.

    Raises:
        MachineError: a process or the device was lost on the way.
    """
    if claimed_id != receipt.id:
        return Verified("different", (f"the file was edited: its content is {receipt.id}, it says {claimed_id}",))
    odd = [*inconsistencies(receipt)]
    worth = fitness(receipt.problem, receipt.evaluation)
    if worth != receipt.fitness:
        odd.append(f"fitness {receipt.fitness.value:.6g} is claimed, its own figures give {worth.value:.6g}")
    if odd:
        return Verified("different", tuple(odd))
    if receipt.circumstances.harness != harness():
        told = f"{receipt.circumstances.harness[:16]} (kernelevolve {receipt.circumstances.kernelevolve})"
        mine = f"{harness()[:16]} (kernelevolve {version('kernelevolve')})"
        return Verified("cannot compare", (f"another harness: made by {told}, this is {mine}",))
    facts = (receipt.problem, receipt.platform, receipt.settings, receipt.seed)
    anyway = bool(receipt.admission.get("anyway"))
    try:
        with _equipped(*facts, device if receipt.measured else "none", anyway, seal) as ladder:
            return _verified(receipt, ladder)
    except MissingDevice as missing:
        return Verified("cannot compare", (str(missing),))
    except ProblemError as error:
        return Verified("different", (f"the problem cannot be used here: {error}",))


def _verified(receipt: Receipt, ladder: Ladder) -> Verified:
    here = ladder.bench.roles["builder"].known_versions()
    told = receipt.evaluation.versions
    other = [f"{n} {told.get(n)} there, {here.get(n)} here" for n in COMPILERS if told.get(n) != here.get(n)]
    if receipt.measured:
        now = ladder.device.name if ladder.device else ""
        if not now:
            why = f"measured on {receipt.circumstances.device}, and there is no such device here"
            return Verified("cannot compare", (why,))
        if now != receipt.circumstances.device:
            return Verified("cannot compare", (f"measured on {receipt.circumstances.device}, this is {now}",))
    if other:
        return Verified("cannot compare", (f"another compiler: {'; '.join(other)}",))
    if receipt.measured:
        ladder.pinned = {t.workload: t.knobs for t in receipt.evaluation.timings}
    ladder.secret = bytes.fromhex(receipt.circumstances.secret) or None
    found = ladder.climb(Candidate("verified", "", "receipt", receipt.candidate), lambda rung: None, _forget)
    odd = differences(receipt.evaluation, found)
    if odd:
        return Verified("different", odd, found)
    return Verified("confirmed", tuple(_confirmed(found)), found)


def _confirmed(found: Evaluation) -> Iterator[str]:
    yield f"verdict {found.verdict}"
    if checks := sum(len(c.checks) for c in found.correctness):
        yield f"{checks} comparisons"
    if held := [g.name for g in found.guards if g.held == "held"]:
        yield f"guards held: {', '.join(held)}"
    for platform, launches in found.resources.items():
        yield f"machine code of {len(launches)} kernels for {platform}"
    for timing in found.timings:
        ratio = timing.speedup
        yield f"{timing.workload}, {timing.mode}: {ratio.value:.4g}x of {timing.against}, {ratio.evidence}"


def replay_failure(
    problem: Problem,
    settings: Mapping[str, Any],
    seed: int,
    source: str,
    failure: Failure,
    *,
    secret: str = "",
    device: str = "auto",
    seal: bool = True,
) -> Replayed:
    """Runs exactly the check that failed once more, here.

    Args:
        settings, seed: of the run in which it failed.
        secret: of the evaluation in which it failed, see `Circumstances`.
        seal: false runs the candidate without isolation.

    Raises:
        MachineError: a process or the device was lost on the way.
    """
    wanted = device if failure.device not in ("", "cpu", "meta") else "none"
    try:
        with _equipped(problem, failure.platform, settings, seed, wanted, True, seal) as ladder:
            ladder.secret = bytes.fromhex(secret) or None
            return replay(ladder, source, failure)
    except (MissingDevice, ProblemError) as error:
        return Replayed("cannot replay", str(error))


@contextmanager
def _equipped(
    problem: Problem, platform: str, settings: Mapping[str, Any], seed: int, device: str, anyway: bool, seal: bool
) -> Iterator[Ladder]:
    """A ladder like the one of the run in which it was found, with nothing built before."""
    created = Created(
        run="recheck",
        problem=problem,
        platform=platform,
        seed=seed,
        policy=Component("greedy"),
        writer=Component("built-in"),
        settings=settings,
        version=version("kernelevolve"),
        admit_anyway=anyway,
    )
    workshop = Workshop(problem, device=device, seal=seal)
    try:
        with tempfile.TemporaryDirectory(prefix="kernelevolve-") as builds:
            equipment = workshop(created, Path(builds))
            try:
                ladder = equipment.evaluator
                if not isinstance(ladder, Ladder):
                    raise UsageError("only what the built-in ladder found can be run again")
                yield ladder
            finally:
                equipment.close()
    finally:
        workshop.close()


def _forget(data: bytes) -> str:
    return "sha256:" + "0" * 64
