"""The command that says whether a problem may be used, and the lines in which a run says it.

In: what the user typed; a run's graph. Out: a page, one result object; lines. Left to others: deciding
(`evaluate.admission`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from kernelevolve import Graph, ProblemError, UnknownName, Verdict, lane_for, load_problem, to_data
from kernelevolve.cli import public
from kernelevolve.cli.door import PROBLEM, Door, Json, SuitePath, door_of, interruptible, print_lines

TOPIC = "admission"  # of the note in a run's log

AdmitAnyway = Annotated[
    bool,
    typer.Option("--admit-anyway", help="go on even where null models pass or an honest kernel fails; recorded"),
]


def admit(
    context: typer.Context,
    problem: Annotated[str, typer.Argument(help=PROBLEM)],
    suite_path: SuitePath = None,
    distribution: Annotated[
        list[str] | None, typer.Option("--distribution", help="of inputs, such as D1; give it again for more")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="none (scaled sizes on the CPU), auto, or torch's name of one (full sizes)")
    ] = "none",
    as_json: Json = False,
) -> None:
    """Says whether passing on a problem means anything: null models have to fail on it, honest kernels to pass.

    A run does this before its first candidate. Exits with 3 where the problem is refused. The result object has every
    null model with the check that it fails.
    """
    door = door_of(context, as_json)
    known = lane_for("accept").distributions
    asked = tuple(distribution or known)
    unknown = next((name for name in asked if name not in known), None)
    if unknown:
        raise UnknownName("distribution", unknown, known)
    wanted = load_problem(problem, suite_path)
    with (
        interruptible(door),
        tempfile.TemporaryDirectory(prefix="kernelevolve-") as builds,
        public.workshop(wanted, device) as shop,
    ):
        gate = shop.gate(Path(builds))
        found, sized = gate.admission(asked), gate.sized(asked)
    _print(door, wanted.name, found, sized)
    verdict = None if found.admitted else str(Verdict.TASK_INVALID)
    facts = {"problem": wanted.name, "problem_key": wanted.key, "admitted": found.admitted, "reason": found.reason}
    door.finish(
        {"verdict": verdict, "correct": False, **facts, "fix": found.fix,
         "admission": to_data(found), "sizes": to_data(sized)}
    )  # fmt: skip
    if not found.admitted:
        raise ProblemError(f"{wanted.name}: not admitted: {found.reason}; {found.fix}")


def _print(door: Door, name: str, found: Any, sized: Sequence[Any]) -> None:
    place = "scaled sizes on the CPU" if found.device == "cpu" else f"full sizes on {found.device}"
    table = Table(box=None, padding=(0, 2))
    for column in ("inputs", "size", "null models that fail", "honest ones that pass", "used"):
        table.add_column(column)
    for size in sized:
        for tried in size.tried:
            why = found.dropped.get(tried.distribution, "")
            used = Text(f"no: {why}", style="yellow") if why else Text("yes", style="green")
            nulls = [m for m in tried.models if m.kind != "control" and m.outcome != "skipped"]
            controls = [m for m in tried.models if m.kind == "control"]
            failing, passing = _count(nulls, "rejected"), _count(controls, "accepted")
            table.add_row(tried.distribution, size.label, failing, passing, used)
    door.console.print(table)
    print_lines(door, _limit_lines(to_data(found)))
    print_lines(door, [f"  label      {label}" for label in found.labels])
    state = f"admitted: judged on {', '.join(found.distributions)}" if found.admitted else "REFUSED"
    line = f"{name}: {state} ({found.models} null models and controls at {place}, {found.seconds:.1f} s)"
    print_lines(door, [line, *_refusal(to_data(found))])


def _count(models: Sequence[Any], outcome: str) -> str:
    return f"{sum(m.outcome == outcome for m in models)} of {len(models)}"


def facts(graph: Graph) -> Mapping[str, Any]:
    """What a run's log says about its problem's admission; empty in logs from before there was one."""
    notes = [note for note in graph.notes if note.topic == TOPIC]
    return notes[-1].data if notes else {}


def sentence(graph: Graph) -> str:
    """A run's admission in one line, an override first; empty in logs from before there was one."""
    return next((note.text for note in reversed(graph.notes) if note.topic == TOPIC), "")


def lines(graph: Graph) -> list[str]:
    """A run's admission for its summary: an override, what is judged on what, effective tolerances."""
    found = facts(graph)
    if not found:
        return []
    out = []
    if not found["admitted"]:
        out.append(f"  ADMITTED ANYWAY, as asked with --admit-anyway: {found['reason']}")
    elif graph.created.admit_anyway:
        out.append("  admission    --admit-anyway was given; the problem is admitted without it")
    dropped = "; ".join(f"{name}: {why}" for name, why in found["dropped"].items())
    used = ", ".join(found["distributions"])
    out.append(f"  judged on    inputs {used}" + (f"; not on {dropped}" if dropped else ""))
    out += _limit_lines(found)
    return out + [f"  label        {label}" for label in found["labels"]]


def _limit_lines(found: Mapping[str, Any]) -> list[str]:
    """The effective tolerance of each output; once for sizes that agree in everything but the figures."""
    made = []
    for limit in found["limits"]:
        rule = limit["tolerance"]
        key = f"{limit['label']}, {rule['output']}, {rule['dtype']}, {rule['precision']}"
        if rule["rule"] == "rms":
            text = f"rms error up to {rule['relative']:.2g} of its rms ({rule['decided']}, on {limit['distribution']})"
        else:
            text = "every element exactly" if rule["rule"] == "exact" else "positions by the values that they point at"
        made.append(f"  tolerance    {key}: {text}")
    return made


def _refusal(found: Mapping[str, Any]) -> list[str]:
    if found["admitted"]:
        return []
    return [f"  reason     {found['reason']}", f"  fix        {found['fix']}"]
