"""The command that tests the checker itself: selftest.

In: what the user typed. Out: one line for each specimen or row, a summary, one result object. Left to others: the
specimens, the matrix of guards, and running them.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from kernelevolve import (
    NotConfirmed,
    UsageError,
    chosen_specimens,
    lane_for,
    rows_for,
    run_aa,
    run_matrix,
    run_selftest,
    to_data,
)
from kernelevolve.cli.door import Door, Json, door_of, interruptible, print_lines

MOST_JOBS = 8  # each has three processes with torch


def selftest(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="a specimen such as A21, or a family (T R V N H S G honest); may be given again"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="none, or torch's name of an accelerator")] = "none",
    lane: Annotated[str | None, typer.Option("--lane", help="judge all in this lane, not each in its own")] = None,
    weaken: Annotated[
        list[str] | None,
        typer.Option("--weaken", help="leave this guard or distribution out, to see what it stops; may be given again"),
    ] = None,
    matrix: Annotated[
        bool,
        typer.Option("--matrix", help="leave out each guard in turn (or those of --weaken), and show what then passes"),
    ] = False,
    aa: Annotated[
        bool, typer.Option("--aa", help="time a kernel against itself; simulated where there is none")
    ] = False,
    comparisons: Annotated[
        int | None, typer.Option("--comparisons", min=1, help="of --aa; default: 10 on a device")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="problems at the same time; default: the cores, at most 8"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Judges cheats that must be rejected for the right reason, and odd but honest kernels that must pass.

    Without a device every launch runs under the interpreter, timing included. Exits with 8 unless every cheat got a
    verdict that names its fault and every honest kernel passed. With --matrix: unless each guard stops its cheat, and
    the cheat passes without it. With --aa: if equal kernels are told apart more often than chance allows.
    """
    door = door_of(context, as_json)
    some = jobs or min(MOST_JOBS, len(os.sched_getaffinity(0)))
    if matrix and (only or lane or aa):
        raise UsageError("--matrix takes --weaken, --device and --jobs; leave out --only, --lane and --aa")
    if aa and (only or lane or weaken):
        raise UsageError("--aa takes --device and --comparisons; leave out --only, --lane and --weaken")
    with interruptible(door):
        if matrix:
            _matrix(door, tuple(weaken or ()), device, some)
        elif aa:
            _aa(door, device, comparisons)
        else:
            _corpus(door, tuple(only or ()), device, lane, tuple(weaken or ()), some)


def _corpus(
    door: Door, only: tuple[str, ...], device: str, lane: str | None, weaken: tuple[str, ...], jobs: int
) -> None:
    specimens = chosen_specimens(only, on="cpu" if device == "none" else "gpu")
    wanted = None if lane is None else lane_for(lane).name
    report = run_selftest(
        specimens,
        device=device,
        lane=wanted,
        weaken=weaken,
        jobs=jobs,
        progress=lambda line: print_lines(door, [line]),
    )
    lines = [f"{report.device}, {report.seconds:.0f} s; {report.summary}"]
    if report.weakened:
        through = ", ".join(o.id for o in report.through) or "none"
        lines.append(f"without {', '.join(report.weakened)} these cheats pass: {through}")
    print_lines(door, lines)
    _finish(
        door, report.ok, f"selftest: {report.summary}", to_data(report) | {"through": [o.id for o in report.through]}
    )


def _matrix(door: Door, names: tuple[str, ...], device: str, jobs: int) -> None:
    rows = rows_for(names, on="cpu" if device == "none" else "gpu")
    report = run_matrix(rows, device=device, jobs=jobs, progress=lambda line: print_lines(door, [line]))
    lines = [shown.line for shown in report.shown]
    lines += [f"     not shown: {name} ({why})" for name, why in report.unshown.items()]
    print_lines(door, [*lines, f"{report.device}, {report.seconds:.0f} s; {report.summary}"])
    _finish(door, report.ok, f"matrix: {report.summary}", to_data(report))


def _aa(door: Door, device: str, comparisons: int | None) -> None:
    found = run_aa(device, comparisons)
    print_lines(door, [f"{one.summary}, {one.seconds:.0f} s" for one in found])
    said = "; ".join(one.summary for one in found if not one.ok)
    _finish(door, not said, f"more claims than chance allows: {said}", {"aa": [to_data(one) for one in found]})


def _finish(door: Door, right: bool, message: str, found: Any) -> None:
    result: dict[str, Any] = {"verdict": None, "correct": right, **found}
    door.finish(result)
    if not right:
        raise NotConfirmed(message)
