"""Takes specimens up the ladder, several problems at the same time.

In: specimens, a device or none, guards to leave out. Out: a `Report`. Left to others: one problem (`station`), what
each guard alone stops (`matrix`).
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kernelevolve import plugins
from kernelevolve.equipment import find_devices, is_platform
from kernelevolve.errors import MissingDevice, UnknownName
from kernelevolve.evaluate.roles import Roles
from kernelevolve.platforms import Platform
from kernelevolve.selftest.honest import KNOWN_GOOD
from kernelevolve.selftest.outcome import Outcome, Report, line_of
from kernelevolve.selftest.specimen import CANARY, FAMILIES, Specimen
from kernelevolve.selftest.specimens import corpus
from kernelevolve.selftest.station import Station
from kernelevolve.selftest.weaken import without
from kernelevolve.settings import LANES, LaneName

PART = 16  # specimens of one problem that one thread takes at a time
EVERY = 8  # specimens after which a known-good candidate follows
Progress = Callable[[str], None]


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


@dataclass(frozen=True)
class Task:
    """One climb that is due: a specimen, and the guards and distributions that are left out."""

    specimen: Specimen
    weaken: tuple[str, ...] = ()


def run_selftest(
    specimens: Sequence[Specimen],
    *,
    device: str = "none",
    lane: LaneName | None = None,
    weaken: Sequence[str] = (),
    within: float = math.inf,
    jobs: int = 1,
    progress: Progress = lambda line: None,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Runs them, problem by problem.

    Args:
        device: `none`, or torch's name of an accelerator.
        lane: in place of each specimen's own.
        weaken: guards and distributions to leave out.
        within: seconds after which no further specimen begins.
        jobs: problems at the same time; on a device they share it as the candidates of a search do.
        told: is told each specimen's outcome as it comes, one at a time.

    Raises:
        MissingDevice: it is not here.
        UnknownName: a guard or distribution that no lane has.
    """
    start = time.monotonic()
    without(LANES["screen"], weaken)  # says at once that a name is wrong
    tasks = [Task(s, tuple(weaken)) for s in specimens]
    sitting = Sitting(tasks, device, lane=lane, end=start + within, progress=progress)
    sitting.told = told
    sitting.run(jobs)
    order = {s.id: i for i, s in enumerate(specimens)}
    outcomes = sorted((o for _, o in sitting.found), key=lambda o: order[o.id])
    done = {o.id for o in outcomes}
    return Report(
        device=sitting.product,
        lane=lane or "",
        weakened=tuple(weaken),
        outcomes=tuple(outcomes),
        controls=tuple(sitting.controls),
        versions=sitting.versions,
        seconds=time.monotonic() - start,
        left=tuple(s.id for s in specimens if s.id not in done),
    )


class Sitting:
    """What one selftest has done and has still to do.

    Args:
        lane: in place of each specimen's own.
        end: by the monotonic clock, after which nothing further begins.
        controls: whether known-good candidates follow the specimens.

    Attributes:
        found: each task that was done with its outcome, in the order in which they ended.
        told: is told each of these outcomes, too.
        controls: the known-good candidates' outcomes.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        device: str,
        *,
        lane: LaneName | None = None,
        end: float = math.inf,
        controls: bool = True,
        progress: Progress = lambda line: None,
    ) -> None:
        self.device, self.lane, self.end, self.progress = device, lane, end, progress
        self.platform, self.product = platform_of(device)
        self.found: list[tuple[Task, Outcome]] = []
        self.told: Callable[[Outcome], None] = lambda outcome: None
        self._telling = threading.Lock()
        self.controls: list[Outcome] = []
        self.versions: Mapping[str, str] = {}
        self._every = EVERY if controls else 0
        problems: dict[str, list[Task]] = {}
        for task in tasks:
            problems.setdefault(task.specimen.problem, []).append(task)
        parts = [(name, some[i : i + PART]) for name, some in problems.items() for i in range(0, len(some), PART)]
        self._due = deque(sorted(parts, key=lambda part: -len(part[1])))  # the longest first

    def run(self, jobs: int) -> None:
        """Does all of it, `jobs` problems at the same time, each thread with its own processes."""
        with _canaries(), ThreadPoolExecutor(jobs) as pool:
            working = [pool.submit(self._work) for _ in range(min(jobs, len(self._due)))]
            try:
                for one in working:
                    one.result()
            except BaseException:
                self.end = 0.0  # the others stop after the specimen at hand
                raise

    def _work(self) -> None:
        """Takes problem after problem; a known-good candidate follows every few specimens, and the last one."""
        with closing(Roles()) as roles:
            roles.warm("judge", "builder", "worker")
            since = 0
            while self._due and time.monotonic() < self.end:
                try:
                    name, some = self._due.popleft()
                except IndexError:
                    break  # another thread was quicker
                with Station(name, roles, self.platform, self.device, self.product) as station:
                    for number, task in enumerate(some, 1):
                        if time.monotonic() >= self.end:
                            break
                        outcome = station.outcome(task.specimen, LANES[self.lane or task.specimen.lane], task.weaken)
                        with self._telling:
                            self.found.append((task, outcome))
                            self.told(outcome)
                            self.progress(line_of(outcome, task.weaken))
                        since += 1
                        last = number == len(some) and not self._due
                        if self._every and name in KNOWN_GOOD and (since >= self._every or last):
                            since = 0
                            self._control(station, name, task.weaken)
            self.versions = roles["builder"].known_versions()

    def _control(self, station: Station, name: str, weaken: Sequence[str]) -> None:
        control = Specimen(f"control {name}", "honest", "after the cheats", name, KNOWN_GOOD[name])
        self.controls.append(station.outcome(control, LANES[self.lane or control.lane], weaken))
        self.progress(line_of(self.controls[-1]))


def platform_of(device: str) -> tuple[Platform, str]:
    """The platform that a device is, and the product's name; a stand-in for `none`.

    Raises:
        MissingDevice: it is not here, or is no registered platform.
    """
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
