"""The launch-plan lane: what the builder recorded is carried out, compared and timed where no candidate's Python is.

In: a candidate at a choice, cases, a device. Out: what was compared, and the times of the arm `plan`; or why this
candidate keeps the process lane. Left to others: recording (`building`), carrying it out (`judge.plan_lane`, in a
judge's child of its own, not the oracle's), comparing (`talk`), timing (`session`).

The plan takes the worker's place in the conversation: the same questions, the same inputs, the same acceptance rule.
What was right as a process and is wrong as a plan behaves differently when it is recorded, which is `POLICY`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Choice
from kernelevolve.errors import ProblemError, SeatLost
from kernelevolve.evaluate.asking import Failed, Trial
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.building import Builder, Packed
from kernelevolve.evaluate.climb import Climb
from kernelevolve.evaluate.correct import telling
from kernelevolve.evaluate.graphs import by_mode
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.roles import ChildDied, ChildSilent, Conversation, Refusal
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.session import Measured, Place, Session, worst_of
from kernelevolve.evaluate.talk import Talk
from kernelevolve.evaluate.timing import Blocks
from kernelevolve.evaluation import Correctness, Evidence, Guard, Verdict
from kernelevolve.hardware import HardwareFigures
from kernelevolve.packed import kernel_name, packed_name
from kernelevolve.protocol import Case
from kernelevolve.settings import LANES, Lane
from kernelevolve.wire import memory_bytes

GUARD = "plan-lane"
MOST_BINARIES = 200  # that one message carries
_FAULTS = {v.value for v in Verdict if v.family in ("fault", "breach")}


class NotCovered(Exception):
    """This candidate keeps the process lane, for this reason."""


@dataclass(frozen=True)
class Carried:
    """What the lane found of one workload.

    Attributes:
        guard: `held` with figures; `not run` with the reason where the candidate keeps the process lane.
        correctness, measured: None in that case; `measured` also where nothing was to be timed.
        artefacts: the plan as JSON and its binaries, by the names under which they are kept.
    """

    guard: Guard
    correctness: Correctness | None = None
    measured: Measured | None = None
    artefacts: Mapping[str, bytes] | None = None


def carry_out(
    bench: Bench,
    builder: Builder,
    place: Place,
    trial: Trial,
    cases: Sequence[Case],
    *,
    lane: Lane = LANES["accept"],
    seeds: Seeds | None = None,
    figures: HardwareFigures | None = None,
    candidates: int = 1,
    blocks: Blocks | None = None,
    timed: bool = True,
) -> Carried:
    """Compares and times one workload's plan on a device; the candidate has passed as a process before.

    Args:
        place: the device and its baselines, e.g. `measure.Device`.
        trial: the candidate at full size on that device.
        seeds, figures, candidates, blocks: as in `session.Session`.

    Raises:
        Failed: `POLICY` where the plan is wrong and the process was right; `TAMPER`, `CRASH`, `MEM_RACE`, ... else.
        ProblemError, SeatLost: not the candidate's fault.
    """
    workload = trial.description.variant.workload
    facts = {"guard": GUARD, "workload": workload, "size": "full", "device": trial.device, "choice": dict(trial.choice)}
    try:
        packed = builder.pack(trial.source, trial.choice, workload)
        if packed.plan is None:
            raise NotCovered(packed.reason)
        planned = PlanPlace(place, bench, {workload: packed}, trial)
        found = _compare(bench, trial, planned.open(workload), cases)
        measured = None
        if timed:
            secret = seeds or Seeds()
            rules: dict[str, Any] = {"figures": figures, "candidates": candidates, "blocks": blocks}
            rules["distribution"] = telling([found], cases) if cases else "declared"
            runs = [
                Session(bench, planned, trial, lane, _own(secret, number), **rules).measure()
                for number in range(lane.processes)
            ]
            measured = _together(runs)
    except NotCovered as reason:
        return Carried(Guard(GUARD, "not run", f"{workload}: timed as a process: {reason}"))
    except Failed as failed:
        if failed.verdict is Verdict.OOM:  # every slot of a ring has results of its own here, and the process ran
            return Carried(Guard(GUARD, "not run", f"{workload}: timed as a process: {failed}"))
        failed.knowing(**facts)
        raise
    kept = {packed_name(packed.plan.platform, workload): codec.dumps(packed.plan).encode()}
    kept |= {kernel_name(digest): data for digest, data in packed.binaries.items()}
    launches = sum(1 for step in packed.plan.steps if hasattr(step, "kernel"))
    said = (
        f"{workload}: {launches} launches carried out from {len(packed.binaries)} binaries, {len(found.checks)} checks"
    )
    if measured is not None:
        said += f"; {measured.timed[0].timing.candidate.value:.4g} ms"
    return Carried(Guard(GUARD, "held", said), found, measured, kept)


def planned(
    climb: Climb,
    builder: Builder,
    device: Device,
    workload: str,
    cases: Sequence[Case],
    measured: Measured,
    rules: Mapping[str, Any],
) -> Measured:
    """What a climb reports of a workload: the times of its plan where that can be carried out, else `measured`.

    One case of each distribution is compared. The times as a process are kept beside as samples, and in a label.

    Args:
        measured: what was timed as a process.
        rules: `figures` and `candidates` of `carry_out`.

    Raises:
        Failed: see `carry_out`.
    """
    bench, choice = builder.bench, climb.choices[workload]
    trial = Trial(climb.candidate.source, choice, bench.full(workload), device.torch_name, {}, device.bounds)
    few = list({case.distribution: case for case in reversed(cases)}.values())[::-1]
    found = carry_out(
        bench, builder, device, trial, few, lane=climb.lane, seeds=climb.seeds, blocks=device.blocks, **rules
    )
    climb.guard(found.guard.name, found.guard.held, found.guard.detail)
    if found.measured is None or found.correctness is None:
        return measured
    climb.correctness.append(found.correctness)
    climb.gathered.carried |= found.artefacts or {}
    for timed in measured.timed:
        samples, took = timed.samples, timed.timing.candidate.value
        climb.gathered.timed(replace(samples, platform=climb.gathered.platform, mode=f"{samples.mode} process"))
        climb.labels.append(f"{workload} {samples.mode}: {took:.4g} ms as a process")
    return replace(found.measured, guards=(*measured.guards, *found.measured.guards))


def _own(seeds: Seeds, number: int) -> Seeds:
    """The secret of one process of the plan lane: its inputs are not those of the process lane."""
    return Seeds(seeds.seed(f"plan/{number}").to_bytes(16, "big"))


def _together(runs: Sequence[Measured]) -> Measured:
    """The processes as one, each mode by its worst."""
    timed = tuple(worst_of(modes) for modes in by_mode([run.timed for run in runs]))
    guards = tuple(replace(guard, name=f"{GUARD}:{guard.name}") for run in runs for guard in run.guards)
    return Measured(tuple(replace(t, timing=replace(t.timing, lane="plan")) for t in timed), guards)


class PlanPlace:
    """A device whose worker is a plan: a `session.Place`.

    Args:
        place: the device and its baselines.
        packed: by workload.
        trial: says within which bounds.
    """

    def __init__(self, place: Place, bench: Bench, packed: Mapping[str, Packed], trial: Trial) -> None:
        self._place, self._bench, self._packed, self._trial = place, bench, packed, trial
        self.torch_name, self.name = place.torch_name, f"{place.name}, from the launch plan"
        self.pilots = place.pilots

    def warm_baselines(
        self, bench: Bench, workload: str, body: Mapping[str, Any]
    ) -> tuple[dict[str, Conversation], Mapping[str, Any]]:
        """The device's own."""
        return self._place.warm_baselines(bench, workload, body)

    def hold(self, bench: Bench, judge: Conversation, body: Mapping[str, Any]) -> None:
        """As the device does."""
        self._place.hold(bench, judge, body)

    def worker(
        self, bench: Bench, workload: str, source: str, choice: Mapping[str, Choice], *, queues: int = 0
    ) -> Conversation:
        """A fresh process that carries out this workload's plan; see `open`."""
        return self.open(workload)

    def open(self, workload: str) -> Conversation:
        """A fresh child of the judge that has taken the plan.

        Raises:
            NotCovered: it cannot carry it out.
            Failed: the plan is not what it says.
        """
        packed, bench, trial = self._packed[workload], self._bench, self._trial
        if packed.plan is None:
            raise NotCovered(packed.reason)
        if len(packed.binaries) > MOST_BINARIES:
            raise NotCovered(f"{len(packed.binaries)} different kernels")
        conversation = bench.roles["judge"].open()
        opened = codec.to_data(bench.opened(bench.full(workload), self.torch_name))
        body = {"opened": opened, "plan": codec.to_data(packed.plan)}
        try:
            covered = _given(conversation, body, packed.binaries, trial.bounds.load_seconds)
        except BaseException:
            conversation.end()
            raise
        if covered:
            conversation.end()
            raise NotCovered(covered)
        return conversation


def _given(
    conversation: Conversation, body: Mapping[str, object], binaries: Mapping[str, bytes], seconds: float
) -> str:
    """Hands a plan over; why it is not covered, or nothing."""
    files = {digest: memory_bytes(data) for digest, data in binaries.items()}
    try:
        answer = conversation.ask("replay", body, files, seconds=seconds)
        try:
            return "" if answer.body["covered"] else str(answer.body["reason"])
        finally:
            answer.close()
    except Refusal as refusal:
        if refusal.verdict in _FAULTS:
            raise Failed(Verdict(refusal.verdict), refusal.message) from refusal
        if refusal.verdict == Verdict.INFRA:
            raise SeatLost(f"while handing a plan over: {refusal}") from refusal
        raise ProblemError(str(refusal)) from refusal
    except ChildSilent as error:
        raise Failed(Verdict.TIMEOUT, f"the plan's binaries were not loaded within {seconds:g} s") from error
    except ChildDied as error:
        raise Failed(Verdict.CRASH, f"loading the plan's binaries: {error}", detail=error.log) from error
    finally:
        for file in files.values():
            file.close()


def _compare(bench: Bench, trial: Trial, worker: Conversation, cases: Sequence[Case]) -> Correctness:
    """Compares every case.

    Raises:
        Failed: at the first that is wrong.
    """
    talk = Talk(bench, trial, worker)

    def found(passed: bool) -> Correctness:
        seen = tuple(dict.fromkeys((*talk.limited, *(f"inputs {u}" for u in talk.unusable))))
        return Correctness(Evidence.MEASURED, passed, tuple(talk.checks), (), seen, *talk.errors)

    with worker:
        try:
            for case in cases:
                talk.check(case, guard=GUARD)
        except Failed as failed:
            failed.correctness = found(False)
            if failed.verdict in (Verdict.WRONG_VALUE, Verdict.WRONG_META):
                raise _differs(failed) from failed
            raise
    return found(True)


def _differs(failed: Failed) -> Failed:
    message = f"the candidate behaves differently when it is recorded: carried out as a plan, {failed}"
    return Failed(
        Verdict.POLICY, message, failed.correctness, detail=failed.detail, artefact={**failed.artefact, "guard": GUARD}
    )
