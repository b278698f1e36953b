"""The one dial, `effort = quick | standard | deep`, and the three lanes in which a candidate is judged.

In: an effort, or the name of a lane. Out: frozen Settings and Lanes. Left to others: a knob of one class is that
class's constructor argument; what a user overrides is replaced in the value (`dataclasses.replace`) and travels with
the run's first event.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from kernelevolve.errors import UsageError

Effort = Literal["quick", "standard", "deep"]
LaneName = Literal["screen", "accept", "publish"]
ValueUnit = Literal["candidate", "minute", "hour", "device-minute", "dollar"]
MemoryMode = Literal["none", "trajectory", "siblings", "both"]
MEMORY_MODES: tuple[MemoryMode, ...] = get_args(MemoryMode)
# Both ends are settings of the one study of memory across sessions (Trellis, of the paper's authors); that the share
# grows between them is our choice: diversity is worth most at first.
RECALL = (0.1, 0.5)
#: Tokens of a prompt, see docs/briefs.md: the fewest that any task leaves room in, the most that any model reads, and
#: usually a quarter of a window of 128k, which leaves the rest to a session's steps.
PROMPT_TOKENS, LEAST_PROMPT, MOST_PROMPT = 32_000, 8_000, 1_000_000
#: Sub-agents that are no model: rules, or (for what is looked up) nobody.
RULES, NOBODY = "rules", "none"
#: The largest share that the control may have: a run is for searching.
MOST_CONTROL = 0.5
VALUE_UNITS: tuple[ValueUnit, ...] = get_args(ValueUnit)


@dataclass(frozen=True)
class Lane:
    """How closely one candidate is looked at: `screen` ranks inside a search, `accept` stands for a result of a run,
    `publish` for any figure that leaves it.

    Attributes:
        distributions, seeds: of inputs, see `protocol.Case`; every distribution with every seed.
        hidden: sizes that no file names, drawn by the evaluation's secret.
        structure: names of the guards that look at how a candidate behaves, not at one result (`evaluate.structure`).
        defences: names of the other guards that are on: what is left out is reported as not run.
        blocks, doublings: interleaved blocks of timing at first, and how often they are doubled while the interval
            says nothing.
        most: blocks in all, where that is less than so many doublings give; 0 for as many.
        modes: of timing: `cold`, `hot`, `burst`, `graph`; never mixed.
        processes: fresh worker processes that are timed.
        verified: share of the timed calls that are compared element by element with the oracle; all others are
            compared with the honest reference.
    """

    name: LaneName
    distributions: tuple[str, ...]
    seeds: int
    hidden: int
    structure: tuple[str, ...]
    defences: tuple[str, ...]
    blocks: int
    doublings: int
    modes: tuple[str, ...]
    processes: int
    verified: float
    most: int = 0


@dataclass(frozen=True)
class Settings:
    """How hard to search and how closely to look.

    Attributes:
        effort: which row of `EFFORTS` these settings started from.
        candidates: most candidates of a run.
        drafts: briefs without parents before the first improvement.
        plateau: candidates in a row, none better than the best one beyond noise, that end the run.
        target: fitness that is good enough; None for none.
        seconds: most time that the run works.
        tokens, money_usd: most that the writers may use; None for no limit.
        device_seconds: most that candidates may hold an accelerator; None for no limit.
        roofline: floor / time of the best candidate that is near enough, at most 1; None for none.
        value: least relative gain in fitness (0.01 = 1 %) that a further `value_per` must be expected to bring; None to
            go on whatever it brings.
        drops: briefs in a row that no writer could answer, which end the run.
        writers: briefs that are written at the same time.
        seats: candidates that are evaluated at the same time.
        waiting: most candidates that are written and wait for a seat; None for `writers + seats - 2`, so that with one
            of each the run is a sequence of steps.
        answer_seconds: after which a brief that nobody answered is dropped.
        tuner_trials: knob choices that the tuner tries on a device.
        build_trials: knob choices that it tries where there is none and only build and model rank them.
        distributions: of inputs in the correctness rungs, see `protocol.Case`.
        seeds: input seeds per distribution.
        memory: what a brief is told of its run; of several modes each brief draws one.
        recall: chance with which each note of earlier runs is told, at first and when all candidates are asked for.
        lane: in which every candidate is judged.
        last_rung: the rung after which a climb stops; empty to climb them all.
        prompt_tokens: most of a brief's prompt, as `propose.tokens` estimates them.
        analysis: who says what limits a node: `rules`, or the name of a model.
        lookup: who chooses what of the library a brief quotes: `rules`, `none`, or the name of a model.
        control: share of the candidates that are asked for anew, apart from the search, to be held against it; from 0
            to 0.5.
    """

    effort: Effort
    candidates: int
    drafts: int
    plateau: int
    seconds: float
    tuner_trials: int
    build_trials: int
    distributions: tuple[str, ...]
    seeds: int
    writers: int = 1
    seats: int = 1
    waiting: int | None = None
    answer_seconds: float = 1800.0
    drops: int = 10
    target: float | None = None
    tokens: int | None = None
    money_usd: float | None = None
    device_seconds: float | None = None
    roofline: float | None = None
    value: float | None = None
    value_per: ValueUnit = "minute"
    memory: tuple[MemoryMode, ...] = ("both",)
    recall: tuple[float, float] = RECALL
    lane: LaneName = "screen"
    last_rung: str = ""
    control: float = 0.0
    prompt_tokens: int = PROMPT_TOKENS
    analysis: str = RULES
    lookup: str = RULES

    def __post_init__(self) -> None:
        counts = ("candidates", "drafts", "plateau", "seconds", "tuner_trials", "seeds")
        limits = ("target", "tokens", "money_usd", "device_seconds", "roofline", "value")
        for name in (*counts, "writers", "seats", "answer_seconds", "drops", *limits):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"settings: {name} = {value}; it must be above 0 and finite")
        if self.waiting is not None and self.waiting < 0:
            raise UsageError(f"settings: waiting = {self.waiting}; it must be 0 or more")
        if self.roofline is not None and self.roofline > 1:
            raise UsageError(f"settings: roofline = {self.roofline:g}; nothing is faster than the floor, at most 1")
        unknown = [mode for mode in self.memory if mode not in MEMORY_MODES]
        if unknown or not self.memory:
            raise UsageError(
                f"settings: memory = {', '.join(self.memory) or 'nothing'}; known: {', '.join(MEMORY_MODES)}"
            )
        if not 0 <= self.recall[0] <= self.recall[1] <= 1:
            raise UsageError(f"settings: recall = {self.recall}; two chances from 0 to 1, the low one first")
        if not 0 <= self.control <= MOST_CONTROL:
            raise UsageError(f"settings: control = {self.control:g}; a share from 0 to {MOST_CONTROL:g}, 0 % to 50 %")
        if not LEAST_PROMPT <= self.prompt_tokens <= MOST_PROMPT:
            raise UsageError(
                f"settings: prompt_tokens = {self.prompt_tokens}; from {LEAST_PROMPT} to {MOST_PROMPT} tokens"
            )
        if not self.analysis or self.analysis == NOBODY or not self.lookup:
            raise UsageError(
                f"settings: analysis = {self.analysis!r}, lookup = {self.lookup!r}; give {RULES} or a model to both, "
                f"or {NOBODY} to lookup"
            )
        if self.value_per not in VALUE_UNITS:
            raise UsageError(f"settings: value_per = {self.value_per!r}; known: {', '.join(VALUE_UNITS)}")

    @property
    def most_waiting(self) -> int:
        """Most candidates that wait for a seat."""
        return self.writers + self.seats - 2 if self.waiting is None else self.waiting


EFFORTS: Mapping[str, Settings] = {
    "quick": Settings(
        effort="quick",
        candidates=12,
        drafts=1,
        plateau=8,
        seconds=600.0,
        tuner_trials=16,
        build_trials=6,
        distributions=("declared", "D1", "D3", "D5", "D6"),
        seeds=1,
    ),
    "standard": Settings(
        effort="standard",
        candidates=60,
        drafts=2,
        plateau=25,
        seconds=3600.0,
        tuner_trials=48,
        build_trials=24,
        distributions=("declared", "D1", "D2", "D3", "D5", "D6"),
        seeds=2,
    ),
    "deep": Settings(
        effort="deep",
        candidates=300,
        drafts=4,
        plateau=100,
        seconds=8 * 3600.0,
        tuner_trials=160,
        build_trials=80,
        distributions=("declared", "D1", "D2", "D3", "D4", "D5", "D5p", "D6", "D7", "D8"),
        seeds=3,
    ),
}


def settings_for(effort: str) -> Settings:
    """The settings of an effort.

    Raises:
        UsageError: no such effort; the message lists them.
    """
    if effort not in EFFORTS:
        raise UsageError(f"unknown effort {effort!r}; known: {', '.join(EFFORTS)}")
    return EFFORTS[effort]


def of_device(settings: Settings) -> dict[str, str]:
    """The limits that mean something on an accelerator alone, by field, with why."""
    s, found = settings, dict[str, str]()
    if s.device_seconds is not None:
        found["device_seconds"] = "a limit on device time is never reached"
    if s.target is not None:
        found["target"] = f"a target of {s.target}x needs measured times"
    if s.value is not None and s.value_per == "device-minute":
        found["value"] = "nothing costs device time"
    return found


def refuse_contradictions(
    settings: Settings, given: Collection[str], *, device: bool = True, absent: Collection[str] = ()
) -> None:
    """Refuses limits that can never be reached under the others, before anything is spent.

    Args:
        given: names of the fields that the user gave; what an effort brings along is no contradiction.
        device: false where the user does without an accelerator.
        absent: platforms of which there is no accelerator here.

    Raises:
        UsageError: says which two do not go together, and what to give instead.
    """
    s = settings
    if "plateau" in given and s.plateau >= s.candidates:
        raise UsageError(
            f"a plateau of {s.plateau} cannot be reached within {s.candidates} candidates; give a plateau below "
            f"{s.candidates} or more candidates"
        )
    if "device_seconds" in given and s.device_seconds is not None and s.device_seconds > s.seconds:
        raise UsageError(
            f"{s.device_seconds:g} s of device time cannot be spent in {s.seconds:g} s of work; give less device time "
            "or more time"
        )
    if s.control > 0 and s.control * s.candidates < 1:
        raise UsageError(
            f"a control of {s.control:.0%} of {s.candidates} candidates is none; give {1 / s.candidates:.0%} or more, "
            "or more candidates"
        )
    for name, what in of_device(s).items() if not device or absent else ():
        if name in given:
            why = f"there is no {' and no '.join(absent)} here, and " if device else ""
            raise UsageError(f"{why}without a device {what}; leave one of the two out")


DEFENCES = ("census", "checksums", "fresh-inputs", "timed-outputs", "clock", "floor", "frames")
_CARRIED = (*DEFENCES, "plan-lane")
_SCREENED = ("first-call", "overwrite", "hold", "poison", "guard-bands", "state")
_ACCEPTED = (
    *_SCREENED, "single-input", "weights", "determinism", "layouts", "scaling", "cotangents", "opcheck", "size-ladder",
)  # fmt: skip
_VALUES = ("D1", "D2", "D3", "D4", "D5", "D5p", "D6", "D7", "D8", "D8b", "D9", "D10", "D11", "D12")
LANES: Mapping[str, Lane] = {
    "screen": Lane(
        "screen", ("declared", "D1", "D3", "D4", "D6"), 1, 2, _SCREENED, DEFENCES, 4, 1, ("cold",), 1, 0.05, 6
    ),
    "accept": Lane(
        "accept", ("declared", *_VALUES), 5, 6, _ACCEPTED, _CARRIED, 30, 2, ("cold", "hot"), 1, 0.25
    ),
    "publish": Lane(
        "publish", ("declared", *_VALUES), 5, 6, (*_ACCEPTED, "sanitizer"), (*_CARRIED, "kernels"), 30, 2,
        ("cold", "hot", "burst", "graph"), 3, 0.25,
    ),
}  # fmt: skip


def lane_for(name: str) -> Lane:
    """The lane of a name.

    Raises:
        UsageError: no such lane; the message lists them.
    """
    if name not in LANES:
        raise UsageError(f"unknown lane {name!r}; known: {', '.join(LANES)}")
    return LANES[name]
