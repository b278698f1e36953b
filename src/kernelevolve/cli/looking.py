"""The commands that look and change nothing: show, list, problems, doctor.

In: what the user typed. Out: pages and one result object. Left to others: what a page looks like (`view`, `summary`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from kernelevolve import (
    Graph,
    MachineError,
    StoreError,
    UnknownName,
    UsageError,
    holds_run,
    read_artefacts,
    read_run,
    to_data,
)
from kernelevolve.cli import artefacts as kept
from kernelevolve.cli import briefing, places, public, sessions, summary, view, words
from kernelevolve.cli import doctor as examination
from kernelevolve.cli.door import Json, RunFolder, SuitePath, door_of, known_platforms, print_lines


def show(
    context: typer.Context,
    run: RunFolder,
    node: Annotated[str | None, typer.Argument(help="a node's id, such as n3")] = None,
    brief: Annotated[
        bool, typer.Option("--brief", help="the exact prompt of a node's brief, or of brief b7, and its sections")
    ] = False,
    session: sessions.Session = False,
    as_json: Json = False,
) -> None:
    """Shows a run's tree and summary, or everything about one node.

    A node's page has its rungs, every figure with its evidence, the difference to its parent, what it launches, and the
    whole text of an error.
    """
    door = door_of(context, as_json)
    runs = places.runs_in(run)
    graphs = {place: read_run(place) for place in runs}
    if node is not None and len(graphs) > 1:
        raise UsageError(f"{run} holds {len(graphs)} runs; name one of them: {', '.join(map(str, runs))}")
    if brief and session:
        raise UsageError("--brief is what was asked, --session what was answered; give one of them")
    if brief:
        if node is None:
            raise UsageError(f"--brief needs a node or a brief: kernelevolve show {run} n0 --brief")
        ((place, graph),) = graphs.items()
        briefing.show_brief(door, place, graph, node)
        return
    if session:
        ((place, graph),) = graphs.items() if node is not None else ((runs[0], graphs[runs[0]]),)
        said = sessions.session_of(place, graph, node)
        door.console.print(sessions.page(said))
        door.finish({**result_of(graphs), "session": said})
        return
    for place, graph in graphs.items():
        if node is not None:
            if node not in graph.nodes:
                raise UnknownName("node", node, graph.nodes)
            door.console.print(view.node_page(graph, graph.nodes[node]))
        else:
            door.console.print(view.tree(graph, most=200))
            print_lines(door, summary.lines(graph, place, saved_kernel(graph, place)))
    data = result_of(graphs)
    if node is not None:
        ((place, graph),) = graphs.items()
        data["shown"] = {"node": node, "parents": list(graph.nodes[node].parents), **to_data(graph.nodes[node])}
        try:
            door.console.print(kept.page(read_artefacts(place, graph), node))
        except StoreError:
            door.finish(data)  # the log says all that it knows, whatever became of the files beside it
            raise
    door.finish(data)


def list_runs(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="a folder of runs")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Lists the runs in a folder, the best of each, and how each ended."""
    door = door_of(context, as_json)
    graphs = {place: read_run(place) for place in places.all_runs(folder) if holds_run(place)}
    table = Table(box=None, padding=(0, 2))
    for column in ("run", "problem", "platform", "candidates", "best", "state"):
        table.add_column(column)
    for place, graph in graphs.items():
        best = words.fitness(graph.best) if graph.best else "none correct"
        state = f"ended: {graph.finished}" if graph.finished else "not ended"
        row = (str(place), graph.created.problem.name, graph.created.platform, str(len(graph.nodes)), best, state)
        table.add_row(*map(Text, row))
    door.console.print(table if graphs else f"no runs in {folder}")
    door.finish(
        {"verdict": None, "correct": any(g.best for g in graphs.values()),
         "runs": [summary.result(g, p, saved_kernel(g, p)) for p, g in graphs.items()]}
    )  # fmt: skip


def problems(
    context: typer.Context,
    suite: Annotated[str | None, typer.Argument(help="a suite's name; without it the suites are listed")] = None,
    suite_path: SuitePath = None,
    as_json: Json = False,
) -> None:
    """Lists the suites, or the problems of one."""
    door = door_of(context, as_json)
    found = public.suites() if suite is None else [f"{suite}:{name}" for name in public.problems(suite, suite_path)]
    print_lines(door, found)
    door.finish({"verdict": None, "correct": False, "suites" if suite is None else "problems": list(found)})


def doctor(
    context: typer.Context,
    platform: Annotated[
        list[str] | None, typer.Option("--platform", help="try to build for this one only; give it again for more")
    ] = None,
    as_json: Json = False,
) -> None:
    """Says what this machine has and lacks, each missing thing with its remedy."""
    door = door_of(context, as_json)
    names = known_platforms(platform) if platform else public.platforms()
    targets = {name: public.platform(name).target for name in names}
    findings = examination.examine(targets, Path("runs"))
    table = Table(box=None, padding=(0, 2), show_header=False)
    for f in findings:
        mark = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}[f.state]
        table.add_row(mark, Text(f.name, style="bold"), Text(f.found + (f"\n{f.remedy}" if f.remedy else "")))
    door.console.print(table)
    sound = examination.sound(findings)
    door.finish(
        {"verdict": None, "correct": sound,
         "findings": [{"name": f.name, "state": f.state, "found": f.found, "remedy": f.remedy} for f in findings]}
    )  # fmt: skip
    if not sound:
        raise typer.Exit(MachineError.exit_code)


def saved_kernel(graph: Graph, place: Path) -> Path | None:
    """The file of the best kernel; None where there is none."""
    path = place / places.KERNEL
    return path if graph.best is not None and path.is_file() else None


def result_of(graphs: dict[Path, Graph]) -> dict[str, Any]:
    """The first run's result; where there are siblings, all of them by platform too."""
    results = {g.created.platform: summary.result(g, p, saved_kernel(g, p)) for p, g in graphs.items()}
    first = next(iter(results.values()))
    return first if len(results) == 1 else {**first, "platforms": results}
