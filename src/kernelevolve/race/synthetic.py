"""Made-up landscapes whose best candidate is known: what a policy should get over, one difficulty each.

In: a kind, `deceptive`, `plateau`, `noisy` or `failures`, and the number of the instance. Out: a Landscape. Left to
others: searching it.

A plan is six choices out of three; a move changes one of them; moves are offered in an order that says nothing. From
the first kernel every place can be reached in six moves.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

from kernelevolve.errors import UnknownName, UsageError
from kernelevolve.evaluation import (
    Correctness,
    Evaluation,
    Evidence,
    Figure,
    Resources,
    Rung,
    RungReport,
    Timing,
    Verdict,
    speedup,
)
from kernelevolve.problem import Problem
from kernelevolve.race.landscape import Landscape, Place, Recorded, Step, digest_of
from kernelevolve.search.fitness import BASELINES

PREFIX = "synthetic:"
PLATFORM = "h100"
CHOICES, OPTIONS = 6, 3
#: Share of wrong candidates of `failures`, standard error of ln(time) of `noisy`.
FAILING, NOISE = 0.6, 0.05
_LIMITS = ("bandwidth", "latency", "occupancy")
_MADE_UP = "made up"

Choices = tuple[int, ...]
Quality = Callable[[Choices], float]


def _deceptive(luck: random.Random) -> Quality:
    """Each step uphill leads away from the best: a trap of three choices, twice (Goldberg's deceptive functions)."""
    right = _right(luck)

    def quality(choices: Choices) -> float:
        total = 1.0
        for block in (range(3), range(3, 6)):
            hits = sum(choices[i] == right[i] for i in block)
            away = sum(choices[i] == (right[i] + 1) % OPTIONS for i in block)
            total += 1.0 if hits == 3 else 0.2 * away
        return total

    return quality


def _plateau(luck: random.Random) -> Quality:
    """Nothing changes until two choices are right together; three such pairs."""
    right = _right(luck)
    return lambda choices: 1.0 + 0.5 * sum(
        choices[i] == right[i] and choices[i + 1] == right[i + 1] for i in range(0, CHOICES, 2)
    )


def _smooth(luck: random.Random) -> Quality:
    """Each choice has a factor of its own, whatever the others are."""
    factors = [[luck.uniform(0.8, 1.3) for _ in range(OPTIONS)] for _ in range(CHOICES)]

    def quality(choices: Choices) -> float:
        total = 1.0
        for factor, choice in zip(factors, choices, strict=True):
            total *= factor[choice]
        return total

    return quality


def _right(luck: random.Random) -> Choices:
    """The best plan. The first kernel, all 0, has none of its choices."""
    return tuple(luck.randrange(1, OPTIONS) for _ in range(CHOICES))


KINDS: dict[str, Callable[[random.Random], Quality]] = {
    "deceptive": _deceptive, "failures": _smooth, "noisy": _smooth, "plateau": _plateau,
}  # fmt: skip


def synthetic(name: str) -> Landscape:
    """The landscape of `KIND` or `KIND:NUMBER`, such as `deceptive` or `noisy:3`.

    Raises:
        UnknownName: no such kind.
        UsageError: a number that is none.
    """
    kind, _, number = name.partition(":")
    if kind not in KINDS:
        raise UnknownName("made-up landscape", kind, KINDS)
    if number and not number.isdecimal():
        raise UsageError(f"{PREFIX}{name}: {number!r} is no number of an instance; write {PREFIX}{kind}:3")
    luck = random.Random(f"{kind}:{int(number or 0)}")
    quality = KINDS[kind](luck)
    plans = [tuple(p) for p in itertools.product(range(OPTIONS), repeat=CHOICES)]
    numbers = {plan: i for i, plan in enumerate(plans)}
    best = max(plans, key=quality)
    candidates = []
    for plan in plans:
        wrong = kind == "failures" and plan not in (plans[0], best) and luck.random() < FAILING
        candidates.append(_recorded(name, plan, quality(plan), wrong, luck))
    places = tuple(Place({"choices": list(plan)}, i, _steps(plan, numbers, luck)) for i, plan in enumerate(plans))
    remark = f"# made up: {KINDS[kind].__doc__}\n"
    problem = Problem(kind if not number else f"{kind}:{int(number)}", "synthetic", name, remark)
    return Landscape(
        problem, problem.key, PLATFORM, 0, "", _MADE_UP, places, tuple(candidates),
        noise=NOISE if kind == "noisy" else 0.0, made_up=True,
    )  # fmt: skip


def _steps(plan: Choices, numbers: dict[Choices, int], luck: random.Random) -> tuple[Step, ...]:
    changed = [
        (i, option, (*plan[:i], option, *plan[i + 1 :]))
        for i in range(CHOICES)
        for option in range(OPTIONS)
        if option != plan[i]
    ]
    luck.shuffle(changed)
    return tuple(
        Step(f"choice {i} to {option}", tuple(luck.sample(_LIMITS, 2)), numbers[other]) for i, option, other in changed
    )


def _recorded(name: str, plan: Sequence[int], quality: float, wrong: bool, luck: random.Random) -> Recorded:
    verdict = luck.choice((Verdict.WRONG_VALUE, Verdict.COMPILE_ERROR)) if wrong else Verdict.OK_UNTIMED
    rungs = (RungReport(Rung.CORRECT, "failed" if wrong else "passed", 0.0, verdict.value, PLATFORM),)
    digest = digest_of(f"{name} {plan}")
    if wrong:
        return Recorded(digest, "", evaluation=Evaluation(verdict, PLATFORM, rungs), truth=0.0)
    baseline, mine = (Figure(ms, "ms", Evidence.MODELLED, _MADE_UP) for ms in (1.0, 1.0 / quality))
    timing = Timing("declared", PLATFORM, mine, {BASELINES[0]: baseline}, BASELINES[0], speedup(baseline, mine))
    launches = tuple(Resources(f"kernel_{i}", "sm_90", "", 32, 0, 0, 4, 1.0) for i in range(1 + plan[1]))
    found = Evaluation(
        verdict, PLATFORM, rungs, (Correctness(Evidence.INTERPRETED, True, ()),), {PLATFORM: launches}, (timing,),
        diagnosis=f"{_LIMITS[plan[0]]}: {_MADE_UP}",
    )  # fmt: skip
    return Recorded(digest, "", evaluation=found, truth=quality)
