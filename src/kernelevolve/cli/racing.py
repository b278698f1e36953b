"""The commands that compare policies: `race`, and `race record`, which makes what it replays.

In: landscapes, problems, names of policies. Out: a table for people, one result object for scripts, files. Left to
others: the race itself (`kernelevolve.race`).
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kernelevolve import (
    Course,
    Heat,
    Lap,
    Need,
    Node,
    Race,
    RacePlan,
    RecordingOrder,
    StoreError,
    UsageError,
    is_recorded,
    live_course,
    load_problem,
    race_svg,
    record_landscape,
    recorded_courses,
    run_race,
)
from kernelevolve.cli import places, public
from kernelevolve.cli.door import (
    PROBLEM,
    Device,
    Door,
    Json,
    SuitePath,
    Unsealed,
    door_of,
    interruptible,
    known_platforms,
    print_lines,
)

POLICIES = "greedy,mcts,islands,map_elites,beam,best_of_n"
RUN = "run"
Entries = Annotated[
    list[str],
    typer.Argument(help="landscapes, folders of them, synthetic:KIND (synthetic: each kind), or problems with --live"),
]
Policies = Annotated[
    str, typer.Option("--policies", help="names as for --policy, with commas; the first is held against best_of_n")
]


class _Racing(TyperGroup):
    """`race` without the name of a command is `race run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [RUN, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Racing,
    help="Compares policies at equal budget, on recorded landscapes, made-up ones, or live.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(RUN)
def run(
    context: typer.Context,
    entries: Entries,
    policies: Policies = POLICIES,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="runs of each policy on each course")] = 10,
    candidates: Annotated[int, typer.Option("--candidates", min=2, help="of each run")] = 60,
    effort: Annotated[str, typer.Option("--effort", help="gives the number of drafts where none is told")] = "standard",
    live: Annotated[bool, typer.Option("--live", help="on problems: candidates are written and judged")] = False,
    platform: Annotated[str, typer.Option("--platform", help="of live problems")] = "h100",
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="a file for the result object, with all curves")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="a file for the curves as a picture, .svg")] = None,
    suite_path: SuitePath = None,
    unsealed: Unsealed = False,
    as_json: Json = False,
) -> None:
    """Compares policies at equal budget: real runs, each ended by its number of candidates alone.

    On a recording nothing is written or measured anew: writer and bench answer from it. The control is best_of_n: fresh
    drafts that know nothing of each other.
    """
    door = door_of(context, as_json)
    for file in (out, plot):
        if file is not None and not file.absolute().parent.is_dir():
            raise UsageError(f"{file} cannot be written: there is no folder {file.parent}")
    plan = RacePlan(_split(policies), seeds, candidates, effort)
    with interruptible(door), contextlib.ExitStack() as stack:
        if live:
            found = [_live(stack, name, platform, device, suite_path, unsealed) for name in entries]
        else:
            _refuse_problems(entries)
            found = list(recorded_courses(entries))
        what = f"{', '.join(plan.policies)} on {_count(found)}, {seeds} seeds, {candidates} candidates each"
        print_lines(door, [what])
        done = run_race(plan, found, _teller(door, plan, found))
    print_lines(door, [line for heat in done.heats for line in lines(done, heat)])
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = {"date": now, "kernelevolve": public.version(), "entries": entries, **done.facts()}
    if out is not None:
        _write(out, json.dumps(facts) + "\n")
    if plot is not None:
        _write(plot, race_svg(plan, done.courses, done.laps))
    door.finish({"verdict": None, "correct": False, **facts})


@app.command()
def record(
    context: typer.Context,
    problems: Annotated[list[str], typer.Argument(help=PROBLEM)],
    to: Annotated[Path, typer.Option("--to", help="the file, .jsonl or .jsonl.gz; of several problems a folder")],
    platform: Annotated[str, typer.Option("--platform", help="what to record for")] = "h100",
    candidates: Annotated[int, typer.Option("--candidates", min=2, help="most different sources")] = 150,
    seconds: Annotated[str | None, typer.Option("--time", help="most time to work, such as 90s, 5m or 2h")] = None,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="candidates evaluated at the same time")] = 1,
    values: Annotated[
        str, typer.Option("--values", help="lane: compared as in a search; once: on declared inputs alone")
    ] = "lane",
    trials: Annotated[
        int | None, typer.Option("--trials", min=0, help="knob choices tried for each, 0: defaults (quick's)")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="of every random choice")] = 0,
    device: Device = "auto",
    suite_path: SuitePath = None,
    unsealed: Unsealed = False,
    as_json: Json = False,
) -> None:
    """Records landscapes: all that the built-in engineer can reach for a problem, each candidate evaluated once.

    The file is written as candidates come; the same command goes on with it. It holds no text of the problem.
    """
    door = door_of(context, as_json)
    (name,) = known_platforms([platform])
    left = places.seconds(seconds) if seconds is not None else None
    found = []
    with interruptible(door):
        for problem in problems:
            wanted = load_problem(problem, suite_path)
            file = to if len(problems) == 1 else to / f"{wanted.suite}_{wanted.name.replace('/', '_')}_{name}.jsonl.gz"
            order = RecordingOrder(wanted, name, file, candidates, left, seed, at_once, values, trials)
            with public.workshop(wanted, device, **public.sealing(unsealed)) as shop:
                made = record_landscape(order, shop, _counter(door, wanted.name))
            more = ", more could be reached" if made.more else ", all that can be reached"
            print_lines(door, [f"{made.name}: {made.evaluated} of {len(made.candidates)} evaluated{more}; {file}"])
            found.append({"file": str(file), "course": made.name, "evaluated": made.evaluated,
                          "candidates": len(made.candidates), "more": made.more,
                          "evidence": made.evidence})  # fmt: skip
    door.finish({"verdict": None, "correct": False, "landscapes": found})


def lines(done: Race, heat: Heat) -> list[str]:
    """The standings on the courses of one evidence, as a table in text."""
    plan = done.plan
    device = any(s.device is not None for s in heat.standings)
    count = f"{len(heat.courses)} course{'s' * (len(heat.courses) != 1)}"
    out = [
        f"{count}, {heat.evidence}: area under the curve (1: the best "
        "at once), and what is needed to reach best_of_n's final fitness, as a share of what it needed"
    ]
    wide = max(12, *(len(s.policy) for s in heat.standings))
    head = f"  {'policy':<{wide}} {'area':<20} {'rank':<5} {'best found':<10} {'candidates needed':<22} {'missed':<7} p"
    out.append(head + ("   device seconds needed" if device else ""))
    for s in heat.standings:
        need = s.evaluations
        row = (
            f"  {s.policy:<{wide}} {_interval(s.area, s.low, s.high):<20} {s.rank:<5.2f} {f'{s.found:.0%}':<10} "
            f"{_needed(need):<22} {f'{need.missed:.0%}' if need else '':<7} {f'{s.p:.3g}' if s.p is not None else '-'}"
        )
        out.append(row + (f"   {_needed(s.device)}" if device else ""))
    if heat.halved is not None and (need := heat.standings[0].evaluations) is not None:
        text = "needs at most half of the candidates" if heat.halved else "does NOT get by with half of the candidates"
        out.append(f"  {plan.policies[0]} {text} that best_of_n needs: {_needed(need)} on {need.courses} courses")
    if heat.settled:
        some = f"on {len(heat.settled)} of {len(heat.courses)} courses the first kernel is the best that is known"
        others = [f"{s.policy} {_needed(s.climbing)}" for s in heat.standings if s.climbing is not None]
        out.append(f"  {some}" + (f"; on the others is needed: {', '.join(others)}" if others else ""))
    if all(s.p is None for s in heat.standings) and len(plan.policies) > 1:
        out.append("  no test: it takes six courses on which a policy and best_of_n differ")
    return out


def _interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


def _needed(need: Need | None) -> str:
    if need is None:
        return "-"
    return f"{need.ratio:.2f}x" + (f" [{need.low:.2f}, {need.high:.2f}]" if need.low and need.high else "")


def _split(policies: str) -> tuple[str, ...]:
    """`greedy,mcts:children=3,exploration=1,beam` at the commas that begin a policy, not a parameter."""
    found: list[str] = []
    for part in (piece.strip() for piece in policies.split(",")):
        if "=" in part and ":" not in part and found:
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    return tuple(found)


def _refuse_problems(entries: Iterable[str]) -> None:
    for entry in entries:
        if not is_recorded(entry):
            raise UsageError(
                f"{entry} is no landscape: give a .jsonl or .jsonl.gz, a folder of them, or synthetic:KIND; to race on "
                "a problem itself: --live; to record it: kernelevolve race record"
            )


def _live(
    stack: contextlib.ExitStack, name: str, platform: str, device: str, suite_path: Path | None, unsealed: bool
) -> Course:
    if is_recorded(name):
        raise UsageError(f"{name} is a recording; leave out --live, or give problems")
    known_platforms([platform])
    problem = load_problem(name, suite_path)
    shop = stack.enter_context(public.workshop(problem, device, **public.sealing(unsealed)))
    return live_course(problem, platform, shop, device)


def _count(courses: Sequence[Course]) -> str:
    return f"{len(courses)} course{'s' * (len(courses) != 1)}"


def _teller(door: Door, plan: RacePlan, courses: Sequence[Course]) -> Any:
    each = len(plan.policies) * plan.seeds
    done = 0

    def told(lap: Lap) -> None:
        nonlocal done
        done += 1
        if done % each == 0:
            print_lines(door, [f"  {done // each} of {len(courses)}: {lap.course}"])

    return told


def _counter(door: Door, name: str) -> Any:
    def told(node: Node, done: int, of: int) -> None:
        figure = f"{node.evaluation.verdict}, {node.fitness.value:.3g}x ({node.fitness.evidence})"
        print_lines(door, [f"  {name}: {done} of {of}, {figure}"])

    return told


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror}") from error
