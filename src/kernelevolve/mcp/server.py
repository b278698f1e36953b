"""The tools that an agent sees, over the Model Context Protocol.

In: arguments of tool calls. Out: a short text and typed data for each; an expected error as a result that names it and
says what to do next. Left to others: runs and tickets (`desk`), texts (`told`), transports (`serving`).
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ParamSpec

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field

import kernelevolve
from kernelevolve import (
    Cost,
    KernelEvolveError,
    Report,
    Tools,
    UsageError,
    load_problem,
    open_library,
    open_suite,
    plugins,
    read_artefacts,
    settings_for,
)
from kernelevolve.cli import places
from kernelevolve.mcp import results, told
from kernelevolve.mcp.desk import GUEST, Desk, Ticket

P = ParamSpec("P")
GUEST_SECONDS = 8 * 3600.0
_MOST_LISTED = 200
_LONGEST_WAIT = 600.0
_LONGEST_ARTICLE = 12000

INSTRUCTIONS = """Searches for GPU kernels that are proven correct and faster than PyTorch. You write the kernels, this
server checks and measures them; only it says "correct" or "faster". The loop: create_run (or an existing run), ask for
a brief, read it whole, write the file, check, compile, interpret it, submit, read the verdict, ask again. Begin with
list_problems when you were given no problem."""

RunName = Annotated[str, Field(description="a run's folder, or its name in the folder of runs")]
Source = Annotated[str, Field(description="the whole text of the kernel file; or give `file`")]
File = Annotated[str, Field(description="path of the kernel file on this machine, instead of `source`")]
Wait = Annotated[float, Field(description="seconds to wait for the verdict before a ticket is given", ge=0)]


@dataclass(frozen=True)
class Place:
    """What a server offers.

    Attributes:
        suite_path: where the files of a suite are.
        effort: of new runs that name none.
    """

    suite_path: Path | None = None
    effort: str = "standard"


def _told(text: str, data: results.Result) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=data.model_dump(mode="json")
    )


def _named(work: Callable[P, Awaitable[CallToolResult]]) -> Callable[P, Awaitable[CallToolResult]]:
    """Gives an expected error as a result that the agent can act on."""

    @functools.wraps(work)
    async def safely(*args: P.args, **kwargs: P.kwargs) -> CallToolResult:
        try:
            return await work(*args, **kwargs)
        except KernelEvolveError as error:
            name, step = type(error).__name__, told.next_step(error)
            text = f"{name}: {error}" + (f"\nnext: {step}" if step else "")
            return CallToolResult(
                content=[TextContent(type="text", text=text)],
                structured_content={"error": name, "message": str(error), "next": step},
                is_error=True,
            )

    return safely


class Counter:
    """The tools, bound to a desk.

    Each method is one tool; its docstring is what the agent reads.
    """

    def __init__(self, desk: Desk, place: Place) -> None:
        self._desk, self._place = desk, place

    async def list_problems(
        self, suite: str = "", contains: Annotated[str, Field(description="part of the name")] = ""
    ) -> Annotated[CallToolResult, results.Problems]:
        """Problems that a run can be created for. A path of a .py file with Model and get_inputs works as well."""
        names = (suite,) if suite else plugins.names("suites")
        found = [await asyncio.to_thread(self._suite, name, contains) for name in names]
        lines = [f"{each.suite}: {each.note or f'{len(each.problems)} problems'}" for each in found]
        lines += [name for each in found for name in each.problems]
        return _told("\n".join(lines), results.Problems(suites=found))

    def _suite(self, name: str, contains: str) -> results.SuiteFound:
        try:
            known = [f"{name}:{each}" for each in open_suite(name, self._path_of(name)).names()]
        except UsageError as error:
            return results.SuiteFound(suite=name, problems=[], note=str(error))
        fits = [each for each in known if contains.lower() in each.lower()]
        more = f"{len(fits)} fit, the first {_MOST_LISTED} are listed" if len(fits) > _MOST_LISTED else ""
        return results.SuiteFound(suite=name, problems=fits[:_MOST_LISTED], note=more)

    def _path_of(self, suite: str) -> Path | None:
        return self._place.suite_path

    async def create_run(
        self,
        context: Context[Any, Any],
        problem: Annotated[str, Field(description="SUITE:NAME, or the path of a .py file with Model and get_inputs")],
        platform: Annotated[str, Field(description="what to optimise for, such as h100 or mi300x")] = "h100",
        run: Annotated[str, Field(description="its folder; default: a new one in the folder of runs")] = "",
        effort: Annotated[str, Field(description="quick, standard or deep; default: the server's")] = "",
        candidates: Annotated[int, Field(description="most candidates; 0 for the effort's", ge=0)] = 0,
        built_in: Annotated[bool, Field(description="have the built-in engineer write a first correct kernel")] = True,
        seed: int = 0,
    ) -> Annotated[CallToolResult, results.RunFound]:
        """Creates a run: one search for one problem on one platform. It takes up to a minute: processes start, and the
        problem is admitted. The built-in engineer's first kernel is evaluated on the side; you may ask meanwhile."""
        settings = replace(settings_for(effort or self._place.effort), seconds=GUEST_SECONDS)
        if candidates:
            settings = replace(settings, candidates=candidates, plateau=min(settings.plateau, candidates))
        if platform not in plugins.names("platforms"):
            raise kernelevolve.UnknownName("platform", platform, plugins.names("platforms"))
        wanted = await asyncio.to_thread(load_problem, problem, self._place.suite_path)
        folder = self._desk.runs / run if run else places.new_folder(wanted, self._desk.runs)
        beating = asyncio.create_task(_beat(context, f"starting the processes for {wanted.name}"))
        try:
            folder = await self._desk.create(folder, wanted, platform, settings, seed=seed, built_in=built_in)
        finally:
            beating.cancel()
        graph = self._desk.read(folder)
        text = told.run(graph, str(folder)) + "\nnext: ask for a brief"
        return _told(text, results.run(graph, str(folder), await self._tickets(folder)))

    async def ask(
        self,
        run: RunName,
        count: Annotated[int, Field(description="briefs to be answered side by side", ge=1, le=64)] = 1,
        again: Annotated[bool, Field(description="give those that still wait for an answer, not new ones")] = False,
        name: Annotated[str, Field(description="of who will answer, such as a model's; kept with the candidate")] = "",
    ) -> Annotated[CallToolResult, results.Briefs]:
        """The next brief: the reference, its parents with their verdicts, what limits them, what was tried, the rules.
        Read it whole before you write. Every brief you take should be answered."""
        folder = self._desk.folder(run)
        briefs = await self._desk.ask(folder, count, _writer(name), again=again)
        graph = self._desk.read(folder)
        given = [results.given(graph, brief) for brief in briefs]
        text = "\n\n---\n\n".join(f"brief {each.brief}\n\n{each.prompt}" for each in given)
        return _told(text or "no brief waits for an answer", results.Briefs(run=str(folder), briefs=given))

    async def check(
        self, run: RunName, source: Source = "", file: File = ""
    ) -> Annotated[CallToolResult, results.Reported]:
        """Reads the file's text: is it a kernel with the interface that is asked for? Instant, nothing of it runs."""
        return await self._tried(run, source, file, lambda tools, text: tools.check(text))

    async def compile(
        self,
        run: RunName,
        source: Source = "",
        file: File = "",
        platforms: Annotated[list[str], Field(description="default: the run's platform")] = [],  # noqa: B006
    ) -> Annotated[CallToolResult, results.Reported]:
        """Compiles every launch at full size for the platform: registers, spills, shared memory, occupancy; errors in
        full. No accelerator is needed."""
        return await self._tried(run, source, file, lambda tools, text: tools.compile(text, platforms))

    async def interpret(
        self, run: RunName, source: Source = "", file: File = ""
    ) -> Annotated[CallToolResult, results.Reported]:
        """Compares the values with the reference on scaled workloads, in an interpreter with bounds checks. Races and
        time are not seen. Do it before you submit."""
        return await self._tried(run, source, file, lambda tools, text: tools.interpret(text))

    async def submit(
        self,
        context: Context[Any, Any],
        run: RunName,
        brief: Annotated[str, Field(description="RUN/BRIEF as ask gave it")],
        source: Source = "",
        file: File = "",
        note: Annotated[str, Field(description="one sentence: what was changed and why; later briefs tell it")] = "",
        wait_seconds: Wait = 30.0,
        cost_usd: Annotated[float, Field(description="what writing it cost", ge=0)] = 0.0,
        tokens_in: Annotated[int, Field(ge=0)] = 0,
        tokens_out: Annotated[int, Field(ge=0)] = 0,
        name: Annotated[str, Field(description="of who wrote it, such as a model's")] = "",
    ) -> Annotated[CallToolResult, results.TicketFound]:
        """Answers a brief: the candidate is checked, built, compared, tuned and timed. Gives the verdict, or a ticket
        where it takes longer than `wait_seconds`: poll it with show. The evaluation goes on if you disconnect."""
        folder, text = self._desk.folder(run), await _text(source, file)
        cost = Cost(tokens_in=tokens_in, tokens_out=tokens_out, money_usd=cost_usd)
        found = await self._desk.submit(folder, brief, text, note, writer=_writer(name), cost=cost)
        found = await self._waited(context, folder, found.brief, wait_seconds)
        return self._ticket(folder, found)

    async def show(
        self,
        context: Context[Any, Any],
        run: RunName,
        what: Annotated[str, Field(description="a ticket or brief (RUN/b3) or a node (n3); empty: the run")] = "",
        wait_seconds: Wait = 0.0,
    ) -> Annotated[CallToolResult, results.Shown]:
        """A run and what is in flight in it, or one ticket, or one node with its verdict and source. Works for runs
        that another process owns too."""
        folder = self._desk.folder(run)
        graph = self._desk.read(folder)
        text = ""
        extra: dict[str, Any] = {}
        if what[:1] == "n":
            if what not in graph.nodes:
                raise kernelevolve.UnknownName("node", what, list(graph.nodes)[-50:])
            node = graph.nodes[what]
            found = await self._desk.ticket(folder, node.candidate.brief)
            text = told.verdict(node, graph, read_artefacts(folder, graph))
            extra = {"ticket": results.ticket(found), "source": node.candidate.source}
        elif what:
            found = await self._waited(context, folder, what, wait_seconds)
            graph = self._desk.read(folder)
            text = told.ticket(found, graph, read_artefacts(folder, graph))
            waits = graph.pending.get(found.brief)
            extra = {"ticket": results.ticket(found), "prompt": waits.brief.prompt if waits else ""}
            if waits is not None and waits.candidate is None:
                text += f"\n\n{waits.brief.prompt}"
        shown = results.run(graph, str(folder), await self._tickets(folder))
        return _told(text or told.run(graph, str(folder)), results.Shown(run=shown, **extra))

    async def look_up(
        self,
        query: Annotated[str, Field(description="a few technical words, or the path of an article")],
        platform: str = "",
        most: Annotated[int, Field(ge=1, le=20)] = 5,
    ) -> Annotated[CallToolResult, results.Passages]:
        """Searches the knowledge library: hardware, guidance, constraints, sample kernels."""
        found = await asyncio.to_thread(_looked_up, query, platform, most)
        text = "\n\n".join(f"## {p.path}: {p.heading}\n{p.text}" for p in found) or f"nothing is known about {query!r}"
        return _told(text, results.Passages(passages=found))

    async def best(self, run: RunName) -> Annotated[CallToolResult, results.Best]:
        """The best correct kernel so far at its tuned choice, written into the run's folder, with its receipt."""
        folder = self._desk.folder(run)
        node, kernel, receipt = await self._desk.best(folder)
        if node is None:
            graph = self._desk.read(folder)
            furthest = f"; {graph.furthest.id} came furthest: {graph.furthest.verdict}" if graph.furthest else ""
            return _told(f"no correct candidate yet{furthest}", results.Best(run=str(folder)))
        data = results.Best(
            run=str(folder), node=node.id, verdict=str(node.verdict), fitness=kernelevolve.to_data(node.fitness),
            source=node.evaluation.tuned_source or node.candidate.source, file=str(kernel or ""),
            receipt=str(receipt or ""),
        )  # fmt: skip
        check = f"\nreceipt: {receipt}; check it: kernelevolve verify {receipt}" if receipt else ""
        text = f"{node.id}: {told.headline(node)}\nfile: {kernel}{check}\n\n```python\n{data.source}\n```"
        return _told(text, data)

    async def _tried(
        self, run: str, source: str, file: str, use: Callable[[Tools, str], Awaitable[Report]]
    ) -> CallToolResult:
        text = await _text(source, file)
        opened = await self._desk.run(self._desk.folder(run))
        if opened.tools is None:
            raise UsageError("this run has no tools; submit the source instead")
        found = await use(opened.tools, text)
        return _told(found.text, results.reported(found))

    async def _waited(self, context: Context[Any, Any], folder: Path, brief: str, seconds: float) -> Ticket:
        begin = time.monotonic()

        async def progress(ticket: Ticket) -> None:
            said = f"{ticket.brief}: {ticket.state}{f' at {ticket.stage}' if ticket.stage else ''}"
            await context.report_progress(round(time.monotonic() - begin, 3), None, said)

        return await self._desk.ticket(folder, brief, min(seconds, _LONGEST_WAIT), progress)

    async def _tickets(self, folder: Path) -> list[results.TicketFound]:
        written = [name for name, waits in self._desk.read(folder).pending.items() if waits.candidate is not None]
        return [results.ticket(await self._desk.ticket(folder, name)) for name in written]

    def _ticket(self, folder: Path, found: Ticket) -> CallToolResult:
        graph = self._desk.read(folder)
        return _told(told.ticket(found, graph, read_artefacts(folder, graph)), results.ticket(found))


READ_ONLY = ("list_problems", "check", "compile", "interpret", "show", "look_up")
TOOLS = (
    "list_problems", "create_run", "ask", "check", "compile", "interpret", "submit", "show", "look_up", "best",
)  # fmt: skip


def server(desk: Desk, place: Place = Place()) -> MCPServer[Any]:
    """The protocol's server over a desk; whoever serves it closes the desk."""
    made: MCPServer[Any] = MCPServer(
        "kernelevolve", instructions=INSTRUCTIONS, version=_version(), log_level="WARNING"
    )
    counter = Counter(desk, place)
    for name in TOOLS:
        hints = ToolAnnotations(read_only_hint=name in READ_ONLY, destructive_hint=False, open_world_hint=False)
        made.add_tool(_named(getattr(counter, name)), name=name, annotations=hints)
    return made


def _version() -> str:
    from importlib.metadata import version

    return version("kernelevolve")


def _writer(name: str) -> str:
    return f"{GUEST}:{name.strip()}" if name.strip() else GUEST


async def _text(source: str, file: str) -> str:
    if bool(source.strip()) == bool(file):
        raise UsageError("give the kernel either as `source` or as `file`, and not both")
    return source if not file else await asyncio.to_thread(places.read_kernel, Path(file).expanduser())


def _looked_up(query: str, platform: str, most: int) -> list[results.Passage]:
    library = open_library(lenient=True)
    if query in library.articles:
        article = library.article(query)
        return [results.Passage(path=article.path, heading=article.title, text=article.text[:_LONGEST_ARTICLE])]
    found = []
    for hit in library.search(query, platform=platform, most=most):
        modules = {module.heading: module.text for module in library.article(hit.path).modules}
        found.append(results.Passage(path=hit.path, heading=hit.heading, text=modules.get(hit.heading, hit.snippet)))
    return found


async def _beat(context: Context[Any, Any], said: str) -> None:
    """Tells a client that asked for progress that something goes on."""
    begin = time.monotonic()
    while True:
        await context.report_progress(round(time.monotonic() - begin, 3), None, said)
        await asyncio.sleep(2.0)
