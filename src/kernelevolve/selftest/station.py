"""One problem of the selftest, ready for candidates: each climbs the same ladder as any other.

In: the processes, a platform, a device or none; then specimens with the lane in which they are judged. Out: Outcomes.
Left to others: every finding (`evaluate`), which specimens, and in which order (`runner`, `matrix`).

On a machine without an accelerator the CPU takes its place: launches run under the interpreter and all rungs are
climbed, timing included, so that what looks at timed calls is tried as well; no figure of such a climb means anything.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from kernelevolve.candidate import Candidate, Choice
from kernelevolve.errors import KernelEvolveError, MachineError, ProblemError
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import Bounds
from kernelevolve.evaluate.households import Households
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluate.measure import ON_DEVICE
from kernelevolve.evaluate.roles import Roles
from kernelevolve.evaluate.seat import Seat
from kernelevolve.evaluation import Evaluation, LaunchPlan, Rung, Verdict
from kernelevolve.platforms import Platform
from kernelevolve.platforms.cost import Work
from kernelevolve.selftest.outcome import Outcome
from kernelevolve.selftest.specimen import MARK, Specimen, read
from kernelevolve.selftest.weaken import BUILD, Weakened, weakened, without
from kernelevolve.settings import Lane, Settings, settings_for

_MEMORY = 3 << 30
_PATIENCE = 2.0  # seconds
_ON_CPU = ("declared", "D1", "D3", "D4", "D6", "D7", "D8", "D9")
_LEAVING = threading.Lock()  # of specimens that leave processes behind: whose they are shows while there is only one
_SLOPES = ("clock", "floor")  # looked at by a slope and its noise, or right behind what is


class NoCosts:
    """Nothing is modelled: what a kernel moves and computes decides no verdict where a device is there."""

    def candidate(self, candidate: Candidate, plan: LaunchPlan, choice: Mapping[str, Choice]) -> Sequence[Work]:
        """See `modelling.Costs`."""
        return (Work("not modelled", 0.0, 0.0, compiled=False),)

    def baselines(self, workload: str) -> Mapping[str, Sequence[Work]]:
        """See `modelling.Costs`."""
        return {}

    def least(self, workload: str) -> Sequence[Work]:
        """See `modelling.Costs`."""
        return ()


class Station:
    """One problem, ready for candidates; use it as a context manager.

    Args:
        roles: the processes, which all problems share: whatever a candidate leaves there meets all that follow.
        device: torch's name of it; the CPU takes its place where it is `none`.
        product: name of the device, for figures.
    """

    def __init__(self, problem: str, roles: Roles, platform: Platform, device: str, product: str) -> None:
        self.platform, self.on_cpu = platform, device == "none"
        self._builds = tempfile.TemporaryDirectory(prefix="kernelevolve-selftest-")
        self.bench = Bench(read(problem), roles, Path(self._builds.name))
        answers = platform.device_answers() if self.on_cpu else None
        # On the CPU the full sizes are those that the interpreter has compared on all inputs.
        cases = 1 if self.on_cpu else len(_ON_CPU)
        self.device = Weakened("cpu" if self.on_cpu else device, product, full_cases=cases, answers=answers)
        if self.on_cpu:
            # Nobody else's: no figure is taken, and there is memory for all.
            self.device.seat, self.device.households = Seat(), Households()
        self.costs = NoCosts()

    def __enter__(self) -> Station:
        return self

    def __exit__(self, *_: object) -> None:
        self.device.close(self.bench)
        self.bench.close()
        self._builds.cleanup()

    def outcome(self, specimen: Specimen, lane: Lane, weaken: Collection[str] = ()) -> Outcome:
        """Climbs the ladder with one specimen; the machine's fault is an outcome too, and never right.

        Args:
            weaken: guards and distributions that are left out.
        """
        with _LEAVING if MARK in specimen.source else nullcontext():
            return self._outcome(specimen, lane, weaken)

    def _outcome(self, specimen: Specimen, lane: Lane, weaken: Collection[str]) -> Outcome:
        start = time.monotonic()
        facts = (specimen.id, specimen.family, specimen.title, specimen.verdicts)
        short = without(self._short(lane, specimen), weaken)
        self.device.bounds = replace(ON_DEVICE, call_seconds=min(ON_DEVICE.call_seconds, specimen.seconds))
        self.device.weakened = frozenset(weaken)
        try:
            try:
                found = self._climbed(specimen, short, weaken)
            except MachineError:
                found = self._climbed(specimen, short, weaken)  # as a run does, which tries once more
        except KernelEvolveError as error:
            seconds = time.monotonic() - start
            verdict = Verdict.TASK_INVALID if isinstance(error, ProblemError) else None
            right = verdict is not None and verdict in specimen.verdicts
            message = f"{type(error).__name__}: {error}"
            return Outcome(*facts, verdict, right, None, specimen.guard, (), message, seconds)
        left = left_behind() if MARK in specimen.source else 0
        message = found.rungs[-1].message
        return Outcome(
            *facts,
            found.verdict,
            specimen.expects(found.verdict) and not left,
            found.rungs[-1].rung,
            specimen.guard or specimen.distribution,
            tuple(g.name for g in found.guards if g.held == "failed"),
            f"{left} of its processes are still there; {message}" if left else message,
            time.monotonic() - start,
            found.isolation,
        )

    def _climbed(self, specimen: Specimen, lane: Lane, weaken: Collection[str]) -> Evaluation:
        with weakened(self.bench, self._left_out(specimen, weaken)), self._ladder(specimen, lane) as ladder:
            return ladder.climb(Candidate("n0", "b0", "guest", specimen.source), lambda rung: None, _digest)

    def _left_out(self, specimen: Specimen, weaken: Collection[str]) -> Collection[str]:
        """On the CPU nothing runs what the compiler makes: it is asked where its own answer counts."""
        built = not self.on_cpu or specimen.honest or Verdict.COMPILE_ERROR in specimen.verdicts
        return weaken if built else (*weaken, BUILD)

    def _short(self, lane: Lane, specimen: Specimen) -> Lane:
        """As few blocks, seeds and distributions as a cheat needs to show, for an interpreter that takes its time."""
        if not self.on_cpu:
            return replace(lane, blocks=6, doublings=0, seeds=1, modes=("cold",))
        used = tuple(d for d in lane.distributions if d in _ON_CPU or specimen.distribution)
        blocks = 6 if specimen.guard in _SLOPES else 1
        seeds = 2 if specimen.distribution else 1  # where the values of one seed might miss what shows it
        return replace(lane, distributions=used, seeds=seeds, hidden=1, blocks=blocks, doublings=0, modes=("cold",))

    @contextmanager
    def _ladder(self, specimen: Specimen, lane: Lane) -> Iterator[Ladder]:
        told = specimen.disarmed or not specimen.timed  # before anything is timed
        last = Rung.INTERPRET if self.on_cpu and told else ""
        settings: Settings = replace(
            settings_for("quick"), distributions=lane.distributions, seeds=lane.seeds, lane=lane.name, last_rung=last
        )
        bounds = Bounds(specimen.seconds, specimen.seconds, specimen.seconds, memory_bytes=_MEMORY)
        ladder = Ladder(
            self.bench,
            self.platform,
            settings,
            self.costs,
            seed=0,
            device=self.device,
            interpret=self.on_cpu,
            bounds=bounds,
            lane=lane,
        )
        try:
            yield ladder
        finally:
            ladder.builder.close()


def _digest(data: bytes) -> str:
    """Artefacts of a selftest are looked at by nobody: only their names are kept."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def left_behind() -> int:
    """How many processes of specimens are still there, after some patience."""
    for _ in range(int(_PATIENCE / 0.1)):
        if not _marked():
            return 0
        time.sleep(0.1)
    return _marked()


def _marked() -> int:
    count = 0
    for entry in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            count += entry.read_text().strip() == MARK
    return count
