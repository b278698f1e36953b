"""What the runs of one problem work with on this machine: processes, the bench, the ladder, devices, the engineer.

In: a problem; then, for each run, its first event and the folder that holds builds. Out: `Equipment`. Left to others:
the loop (`run`), and each step. Sibling runs share the processes, the bench and the captured program.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kernelevolve import codec, plugins
from kernelevolve.engineer import Engineer
from kernelevolve.errors import MissingDevice, ProblemError, SeatLost, UncoveredOp, UsageError
from kernelevolve.evaluate.admission import TOPIC, Admission, Gate
from kernelevolve.evaluate.asking import Bounds
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluate.measure import ON_DEVICE, Device
from kernelevolve.evaluate.roles import ChildDied, ChildSilent, Refusal, Roles
from kernelevolve.evaluate.room import told
from kernelevolve.evaluate.tools import LadderTools
from kernelevolve.evaluate.twins import Twins
from kernelevolve.evaluation import Evaluation
from kernelevolve.events import Created, Noted
from kernelevolve.family import Family
from kernelevolve.knowledge.library import open_library
from kernelevolve.nursery import Limits
from kernelevolve.platforms import Platform
from kernelevolve.problem import Problem, workload_source
from kernelevolve.run import Equipment
from kernelevolve.seal.limits import BACKGROUND
from kernelevolve.settings import Settings, lane_for
from kernelevolve.translate.family import family_of
from kernelevolve.translate.ir import Program

_CAPTURE_SECONDS = 300.0
_PROBE_SECONDS = 120
_LIMITS = Limits(memory_bytes=16 << 30, nice=BACKGROUND)
_FULL_CASES = {"quick": 5, "standard": 12, "deep": 30}


class Workshop:
    """Equips the runs of one problem; call it as `Equip`, close it at the end.

    Args:
        device: `auto` for the first accelerator here that is the run's platform, `none` to do without, or torch's name
            of one, such as `cuda:1`.
        interpret: false leaves the interpret rung out where a device compares the values.
        seal: false runs foreign code without any isolation; every Evaluation says so.
        bounds: what a candidate may use on a device.
        roles: processes that several workshops share, of one lane; whoever made them closes them. Own ones if None.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        device: str = "auto",
        interpret: bool = True,
        seal: bool = True,
        bounds: Bounds = ON_DEVICE,
        roles: Roles | None = None,
    ) -> None:
        self.problem, self._wanted, self._interpret, self._bounds = problem, device, interpret, bounds
        self.roles, self._shares_roles = roles or Roles(seal=seal), roles is not None
        self._bench: Bench | None = None
        self._programs: dict[str, Program | UncoveredOp] = {}
        self._capturing = threading.Lock()
        self._ahead: ThreadPoolExecutor | None = None
        self._here: Mapping[str, str] | None = None
        self._seats: list[Device] = []

    def __call__(self, created: Created, builds: Path) -> Equipment:
        """The equipment of one run.

        Raises:
            ProblemError: the reference cannot be used.
            UnknownName: a platform that nobody registered.
            MissingDevice: the accelerator that was asked for is not here, or is another platform.
        """
        if created.problem.key != self.problem.key:
            raise UsageError(f"this workshop is for problem {self.problem.name!r}, not {created.problem.name!r}")
        platform: Platform = plugins.load("platforms", created.platform)
        settings = codec.from_data(Settings, codec.to_data(created.settings))
        self.roles.lane = settings.lane
        self._start()
        if self._wanted != "auto":
            self._place(platform)  # a missing one is said before anything starts
        with ThreadPoolExecutor(1) as aside:  # looking for devices takes the start of a process
            looking = aside.submit(self._look)
            bench = self.bench(builds)
            looking.result()
        device = self._device(platform, settings)
        admission = self._admit(bench, created, settings, device)
        engineer = Engineer(self.problem, platform, self.program)
        ladder = Ladder(
            bench, platform, settings, engineer, seed=created.seed, device=device, interpret=self._interpret,
            twins=Twins(),
        )  # fmt: skip
        others = [plugins.load("platforms", name) for name in plugins.names("platforms") if name != platform.name]
        tools = LadderTools(
            bench, (platform, *others), settings, engineer, seed=created.seed, builder=ladder.builder
        )  # fmt: skip
        names = [workload.name for workload in self.problem.workloads]
        notes = (Noted(TOPIC, admission.sentence, codec.to_data(admission)),)

        def confirm(screened: Evaluation, count: int) -> Ladder:
            made = Ladder(
                bench, platform, settings, engineer, seed=created.seed, device=device, interpret=False,
                lane=lane_for("accept"), candidates=count, builder=ladder.builder,
            )  # fmt: skip
            made.pinned = {timing.workload: timing.knobs for timing in screened.timings}
            return made

        again = confirm if device is not None and settings.lane == "screen" else None
        def close() -> None:
            tools.close()
            ladder.builder.close()

        return Equipment(
            ladder, platform.figures, engineer, notes=notes, confirm=again, close=close, family=self.family,
            measures=device is not None, tools=tools, library=open_library(),
            rules=f"{platform.rules.rstrip()}\n{told(map(bench.full, names), platform.figures)}\n",
        )  # fmt: skip

    def family(self) -> Family | None:
        """Of the problem, by its first workload; None where the reference cannot be captured."""
        try:
            return family_of(self.program(self.problem.workloads[0].name))
        except (UncoveredOp, ProblemError, SeatLost):
            return None

    def _admit(self, bench: Bench, created: Created, settings: Settings, device: Device | None) -> Admission:
        """Whether the problem is admitted for this run; from now on the bench uses the admitted distributions only.

        Outside a search the full sizes are looked at too, where there is a device.
        """
        full = () if device is None or settings.lane == "screen" else (device.torch_name,)
        gate = Gate(bench, created.admit_anyway, ("cpu", *full))
        bench.admitted, bench.anyway = gate.admitted, created.admit_anyway
        gate.admitted(settings.distributions)
        return gate.admission(settings.distributions)

    def bench(self, builds: Path) -> Bench:
        """The problem's bench, prepared when first needed."""
        if self._bench is None:
            self._start()
            self._bench = Bench(self.problem, self.roles, builds)
        return self._bench

    def _start(self) -> None:
        """Starts the processes side by side, and the capture of the reference as soon as its own is there: each takes
        seconds, and nothing of it waits for a device or a description."""
        self.roles.warm("judge", "translator", "builder", "worker")
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(1, "capture")
            self._ahead.submit(self._capture_ahead)

    def _capture_ahead(self) -> None:
        with contextlib.suppress(UncoveredOp, ProblemError, SeatLost):  # who needs it meets the same, and says so
            self.program(self.problem.workloads[0].name)

    def gate(self, builds: Path) -> Gate:
        """The problem's admission by itself: at scaled sizes on the CPU, or full ones where a device was asked for.

        Raises:
            MissingDevice: the device that was asked for is not here.
        """
        if self._wanted == "none":
            return Gate(self.bench(builds))
        here = find_devices()
        if self._wanted != "auto" and self._wanted not in here:
            raise MissingDevice(f"device {self._wanted!r} is not here; devices here: {', '.join(here) or 'none'}")
        device = next(iter(here), "cpu") if self._wanted == "auto" else self._wanted
        return Gate(self.bench(builds), places=(device,))

    def program(self, workload: str) -> Program:
        """The captured reference at one workload's full size.

        Raises:
            UncoveredOp, ProblemError: it cannot be captured.
        """
        with self._capturing:  # several candidates may ask at once
            if workload not in self._programs:
                try:
                    self._programs[workload] = self._capture(workload)
                except UncoveredOp as error:
                    self._programs[workload] = error
            found = self._programs[workload]
        if isinstance(found, UncoveredOp):
            raise found
        return found

    def _capture(self, workload: str) -> Program:
        source = workload_source(self.problem, self.problem.workload(workload))
        with self.roles["translator"].open(_LIMITS) as translator:
            try:
                rules = {"precision": self.problem.precision, "mode": self.problem.mode}
                body = {"source": source, "path": self.problem.path, **rules}
                answer = translator.ask("capture", body, seconds=_CAPTURE_SECONDS)
            except Refusal as refusal:
                if refusal.verdict == "UNCOVERED":
                    where = f"{self.problem.path}, {refusal.facts.get('line') or 'forward'}"
                    raise UncoveredOp(str(refusal.facts.get("op")), where) from refusal
                raise ProblemError(refusal.message) from refusal
            except (ChildDied, ChildSilent) as error:
                raise SeatLost(f"while capturing the reference: {error}") from error
            text = answer.attachments["program"].read().decode()
            answer.close()
        return Program.from_json(text)

    def _look(self) -> Mapping[str, str]:
        if self._here is None:
            self._here = {} if self._wanted == "none" else find_devices()
        return self._here

    def _device(self, platform: Platform, settings: Settings) -> Device | None:
        found = self._place(platform)
        if found is None:
            return None
        made = Device(*found, full_cases=_FULL_CASES[settings.effort], bounds=self._bounds)
        self._seats.append(made)
        return made

    def _place(self, platform: Platform) -> tuple[str, str] | None:
        """Torch's name and the product's of the device to use; None to do without."""
        if self._wanted == "none":
            return None
        here = self._look()
        names = {place: found for place, found in here.items() if is_platform(platform, found)}
        if self._wanted != "auto":
            if self._wanted not in names:
                known = ", ".join(f"{p} ({n})" for p, n in here.items()) or "none"
                lacks = f"is no {platform.name}" if self._wanted in here else "is not here"
                raise MissingDevice(
                    f"device {self._wanted!r} {lacks}; devices here: {known}; leave --device out to use the first "
                    f"{platform.name}, or to build and model where there is none"
                )
            names = {self._wanted: names[self._wanted]}
        return next(iter(names.items()), None)

    def close(self) -> None:
        """Ends all processes but those that are shared."""
        for seat in self._seats:
            if self._bench is not None:
                seat.close(self._bench)
        if self._bench is not None:
            self._bench.close()
        if self._ahead is not None:
            self._ahead.shutdown(wait=False, cancel_futures=True)
        if not self._shares_roles:
            self.roles.close()


_PROBE = """
import json, torch
found = {}
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = p.name + " " + getattr(p, "gcnArchName", "").split(":")[0]
print(json.dumps(found))
"""


_FINDING = threading.Lock()  # runs that are opened side by side ask once


def find_devices() -> dict[str, str]:
    """The accelerators of this machine as torch sees them: `cuda:0` to product name and architecture.

    A process of its own asks, once, because the host never imports torch.

    Raises:
        MissingDevice: there is no answer in time.
    """
    with _FINDING:
        return dict(_found())


@functools.cache
def _found() -> dict[str, str]:
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise MissingDevice(
            f"torch did not say within {_PROBE_SECONDS} s which devices are here; run `kernelevolve doctor`, "
            "or go on without one: --device none"
        ) from error
    if done.returncode:
        return {}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {str(k): str(v).strip() for k, v in found.items()}


def absent_platforms(platforms: Iterable[str]) -> tuple[str, ...]:
    """Those of the platforms of which this machine has no accelerator.

    Raises:
        UnknownName: a platform that nobody registered.
        MissingDevice: torch does not say in time what is here.
    """
    here = find_devices().values()
    known: dict[str, Platform] = {name: plugins.load("platforms", name) for name in platforms}
    return tuple(name for name, made in known.items() if not any(is_platform(made, found) for found in here))


def is_platform(platform: Platform, found: str) -> bool:
    """Whether the product called `found` is this platform: `NVIDIA H200` is h200, `NVIDIA GH200` is not."""
    return re.search(rf"(?<![a-z0-9]){re.escape(platform.name.lower())}(?![a-z0-9])", found.lower()) is not None
