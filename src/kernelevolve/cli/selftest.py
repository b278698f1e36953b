"""The command that tests the checker itself: selftest.

In: what the user typed. Out: one line for each specimen, a summary, one result object. Left to others: the specimens
and running them.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kernelevolve import NotConfirmed, chosen_specimens, lane_for, run_selftest, to_data
from kernelevolve.cli.door import Json, door_of, interruptible, print_lines


def selftest(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="a specimen such as A21, or a family (T R V N H S G honest); may be given again"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="none, or torch's name of an accelerator")] = "none",
    lane: Annotated[str | None, typer.Option("--lane", help="judge all in this lane, not each in its own")] = None,
    weaken: Annotated[
        list[str] | None, typer.Option("--weaken", help="leave this guard out, to see what it alone stops")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="problems at the same time, without a device")] = 1,
    as_json: Json = False,
) -> None:
    """Judges cheats that must be rejected for the right reason, and odd but honest kernels that must pass.

    Without a device every launch runs under the interpreter, timing included. Exits with 8 unless every cheat got a
    verdict that names its fault and every honest kernel passed.
    """
    door = door_of(context, as_json)
    part = "cpu" if device == "none" else "gpu"
    specimens = chosen_specimens(tuple(only or ()), on=part)
    wanted = None if lane is None else lane_for(lane).name
    with interruptible(door):
        report = run_selftest(
            specimens,
            device=device,
            lane=wanted,
            weaken=tuple(weaken or ()),
            jobs=jobs,
            progress=lambda line: print_lines(door, [line]),
        )
    lines = [f"{report.device}, {report.seconds:.0f} s; {report.summary}"]
    if report.weakened:
        through = ", ".join(o.id for o in report.through) or "none"
        lines.append(f"without {', '.join(report.weakened)} these cheats pass: {through}")
    print_lines(door, lines)
    result: dict[str, Any] = {"verdict": None, "correct": report.ok, **to_data(report)}
    door.finish(result | {"through": [o.id for o in report.through]})
    if not report.ok:
        raise NotConfirmed(f"selftest: {report.summary}")
