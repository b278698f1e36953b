"""The commands that judge one kernel: evaluate.

In: what the user typed. Out: a run of one candidate, its page, one result object, and an exit code that tells the
verdict. Left to others: what a page looks like (`view`), the judging itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from kernelevolve import (
    Finished,
    NoCorrectCandidate,
    Node,
    Receipt,
    Run,
    Rung,
    UnknownName,
    UsageError,
    Verdict,
    create_run,
    lane_for,
    load_problem,
    receipt_of,
    settings_for,
    to_data,
    write_receipt,
)
from kernelevolve.cli import artefacts as kept
from kernelevolve.cli import places, public, summary, view
from kernelevolve.cli.admitting import AdmitAnyway
from kernelevolve.cli.door import (
    PROBLEM,
    Device,
    Json,
    SuitePath,
    Unsealed,
    door_of,
    interruptible,
    known_platforms,
    print_lines,
)

RUNGS = tuple(str(rung) for rung in Rung if rung is not Rung.PROFILE)


def evaluate(
    context: typer.Context,
    candidate: Annotated[Path, typer.Argument(help="a file that defines ModelNew")],
    problem: Annotated[str, typer.Option("--problem", help=PROBLEM)],
    platform: Annotated[str, typer.Option("--platform", help="what to evaluate for")] = "h100",
    lane: Annotated[str, typer.Option("--lane", help="screen, accept or publish: how closely to look")] = "screen",
    rung: Annotated[str, typer.Option("--rung", help=f"stop after this rung: {', '.join(RUNGS)}")] = "time",
    effort: Annotated[str, typer.Option("--effort", help="quick, standard or deep: how hard to tune")] = "standard",
    seed: Annotated[int, typer.Option("--seed", help="of every random choice")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="the run's folder; default: a new one in runs/")] = None,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="write the receipt here, for `kernelevolve verify`")
    ] = None,
    unsealed: Unsealed = False,
    admit_anyway: AdmitAnyway = False,
    suite_path: SuitePath = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Climbs the whole ladder with one kernel that somebody wrote by hand, as the search does with its candidates.

    Exits with 0 for a verdict OK_... or INCONCLUSIVE, faster or not, and for UNJUDGED where --rung ended the climb
    before any value was compared; with 5 for every verdict against the candidate.
    """
    door = door_of(context, as_json)
    if rung not in RUNGS:
        raise UnknownName("rung", rung, RUNGS)
    settings = settings_for(effort)
    wide = lane_for(lane)
    settings = replace(settings, lane=wide.name, last_rung="" if rung == "time" else rung)
    if wide.name != "screen":
        settings = replace(settings, distributions=wide.distributions, seeds=wide.seeds)
    (name,) = known_platforms([platform])
    wanted, source = load_problem(problem, suite_path), places.read_kernel(candidate)
    with contextlib.nullcontext(out) if out else places.claimed(wanted) as folder:
        door.folder = folder
        with (
            interruptible(door),
            public.workshop(wanted, device, **public.sealing(unsealed)) as equip,
            create_run(folder, wanted, name, equip, settings=settings, seed=seed, admit_anyway=admit_anyway,
                       findable=False) as run,
        ):
            node = asyncio.run(run.submit(run.ask().id, source, f"from {candidate.name}"))
            run.finish(Finished("one kernel evaluated", "evaluate"))
            graph = run.graph
            found = judged(run, node)
            if receipt is not None:
                found["receipt"] = written(receipt, receipt_of(graph, run.artefacts, node.id))
    door.console.print(view.node_page(graph, node))
    door.console.print(kept.page(run.artefacts, node.id))
    door.finish(summary.result(graph, folder, places.save_kernel(graph, folder)) | found)
    if receipt is not None:
        print_lines(door, [f"receipt {found['receipt']['id']} in {receipt}; check it: kernelevolve verify {receipt}"])
    verdict = node.evaluation.verdict
    if not verdict.ok and verdict is not Verdict.UNJUDGED:
        again = f"; again: kernelevolve replay {folder}:{node.id}" if found["failure"] else ""
        raise NoCorrectCandidate(f"{candidate}: {verdict}; see: kernelevolve show {folder} {node.id}{again}")


def judged(run: Run, node: Node) -> dict[str, Any]:
    """What the result object says of one evaluation, whatever its verdict."""
    evaluation, failure = node.evaluation, run.artefacts.failure(node.id)
    replay = None
    if failure is not None:
        circumstances = run.artefacts.circumstances(node.id)
        replay = {
            "problem": to_data(run.graph.created.problem),
            "settings": dict(run.graph.settings),
            "seed": run.graph.created.seed,
            "source": node.candidate.source,
            "secret": circumstances.secret if circumstances else "",
        }
    return {
        "node": node.id,
        "lane": run.settings.lane,
        "rungs": to_data(evaluation.rungs),
        "guards": to_data(evaluation.guards),
        "labels": list(evaluation.labels),
        "isolation": evaluation.isolation,
        "versions": dict(evaluation.versions),
        "failure": to_data(failure),
        "replay": replay,
    }


def written(file: Path, receipt: Receipt) -> dict[str, str]:
    """Where a receipt was written, and its id.

    Raises:
        UsageError: it cannot be written there.
    """
    try:
        file.write_text(write_receipt(receipt), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the receipt cannot be written: {error}") from error
    return {"file": str(file), "id": receipt.id}
