"""Numeric tuning: which values of a candidate's knobs to try next, with Optuna.

In: the knobs of a platform, a seed, a number of trials. Out: choices to try, best choice so far, ties. Left to others:
what a choice costs (the ladder builds and times it). A choice that does not build, or that the build result already
rules out, is told as pruned and costs no device time.
"""

from __future__ import annotations

import ast
import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernelevolve.candidate import Choice

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


def tuned(source: str, choice: Mapping[str, Choice]) -> str:
    """The candidate's file with `choice` as the literal of its `CHOICE`, so that it runs tuned without us.

    A file that has no top-level `CHOICE = {...}` reads its knobs in another way and is returned as it is.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id == "CHOICE":
                value = node.value
                before = lines[value.lineno - 1][: value.col_offset]
                after = lines[(value.end_lineno or value.lineno) - 1][value.end_col_offset :]
                literal = f"{before}{dict(choice)!r}{after}"
                return "".join([*lines[: value.lineno - 1], literal, *lines[value.end_lineno :]])
    return source
