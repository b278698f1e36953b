"""Runs specimens through the same ladder as every other candidate, and says whether each got the right verdict.

In: specimens, a device or none, guards to leave out. Out: a `Report`. Left to others: every finding (`evaluate`).

On a machine without an accelerator the CPU takes its place: launches run under the interpreter and all rungs are
climbed, timing included, so that what looks at timed calls is tried as well; no figure of such a climb means anything.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kernelevolve import plugins
from kernelevolve.candidate import Candidate
from kernelevolve.engineer import Engineer
from kernelevolve.equipment import Workshop, find_devices, is_platform
from kernelevolve.errors import KernelEvolveError, MissingDevice, ProblemError, UnknownName, UsageError
from kernelevolve.evaluate.correct import Bounds
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.roles import Roles
from kernelevolve.evaluation import Rung, Verdict
from kernelevolve.platforms import Platform
from kernelevolve.selftest.honest import KNOWN_GOOD
from kernelevolve.selftest.specimen import CANARY, FAMILIES, MARK, Specimen, read
from kernelevolve.selftest.specimens import corpus
from kernelevolve.settings import LANES, Lane, LaneName, Settings, settings_for

PART = 32  # specimens of one problem that one thread takes at a time
EVERY = 8  # specimens after which a known-good candidate follows
_MEMORY = 3 << 30
_PATIENCE = 2.0  # seconds
_ON_CPU = ("declared", "D1", "D3", "D4", "D6", "D7", "D8", "D9")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one specimen.

    Attributes:
        verdict: what it got; empty where the machine failed.
        right: it is among the expected ones.
        rung: at which the climb ended.
        guards: that said no.
        message: of the last rung, or the machine's error.
    """

    id: str
    family: str
    title: str
    expected: tuple[Verdict, ...]
    verdict: Verdict | None
    right: bool
    rung: Rung | None
    guard: str
    guards: tuple[str, ...]
    message: str
    seconds: float
    isolation: str = ""

    @property
    def kind(self) -> str:
        """`cheat`, `honest`, or `disarmed`: what it tries must come to nothing, and then it is as good as honest."""
        return "cheat" if self.expected else "honest" if self.family == "honest" else "disarmed"  # see `Specimen`

    @property
    def passed(self) -> bool:
        """Whether it was taken for correct."""
        return self.verdict is not None and self.verdict.ok


@dataclass(frozen=True)
class Report:
    """All outcomes of one selftest.

    Attributes:
        weakened: guards that were left out on purpose.
        controls: the known-good candidates between the specimens.
        left: ids of what time did not suffice for.
    """

    device: str
    lane: str
    weakened: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    controls: tuple[Outcome, ...]
    versions: Mapping[str, str]
    seconds: float
    left: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Every cheat rejected for the right reason, no honest kernel rejected."""
        return bool(self.outcomes) and not self.left and all(o.right for o in (*self.outcomes, *self.controls))

    @property
    def summary(self) -> str:
        """How many of each kind did as they should, in one line."""
        kinds = {"cheat": "cheats rejected for the right reason", "disarmed": "attacks that came to nothing"}
        kinds["honest"] = "honest kernels that passed"
        said = []
        for kind, words in kinds.items():
            some = [o for o in (*self.outcomes, *self.controls) if o.kind == kind]
            if some:
                said.append(f"{sum(o.right for o in some)} of {len(some)} {words}")
        if self.left:
            said.append(f"{len(self.left)} not run: {', '.join(self.left)}")
        return "; ".join(said) or "no specimen"

    @property
    def through(self) -> tuple[Outcome, ...]:
        """Cheats that were taken for correct."""
        return tuple(o for o in self.outcomes if o.expected and o.passed)


def chosen_specimens(only: Sequence[str] = (), *, on: str = "cpu") -> tuple[Specimen, ...]:
    """Specimens that can run `on` `cpu` or `gpu`: all, or those of the given ids and families.

    Raises:
        UnknownName: no specimen has such an id or family.
    """
    every = corpus()
    known = {s.id for s in every} | set(FAMILIES)
    for name in only:
        if name not in known:
            raise UnknownName("specimen or family", name, tuple(sorted(known)))
    return tuple(s for s in every if on in s.where and (not only or s.id in only or s.family in only))


def without(lane: Lane, guards: Sequence[str]) -> Lane:
    """The lane with these guards left out.

    Raises:
        UnknownName: no lane has one of them.
    """
    known = {name for one in LANES.values() for name in (*one.structure, *one.defences)}
    for name in guards:
        if name not in known:
            raise UnknownName("guard", name, tuple(sorted(known)))
    return replace(
        lane,
        structure=tuple(n for n in lane.structure if n not in guards),
        defences=tuple(n for n in lane.defences if n not in guards),
    )


def run_selftest(
    specimens: Sequence[Specimen],
    *,
    device: str = "none",
    lane: LaneName | None = None,
    weaken: Sequence[str] = (),
    within: float = math.inf,
    jobs: int = 1,
    progress: Progress = lambda line: None,
) -> Report:
    """Runs them, problem by problem, in order.

    Args:
        device: `none`, or torch's name of an accelerator.
        lane: in place of each specimen's own.
        weaken: guards to leave out.
        within: seconds after which no further specimen begins.
        jobs: problems at the same time; on a device it must be one.

    Raises:
        MissingDevice: it is not here.
        UnknownName: a guard that no lane has.
        UsageError: several jobs on a device.
    """
    if jobs > 1 and device != "none":
        raise UsageError(f"{jobs} jobs on {device}: candidates that share a device disturb each other's times; use 1")
    start = time.monotonic()
    without(LANES["screen"], weaken)  # says at once that a name is wrong
    sitting = _Sitting(specimens, device, lane, tuple(weaken), start + within, progress)
    with _canaries(), ThreadPoolExecutor(jobs) as pool:
        working = [pool.submit(sitting.work) for _ in range(jobs)]
        try:
            for one in working:
                one.result()
        except BaseException:
            sitting.end = 0.0  # the others stop after the specimen at hand
            raise
    order = {s.id: i for i, s in enumerate(specimens)}
    return Report(
        device=sitting.product,
        lane=lane or "",
        weakened=tuple(weaken),
        outcomes=tuple(sorted(sitting.found, key=lambda o: order[o.id])),
        controls=tuple(sitting.controls),
        versions=sitting.versions,
        seconds=time.monotonic() - start,
        left=tuple(s.id for s in specimens if s.id not in {o.id for o in sitting.found}),
    )


class _Sitting:
    """What one selftest has done and has still to do; several threads may `work` at it, each with its own roles."""

    def __init__(
        self,
        specimens: Sequence[Specimen],
        device: str,
        lane: LaneName | None,
        weaken: tuple[str, ...],
        end: float,
        progress: Progress,
    ) -> None:
        self.device, self.lane, self.weaken, self.end, self.progress = device, lane, weaken, end, progress
        self.platform, self.product = _platform(device)
        self.found: list[Outcome] = []
        self.controls: list[Outcome] = []
        self.versions: Mapping[str, str] = {}
        problems: dict[str, list[Specimen]] = {}
        for specimen in specimens:
            problems.setdefault(specimen.problem, []).append(specimen)
        parts = [(name, some[i : i + PART]) for name, some in problems.items() for i in range(0, len(some), PART)]
        self._due = deque(sorted(parts, key=lambda part: -len(part[1])))  # the longest first

    def work(self) -> None:
        """Takes problem after problem; a known-good candidate follows every few specimens, and the last one."""
        with closing(Roles()) as roles:
            roles.warm("judge", "translator", "builder", "worker")
            since = 0
            while self._due and time.monotonic() < self.end:
                try:
                    name, some = self._due.popleft()
                except IndexError:
                    break  # another thread was quicker
                with _Station(name, roles, self.platform, self.device, self.product) as station:
                    for number, specimen in enumerate(some, 1):
                        if time.monotonic() >= self.end:
                            break
                        self.found.append(station.outcome(specimen, self._lane(specimen)))
                        self.progress(line_of(self.found[-1]))
                        since += 1
                        last = number == len(some) and not self._due
                        if name in KNOWN_GOOD and (since >= EVERY or last):
                            since = 0
                            self._control(station, name)
            self.versions = roles["builder"].known_versions()

    def _control(self, station: _Station, name: str) -> None:
        control = Specimen(f"control {name}", "honest", "after the cheats", name, KNOWN_GOOD[name])
        self.controls.append(station.outcome(control, self._lane(control)))
        self.progress(line_of(self.controls[-1]))

    def _lane(self, specimen: Specimen) -> Lane:
        return without(LANES[self.lane or specimen.lane], self.weaken)


def line_of(outcome: Outcome) -> str:
    """One outcome in one line."""
    sign = "ok  " if outcome.right else "FAIL"
    expected = "/".join(outcome.expected) or "OK_*"
    where = outcome.rung or "-"
    said = f"{sign} {outcome.id:12} {outcome.seconds:5.1f} s  {outcome.verdict or 'INFRA'} at {where}"
    return said if outcome.right else f"{said}, expected {expected}: {outcome.message[:200]}"


def _platform(device: str) -> tuple[Platform, str]:
    if device == "none":
        return plugins.load("platforms", "h100"), "CPU, interpreted"
    here = find_devices()
    if device not in here:
        known = ", ".join(f"{p} ({n})" for p, n in here.items()) or "none"
        raise MissingDevice(f"device {device!r} is not here; devices here: {known}; without one: --device none")
    for name in plugins.names("platforms"):
        platform: Platform = plugins.load("platforms", name)
        if is_platform(platform, here[device]):
            return platform, here[device]
    raise MissingDevice(f"{here[device]} is no registered platform; known: {', '.join(plugins.names('platforms'))}")


class _Station:
    """One problem, ready for candidates.

    Args:
        roles: the processes, which all problems share: whatever a candidate leaves there meets all that follow.
    """

    def __init__(self, problem: str, roles: Roles, platform: Platform, device: str, product: str) -> None:
        self.platform = platform
        self.on_cpu = device == "none"
        self.torch_name, self.product = "cpu" if self.on_cpu else device, product
        self.workshop = Workshop(read(problem), device="none")
        self.workshop.roles = roles
        self._builds = tempfile.TemporaryDirectory(prefix="kernelevolve-selftest-")
        self.bench = self.workshop.bench(Path(self._builds.name))
        self.costs = Engineer(self.workshop.problem, platform, self.workshop.program)
        self.seat: Device | None = None

    def __enter__(self) -> _Station:
        return self

    def __exit__(self, *_: object) -> None:
        if self.seat is not None:
            self.seat.free()
        self.bench.close()
        self._builds.cleanup()

    def outcome(self, specimen: Specimen, lane: Lane) -> Outcome:
        """Climbs the ladder with one specimen; the machine's fault is an outcome too, and never right."""
        start = time.monotonic()
        facts = (specimen.id, specimen.family, specimen.title, specimen.verdicts)
        try:
            with self._ladder(specimen, self._short(lane, specimen)) as ladder:
                found = ladder.climb(Candidate("n0", "b0", "guest", specimen.source), lambda rung: None, _digest)
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
            specimen.guard,
            tuple(g.name for g in found.guards if g.held == "failed"),
            f"{left} of its processes are still there; {message}" if left else message,
            time.monotonic() - start,
            found.isolation,
        )

    def _short(self, lane: Lane, specimen: Specimen) -> Lane:
        """As few blocks, seeds and distributions as a cheat needs to show, for an interpreter that takes its time."""
        if not self.on_cpu:
            return replace(lane, blocks=min(lane.blocks, 6), doublings=0, seeds=1, modes=("cold",))
        used = tuple(d for d in lane.distributions if d in _ON_CPU)
        blocks = 6 if specimen.guard == "clock" else 1  # a clock is checked by a slope and its noise
        return replace(lane, distributions=used, seeds=1, hidden=1, blocks=blocks, doublings=0, modes=("cold",))

    @contextmanager
    def _ladder(self, specimen: Specimen, lane: Lane) -> Iterator[Ladder]:
        last = Rung.INTERPRET if self.on_cpu and specimen.disarmed else ""  # nothing of it depends on timing
        settings: Settings = replace(
            settings_for("quick"), distributions=lane.distributions, seeds=lane.seeds, lane=lane.name, last_rung=last
        )
        bounds = Bounds(specimen.seconds, specimen.seconds, specimen.seconds, memory_bytes=_MEMORY)
        if self.seat is None:
            self.seat = Device(
                self.torch_name,
                self.product,
                full_cases=len(lane.distributions),
                answers=self.platform.device_answers() if self.on_cpu else None,
            )
        ladder = Ladder(
            self.bench,
            self.platform,
            settings,
            self.costs,
            seed=0,
            device=self.seat,
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


@contextmanager
def _canaries() -> Iterator[None]:
    """What a candidate must never see, in the environment and in a file of this process."""
    with tempfile.TemporaryDirectory(prefix="kernelevolve-selftest-") as folder:
        (Path(folder) / CANARY).write_text(CANARY)
        os.environ["KERNELEVOLVE_SELFTEST"] = CANARY
        try:
            yield
        finally:
            del os.environ["KERNELEVOLVE_SELFTEST"]


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
