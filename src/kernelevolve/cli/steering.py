"""The commands that steer a run: note, cancel.

In: what the user typed. Out: a longer log, at once or through the run's inbox, and one result object. Left to others:
what notes do (`kernelevolve.add_note`), how a brief ends (`kernelevolve.cancel_brief`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from kernelevolve import Delivered, UsageError, add_note, cancel_brief, clear_notes, notes_of_run, to_data
from kernelevolve.cli import places
from kernelevolve.cli.door import Json, RunFolder, door_of, print_lines


def note(
    context: typer.Context,
    run: RunFolder,
    text: Annotated[
        str | None, typer.Argument(help="what the next briefs carry; without it the notes are listed")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="end all notes; with a text, only this one is left")] = False,
    as_json: Json = False,
) -> None:
    """Adds a note to a run that every following brief carries, until it is cleared; a live run takes it in as it goes.

    Without a text and --clear it lists the notes in force.
    """
    door = door_of(context, as_json)
    runs = places.runs_in(run)
    done: dict[str, Delivered | None] = {}
    for place in runs:
        done[str(place)] = clear_notes(place) if clear else None
        if text is not None:
            done[str(place)] = add_note(place, text)
    notes = {str(place): notes_of_run(place) for place in runs}
    lines: list[str] = []
    for name, found in notes.items():
        lines += [f"{name}:" if len(notes) > 1 else "", *(f"- {one}" for one in found.in_force)]
        lines += [_waits(done[name])] if done[name] is not None else []
        lines += ["no notes"] if not found.in_force and not found.waiting else []
        lines += [f"{found.waiting} waiting for its owner"] if found.waiting else []
        lines += [f"set aside: inbox/refused/{file}: {why}" for file, why in found.refused]
    print_lines(door, [line for line in lines if line])
    first = next(iter(notes.values()))
    at_once = all(one.at_once for one in done.values() if one is not None)
    door.finish({"verdict": None, "correct": False, "at_once": at_once, **to_data(first)})


def cancel(
    context: typer.Context,
    run: RunFolder,
    brief: Annotated[str, typer.Argument(help="a pending brief's id, such as b7")],
    reason: Annotated[str, typer.Option("--reason", help="why, for the log")] = "",
    as_json: Json = False,
) -> None:
    """Drops a pending brief: whoever writes or evaluates it is stopped, and the search goes on with the next one."""
    door = door_of(context, as_json)
    runs = places.runs_in(run)
    if len(runs) > 1:
        raise UsageError(f"{run} holds {len(runs)} runs; name one of them: {', '.join(map(str, runs))}")
    done = cancel_brief(runs[0], brief, reason)
    print_lines(door, [f"{brief}: {'dropped' if done.at_once else _waits(done)}"])
    door.finish({"verdict": None, "correct": False, "brief": brief, **to_data(done)})


def _waits(done: Delivered | None) -> str:
    if done is None or done.at_once:
        return ""
    return f"left in its inbox: {done.owner}, and takes it in at its next turn"
