"""The commands.

In: what the user typed. Out: runs, pages and one result object. Left to others: everything that is not asking and
showing (`run`, `suites`, `evaluate`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kernelevolve import (
    Graph,
    KernelEvolveError,
    MachineError,
    NoCorrectCandidate,
    Problem,
    ProblemError,
    UncoveredOp,
    UnknownName,
    UsageError,
    create_run,
    load_problem,
    open_run,
    read_run,
    to_data,
)
from kernelevolve.cli import doctor as examination
from kernelevolve.cli import live, places, public, summary, view, words

app = typer.Typer(
    name="kernelevolve",
    help="Searches for the fastest GPU kernel that can be proven correct, from a PyTorch reference. Needs Linux.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
INTERRUPTED = 130
_FILE_WIDTH = 160


@dataclass
class Door:
    """How one invocation talks.

    Attributes:
        debug: show tracebacks.
        json: stdout belongs to the result object.
        finished: the result object has been printed.
    """

    debug: bool = False
    json: bool = False
    finished: bool = False

    @property
    def console(self) -> Console:
        """For people: stdout, or stderr where stdout belongs to scripts."""
        console = Console(stderr=self.json)
        # Without a terminal nobody has a width; tables must not be cut for a log file.
        return console if console.is_terminal else Console(stderr=self.json, width=_FILE_WIDTH)

    def finish(self, data: dict[str, Any]) -> None:
        """Prints the result object where it was asked for."""
        if self.json:
            typer.echo(json.dumps(data, allow_nan=False))
            self.finished = True


ProblemName = Annotated[
    str,
    typer.Argument(help="a .py file that defines Model and get_inputs, or SUITE:NAME such as recsys:rms_norm_residual"),
]
RunFolder = Annotated[Path, typer.Argument(help="the folder of a run, or of sibling runs")]
Json = Annotated[bool, typer.Option("--json", help="people read stderr; the last line of stdout is one result object")]
Candidates = Annotated[
    int | None, typer.Option("--candidates", min=1, help="most candidates, in place of the effort's")
]
Time = Annotated[str | None, typer.Option("--time", help="most time to work, such as 90s, 5m or 2h")]
Device = Annotated[
    str,
    typer.Option("--device", help="auto (the first that is the platform), none, or torch's name of one"),
]
SuitePath = Annotated[
    Path | None, typer.Option("--suite-path", help="where a suite's files are, such as a checkout of KernelBench")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kernelevolve {public.version()}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Searches for the fastest GPU kernel that can be proven correct, from a PyTorch reference. Needs Linux."""
    context.ensure_object(Door).debug = debug


def _door(context: typer.Context, as_json: bool) -> Door:
    door = context.ensure_object(Door)
    door.json = as_json
    return door


@app.command()
def optimize(
    context: typer.Context,
    problem: ProblemName,
    platform: Annotated[
        list[str], typer.Option("--platform", help="what to optimise for; give it again for a sibling run each")
    ] = ["h100"],  # noqa: B006
    effort: Annotated[str, typer.Option("--effort", help="quick, standard or deep: how hard to search")] = "standard",
    candidates: Candidates = None,
    time: Time = None,
    seed: Annotated[int, typer.Option("--seed", help="of every random choice")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="the run's folder; default: a new one in runs/")] = None,
    suite_path: SuitePath = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Searches for a faster kernel than PyTorch's for a problem, and writes the best one into the run's folder.

    Without an accelerator correctness is interpreted on scaled workloads and time is modelled; the output says so.
    """
    door = _door(context, as_json)
    settings = places.chosen(effort, candidates, time)
    platforms = _platforms(platform)
    wanted = load_problem(problem, suite_path)
    folder = out or places.new_folder(wanted)
    builds = _builds(folder, platforms)
    _header(door, wanted, platforms, effort, seed, folder)
    with _interruptible(door), public.workshop(wanted, device) as equip:
        runs = []
        for name in platforms:
            runs.append(places.place(folder, name, platforms))
            # All siblings exist from the start, so that `resume` finds those that an interrupt left unstarted.
            create_run(runs[-1], wanted, name, equip, settings=settings, seed=seed, builds=builds).close()
        _carry_on(door, equip, tuple(runs), folder, None)


@app.command()
def resume(
    context: typer.Context,
    run: RunFolder,
    effort: Annotated[str | None, typer.Option("--effort", help="go on with quick, standard or deep")] = None,
    candidates: Candidates = None,
    time: Time = None,
    by_force: Annotated[
        bool, typer.Option("--by-force", help="take the run from a process that is known to be gone")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Goes on with a run that was interrupted, or with a finished one under wider limits."""
    door = _door(context, as_json)
    runs = places.runs_in(run)
    problem = read_run(runs[0]).created.problem
    with _interruptible(door), public.workshop(problem, device) as equip:
        _carry_on(door, equip, runs, run, (effort, candidates, time), by_force=by_force)


@app.command()
def evaluate(
    context: typer.Context,
    problem: ProblemName,
    kernel: Annotated[Path, typer.Argument(help="a file that defines ModelNew")],
    platform: Annotated[str, typer.Option("--platform", help="what to evaluate for")] = "h100",
    effort: Annotated[str, typer.Option("--effort", help="quick, standard or deep: how closely to look")] = "standard",
    seed: Annotated[int, typer.Option("--seed", help="of every random choice")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="the run's folder; default: a new one in runs/")] = None,
    suite_path: SuitePath = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Evaluates a kernel of your own against a problem, as the search does with its candidates.

    Exits with 0 if it is correct, faster or not.
    """
    door = _door(context, as_json)
    settings = places.chosen(effort, None, None)
    (name,) = _platforms([platform])
    wanted, source = load_problem(problem, suite_path), places.read_kernel(kernel)
    folder = out or places.new_folder(wanted)
    with (
        _interruptible(door),
        public.workshop(wanted, device) as equip,
        create_run(folder, wanted, name, equip, settings=settings, seed=seed) as run,
    ):
        node = asyncio.run(run.submit(run.ask().id, source, f"from {kernel.name}"))
        run.finish("one kernel evaluated")
        graph = run.graph
    door.console.print(view.node_page(graph, node))
    door.finish(summary.result(graph, folder, places.save_kernel(graph, folder)))
    if not node.evaluation.correct:
        raise NoCorrectCandidate(f"{kernel}: {node.evaluation.verdict}; see: kernelevolve show {folder} {node.id}")


@app.command()
def show(
    context: typer.Context,
    run: RunFolder,
    node: Annotated[str | None, typer.Argument(help="a node's id, such as n3")] = None,
    as_json: Json = False,
) -> None:
    """Shows a run's tree and summary, or everything about one node: rungs, figures with evidence, the difference."""
    door = _door(context, as_json)
    runs = places.runs_in(run)
    graphs = {place: read_run(place) for place in runs}
    if node is not None and len(graphs) > 1:
        raise UsageError(f"{run} holds {len(graphs)} runs; name one of them: {', '.join(map(str, runs))}")
    for place, graph in graphs.items():
        if node is not None:
            if node not in graph.nodes:
                raise UnknownName("node", node, graph.nodes)
            door.console.print(view.node_page(graph, graph.nodes[node]))
        else:
            door.console.print(view.tree(graph, most=200))
            _print_lines(door, summary.lines(graph, place, _kernel(graph, place)))
    data = _result(graphs)
    if node is not None:
        (graph,) = graphs.values()
        data["shown"] = {"node": node, "parents": list(graph.nodes[node].parents), **to_data(graph.nodes[node])}
    door.finish(data)


@app.command("list")
def list_runs(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="a folder of runs")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Lists the runs in a folder, the best of each, and how each ended."""
    door = _door(context, as_json)
    graphs = {place: read_run(place) for place in places.all_runs(folder)}
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
         "runs": [summary.result(g, p, _kernel(g, p)) for p, g in graphs.items()]}
    )  # fmt: skip


@app.command()
def problems(
    context: typer.Context,
    suite: Annotated[str | None, typer.Argument(help="a suite's name; without it the suites are listed")] = None,
    suite_path: SuitePath = None,
    as_json: Json = False,
) -> None:
    """Lists the suites, or the problems of one."""
    door = _door(context, as_json)
    found = public.suites() if suite is None else [f"{suite}:{name}" for name in public.problems(suite, suite_path)]
    _print_lines(door, found)
    door.finish({"verdict": None, "correct": False, "suites" if suite is None else "problems": list(found)})


@app.command()
def doctor(
    context: typer.Context,
    platform: Annotated[
        list[str] | None, typer.Option("--platform", help="try to build for this one only; give it again for more")
    ] = None,
    as_json: Json = False,
) -> None:
    """Says what this machine has and lacks, each missing thing with its remedy."""
    door = _door(context, as_json)
    names = _platforms(platform) if platform else public.platforms()
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


@contextlib.contextmanager
def _interruptible(door: Door) -> Iterator[None]:
    """Ctrl-C before or after the search itself, while processes start or end, leaves with the same code."""
    try:
        yield
    except KeyboardInterrupt:
        if not door.finished:
            door.finish({"verdict": None, "correct": False, "error": "interrupted"})
        raise typer.Exit(INTERRUPTED) from None


def _platforms(names: list[str]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise UsageError(f"--platform is given twice: {', '.join(names)}")
    known = public.platforms()
    for name in names:
        if name not in known:
            raise UnknownName("platform", name, known)
    return tuple(names)


def _builds(folder: Path, platforms: tuple[str, ...]) -> Path:
    builds = folder / "builds"
    if len(platforms) > 1:
        builds.mkdir(parents=True, exist_ok=True)
    return builds


def _header(door: Door, problem: Problem, platforms: tuple[str, ...], effort: str, seed: int, folder: Path) -> None:
    text = f"{problem.suite}:{problem.name} on {', '.join(platforms)}, effort {effort}, seed {seed}, in {folder}"
    door.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_lines(door: Door, lines: list[str] | tuple[str, ...]) -> None:
    for line in lines:
        door.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _carry_on(
    door: Door,
    equip: Any,
    runs: tuple[Path, ...],
    folder: Path,
    wider: tuple[str | None, int | None, str | None] | None,
    *,
    by_force: bool = False,
) -> None:
    """Drives the runs one after the other, prints what was found, and leaves with the exit code that tells."""
    graphs: dict[Path, Graph] = {}
    ended = True
    try:
        for place in runs:
            settings = _wider(place, wider) if wider else None
            builds = places.builds(place)
            with open_run(place, equip, settings=settings, by_force=by_force, builds=builds) as run:
                ended = live.drive(run, door.console)
                graphs[place] = run.graph
            _print_lines(door, summary.lines(graphs[place], place, places.save_kernel(graphs[place], place)))
            if not ended:
                break
    except KeyboardInterrupt:
        ended = False
    except KernelEvolveError as error:
        if isinstance(error, (ProblemError, UncoveredOp)):
            raise  # going on would end in the same way
        _print_lines(door, [f"everything so far is kept, go on with: kernelevolve resume {folder}"])
        raise
    if not ended:
        _print_lines(door, [f"interrupted; everything so far is kept, go on with: kernelevolve resume {folder}"])
    graphs = {p: graphs.get(p) or read_run(p) for p in runs}
    door.finish(_result(graphs))
    if not ended:
        raise typer.Exit(INTERRUPTED)
    if not any(g.best for g in graphs.values()):
        raise NoCorrectCandidate(f"no correct candidate; see: kernelevolve show {folder}")


def _wider(place: Path, wider: tuple[str | None, int | None, str | None]) -> Any:
    effort, candidates, time = wider
    if (effort, candidates, time) == (None, None, None):
        return None
    now = public.settings_of(read_run(place)) if effort is None else places.chosen(effort, None, None)
    return places.adjusted(now, candidates, time)


def _kernel(graph: Graph, place: Path) -> Path | None:
    path = place / places.KERNEL
    return path if graph.best is not None and path.is_file() else None


def _result(graphs: dict[Path, Graph]) -> dict[str, Any]:
    """The first run's result; where there are siblings, all of them by platform too."""
    results = {g.created.platform: summary.result(g, p, _kernel(g, p)) for p, g in graphs.items()}
    first = next(iter(results.values()))
    return first if len(results) == 1 else {**first, "platforms": results}
