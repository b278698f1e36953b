"""What a climb found that is too large for the log: LaunchPlans, raw samples, the whole text of errors,
and what replays a check that failed.

In: values, as the rungs see them. Out: bytes handed over, and the references that the Evaluation has in their place.
Left to others: storing them (whoever gives `Keep`), reading them back (`store.artefacts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kernelevolve import codec
from kernelevolve.evaluation import FAILURE, LaunchPlan, Rung, Samples, error_name, plan_name, samples_name
from kernelevolve.receipt import CIRCUMSTANCES, Circumstances, Failure

Keep = Callable[[bytes], str]
"""Stores bytes for good and gives the reference by which they are read back."""

LONGEST = 256 * 1024  # characters of an error: it is a candidate's text, and a candidate may say anything at any length


@dataclass
class Gathered:
    """What one climb has seen so far, for one platform; a later plan of a workload replaces the earlier one."""

    platform: str
    plans: dict[str, LaunchPlan] = field(default_factory=dict)
    samples: dict[str, Samples] = field(default_factory=dict)
    errors: dict[Rung, str] = field(default_factory=dict)
    failure: Failure | None = None
    circumstances: Circumstances | None = None
    carried: dict[str, bytes] = field(default_factory=dict)  # packed plans and their binaries, by the artefact's name

    def planned(self, plans: Iterable[LaunchPlan]) -> None:
        """These are what the candidate does at the choice that is judged from now on."""
        self.plans |= {plan.workload: plan for plan in plans}

    def timed(self, samples: Samples) -> None:
        """These are what a workload's interval was made of."""
        self.samples[samples_name(self.platform, samples.workload, samples.mode)] = samples

    def failed(self, rung: Rung, text: str) -> None:
        """This is the whole text of what the rung's report says in one line; of a very long one the end is kept."""
        if len(text) > LONGEST:
            text = f"({len(text) - LONGEST} characters before this were left out)\n{text[-LONGEST:]}"
        if text:
            self.errors[rung] = text

    def forget_errors(self, but: Iterable[Rung]) -> None:
        """Errors of all other rungs do not count: these are climbed again."""
        kept = set(but)
        self.errors = {rung: text for rung, text in self.errors.items() if rung in kept}

    def refused(self, failure: Failure) -> None:
        """This is what ended the climb, and what replays it."""
        self.failure = failure

    def hand_over(self, keep: Keep) -> dict[str, str]:
        """The reference of each artefact by its name, now that it is kept.

        Raises:
            StoreError: `keep` could not store one.
        """
        contents = {plan_name(self.platform, w): codec.dumps(plan) for w, plan in self.plans.items()}
        contents |= {name: codec.dumps(taken) for name, taken in self.samples.items()}
        contents |= {error_name(self.platform, rung): text for rung, text in self.errors.items()}
        if self.failure is not None:
            contents[FAILURE] = codec.dumps(self.failure)
        if self.circumstances is not None:
            contents[CIRCUMSTANCES] = codec.dumps(self.circumstances)
        # Half a surrogate pair is no UTF-8, and a candidate's text may hold one.
        written = {name: text.encode("utf-8", "backslashreplace") for name, text in contents.items()}
        return {name: keep(data) for name, data in (written | self.carried).items()}
