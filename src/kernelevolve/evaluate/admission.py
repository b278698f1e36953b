"""Admission: whether passing on a problem means anything, decided before any candidate is judged on it.

In: a Bench; what the judge found when null models and honest kernels met its acceptance rule (`protocol.Tried`). Out:
an Admission: the distributions that are used, those that are dropped and why, the effective tolerances. Left to
others: the null models themselves (`judge`), skipping what is dropped (`ladder`), showing it (`cli`).

1. A distribution on which a null model passes, or whose comparison says nothing, is dropped.
2. So is one on which only a lower precision passes, as long as another remains; else it stays, with a label.
3. One on which an honest kernel fails is dropped, too; where that is the problem's own, the problem is refused.
4. Where no distribution remains, or none holds for all workloads, the problem is refused: `TASK_INVALID`.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernelevolve import codec
from kernelevolve.errors import ProblemError
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.cache import BuildCache
from kernelevolve.nursery import Limits
from kernelevolve.problem import Problem
from kernelevolve.protocol import Description, NullModel, Tolerance, Tried
from kernelevolve.seal.limits import BACKGROUND

TOPIC = "admission"  # of the note in a run's log
AGAIN = "the reference again"  # the control whose failure means that the reference is not deterministic
DECLARED = "declared"
_SECONDS = 5.0  # of null models per size and distribution; a typical one takes a tenth of a second
_ASK_SECONDS = 300.0
_LIMITS = Limits(memory_bytes=16 << 30, nice=BACKGROUND)


@dataclass(frozen=True)
class Sized:
    """What was found at one size.

    Attributes:
        label: of the variant, `declared/scaled`.
        tried: one entry per distribution.
    """

    label: str
    tried: tuple[Tried, ...]


@dataclass(frozen=True)
class Limit:
    """The effective tolerance of one output at one size, on the first distribution that is used."""

    label: str
    distribution: str
    tolerance: Tolerance


@dataclass(frozen=True)
class Admission:
    """Whether a problem may be used, and how.

    Attributes:
        admitted: whether passing on it means something.
        anyway: the user asked to go on even if it does not.
        reason, fix: why it is refused and what to do; empty where it is admitted.
        distributions: those that are used, in the order asked for.
        dropped: why each other one is not used.
        limits: effective tolerances.
        labels: facts that describe, such as NaN in the output, or null models that pass for one of several outputs.
        sizes: labels of the sizes that were looked at.
        device: where: `cpu` at scaled sizes, a device at full ones, or both.
        models: null models and controls that were tried.
        seconds: what it took, also if it was known already.
    """

    admitted: bool
    anyway: bool
    reason: str
    fix: str
    distributions: tuple[str, ...]
    dropped: Mapping[str, str]
    limits: tuple[Limit, ...] = ()
    labels: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    device: str = "cpu"
    models: int = 0
    seconds: float = 0.0

    @property
    def sentence(self) -> str:
        """One line for people."""
        if not self.admitted:
            return f"{'ADMITTED ANYWAY, as asked' if self.anyway else 'refused'}: {self.reason}"
        left = "; ".join(f"{name}: {why}" for name, why in self.dropped.items())
        return f"judged on {', '.join(self.distributions)}" + (f"; dropped {left}" if left else "")


@dataclass
class Gate:
    """A problem's admission, found out when first needed and kept for as long as its bench.

    Args:
        anyway: never refuse; what would be refused is judged on every distribution, and says so.
        places: `cpu` for the scaled sizes, torch's name of a device for the full ones; what is dropped at one is not
            looked at again at the next.
    """

    bench: Bench
    anyway: bool = False
    places: tuple[str, ...] = ("cpu",)
    _known: dict[str, dict[str, Tried]] = field(default_factory=dict)

    def admission(self, distributions: Sequence[str]) -> Admission:
        """What holds for these distributions; cached beside the builds.

        Raises:
            ProblemError: the reference cannot be run on one of them.
            SeatLost: the judge died.
        """
        return decide(self.bench.problem, self.sized(distributions), self.places, anyway=self.anyway)

    def admitted(self, distributions: Sequence[str]) -> tuple[str, ...]:
        """Those of `distributions` that are used.

        Raises:
            ProblemError: the problem is refused; the message has reason and fix.
        """
        found = self.admission(distributions)
        if not found.admitted and not self.anyway:
            raise refused(self.bench.problem, found)
        return found.distributions

    def sized(self, distributions: Sequence[str]) -> tuple[Sized, ...]:
        """What was found at each size, on each distribution."""
        made: list[Sized] = []
        left = tuple(distributions)
        for place in self.places:
            size = "scaled" if place == "cpu" else "full"
            for description in self.bench.descriptions:
                if description.variant.size != size:
                    continue
                label = description.variant.label
                with self.bench.lock:
                    known = self._known.setdefault(label, {})
                    known |= self._find(description, place, [name for name in left if name not in known])
                made.append(Sized(label, tuple(known[name] for name in left)))
            found = decide(self.bench.problem, made, anyway=self.anyway)
            left = tuple(name for name in left if name not in found.dropped or self.anyway)
        return tuple(made)

    def _find(self, description: Description, device: str, distributions: Sequence[str]) -> dict[str, Tried]:
        """From the cache, else from a judge of its own: what pooled errors of few elements it sees must not loosen or
        tighten what a candidate meets later."""
        bench = self.bench
        if not distributions:
            return {}
        versions = dict(bench.roles["judge"].known_versions())
        facts = [bench.problem.key, harness(), versions, device, codec.to_data(description.variant)]
        keys = {name: BuildCache.key("admission", *facts, name) for name in distributions}
        found = {name: kept for name, key in keys.items() if (kept := bench.cache.get(key)) is not None}
        absent = [name for name in distributions if name not in found]
        if absent:
            with bench.roles["judge"].open(_LIMITS if device == "cpu" else None) as judge:
                bench.judged(judge, "oracle", {"opened": codec.to_data(bench.opened(description, device))})
                for name in absent:
                    bench.go_on()
                    body = {"distribution": name, "seconds": _SECONDS}
                    found[name] = bench.judged(judge, "admit", body, seconds=_ASK_SECONDS).body
                    bench.cache.put(keys[name], found[name])
        return {name: codec.from_data(Tried, dict(found[name])) for name in distributions}


def refused(problem: Problem, found: Admission) -> ProblemError:
    """The error that says so, with reason, fix, and how to go on all the same."""
    return ProblemError(
        f"{problem.name}: not admitted: {found.reason}; {found.fix}; or go on all the same with --admit-anyway, which "
        "is recorded with the run"
    )


def decide(
    problem: Problem, sized: Sequence[Sized], places: Sequence[str] = ("cpu",), *, anyway: bool = False
) -> Admission:
    """The rules at the head of this file; pure."""
    asked = tuple(dict.fromkeys(t.distribution for size in sized for t in size.tried))
    dropped: dict[str, str] = {}
    causes: list[str] = []
    weak: dict[str, str] = {}
    unfair = ""
    for distribution in asked:
        for size in sized:
            tried = next((t for t in size.tried if t.distribution == distribution), None)
            if tried is None:
                continue  # it was dropped before this size was looked at
            where = f" ({size.label})" if len(sized) > 1 else ""
            what, cause = _against(tried)
            if what:
                dropped.setdefault(distribution, what + where)
                causes.append(cause)
            if distribution == DECLARED and cause.startswith("honest"):
                unfair = unfair or what + where
            lower = [m.name for m in tried.models if m.kind == "precision" and m.outcome == "accepted"]
            if lower and not what:
                weak.setdefault(distribution, f"{lower[-1]} passes{where}")
    left = [d for d in asked if d not in dropped]
    labels = [label for size in sized for t in size.tried for label in t.labels]
    if [d for d in left if d not in weak]:
        dropped |= {d: why for d, why in weak.items() if d in left}
    elif left:
        some = "; ".join(dict.fromkeys(weak[d] for d in left))
        labels.append(f"{some} wherever it is judged: values cannot show whether {problem.precision} was kept")
    used = tuple(d for d in asked if d not in dropped)
    admitted = bool(used) and not unfair
    reason, fix = "", ""
    if not admitted:
        reason = f"on its own inputs {unfair}" if unfair else _summary(dropped)
        fix = _FIXES[next(c for c in causes if c.startswith("honest")) if unfair else causes[0]]
    return Admission(
        admitted,
        anyway,
        reason,
        fix,
        used if admitted or not anyway else asked,
        {d: dropped[d] for d in asked if d in dropped},
        _limits(sized, used or asked),
        tuple(dict.fromkeys(labels)),
        tuple(size.label for size in sized),
        ", ".join(places),
        sum(len(t.models) for size in sized for t in size.tried),
        sum(t.seconds for size in sized for t in size.tried),
    )


def _against(tried: Tried) -> tuple[str, str]:
    """Why a distribution cannot be used, and which fix goes with it; two empty texts where it can."""
    if tried.unusable:
        return tried.unusable, next((k for k in _UNUSABLE if k in tried.unusable), "constant")
    for model in tried.models:
        if model.kind == "control" and model.outcome == "rejected":
            if model.name == AGAIN:
                return f"two runs of the reference differ: {model.detail}", "honest again"
            return f"an honest kernel fails ({model.name}): {model.detail}", "honest"
    passing = [m for m in tried.models if m.kind == "null" and m.outcome == "accepted"]
    if passing:
        more = f" and {len(passing) - 1} more" if len(passing) > 1 else ""
        pass_ = "passes" if not more else "pass"
        return f"the null model {passing[0].name!r}{more} {pass_}", _cause(passing[0])
    return "", ""


def _cause(model: NullModel) -> str:
    return next((key for key in _FIXES if model.name.startswith(key)), "constant")


def _summary(dropped: Mapping[str, str]) -> str:
    """The reasons, each with the distributions that it holds for."""
    by: dict[str, list[str]] = {}
    for name, why in dropped.items():
        by.setdefault(why, []).append(name)
    found = [f"{why} on {'all of them' if len(by) == 1 else ', '.join(names)}" for why, names in by.items()]
    return "no distribution of inputs tells a kernel from none: " + "; ".join(found)


def _limits(sized: Sequence[Sized], wanted: Sequence[str]) -> tuple[Limit, ...]:
    made = []
    for size in sized:
        tried = next((t for t in size.tried if t.distribution in wanted), None)
        made += [Limit(size.label, tried.distribution, t) for t in tried.tolerances] if tried else []
    return tuple(made)


_VANISHING = "scale inputs or weights so that the output does not vanish, or take out the op that cancels it"
_UNUSABLE = ("identically zero", "nowhere finite", "is empty", "overflows", " raised ")
_FIXES: Mapping[str, str] = {
    "zeros": _VANISHING,
    "identically zero": _VANISHING,
    "nowhere finite": "give inputs on which the reference is finite",
    "is empty": "give sizes above 0",
    "overflows": "give smaller inputs, or declare a precision with a wider range",
    " raised ": "give inputs of another kind in the sidecar ([inputs]), or random numbers that the reference accepts",
    "input copy": "the output is the input: give inputs that the op changes",
    "output for another seed": "let the output depend on what get_inputs draws",
    "first half": "let every part of the data matter: fewer elements, or inputs with heavier tails",
    "last ": "let every part of the output matter: sizes at which the last elements are not zero",
    "constant": "let the output vary by more than its rounding: larger or centred inputs, fewer terms in each mean",
    "honest again": (
        "make the reference deterministic: torch.use_deterministic_algorithms(True) names the op; sums by atomics, "
        "such as index_add and scatter, repeat only up to their order"
    ),
    "honest": (
        'declare the precision that the reference can keep, such as precision = "tf32" in the sidecar, or keep its '
        "inputs away from cancellation and from jumps"
    ),
}


@functools.cache
def harness() -> str:
    """SHA-256 over the code that judges, so that an admission does not outlive the rule it was made under."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*root.glob("judge/*.py"), *root.glob("tensors/*.py"), Path(__file__)]):
        digest.update(os.fsencode(path.relative_to(root)) + b"\0" + path.read_bytes())
    return digest.hexdigest()
