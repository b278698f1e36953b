"""The commands that search, and the application that has them all.

In: what the user typed. Out: runs, their pages and one result object. Left to others: the commands that judge one
kernel (`judging`), those that only look (`looking`), and everything that is not asking and showing (`runs`, `suites`,
`evaluate`).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from kernelevolve import (
    Component,
    Graph,
    KernelEvolveError,
    NoCorrectCandidate,
    Problem,
    ProblemError,
    Settings,
    StoreError,
    UncoveredOp,
    chooser_named,
    create_run,
    holds_run,
    load_problem,
    open_run,
    policy_named,
    read_run,
    save_receipt,
)
from kernelevolve.cli import (
    admitting,
    billing,
    guesting,
    judging,
    knowing,
    live,
    looking,
    models,
    places,
    public,
    racing,
    rechecking,
    steering,
    summary,
)
from kernelevolve.cli import selftest as checking
from kernelevolve.cli.admitting import AdmitAnyway
from kernelevolve.cli.briefing import Analysis, Lookup, PromptTokens, briefed
from kernelevolve.cli.door import (
    INTERRUPTED,
    PROBLEM,
    Device,
    Door,
    Json,
    RunFolder,
    SuitePath,
    Unsealed,
    door_of,
    interruptible,
    known_platforms,
    print_lines,
)
from kernelevolve.cli.limits import (
    Candidates,
    Control,
    DeviceTime,
    Effort,
    Limits,
    Money,
    Plateau,
    Roofline,
    Target,
    Time,
    Tokens,
    Value,
    controlled,
    limits,
)
from kernelevolve.cli.looking import result_of
from kernelevolve.cli.parallel import AnswerTime, Parallel, side_by_side
from kernelevolve.cli.remembering import Earlier, MemoryModes, Recall, earlier_runs, remembered
from kernelevolve.cli.warming import WarmStart
from kernelevolve.cli.writing import Choose, Models, WriterNames, how_chosen, resumed, writers_of

app = typer.Typer(
    name="kernelevolve",
    help="Searches for the fastest GPU kernel that can be proven correct, from a PyTorch reference. Needs Linux.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)

ProblemName = Annotated[str, typer.Argument(help=PROBLEM)]
POLICY = "NAME[:parameter=value,...]: beam, best_of_n, greedy, islands, map_elites, mcts, or a plugin's"
Policy = Annotated[str, typer.Option("--policy", help=POLICY)]


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


@app.command()
def optimize(
    context: typer.Context,
    problem: ProblemName,
    platform: Annotated[
        list[str], typer.Option("--platform", help="what to optimise for; give it again for a sibling run each")
    ] = ["h100"],  # noqa: B006
    effort: Effort = "standard",
    candidates: Candidates = None,
    time: Time = None,
    device_time: DeviceTime = None,
    tokens: Tokens = None,
    money: Money = None,
    plateau: Plateau = None,
    target: Target = None,
    roofline: Roofline = None,
    value: Value = None,
    memory: MemoryModes = None,
    recall: Recall = None,
    parallel: Parallel = None,
    answer_time: AnswerTime = None,
    analysis: Analysis = None,
    lookup: Lookup = None,
    prompt_tokens: PromptTokens = None,
    earlier: Earlier = None,
    warm_start: WarmStart = "none",
    policy: Policy = "greedy",
    control: Control = None,
    writer: WriterNames = [],  # noqa: B006
    model: Models = [],  # noqa: B006
    choose: Choose = "",
    seed: Annotated[int, typer.Option("--seed", help="of every random choice")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="the run's folder; default: a new one in runs/")] = None,
    admit_anyway: AdmitAnyway = False,
    unsealed: Unsealed = False,
    suite_path: SuitePath = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Searches for a faster kernel than PyTorch's for a problem, and writes the best one into the run's folder.

    Without an accelerator correctness is interpreted on scaled workloads and time is modelled; the output says so.
    """
    door = door_of(context, as_json)
    given = limits(
        candidates=candidates, time=time, device_time=device_time, tokens=tokens, money=money, plateau=plateau,
        target=target, roofline=roofline, value=value,
    ).also(remembered(memory, recall)).also(side_by_side(parallel, answer_time)).also(controlled(control)).also(
        briefed(analysis, lookup, prompt_tokens)
    )  # fmt: skip
    known = earlier_runs(earlier, recall, warm_start)
    platforms = known_platforms(platform)
    settings = given.chosen(effort, device=device, platforms=platforms)
    search = policy_named(policy, settings)
    writers = writers_of(writer, model)
    chooser = chooser_named(choose, len(writers))
    wanted = load_problem(problem, suite_path)
    with contextlib.nullcontext(out) if out else places.claimed(wanted) as folder:
        _header(door, wanted, platforms, effort, search, seed, folder, how_chosen(writers, chooser))
        door.folder = folder
        with interruptible(door), public.workshop(wanted, device, **public.sealing(unsealed)) as equip:
            runs = _new_runs(folder, wanted, platforms, equip, settings, search, seed, admit_anyway, known,
                             {"writer": writers, "choose": chooser, "warm_start": warm_start,
                              "history": folder.parent})  # fmt: skip
            for place in runs:
                print_lines(door, billing.expected(place, read_run(place)))
            _carry_on(door, equip, runs, folder, {})


@app.command()
def resume(
    context: typer.Context,
    run: RunFolder,
    effort: Annotated[str | None, typer.Option("--effort", help="go on with quick, standard or deep")] = None,
    candidates: Candidates = None,
    time: Time = None,
    device_time: DeviceTime = None,
    tokens: Tokens = None,
    money: Money = None,
    plateau: Plateau = None,
    target: Target = None,
    roofline: Roofline = None,
    value: Value = None,
    memory: MemoryModes = None,
    recall: Recall = None,
    parallel: Parallel = None,
    answer_time: AnswerTime = None,
    analysis: Analysis = None,
    lookup: Lookup = None,
    prompt_tokens: PromptTokens = None,
    by_force: Annotated[
        bool, typer.Option("--by-force", help="take the run from a process that is known to be gone")
    ] = False,
    unsealed: Unsealed = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Goes on with a run that was interrupted, or with a finished one under wider limits."""
    door = door_of(context, as_json)
    runs = places.runs_in(run)
    door.folder = run
    given = limits(
        candidates=candidates, time=time, device_time=device_time, tokens=tokens, money=money, plateau=plateau,
        target=target, roofline=roofline, value=value,
    ).also(remembered(memory, recall)).also(side_by_side(parallel, answer_time)).also(
        briefed(analysis, lookup, prompt_tokens)
    )  # fmt: skip
    wider = {place: _wider(place, effort, given, device) for place in runs}
    known = read_run(runs[0])
    problem = known.created.problem
    if written := resumed(known):
        print_lines(door, [written])
    with interruptible(door), public.workshop(problem, device, **public.sealing(unsealed)) as equip:
        _carry_on(door, equip, runs, run, wider, by_force=by_force)


def _new_runs(
    folder: Path,
    problem: Problem,
    platforms: tuple[str, ...],
    equip: Any,
    settings: Settings,
    policy: Component,
    seed: int,
    anyway: bool,
    earlier: list[Graph],
    more: Mapping[str, Any],
) -> tuple[Path, ...]:
    """The folders of new runs, one for each platform; where one cannot begin, none does and no folder is left."""
    if len(platforms) > 1 and holds_run(folder):
        raise StoreError(
            f"{folder} holds a run already; go on with it: kernelevolve resume {folder}, or give another folder: --out"
        )
    runs = tuple(places.place(folder, name, platforms) for name in platforms)
    with contextlib.ExitStack() as undone_on_error:
        for new in dict.fromkeys((folder, *runs, *([folder / "builds"] if len(runs) > 1 else []))):
            if places.made(new):
                undone_on_error.callback(shutil.rmtree, new, ignore_errors=True)
        # All siblings exist from the start, so that `resume` finds those that an interrupt left unstarted.
        for run, name in zip(runs, platforms, strict=True):
            create_run(
                run,
                problem,
                name,
                equip,
                settings=settings,
                policy=policy,
                seed=seed,
                builds=folder / "builds",
                admit_anyway=anyway,
                earlier=earlier,
                **more,
            ).close()
        undone_on_error.pop_all()
    return runs


def _header(
    door: Door, problem: Problem, platforms: tuple[str, ...], effort: str, policy: Component, seed: int, folder: Path,
    writers: str,
) -> None:
    where = f"{problem.suite}:{problem.name} on {', '.join(platforms)}"
    how = ", ".join(f"{name}={value}" for name, value in policy.args.items())
    text = f"{where}, effort {effort}, seed {seed}, in {folder}\npolicy {policy.name}{f' ({how})' if how else ''}"
    text += writers
    door.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _carry_on(
    door: Door,
    equip: Any,
    runs: tuple[Path, ...],
    folder: Path,
    wider: Mapping[Path, Settings | None],
    *,
    by_force: bool = False,
) -> None:
    """Drives the runs one after the other, prints what was found, and leaves with the exit code that tells."""
    graphs: dict[Path, Graph] = {}
    ended = True
    try:
        for place in runs:
            builds = places.builds(place)
            with open_run(place, equip, settings=wider.get(place), by_force=by_force, builds=builds) as run:
                ended = live.drive(run, door.console)
                graphs[place] = run.graph
                kept = run.artefacts
            print_lines(door, summary.lines(graphs[place], place, places.save_kernel(graphs[place], place)))
            if ended and (receipt := save_receipt(place, graphs[place], kept)):
                print_lines(door, [f"  receipt      {receipt}; check it: kernelevolve verify {receipt}"])
            if not ended:
                break
    except KeyboardInterrupt:
        ended = False
    except KernelEvolveError as error:
        if isinstance(error, (ProblemError, UncoveredOp)):
            raise  # going on would end in the same way
        print_lines(door, [f"everything so far is kept, go on with: kernelevolve resume {folder}"])
        raise
    if not ended:
        print_lines(door, [f"interrupted; everything so far is kept, go on with: kernelevolve resume {folder}"])
    graphs = {p: graphs.get(p) or read_run(p) for p in runs}
    door.finish(result_of(graphs))
    if not ended:
        raise typer.Exit(INTERRUPTED)
    if not any(g.best for g in graphs.values()):
        raise NoCorrectCandidate(f"no correct candidate; see: kernelevolve show {folder}")


def _wider(place: Path, effort: str | None, given: Limits, device: str) -> Settings | None:
    """The settings with which a run goes on; None for those that it has."""
    if effort is None and not given.given:
        return None
    graph = read_run(place)
    platforms = (graph.created.platform,)
    if effort is not None:
        return given.chosen(effort, device=device, platforms=platforms)
    return given.on(public.settings_of(graph), device=device, platforms=platforms)


app.command()(judging.evaluate)
app.command()(admitting.admit)
app.command("mcp")(guesting.serve)
app.command()(guesting.ask)
app.command()(guesting.submit)
app.command()(rechecking.verify)
app.command()(rechecking.replay)
app.command()(looking.show)
app.command()(steering.note)
app.command()(steering.cancel)
app.command("list")(looking.list_runs)
app.command()(looking.problems)
app.command()(looking.doctor)
app.command()(models.models)
app.command("selftest")(checking.selftest)
app.add_typer(racing.app, name="race")
app.add_typer(knowing.app, name="knowledge")
