"""Evaluation: what the harness found about one candidate, each figure with its unit and evidence.

In: what the rungs saw. Out: frozen values that are written to the log as they are. Left to others: finding out
(`evaluate`, `judge`, `worker`), turning it into fitness (`search.fitness`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from kernelevolve.candidate import Choice


class Evidence(StrEnum):
    """How a figure was obtained; `rank` orders the kinds that compete for one figure (modelled < measured)."""

    INTERPRETED = "interpreted"
    COMPILED = "compiled"
    MODELLED = "modelled"
    MEASURED = "measured"

    @property
    def rank(self) -> int:
        return _RANKS[self]


_RANKS = {Evidence.INTERPRETED: 0, Evidence.MODELLED: 1, Evidence.COMPILED: 2, Evidence.MEASURED: 3}


@dataclass(frozen=True)
class Figure:
    """A number that can be re-checked: value, unit, evidence, and how it was obtained.

    Attributes:
        low, high: the 95 % interval, where there is one.
    """

    value: float
    unit: str
    evidence: Evidence
    how: str
    low: float | None = None
    high: float | None = None


def speedup(baseline: Figure, candidate: Figure) -> Figure:
    """t(baseline) / t(candidate) of two times in the same unit, with the weaker evidence of the two.

    Intervals are combined at their worst case; a paired interval is better and comes from the clock itself.

    Raises:
        ValueError: different units, or a time that is not above zero.
    """
    if baseline.unit != candidate.unit:
        raise ValueError(f"cannot compare {baseline.unit} with {candidate.unit}")
    if not (baseline.value > 0 and candidate.value > 0):
        raise ValueError(f"times must be above 0, got {baseline.value} and {candidate.value} {baseline.unit}")
    weaker = min(baseline.evidence, candidate.evidence, key=lambda e: e.rank)
    low = high = None
    if baseline.low and baseline.high and candidate.low and candidate.high:
        low, high = baseline.low / candidate.high, baseline.high / candidate.low
    how = f"{baseline.how} / {candidate.how}" if baseline.how != candidate.how else baseline.how
    return Figure(baseline.value / candidate.value, "x", weaker, how, low, high)


class Verdict(StrEnum):
    """The harness's one-word finding; `UNJUDGED` where the climb was to stop before any value was compared."""

    OK_FASTER = "OK_FASTER"
    OK_SAME = "OK_SAME"
    OK_SLOWER = "OK_SLOWER"
    OK_UNTIMED = "OK_UNTIMED"
    UNJUDGED = "UNJUDGED"
    INCONCLUSIVE = "INCONCLUSIVE"
    COMPILE_ERROR = "COMPILE_ERROR"
    LOAD_ERROR = "LOAD_ERROR"
    CRASH = "CRASH"
    TIMEOUT = "TIMEOUT"
    OOM = "OOM"
    WRONG_META = "WRONG_META"
    WRONG_VALUE = "WRONG_VALUE"
    NONDETERMINISTIC = "NONDETERMINISTIC"
    MEM_RACE = "MEM_RACE"
    GENERALIZATION = "GENERALIZATION"
    REPLAY = "REPLAY"
    DEFERRED = "DEFERRED"
    MUTATED_INPUT = "MUTATED_INPUT"
    TIMER_INCONSISTENT = "TIMER_INCONSISTENT"
    BELOW_FLOOR = "BELOW_FLOOR"
    TAMPER = "TAMPER"
    POLICY = "POLICY"
    TASK_INVALID = "TASK_INVALID"
    BASELINE_TAINT = "BASELINE_TAINT"
    INFRA = "INFRA"

    @property
    def ok(self) -> bool:
        """Correct: an `OK_*`, or correct with a time that could not be told apart."""
        return self.startswith("OK_") or self is Verdict.INCONCLUSIVE

    @property
    def family(self) -> Literal["valid", "fault", "breach", "not-the-candidate"]:
        """A valid result, the candidate's fault without guilt, a breach, or not about the candidate."""
        if self.ok:
            return "valid"
        if self in (Verdict.TASK_INVALID, Verdict.BASELINE_TAINT, Verdict.INFRA, Verdict.UNJUDGED):
            return "not-the-candidate"
        breaches = (
            Verdict.REPLAY,
            Verdict.DEFERRED,
            Verdict.MUTATED_INPUT,
            Verdict.TIMER_INCONSISTENT,
            Verdict.BELOW_FLOOR,
            Verdict.TAMPER,
            Verdict.POLICY,
        )
        return "breach" if self in breaches else "fault"


class Rung(StrEnum):
    """A step of the ladder, in order, cheapest first."""

    CHECK = "check"
    PLAN = "plan"
    BUILD = "build"
    INTERPRET = "interpret"
    CORRECT = "correct"
    TUNE = "tune"
    TIME = "time"
    PROFILE = "profile"


@dataclass(frozen=True)
class RungReport:
    """What one rung saw.

    Attributes:
        platform: empty where the rung does not depend on it.
        status: `skipped` says why in `message`.
        message: the first thing that failed, or what passed, in one line.
    """

    rung: Rung
    status: Literal["passed", "failed", "skipped"]
    seconds: float
    message: str
    platform: str = ""


@dataclass(frozen=True)
class Buffer:
    """A named piece of device memory of a LaunchPlan; `role` says whose it is."""

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    role: Literal["input", "parameter", "output", "scratch"]


@dataclass(frozen=True)
class Launch:
    """One kernel launch as data.

    Attributes:
        kernel: name of the jitted function.
        signature: Triton's own specialisation: argument name to type, `*fp32`, `i32`, `constexpr`, ...
        constants: values of the constexpr and folded arguments.
        attributes: divisibility and similar facts per argument, as Triton wrote them.
        arguments: argument name to `buffer NAME+OFFSET`, a number, or a descriptor's text.
        grid: programs in x, y, z.
        options: num_warps, num_stages, and whatever else was passed to the compiler.
    """

    kernel: str
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    attributes: Mapping[str, Any]
    arguments: Mapping[str, Any]
    grid: tuple[int, int, int]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Fill:
    """An allowed fill (`torch.zeros`, `zero_`) of a buffer."""

    buffer: str
    value: float


@dataclass(frozen=True)
class Copy:
    """An allowed copy (`contiguous`, `clone`, `copy_`) of a buffer into another; bytes as they are moved."""

    target: str
    source: str
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class LaunchPlan:
    """What a candidate does for one workload, as data."""

    workload: str
    platform: str
    buffers: tuple[Buffer, ...]
    launches: tuple[Launch, ...]
    fills: tuple[Fill, ...] = ()
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True)
class Resources:
    """What the compiler made of one launch, read from the binary; all of it has evidence `compiled`.

    Attributes:
        target: `sm_90`, `gfx942`, ...
        binary: SHA-256 of the machine code, for duplicates.
        registers: per thread.
        spill_bytes: local or scratch memory per thread.
        shared_bytes: per thread block.
        warps: per thread block.
        occupancy: resident warps / most resident warps, by registers, shared memory and block limits; 0..1.
        instructions: count by class: matrix, fma, load, store, async_copy, barrier, other.
    """

    kernel: str
    target: str
    binary: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int
    occupancy: float
    instructions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One comparison of the judge with its oracle.

    Attributes:
        name: `meta`, `non-finite`, `rms`, `element`, `inputs`, `stats`, ...
        workload: which, and how it was scaled: `declared`, `declared/scaled`, `declared/ragged`.
        distribution: `D1`, `D3`, ... of rigor's list, or `declared`.
        seed: of the inputs.
        value, limit: the statistic and the most that it may be.
        detail: what a reader needs to see it, e.g. the reference's own error.
    """

    name: str
    workload: str
    distribution: str
    seed: int
    passed: bool
    value: float
    limit: float
    detail: str = ""


@dataclass(frozen=True)
class Correctness:
    """All comparisons of one rung.

    Attributes:
        evidence: `interpreted` on scaled workloads, `measured` on the device.
        scaled: what was scaled for the CPU, one line each; empty at full size.
        not_seen: what this rung cannot see, e.g. races.
        own_error: largest rms error relative to rms of the centred oracle, and the reference's own beside it.
    """

    evidence: Evidence
    passed: bool
    checks: tuple[Check, ...]
    scaled: tuple[str, ...] = ()
    not_seen: tuple[str, ...] = ()
    own_error: float = 0.0
    reference_error: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Time of one workload on one platform beside its baselines.

    Attributes:
        candidate: milliseconds at the tuned best.
        baselines: milliseconds by name, same evidence as the candidate.
        aside: milliseconds of baselines that were slower at a first look and were not timed beside the candidate; no
            figure rests on them.
        against: name of the fastest baseline, the one that `speedup` uses.
        speedup: t(against) / t(candidate).
        knobs: the choice that was timed.
        samples: empty; in logs of schema 1 raw samples in milliseconds by arm, which are an artefact (`Samples`) now.
        mode: `cold` (isolated calls, empty cache), `hot` (isolated, inputs just read) or `burst` (back to back); only
            `cold` counts in the fitness, and no figure mixes them.
        floor: milliseconds below which the reference's own bytes and FLOPs do not go at the sheet's ceilings
            (`Platform.floor`); None where it is not known.
        lane: `plan` where the candidate's launches were carried out from its recorded plan, none of its Python being
            there; else `process`.
    """

    workload: str
    platform: str
    candidate: Figure
    baselines: Mapping[str, Figure]
    against: str
    speedup: Figure
    knobs: Mapping[str, Choice] = field(default_factory=dict)
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    mode: str = "cold"
    lane: Literal["process", "plan"] = "process"
    aside: Mapping[str, Figure] = field(default_factory=dict)
    floor: Figure | None = None


@dataclass(frozen=True)
class Samples:
    """Raw samples of one workload that was timed: enough to compute its interval again.

    Attributes:
        unit: of each sample, `ms`.
        arms: `candidate` and each baseline: the calls of each burst, in order, `per_block` bursts after each other.
        mode: see `Timing`.
        per_block: bursts of an arm in one block: its statistic is the mean of the logarithms of their medians.
    """

    workload: str
    platform: str
    unit: str
    arms: Mapping[str, tuple[tuple[float, ...], ...]]
    mode: str = "cold"
    per_block: int = 1


@dataclass(frozen=True)
class Guard:
    """What one guard against a wrong or dishonest result found; `settings.Lane` names them all.

    Attributes:
        name: `overwrite`, `clock`, `floor`, ...
        held: `held` where it looked and found nothing against the candidate.
        detail: what it saw with its figures, or why it was not run, in one line.
    """

    name: str
    held: Literal["held", "failed", "not run"]
    detail: str = ""


PLAN, SAMPLES, ERROR, FAILURE = "launch plan", "samples", "error", "failure"


def plan_name(platform: str, workload: str) -> str:
    """The artefact that holds a workload's LaunchPlan as JSON, e.g. `launch plan h100 declared`."""
    return f"{PLAN} {platform} {workload}"


def samples_name(platform: str, workload: str, mode: str = "cold") -> str:
    """The artefact that holds a workload's Samples as JSON, `samples h100 declared` or `samples h100 declared hot`."""
    return f"{SAMPLES} {platform} {workload}" + (f" {mode}" if mode != "cold" else "")


def error_name(platform: str, rung: Rung) -> str:
    """The artefact that holds the whole text of a rung's error, in UTF-8, e.g. `error h100 build`."""
    return f"{ERROR} {platform} {rung.value}"


@dataclass(frozen=True)
class Evaluation:
    """What the harness found about one candidate on one objective platform and its siblings.

    Attributes:
        verdict: for the objective platform.
        rungs: in the order they were climbed.
        correctness: one entry per rung that compared values.
        resources: by platform name, one entry per launch at the tuned choice.
        timings: per workload; empty when untimed and unmodelled.
        diagnosis: what limits it and what to try, one line.
        labels: facts that describe and do not judge, e.g. `duplicate of n3`, `output identically zero`.
        isolation: what held while foreign code ran, strongest first: `bwrap+landlock+seccomp`,
            `namespaces+landlock+seccomp`, `landlock+seccomp`, `rlimits` where limits were all, `none` by `--unsealed`.
        versions: of torch, triton, python, driver and so on.
        tuned_source: the candidate's file with the tuned choice as a literal; empty unless correct.
        artefacts: what is too large for the log, by name: `sha256:` and the digest of a blob beside it. `plan_name`,
            `samples_name`, `error_name` and `FAILURE` say which names there are; empty in logs of schema 1.
        device_seconds: how long it held an accelerator; where several shared one, each second is divided among them, so
            that the sum over evaluations is the time in which the device was held. 0 where none was.
        guards: every guard by name and whether it held; empty in logs from before there were any.
    """

    verdict: Verdict
    platform: str
    rungs: tuple[RungReport, ...]
    correctness: tuple[Correctness, ...] = ()
    resources: Mapping[str, tuple[Resources, ...]] = field(default_factory=dict)
    timings: tuple[Timing, ...] = ()
    diagnosis: str = ""
    labels: tuple[str, ...] = ()
    isolation: str = "none"
    versions: Mapping[str, str] = field(default_factory=dict)
    tuned_source: str = ""
    artefacts: Mapping[str, str] = field(default_factory=dict)
    guards: tuple[Guard, ...] = ()
    device_seconds: float = 0.0

    @property
    def correct(self) -> bool:
        """Whether the verdict says that the values are right."""
        return self.verdict.ok

    @property
    def seconds(self) -> float:
        """Wall time of all rungs."""
        return sum(r.seconds for r in self.rungs)
