"""Recording: everything that can be reached from a problem's first kernel, evaluated once and kept in a file.

In: a problem, a platform, how many candidates, a file. Out: a landscape in that file, further each time it is called.
Left to others: what can be reached (`reach`), the verdicts (`evaluate`, through a run of its own that is not kept).

It goes on where the file ends. What the engineer would write is found anew each time and must be what the file says;
another version of the engineer needs another recording.
"""

from __future__ import annotations

import ast
import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kernelevolve import plugins
from kernelevolve.candidate import literal_dict
from kernelevolve.equipment import Workshop
from kernelevolve.errors import MachineError, ProblemError, StoreError, UncoveredOp, UsageError
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluation import Evaluation, Evidence
from kernelevolve.events import Created
from kernelevolve.graph import Node
from kernelevolve.platforms import Platform
from kernelevolve.problem import Problem
from kernelevolve.race.landscape import (
    Landscape,
    Recorded,
    Recorder,
    digest_of,
    features_of,
    read_landscape,
    slim,
    without_text,
)
from kernelevolve.race.reach import Reached, reach
from kernelevolve.run import Equipment, Run
from kernelevolve.runs import create_run
from kernelevolve.search.program import program_digest
from kernelevolve.settings import Settings, settings_for
from kernelevolve.translate.errors import TranslateError

CANDIDATES = 150
#: Candidates that the machine may fail at, each again and again, before it is given up.
MOST_LOST = 5
ONCE, LANE = "once", "lane"
_JUDGED = {
    ONCE: "values compared on declared inputs, without structure tests and hidden sizes",
    LANE: "values compared as in a search, lane screen",
}

Told = Callable[[Node, int, int], None]
"""Called with each node that was evaluated, how many are, and how many there will be."""


@dataclass(frozen=True)
class RecordingOrder:
    """What to record.

    Attributes:
        candidates: most different sources.
        seconds: after which nothing more is begun, and what is in flight is given up; None for no limit.
        at_once: candidates that are evaluated at the same time.
        values: `once` or `lane`: how closely values are compared, see `_JUDGED`.
        trials: knob choices that the tuner tries for each; None for those of effort `quick`, 0 to judge each candidate
            at the default choice that its file states.
    """

    problem: Problem
    platform: str
    file: Path
    candidates: int = CANDIDATES
    seconds: float | None = None
    seed: int = 0
    at_once: int = 1
    values: str = LANE
    trials: int | None = None

    def __post_init__(self) -> None:
        if self.candidates < 2 or self.at_once < 1:
            raise UsageError(f"a landscape needs 2 candidates and 1 at once, got {self.candidates}, {self.at_once}")
        if self.values not in _JUDGED:
            raise UsageError(f"unknown way to compare values {self.values!r}; known: {', '.join(_JUDGED)}")

    @property
    def settings(self) -> Settings:
        """Of the run that evaluates."""
        quick = settings_for("quick")
        most = 10 * self.candidates
        made = replace(quick, candidates=most, plateau=most, seconds=1e9, writers=self.at_once, seats=self.at_once)
        if self.values == ONCE:
            made = replace(made, distributions=quick.distributions[:1])
        if self.trials:
            made = replace(made, tuner_trials=self.trials, build_trials=self.trials)
        return made

    @property
    def judged(self) -> str:
        """How candidates are looked at, in one line."""
        trials = self.trials if self.trials is not None else self.settings.tuner_trials
        knobs = f"up to {trials} knob choices tuned" if trials else "knobs at their defaults"
        return f"{_JUDGED[self.values]}; {knobs}"


def record_landscape(order: RecordingOrder, workshop: Workshop, told: Told = lambda node, done, of: None) -> Landscape:
    """The landscape as far as it came; the file has it too.

    Args:
        workshop: of the problem; its device says whether times are measured.

    Raises:
        UncoveredOp, ProblemError: there is no first kernel.
        StoreError: the file holds another landscape, or cannot be written.
        MachineError: the machine's fault, again and again; what was evaluated is kept.
    """
    until = None if order.seconds is None else time.monotonic() + order.seconds
    known = read_landscape(order.file) if order.file.exists() else None
    if known is not None:
        _refuse_another(order, known)
        order = replace(order, candidates=max(order.candidates, len(known.candidates)))  # a file does not shrink
    with tempfile.TemporaryDirectory() as place:
        equip = _Noticing(workshop, order.values)
        run = create_run(
            Path(place) / "run", order.problem, order.platform, equip,
            settings=order.settings, policy="best_of_n", seed=order.seed,
        )  # fmt: skip
        with run:
            found = _reached(order, workshop)
            recorder = Recorder(order.file, _planned(order, found, known, equip.device))
            asyncio.run(_evaluate_all(run, order, found, recorder, until, told))
            recorder.pack()
    return recorder.landscape


class _Noticing:
    """A workshop that says which device it found.

    Args:
        values: with `once` the ladder compares values, and does no more than that.
    """

    def __init__(self, workshop: Workshop, values: str) -> None:
        self._workshop, self._values = workshop, values
        self.device = ""

    def __call__(self, created: Created, builds: Path) -> Equipment:
        made = self._workshop(created, builds)
        if isinstance(made.evaluator, Ladder):
            self.device = made.evaluator.device.name if made.evaluator.device is not None else ""
            if self._values == ONCE:
                made.evaluator.lane = replace(made.evaluator.lane, structure=(), hidden=0)
        return made


def _reached(order: RecordingOrder, workshop: Workshop) -> Reached:
    problem = order.problem
    program = workshop.program(problem.workloads[0].name)
    try:
        return reach(
            program, order.platform, problem.source, allow_tf32=problem.precision == "tf32", most=order.candidates
        )
    except TranslateError as error:
        op = getattr(error, "op", "")
        if op:
            raise UncoveredOp(op, problem.path) from error
        raise ProblemError(f"{problem.path}: {error}") from error


def _planned(order: RecordingOrder, found: Reached, known: Landscape | None, device: str) -> Landscape:
    platform: Platform = plugins.load("platforms", order.platform)
    fresh = tuple(Recorded(digest_of(s), program_digest(s), features_of(s)) for s in found.sources)
    made = Landscape(
        without_text(order.problem), order.problem.key, platform.name, order.seed, device, order.judged,
        found.places, fresh, found.more,
    )  # fmt: skip
    if known is None:
        return made
    if known.device != device:
        raise StoreError(
            f"{order.file} was recorded on {known.device or 'no device'}, here is {device or 'none'}; give another file"
        )
    old = {one.digest: one for one in known.candidates if one.evaluation is not None}
    lost = old.keys() - {one.digest for one in fresh}
    if lost:
        raise StoreError(
            f"{order.file} has {len(lost)} candidates that the engineer of this version does not write; record it anew "
            "into another file"
        )
    numbers = {one.digest: i for i, one in enumerate(fresh)}
    moved = {i: numbers[one.digest] for i, one in enumerate(known.candidates) if one.digest in numbers}

    def kept(one: Recorded) -> Recorded:
        before = old.get(one.digest, one)
        return replace(before, twin=moved[before.twin] if before.twin is not None else None)

    return replace(made, candidates=tuple(kept(one) for one in fresh), versions=known.versions)


def _refuse_another(order: RecordingOrder, known: Landscape) -> None:
    asked = (order.problem.key, order.platform, order.judged)
    has = (known.key, known.platform, known.judged)
    for what, mine, theirs in zip(("problem", "platform", "way to judge"), asked, has, strict=True):
        if mine != theirs:
            raise StoreError(
                f"{order.file} is the landscape of another {what} ({theirs}, not {mine}); give another file"
            )


async def _evaluate_all(
    run: Run, order: RecordingOrder, found: Reached, recorder: Recorder, until: float | None, told: Told
) -> None:
    waiting = [i for i, one in enumerate(recorder.landscape.candidates) if one.evaluation is None]
    total, slots = len(found.sources), asyncio.Semaphore(order.at_once)
    done = total - len(waiting)

    async def one(number: int) -> None:
        nonlocal done
        async with slots:
            source = found.sources[number] if order.trials != 0 else at_defaults(found.sources[number])
            node = await run.submit(run.ask().id, source, f"candidate {number}")
        _keep(recorder, number, node)
        done += 1
        told(node, done, total)

    tasks = [asyncio.create_task(one(number)) for number in waiting]
    lost = 0
    try:
        while tasks:
            left = None if until is None else max(0.0, until - time.monotonic())
            ended, rest = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            tasks = [task for task in tasks if task in rest]
            for task in ended:
                try:
                    task.result()
                except MachineError:  # that candidate stays out; another call tries it again
                    lost += 1
                    if lost == MOST_LOST:
                        raise
            if not ended:
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def at_defaults(source: str) -> str:
    """The file with each knob's values cut to the default, so that there is nothing to tune."""
    display = literal_dict(source, "KNOBS")
    text = ast.get_source_segment(source, display) if display is not None else None
    if display is None or text is None:
        return source
    cut = {
        name: {one: allowed[:1] for one, allowed in values.items()} if isinstance(values, dict) else values[:1]
        for name, values in ast.literal_eval(display).items()
    }
    return source.replace(text, repr(cut), 1)


def _keep(recorder: Recorder, number: int, node: Node) -> None:
    """Keeps a node's evaluation, and whose measurement it is."""
    twin = None
    mine = slim(node.evaluation)
    if mine.timings and not mine.device_seconds and _measured(mine):
        known = recorder.landscape.candidates
        same = (i for i, one in enumerate(known) if one.evaluation and one.evaluation.timings == mine.timings)
        twin = next(same, None)
    recorder.head = replace(recorder.head, versions=dict(node.evaluation.versions))
    recorder.add(number, node.evaluation, twin)


def _measured(found: Evaluation) -> bool:
    return any(timing.candidate.evidence is Evidence.MEASURED for timing in found.timings)

