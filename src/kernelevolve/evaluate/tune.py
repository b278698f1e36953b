"""Numeric tuning: which values of a candidate's knobs to try next, with Optuna.

In: the knobs of a platform, the workloads, a seed, a number of trials. Out: choices to try, the best one for each
workload and for all, ties; the tuned file. Left to others: what a choice costs (the ladder builds and times it). A
choice that does not build, or that the build result already rules out, is told as pruned and costs no device time.
"""

from __future__ import annotations

import ast
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernelevolve.candidate import TABLE, Choice, WorkloadKey, keeps_table, literal_dict, read_autotuned
from kernelevolve.problem import Workload
from kernelevolve.protocol import Description

if TYPE_CHECKING:
    import optuna

BATCH = 4
_TIE = 1.005  # modelled or measured times within half a percent are not told apart


@dataclass
class Tuner:
    """Asks for choices and is told their times; the first choice is the default of every knob.

    Attributes:
        knobs: allowed values by name.
        seed: of Optuna's sampler; equal seeds and equal times give equal choices.
        trials: how many different choices at most.
    """

    knobs: Mapping[str, tuple[Choice, ...]]
    seed: int
    trials: int
    tried: dict[tuple[Choice, ...], float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import optuna  # takes half a second, and only a run that tunes needs it

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.size = 1
        for allowed in self.knobs.values():
            self.size *= len(allowed)
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=min(8, max(2, self.trials // 3)))
        self._study = optuna.create_study(direction="minimize", sampler=sampler)
        self._study.enqueue_trial(dict.fromkeys(self.knobs, 0))
        self._open: dict[tuple[Choice, ...], optuna.Trial | None] = {}

    @property
    def exhausted(self) -> bool:
        """Whether every combination, or as many as allowed, was asked for."""
        return len(self.tried) + len(self._open) >= min(self.size, self.trials)

    def ask_some(self) -> list[dict[str, Choice]]:
        """The next choices, at most `BATCH`: they can be built side by side. Empty when there is none left.

        The number does not depend on the machine, so that equal seeds ask for equal choices everywhere.
        """
        asked: list[dict[str, Choice]] = []
        while len(asked) < BATCH and (choice := self.ask()) is not None:
            asked.append(choice)
        return asked

    def ask(self) -> dict[str, Choice] | None:
        """The next choice that was not tried yet, or None when there is none left."""
        from optuna.exceptions import ExperimentalWarning

        patience = 8 * self.trials + 64
        while not self.exhausted and patience:
            patience -= 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                trial = self._study.ask()
            drawn = {name: trial.suggest_categorical(name, range(len(v))) for name, v in self.knobs.items()}
            choice = {name: self.knobs[name][int(str(index))] for name, index in drawn.items()}
            key = tuple(choice.values())
            if key in self.tried or key in self._open:
                # The sampler repeats itself near its optimum: tell it what it already knows and ask again.
                self._tell(trial, self.tried.get(key))
                continue
            self._open[key] = trial
            return choice
        return self._first_untried() if not self.exhausted else None

    def _first_untried(self) -> dict[str, Choice] | None:
        for values in itertools.product(*self.knobs.values()):
            if values not in self.tried and values not in self._open:
                self._open[values] = None
                return dict(zip(self.knobs, values, strict=True))
        return None

    def _tell(self, trial: optuna.Trial, time: float | None) -> None:
        from optuna.trial import TrialState

        if time is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, time)

    def tell(self, choice: Mapping[str, Choice], time: float | None) -> None:
        """The time of `choice` in any one unit; None = it does not build or was ruled out."""
        key = tuple(choice[name] for name in self.knobs)
        self.tried[key] = time
        trial = self._open.pop(key, None)
        if trial is not None:
            self._tell(trial, time)

    def afresh(self) -> Tuner:
        """Another one that asks for the same choices in the same order until it is told otherwise."""
        return Tuner(self.knobs, self.seed, self.trials)

    @property
    def best(self) -> dict[str, Choice] | None:
        """The choice with the least time; among ties the one tried first."""
        timed = [(t, i, values) for i, (values, t) in enumerate(self.tried.items()) if t is not None]
        return dict(zip(self.knobs, min(timed)[2], strict=True)) if timed else None

    @property
    def ties(self) -> int:
        """How many choices cannot be told from the best."""
        times = [t for t in self.tried.values() if t is not None]
        return sum(t <= min(times) * _TIE for t in times) if times else 0


@dataclass(frozen=True)
class Group:
    """Workloads that must share a choice, with the tuner that looks for it.

    Attributes:
        key: what the file tells them by; empty where it has no table.
        weights: of the workloads in the fitness, by name.
    """

    key: WorkloadKey
    weights: Mapping[str, float]
    tuner: Tuner

    @property
    def workloads(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.weights)

    def tell(self, choice: Mapping[str, Choice], times: Sequence[float]) -> None:
        """The time of each workload at `choice`; ranked by their weighted geometric mean, as the fitness does."""
        total = sum(self.weights.values())
        logs = sum(w * math.log(t) for w, t in zip(self.weights.values(), times, strict=True))
        self.tuner.tell(choice, math.exp(logs / total))


@dataclass(frozen=True)
class Tuning:
    """The tuning of one candidate.

    A file that keeps a table of choices has a group for each workload key; any other has one group of all workloads. So
    has one with autotuned kernels, whose tuned file states one configuration of each.
    Each group may try as many choices as the settings say, and a choice is built and timed only for its own group's
    workloads: what tuning costs grows with the number of workloads and not with that of groups.
    """

    groups: tuple[Group, ...]

    def choices(self, start: Mapping[str, Mapping[str, Choice]]) -> dict[str, Mapping[str, Choice]]:
        """The best choice of each workload; that of `start` where nothing could be timed."""
        return {w: group.tuner.best or start[w] for group in self.groups for w in group.workloads}

    def common(self, start: Mapping[str, Mapping[str, Choice]]) -> Mapping[str, Choice]:
        """The best choice for all workloads together; that of the heaviest group where none was timed for all."""
        first, *others = (group.tuner for group in self.groups)
        weights = [sum(group.weights.values()) for group in self.groups]
        heaviest = max(self.groups, key=lambda group: sum(group.weights.values()))
        best, least = self.choices(start)[heaviest.workloads[0]], math.inf
        for values in first.tried:
            times = [tuner.tried.get(values) for tuner in (first, *others)]
            known = [t for t in times if t is not None]
            if len(known) == len(times):
                total = sum(w * math.log(t) for w, t in zip(weights, known, strict=True))
                if total < least:
                    best, least = dict(zip(first.knobs, values, strict=True)), total
        return best

    def table(self, start: Mapping[str, Mapping[str, Choice]]) -> dict[WorkloadKey, Mapping[str, Choice]]:
        """The choice by workload key; empty where one choice serves all."""
        chosen, common = self.choices(start), self.common(start)
        found = {group.key: chosen[group.workloads[0]] for group in self.groups}
        return {} if all(choice == common for choice in found.values()) else found

    def summary(self, ruled_out: str) -> str:
        """What was tried, in one line, by group where there are several."""
        tuners = [group.tuner for group in self.groups]
        tried = " + ".join(str(len(t.tried)) for t in tuners)
        pruned = sum(time is None for t in tuners for time in t.tried.values())
        line = (
            f"{tried} of {tuners[0].size} choices, {pruned} {ruled_out}, {' + '.join(str(t.ties) for t in tuners)} tie"
        )
        return line if len(tuners) == 1 else f"{line}, for {' + '.join('/'.join(g.workloads) for g in self.groups)}"


def tuning(
    source: str,
    knobs: Mapping[str, tuple[Choice, ...]],
    workloads: Sequence[Workload],
    described: Mapping[str, Description],
    *,
    seed: int,
    trials: int,
) -> Tuning:
    """The tuning of the candidate in `source`.

    Args:
        knobs: of the platform.
        described: each workload at full size, by name.
        seed, trials: of each tuner.
    """
    grouped: dict[WorkloadKey, dict[str, float]] = {}
    table = keeps_table(source) and not chooses_configs(source)
    for workload in workloads:
        key = workload_key(described[workload.name]) if table else ()
        grouped.setdefault(key, {})[workload.name] = workload.weight
    return Tuning(tuple(Group(key, weights, Tuner(knobs, seed, trials)) for key, weights in grouped.items()))


def chooses_configs(source: str) -> bool:
    """Whether a knob of the file is the configuration of an autotuned kernel: one for all workloads of the file."""
    return any((one.count or 0) > 1 for one in read_autotuned(source))


def workload_key(description: Description) -> WorkloadKey:
    """Shape and dtype of each tensor among forward's arguments, in order, as a candidate derives it at launch."""
    return tuple((spec.shape, f"torch.{spec.dtype}") for spec in description.inputs if spec.dtype)


def tuned(
    source: str, choice: Mapping[str, Choice], table: Mapping[WorkloadKey, Mapping[str, Choice]] | None = None
) -> str:
    """The candidate's file with its choices as literals, so that it runs tuned without us.

    A file that has no top-level `CHOICE = {...}` reads its knobs in another way and keeps its own text. The list of
    configurations of an autotuned kernel is cut to the chosen one, with which Triton benchmarks nothing.

    Args:
        choice: becomes `CHOICE`: what is used for workloads that the table does not list.
        table: becomes `CHOICES`, one line for each workload key.
    """
    kernels = [one for one in read_autotuned(source) if (one.count or 0) > 1 and one.knob in choice]
    for one in sorted(kernels, key=lambda one: getattr(one.configs, "lineno", 0), reverse=True):
        index = int(choice[one.knob])
        if one.configs is not None:
            source = _spliced(
                source, one.configs, f"{ast.get_source_segment(source, one.configs)}[{index}:{index + 1}]"
            )
    configs = {one.knob for one in kernels}
    choice = {name: value for name, value in choice.items() if name not in configs}
    if choice or not configs:
        source = _with_literal(source, "CHOICE", repr(choice))
    if table:
        lines = "".join(f"    {key!r}: {dict(one)!r},\n" for key, one in table.items())
        source = _with_literal(source, TABLE, f"{{\n{lines}}}")
    return source


def _with_literal(source: str, name: str, literal: str) -> str:
    value = literal_dict(source, name)
    return source if value is None else _spliced(source, value, literal)


def _spliced(source: str, value: ast.expr, literal: str) -> str:
    """The source with `literal` in the place of `value`."""
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    before = lines[value.lineno - 1][: value.col_offset]
    end = value.end_lineno or value.lineno
    after = lines[end - 1][value.end_col_offset :]
    return b"".join([*lines[: value.lineno - 1], before, literal.encode(), after, *lines[end:]]).decode()
