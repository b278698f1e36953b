"""Standings: what the laps of a race say about its policies.

In: laps. Out: for each policy the area under its curve, its rank, and how many candidates it needs where the control
needed so many, with intervals and a test. Left to others: running them (`laps`), showing them (`plot`, the doors).

A course counts once however many seeds were run on it: the mean over its seeds is what the intervals (bootstrap over
courses) and the test (Wilcoxon's signed-rank test, exact) see. Figures of different evidence are never averaged.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kernelevolve.race.laps import Course, Lap, RacePlan

CONTROL = "best_of_n"
#: Draws of the bootstrap, and its seed.
DRAWS, SEED = 10_000, 0
#: Fewest courses that differ with which the exact two-sided test can reach 5 %: 2 / 2^6 = 3 %.
LEAST = 6
HALF = 0.5
_EQUAL = 1.0 - 1e-9


@dataclass(frozen=True)
class Need:
    """What a policy needs to reach the control's final fitness, as a share of what the control needed for it.

    Attributes:
        ratio: geometric mean over courses; below 1 the policy needs less.
        low, high: 95 % interval; None for fewer than two courses.
        courses: that count: those on which the control found a correct candidate, and spent anything.
        missed: share of laps that never reached it; they count as having needed all that they spent.
    """

    ratio: float
    low: float | None
    high: float | None
    courses: int
    missed: float


@dataclass(frozen=True)
class Standing:
    """One policy over all courses of one evidence.

    Attributes:
        area: mean over courses of the mean over candidates of best fitness / best that is known: 1 had it at once.
        low, high: 95 % interval of `area`; None for fewer than two courses.
        rank: mean over courses of its place by area, 1 for the largest, ties shared.
        final: geometric mean over courses of final fitness / best that is known, over correct laps.
        found: share of laps that found the best that is known.
        evaluations, device: what it needs of each; None without a control, `device` where no device was held.
        climbing: `evaluations` on those courses alone whose first kernel is not the best that is known.
        p: of the area being the control's, courses paired, Holm's correction over the policies; None where there are
            fewer than LEAST courses on which they differ.
    """

    policy: str
    area: float
    low: float | None
    high: float | None
    rank: float
    final: float
    found: float
    evaluations: Need | None
    climbing: Need | None
    device: Need | None
    p: float | None


@dataclass(frozen=True)
class Heat:
    """All policies on the courses of one evidence.

    Attributes:
        courses: their names, with the best fitness that is known there.
        settled: courses whose first kernel is the best that is known: there is nothing to search for.
        by_course: `evaluations.ratio` of each policy on each course.
        halved: whether the first policy needs at most half of the control's evaluations; None without a control.
    """

    evidence: str
    courses: dict[str, float]
    settled: tuple[str, ...]
    standings: tuple[Standing, ...]
    by_course: dict[str, dict[str, float]]
    halved: bool | None


def heats(plan: RacePlan, courses: Sequence[Course], laps: Sequence[Lap]) -> tuple[Heat, ...]:
    """The standings, by evidence, in the order of the courses."""
    kinds = dict.fromkeys(course.evidence for course in courses)
    return tuple(_heat(plan, evidence, [c for c in courses if c.evidence == evidence], laps) for evidence in kinds)


def _heat(plan: RacePlan, evidence: str, courses: Sequence[Course], laps: Sequence[Lap]) -> Heat:
    known = {course.name: _best(course, laps) for course in courses}
    by = {(lap.course, lap.policy, lap.seed): lap for lap in laps if lap.course in known}
    control = next((policy for policy in plan.policies if policy.partition(":")[0] == CONTROL), None)
    areas = {
        policy: [_mean_area([by[name, policy, s] for s in range(plan.seeds)], known[name], plan) for name in known]
        for policy in plan.policies
    }
    ps = _tests(areas, control)
    ranks = _ranks(areas)
    first = {name: max(lap.best[0] for lap in laps if lap.course == name and lap.best) for name in known}
    settled = tuple(name for name in known if first[name] >= known[name] * _EQUAL)
    climbs = [name for name in known if name not in settled]
    standings, by_course = [], {}
    for policy in plan.policies:
        mine = [by[name, policy, s] for name in known for s in range(plan.seeds)]
        low, high = bootstrap(areas[policy], statistics.fmean)
        needs = {axis: _need(plan, list(known), by, policy, control, axis) for axis in ("evaluations", "device")}
        finals = [lap.best[-1] / known[lap.course] for lap in mine if lap.best and lap.best[-1] > 0]
        standings.append(
            Standing(
                policy, statistics.fmean(areas[policy]), low, high, ranks[policy],
                _geometric(finals) if finals else 0.0,
                statistics.fmean(bool(lap.best) and lap.best[-1] >= known[lap.course] * _EQUAL for lap in mine),
                needs["evaluations"], _need(plan, climbs, by, policy, control, "evaluations"), needs["device"],
                ps.get(policy),
            )
        )
        if control is not None:
            ratios = {name: _ratios(plan, by, policy, control, name, "evaluations")[0] for name in known}
            by_course[policy] = {name: _geometric(found) for name, found in ratios.items() if found}
    need = standings[0].evaluations
    halved = None if need is None or plan.policies[0] == control else need.ratio <= HALF
    return Heat(evidence, known, settled, tuple(standings), by_course, halved)


def _best(course: Course, laps: Sequence[Lap]) -> float:
    found = [max(lap.best, default=0.0) for lap in laps if lap.course == course.name]
    return course.best if course.best is not None else max(found, default=0.0)


def _mean_area(laps: Sequence[Lap], best: float, plan: RacePlan) -> float:
    return statistics.fmean(area(lap, best, plan.candidates) for lap in laps)


def area(lap: Lap, best: float, candidates: int) -> float:
    """The mean over the candidates of best fitness so far / `best`; a lap that ended early stays where it was."""
    if not lap.best or not best > 0:
        return 0.0
    values = [*lap.best, *([lap.best[-1]] * (candidates - len(lap.best)))]
    return statistics.fmean(min(1.0, value / best) for value in values[:candidates])


def reached(lap: Lap, target: float, axis: str) -> float | None:
    """What the lap had spent when its best was first `target`: candidates, or seconds on a device; None for never."""
    at = next((i for i, value in enumerate(lap.best) if value >= target * _EQUAL), None)
    return None if at is None else _spent(lap, at, axis)


def _spent(lap: Lap, at: int, axis: str) -> float:
    return float(at + 1) if axis == "evaluations" else lap.device[at]


def _ratios(
    plan: RacePlan, by: dict[tuple[str, str, int], Lap], policy: str, control: str, course: str, axis: str
) -> tuple[list[float], int]:
    """One ratio per seed, and how many laps never got there; laps of one seed are paired.

    The control is held against itself with the next seed: who sets the mark by luck needs more to reach it again, and
    that is what the ratios of the others have to be compared with.
    """
    found, missed = list[float](), 0
    for seed in range(plan.seeds):
        other = by[course, control, seed]
        mine = by[course, policy, (seed + 1) % plan.seeds if policy == control else seed]
        if not other.best or not other.best[-1] > 0 or not mine.best:
            continue
        used = reached(other, other.best[-1], axis)
        need = reached(mine, other.best[-1], axis)
        missed += need is None
        if need is None:
            need = float(plan.candidates) if axis == "evaluations" else mine.device[-1]
        if used and need:
            found.append(need / used)
    return found, missed


def _need(
    plan: RacePlan,
    known: Sequence[str],
    by: dict[tuple[str, str, int], Lap],
    policy: str,
    control: str | None,
    axis: str,
) -> Need | None:
    if control is None:
        return None
    means, missed = list[float](), 0
    for course in known:
        ratios, never = _ratios(plan, by, policy, control, course, axis)
        missed += never
        if ratios:
            means.append(_geometric(ratios))
    if not means:
        return None
    low, high = bootstrap(means, _geometric)
    return Need(_geometric(means), low, high, len(means), missed / (plan.seeds * len(known)))


def _geometric(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def bootstrap(
    values: Sequence[float], of: Callable[[Sequence[float]], float]
) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of a statistic (Efron, 1979); none for fewer than two values."""
    if len(values) < 2:
        return None, None
    rng = random.Random(SEED)
    drawn = sorted(of(rng.choices(values, k=len(values))) for _ in range(DRAWS))
    return drawn[round(0.025 * DRAWS)], drawn[round(0.975 * DRAWS) - 1]


def _ranks(areas: dict[str, list[float]]) -> dict[str, float]:
    names = list(areas)
    totals = dict.fromkeys(names, 0.0)
    rows = list(zip(*areas.values(), strict=True))
    for row in rows:
        for name, mine in zip(names, row, strict=True):
            totals[name] += 1 + sum(other > mine for other in row) + (sum(other == mine for other in row) - 1) / 2
    return {name: total / len(rows) for name, total in totals.items()}


def _tests(areas: dict[str, list[float]], control: str | None) -> dict[str, float]:
    """The corrected p of each policy that can be tested against the control."""
    if control is None:
        return {}
    found = {}
    for policy, mine in areas.items():
        if policy != control:
            p = signed_rank([a - b for a, b in zip(mine, areas[control], strict=True)])
            if p is not None:
                found[policy] = p
    corrected, worst = {}, 0.0
    for i, (policy, p) in enumerate(sorted(found.items(), key=lambda pair: pair[1])):
        worst = max(worst, min(1.0, p * (len(found) - i)))  # Holm, Scandinavian Journal of Statistics 6 (1979)
        corrected[policy] = worst
    return corrected


def signed_rank(differences: Sequence[float]) -> float | None:
    """The two-sided p of Wilcoxon's signed-rank test (Biometrics 1, 1945), exact: over all signs of the ranks.

    Differences of 0 are left out, ties share their rank. None for fewer than LEAST others.
    """
    left = sorted((round(d, 12) for d in differences if abs(d) > 1e-12), key=abs)
    sizes: list[float] = [abs(d) for d in left]
    if len(left) < LEAST:
        return None
    ranks: list[int] = []  # doubled, so that shared ranks are whole numbers
    for _, tied in itertools.groupby(sizes):
        count = len(list(tied))
        ranks += [2 * len(ranks) + count + 1] * count
    counts = [1]  # of sign patterns, by their sum of positive ranks
    for rank in ranks:
        counts = [a + b for a, b in zip(counts + [0] * rank, [0] * rank + counts, strict=True)]
    positive = sum(rank for rank, d in zip(ranks, left, strict=True) if d > 0)
    least = min(positive, sum(ranks) - positive)
    return min(1.0, 2.0 * sum(counts[: least + 1]) / float(2 ** len(ranks)))
