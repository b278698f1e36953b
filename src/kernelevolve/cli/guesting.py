"""The commands for other people's agents: mcp, ask, submit.

In: names of runs, briefs and files. Out: briefs as files, verdicts, one result object; a served protocol. Left to
others: runs and tickets (`mcp.desk`), which the protocol uses too.
"""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from kernelevolve import (
    Brief,
    Cost,
    Graph,
    KernelEvolveError,
    MachineError,
    NoCorrectCandidate,
    Problem,
    UsageError,
    Verdict,
    holds_run,
    load_problem,
    read_artefacts,
    read_run,
    settings_for,
    to_data,
)
from kernelevolve.cli import places, public, summary
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
from kernelevolve.cli.limits import Candidates, Limits
from kernelevolve.mcp import told
from kernelevolve.mcp.desk import GUEST, Desk, Ticket

MANIFEST = "manifest.json"
GUEST_SECONDS = 8 * 3600.0

GuestRun = Annotated[Path, typer.Argument(help="the folder of a run")]
Name = Annotated[str, typer.Option("--name", help="who answers, such as a model's name; kept with the candidate")]


def serve(
    context: typer.Context,
    http: Annotated[bool, typer.Option("--http", help="streamable HTTP on loopback, with a token")] = False,
    port: Annotated[int, typer.Option("--port", help="of --http; 0 for any that is free", min=0, max=65535)] = 8757,
    runs: Annotated[Path, typer.Option("--runs", help="the folder of runs")] = Path("runs"),
    effort: Annotated[str, typer.Option("--effort", help="of new runs: quick, standard or deep")] = "standard",
    skill: Annotated[bool, typer.Option("--skill", help="print the skill file for coding agents, and end")] = False,
    suite_path: SuitePath = None,
    unsealed: Unsealed = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Serves the Model Context Protocol to coding agents: on stdin and stdout, or with --http on loopback.

    With --http the token is printed once on stderr, or is what the variable KERNELEVOLVE_MCP_TOKEN has.
    """
    if skill:
        typer.echo(skill_file().read_text(encoding="utf-8"), nl=False)
        return
    from kernelevolve.mcp import server, serving

    door = door_of(context, as_json)
    settings_for(effort)
    desk = _desk(device, unsealed, runs)
    made = server.server(desk, server.Place(suite_path, effort))
    if not http:
        asyncio.run(serving.serve_stdio(made, desk))
        return
    token, new = serving.new_token()

    def ready(address: str) -> None:
        shown = f"token {token}" if new else f"the token is what {serving.TOKEN} has"
        serving.say(f"listening at {address}; {shown}\nstop with Ctrl-C")
        door.finish({"verdict": None, "correct": False, "url": address, "token": token if new else None})

    asyncio.run(serving.serve_http(made, desk, port, token, ready))


def ask(
    context: typer.Context,
    run: GuestRun,
    count: Annotated[int, typer.Option("--count", help="briefs to be answered side by side", min=1, max=256)] = 1,
    to: Annotated[
        Path | None, typer.Option("--to", help=f"write b3.md, ... and {MANIFEST} into this folder; default: stdout")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="those that still wait for an answer, not new ones")] = False,
    problem: Annotated[str, typer.Option("--problem", help=f"create the run first: {PROBLEM}")] = "",
    platform: Annotated[str, typer.Option("--platform", help="of a new run")] = "h100",
    effort: Annotated[str, typer.Option("--effort", help="of a new run: quick, standard or deep")] = "standard",
    candidates: Candidates = None,
    seed: Annotated[int, typer.Option("--seed", help="of every random choice of a new run")] = 0,
    name: Name = "",
    suite_path: SuitePath = None,
    unsealed: Unsealed = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Asks a run for briefs that somebody else answers: a person, or a coding agent.

    Answer each in a file of its name, b3.py for b3.md, and hand them in with `kernelevolve submit`.
    """
    door = door_of(context, as_json)
    door.folder = run
    made = None
    if not holds_run(run):
        if not problem:
            raise UsageError(f"{run} holds no run; to create one there, say for which problem: --problem PROBLEM")
        made = load_problem(problem, suite_path)
        known_platforms([platform])
    elif problem:
        _same_problem(run, load_problem(problem, suite_path))
    desk = _desk(device, unsealed, run.parent)
    new = _New(made, platform, effort, candidates, seed)
    with interruptible(door):
        graph, briefs = asyncio.run(_asked(desk, run, new, count, _writer(name), again))
    files = _written(to, run, graph, briefs) if to is not None else {}
    if to is None:
        print_lines(door, [f"brief {brief.id}\n\n{brief.prompt}\n" for brief in briefs])
    else:
        print_lines(door, [f"{brief.id}: {files[brief.id]}; answer in {brief.id}.py" for brief in briefs])
        print_lines(door, [f"then: kernelevolve submit {run} --from {to}"])
    if not briefs:
        print_lines(door, ["no brief waits for an answer"])
    given = [_brief_data(graph, brief) | {"file": files.get(brief.id)} for brief in briefs]
    door.finish({"verdict": None, "correct": False, "run": graph.created.run, "folder": str(run), "briefs": given})


def submit(
    context: typer.Context,
    run: GuestRun,
    brief: Annotated[str, typer.Argument(help="the brief that is answered, such as b3")] = "",
    file: Annotated[Path | None, typer.Argument(help="a file that defines ModelNew")] = None,
    from_folder: Annotated[
        Path | None, typer.Option("--from", help="hand in every b3.py, ... of this folder")
    ] = None,
    note: Annotated[
        str, typer.Option("--note", help="one sentence: what was changed and why; default: the file's docstring")
    ] = "",
    name: Name = "",
    cost_usd: Annotated[float, typer.Option("--cost-usd", help="what writing it cost", min=0)] = 0.0,
    tokens: Annotated[int, typer.Option("--tokens", help="read and written by the model", min=0)] = 0,
    unsealed: Unsealed = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Hands in the answer to a brief, or to many, and waits for the verdicts; progress is on stderr.

    Exits with 0 where every answer has a verdict OK_... or INCONCLUSIVE; with 5 where one has a verdict against it;
    with 2 where one was not taken, such as for an answered brief, and 7 where the machine failed one: the others
    are evaluated all the same. The same answer may be handed in again: it is not evaluated twice.
    """
    door = door_of(context, as_json)
    door.folder = run
    if not holds_run(run):
        raise UsageError(f"{run} holds no run; ask for a brief first: kernelevolve ask {run} --problem PROBLEM")
    graph = read_run(run)
    answers = _answers(graph, brief, file, from_folder)
    cost = Cost(tokens_out=tokens, money_usd=cost_usd)
    share = Cost(tokens_out=tokens // len(answers), money_usd=cost_usd / len(answers)) if len(answers) > 1 else cost
    desk = _desk(device, unsealed, run.parent)
    with interruptible(door):
        outcomes = asyncio.run(_submitted(door, desk, run, answers, note, _writer(name), share))
    graph = read_run(run)
    kernel = places.save_kernel(graph, run)
    if graph.best is not None:
        print_lines(door, [f"best of the run: {graph.best.id}, {told.headline(graph.best)}, in {kernel}"])
    door.finish(summary.result(graph, run, kernel) | {"submitted": [_outcome_data(one) for one in outcomes]})
    _leave(outcomes, run)


@dataclass(frozen=True)
class _New:
    """What a run is created with, where there is none."""

    problem: Problem | None
    platform: str
    effort: str
    candidates: int | None
    seed: int


@dataclass(frozen=True)
class _Outcome:
    """What became of one answer: a ticket, or the error for which it was not taken."""

    brief: str
    file: Path
    ticket: Ticket | None = None
    error: KernelEvolveError | None = None


def skill_file() -> Path:
    """The skill file that the package ships for coding agents."""
    return Path(told.__file__).parent / "skill" / "kernelevolve" / "SKILL.md"


def _desk(device: str, unsealed: bool, runs: Path) -> Desk:
    return Desk(lambda problem: public.workshop(problem, device, **public.sealing(unsealed)), runs)


def _writer(name: str) -> str:
    return f"{GUEST}:{name.strip()}" if name.strip() else GUEST


async def _asked(
    desk: Desk, run: Path, new: _New, count: int, writer: str, again: bool
) -> tuple[Graph, tuple[Brief, ...]]:
    folder = run.resolve()
    try:
        if new.problem is not None:
            given = {"candidates": new.candidates} if new.candidates else {}
            settings = replace(Limits(given).on(settings_for(new.effort)), seconds=GUEST_SECONDS)
            settings = replace(settings, plateau=min(settings.plateau, settings.candidates))
            await desk.create(folder, new.problem, new.platform, settings, seed=new.seed, built_in=False)
        elif new.candidates:
            opened = await desk.run(folder)
            opened.adopt(replace(opened.settings, candidates=new.candidates))
        briefs = await desk.ask(folder, count, writer, again=again)
        return desk.read(folder), briefs
    finally:
        await desk.close()


def _same_problem(run: Path, wanted: Problem) -> None:
    problem = read_run(run).created.problem
    if problem.key != wanted.key:
        raise UsageError(
            f"the run in {run} is for {problem.suite}:{problem.name}, and not for {wanted.suite}:{wanted.name}; give "
            "another folder, or leave --problem out"
        )


def _brief_data(graph: Graph, brief: Brief) -> dict[str, Any]:
    return {"brief": brief.id, "parents": list(brief.parents), "prompt": brief.prompt, "diagnosis": brief.diagnosis}


def _written(to: Path, run: Path, graph: Graph, briefs: tuple[Brief, ...]) -> dict[str, str]:
    """Writes the briefs and the manifest; the manifest keeps what it had of the same run.

    Raises:
        UsageError: the folder has briefs of another run, or cannot be written.
    """
    manifest = _manifest(to, graph)
    try:
        to.mkdir(parents=True, exist_ok=True)
        for brief in briefs:
            (to / f"{brief.id}.md").write_text(brief.prompt, encoding="utf-8")
            manifest["briefs"][brief.id] = {
                "file": f"{brief.id}.md", "answer": f"{brief.id}.py", "parents": list(brief.parents)
            }  # fmt: skip
        manifest |= {"folder": str(run)}
        (to / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"briefs cannot be written into {to}: {error}; they still wait: add --again") from error
    return {brief.id: str(to / f"{brief.id}.md") for brief in briefs}


def _manifest(folder: Path, graph: Graph) -> dict[str, Any]:
    """The manifest in a folder, which must be of this run; a new one where there is none."""
    created = graph.created
    here = {"run": created.run, "problem": created.problem.name, "problem_key": created.problem.key,
            "platform": created.platform}  # fmt: skip
    if not (folder / MANIFEST).is_file():
        return {**here, "briefs": {}}
    try:
        found = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        known = dict(found["briefs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / MANIFEST} cannot be read: {error!r}; delete it, or give another folder") from error
    if found.get("run") != created.run:
        raise UsageError(
            f"the briefs in {folder} are of run {found.get('run')} for problem {found.get('problem')!r}, and this "
            f"is run {created.run} for {created.problem.name!r}; give that run, or another folder"
        )
    return {**here, "briefs": known}


def _answers(graph: Graph, brief: str, file: Path | None, folder: Path | None) -> dict[str, Path]:
    """The file of each brief that is answered.

    Raises:
        UsageError: there is none, or the folder is another run's.
    """
    if (folder is None) == (file is None):
        raise UsageError("give BRIEF and FILE, or --from with a folder of answers")
    if file is not None:
        return {brief: file}
    assert folder is not None
    if brief:
        raise UsageError("give either BRIEF and FILE, or --from; --from hands in every answer of the folder")
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; `kernelevolve ask RUN --to FOLDER` makes one with briefs")
    _manifest(folder, graph)
    found = {path.stem: path for path in folder.glob("b*.py") if path.stem[1:].isdecimal()}
    if not found:
        raise UsageError(f"{folder} has no answer: write each into a file of its brief's name, such as b3.py for b3.md")
    return dict(sorted(found.items(), key=lambda one: int(one[0][1:])))


async def _submitted(
    door: Door, desk: Desk, run: Path, answers: Mapping[str, Path], note: str, writer: str, cost: Cost
) -> list[_Outcome]:
    folder = run.resolve()

    async def one(brief: str, file: Path) -> _Outcome:
        async def progress(ticket: Ticket) -> None:
            if not ticket.ended:
                typer.echo(f"{ticket.brief} {ticket.candidate}: {ticket.stage}", err=True)

        try:
            source = places.read_kernel(file)
            ticket = await desk.submit(folder, brief, source, note or docstring(source), writer=writer, cost=cost)
            while not ticket.ended:
                ticket = await desk.ticket(folder, brief, 600.0, progress)
            outcome = _Outcome(ticket.brief, file, ticket)
        except MachineError:
            raise
        except KernelEvolveError as error:
            outcome = _Outcome(brief, file, error=error)
        print_lines(door, [_line(desk, folder, outcome)])
        return outcome

    try:
        await desk.run(folder)  # a run that cannot be had is one error, not one for each answer
        return list(await asyncio.gather(*(one(brief, file) for brief, file in answers.items())))
    finally:
        await desk.close()


def docstring(source: str) -> str:
    """The first line of the file's docstring; empty where there is none."""
    try:
        text = ast.get_docstring(ast.parse(source)) or ""
    except (SyntaxError, ValueError):
        return ""
    return text.strip().partition("\n")[0]


def _line(desk: Desk, folder: Path, outcome: _Outcome) -> str:
    if outcome.ticket is None:
        return f"{outcome.brief}: not taken: {outcome.error}"
    graph = desk.read(folder)
    return told.ticket(outcome.ticket, graph, read_artefacts(folder, graph))


def _outcome_data(outcome: _Outcome) -> dict[str, Any]:
    ticket, node = outcome.ticket, outcome.ticket.node if outcome.ticket else None
    return {
        "brief": outcome.brief,
        "file": str(outcome.file),
        "state": ticket.state if ticket else "refused",
        "node": node.id if node else None,
        "verdict": str(node.verdict) if node else None,
        "correct": node.correct if node else False,
        "fitness": to_data(node.fitness) if node else None,
        "error": str(outcome.error) if outcome.error else (ticket.said or None if ticket else None),
    }


def _leave(outcomes: list[_Outcome], run: Path) -> None:
    """Ends with the exit code that the outcomes have together."""
    refused = [one for one in outcomes if one.error is not None]
    if refused:
        raise UsageError(f"{len(refused)} of {len(outcomes)} answers not taken; {refused[0].brief}: {refused[0].error}")
    stopped = [one.ticket for one in outcomes if one.ticket is not None and one.ticket.node is None]
    if stopped:
        raise MachineError(
            f"{len(stopped)} of {len(outcomes)} answers not evaluated; {stopped[0].brief}: {stopped[0].said}; hand "
            "them in again"
        )
    nodes = [one.ticket.node for one in outcomes if one.ticket is not None and one.ticket.node is not None]
    wrong = [node for node in nodes if not _fine(node.verdict)]
    if wrong:
        names = ", ".join(f"{node.candidate.brief} {node.verdict}" for node in wrong)
        raise NoCorrectCandidate(f"{names}; see: kernelevolve show {run} {wrong[0].id}")


def _fine(verdict: Verdict) -> bool:
    return verdict.ok or verdict is Verdict.INCONCLUSIVE
