"""A race from its entries to its result: which courses there are, the laps, the standings, one object of all of it.

In: texts that name landscapes or problems, a RacePlan. Out: a Race. Left to others: showing it (`plot`, the doors).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelevolve import codec
from kernelevolve.errors import UsageError
from kernelevolve.race.landscape import read_landscape
from kernelevolve.race.laps import Course, Lap, RacePlan, recorded_course, run_laps
from kernelevolve.race.standings import Heat, heats
from kernelevolve.race.synthetic import KINDS, PREFIX, synthetic

SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class Race:
    """What was raced, lap by lap, and what it says."""

    plan: RacePlan
    courses: tuple[Course, ...]
    laps: tuple[Lap, ...]
    heats: tuple[Heat, ...]

    def facts(self, *, curves: bool = True) -> dict[str, Any]:
        """JSON data: the plan, the courses, the standings and, unless told otherwise, all curves.

        A curve lists the candidates at which the best changed, and the last one: how many were told, best fitness,
        device seconds, USD, seconds of all rungs.
        """
        policies = {
            text: {"name": made.name, "args": dict(made.args)}
            for text in self.plan.policies
            for made in (self.plan.component(text),)
        }
        courses = [
            {
                "name": c.name, "problem": f"{c.problem.suite}:{c.problem.name}", "platform": c.platform,
                "evidence": c.evidence, "best_known": c.best, "candidates": c.evaluated,
            }
            for c in self.courses
        ]  # fmt: skip
        return {
            "policies": policies,
            "seeds": self.plan.seeds,
            "candidates": self.plan.candidates,
            "effort": self.plan.effort,
            "courses": courses,
            "heats": codec.to_data(self.heats),
            "laps": [_lap_facts(lap) for lap in self.laps] if curves else [],
        }


def _lap_facts(lap: Lap) -> dict[str, Any]:
    values = enumerate(lap.best)
    changes = [i for i, value in values if i in (0, len(lap.best) - 1) or value != lap.best[i - 1]]
    curve = [
        [i + 1, round(lap.best[i], 4), round(lap.device[i], 2), round(lap.money[i], 6), round(lap.seconds[i], 1)]
        for i in changes
    ]
    return {
        "course": lap.course, "policy": lap.policy, "seed": lap.seed, "told": len(lap.best), "faulty": lap.faulty,
        "repeated": lap.repeated, "ended": lap.ended, "curve": curve,
    }  # fmt: skip


def recorded_courses(entries: Sequence[str]) -> tuple[Course, ...]:
    """The courses of recordings: files, folders of files, `synthetic:KIND`, or `synthetic` for one of each kind.

    Raises:
        UsageError: an entry that is none of these.
        StoreError: a file that holds no landscape, or an empty one.
    """
    courses = [course for entry in entries for course in _courses(entry)]
    names = [course.name for course in courses]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{', '.join(sorted(twice))}: there twice; a course counts once")
    return tuple(courses)


def is_recorded(entry: str) -> bool:
    """Whether an entry names a recording, and not a problem."""
    made_up = entry == PREFIX[:-1] or entry.startswith(PREFIX)
    return made_up or entry.endswith(SUFFIXES) or Path(entry).is_dir()


def _courses(entry: str) -> list[Course]:
    if entry == PREFIX[:-1]:
        return [recorded_course(synthetic(kind)) for kind in KINDS]
    if entry.startswith(PREFIX):
        return [recorded_course(synthetic(entry.removeprefix(PREFIX)))]
    path = Path(entry)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and file.name[0] != ".")
        if not files:
            raise UsageError(f"{entry} has no {' or '.join(SUFFIXES)}; record some: kernelevolve race record PROBLEM")
        return [recorded_course(read_landscape(file)) for file in files]
    return [recorded_course(read_landscape(path))]


def run_race(plan: RacePlan, courses: Sequence[Course], told: Callable[[Lap], None] = lambda lap: None) -> Race:
    """Runs all laps.

    Raises:
        UsageError: nothing to race on, or drafts that use up the whole budget.
        KernelEvolveError: what ends a run without a result.
    """
    if not courses:
        raise UsageError("nothing to race on; give landscapes, synthetic:KIND, or problems with --live")
    for policy in plan.policies:
        drafts = plan.component(policy).args.get("drafts", 0)
        if drafts >= plan.candidates:
            raise UsageError(
                f"policy {policy} makes {drafts} drafts and the race has {plan.candidates} candidates: nothing of the "
                "policy would be seen; give more candidates or fewer drafts"
            )
    laps = run_laps(plan, courses, told)
    return Race(plan, tuple(courses), laps, heats(plan, courses, laps))
