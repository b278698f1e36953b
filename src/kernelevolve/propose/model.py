"""The writer `model`: a language model answers briefs, in a session with tools or in single completions.

In: a brief. Out: an Answer with note, cost and the session's reference. Left to others: prompts of briefs (`operator`),
the session (`session`), opening models, their accounts and retries (`llm`).

A session that breaks off (money spent, a model that fails) still answers with a version of the file that compiled, if
there is one: it is paid for. pydantic-ai is imported when a writer is built.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from kernelevolve import codec
from kernelevolve.candidate import Brief, Cost
from kernelevolve.errors import BudgetSpent, MachineError, ModelFault, UnknownName, UsageError, WriterError
from kernelevolve.events import Component
from kernelevolve.graph import Graph, Reducer
from kernelevolve.llm.ledger import Ledger
from kernelevolve.llm.models import checked_model, open_model
from kernelevolve.llm.secrets import redact, redact_data
from kernelevolve.propose import Answer, Workbench
from kernelevolve.propose.desk import FILE, REFERENCE, Desk, digest_of

if TYPE_CHECKING:
    from pydantic_ai.models import Model

    from kernelevolve.propose.session import Ending, ToolSession

Mode = Literal["auto", "tools", "single"]
SCHEMA = 1
LONGEST_NOTE = 300


class ModelWriter:
    """Answers briefs with a language model; see `Writer`.

    Args:
        workbench: its ledger holds the run's caps; its `keep` takes the sessions.
        model: a name for `llm.models.open_model`, with options after it.
        mode: `tools` for sessions with tools, `single` for completions; `auto` for tools where the model has them.
        steps: most tool calls of a session.
        useless: answers in a row that cannot be used, which end a session.
        temperature, effort, max_tokens: of every call; default: the model's own.
        opened: the model itself, for tests and for models of one's own; default: `model` is opened.

    Raises:
        UsageError: the name is none, a key is missing, or an argument cannot be used.
        UnknownName: no such provider, mode or option.
    """

    def __init__(
        self,
        workbench: Workbench,
        model: str = "",
        mode: Mode = "auto",
        steps: int = 20,
        useless: int = 10,
        temperature: float | None = None,
        effort: str = "",
        max_tokens: int | None = None,
        opened: Model | None = None,
    ) -> None:
        _refuse_odd(model, mode, steps, useless, opened)
        given = {"temperature": temperature, "effort": effort or None, "max_tokens": max_tokens}
        self._options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self._bench, self._mode, self._steps, self._useless = workbench, mode, steps, useless
        self._ledger: Ledger = workbench.ledger if workbench.ledger is not None else Ledger()
        self._given = opened is not None
        if opened is None:
            self._model = open_model(model, self._ledger, **self._options)
            self.name = f"model:{checked_model(model, self._ledger.money_usd, **self._options)[0].text}"
        else:
            self._model, self.name = opened, f"model:{model or opened.model_name}"
        self.reducers: tuple[Reducer, ...] = ()
        self._sessions: ToolSession | None = None
        self._without_tools = False
        self._carried: dict[str, Cost] = {}  # of sessions that the machine broke off, by brief

    async def write(self, brief: Brief, graph: Graph) -> Answer:
        """See `Writer.write`; `BudgetSpent` and `ModelFault` tell what was spent, and have the session."""
        start = time.monotonic()
        carried = self._carried.pop(brief.id, Cost())
        with self._ledger.account() as account:
            try:
                ending = await self._session(brief, graph)
            except MachineError:
                self._carried[brief.id] = carried + Cost(seconds=time.monotonic() - start) + _without_time(account.cost)
                raise
        from kernelevolve.propose.session import usage_of

        spent = account.cost if account.cost.calls or not self._given else usage_of(ending.messages)
        cost = carried + _without_time(spent) + Cost(seconds=time.monotonic() - start)
        reference = await self._kept(brief, ending, cost)
        return self._answer(ending, cost, reference)

    def _answer(self, ending: Ending, cost: Cost, reference: str) -> Answer:
        fault = ending.fault
        if ending.source:
            early = f"Ended early, {ending.note}: {ending.why}"
            said = ending.note if ending.why.startswith("done") else early
            return Answer(ending.source, _sentence(redact(said)), cost=cost, session=reference)
        if isinstance(fault, BudgetSpent):
            raise BudgetSpent(str(fault), fault.limit, cost, reference) from fault
        if fault is not None:
            raise ModelFault(redact(str(fault)), cost, reference, fault.kind) from fault
        raise WriterError(f"{self.name} ended without a file that can be used: {redact(ending.why)}", cost, reference)

    async def _session(self, brief: Brief, graph: Graph) -> Ending:
        parents = {name: _source(graph, name) for name in brief.parents}
        if not self._has_tools():
            return await self._completed(brief, parents)
        ending = await self._talked(brief, parents, graph)
        if self._mode == "auto" and _takes_no_tools(ending):
            # Its profile knows the provider; a server of one's own may serve a model that cannot call tools.
            self._without_tools = True
            return await self._completed(brief, parents)
        return ending

    def _has_tools(self) -> bool:
        from kernelevolve.propose.session import supports_tools

        if self._mode == "auto":
            return not self._without_tools and supports_tools(self._model)
        return self._mode == "tools"

    async def _completed(self, brief: Brief, parents: Mapping[str, str]) -> Ending:
        from kernelevolve.propose.session import Completing

        known, tools = _by_digest(parents), self._bench.tools
        check = tools.check if tools is not None else None
        completing = Completing(check, lambda source: known.get(digest_of(source), ""), self._useless)
        return await completing.run(self._model, brief.prompt, parents, self._settings())

    async def _talked(self, brief: Brief, parents: Mapping[str, str], graph: Graph) -> Ending:
        from kernelevolve.propose.session import ToolSession

        tools, library = self._bench.tools, self._bench.library
        if self._sessions is None:
            self._sessions = ToolSession(trials=tools is not None, articles=library is not None, useless=self._useless)
        desk = Desk(
            next(iter(parents.values()), ""), read=self._reader(graph),
            files=(FILE, REFERENCE, *(f"{name}.py" for name in parents)), known=_by_digest(parents), tools=tools,
            library=library, platform=self._bench.platform, steps=self._steps,
        )  # fmt: skip
        settings = self._settings()
        settings["cache"] = True  # each step says again all that was said before
        return await self._sessions.run(self._model, brief.prompt, desk, settings)

    def _settings(self) -> Any:
        """Of each call; a model that was opened by its name has the options already."""
        if not self._given:
            return {}
        return {name: value for name, value in self._options.items() if name in ("temperature", "max_tokens")}

    def _reader(self, graph: Graph) -> Callable[[str], str | None]:
        reference = self._bench.problem.source

        def read(name: str) -> str | None:
            if name == REFERENCE.removesuffix(".py"):
                return reference
            return _source(graph, name) if name in graph.nodes else None

        return read

    async def _kept(self, brief: Brief, ending: Ending, cost: Cost) -> str:
        if self._bench.keep is None:
            return ""
        from kernelevolve.propose.session import data_of

        data = {
            "schema": SCHEMA, "brief": brief.id, "writer": self.name, "ended": ending.why, "tools": list(ending.tools),
            "steps": self._steps, "cost": codec.to_data(cost), "messages": data_of(ending.messages),
        }  # fmt: skip
        text = codec.dumps(redact_data(data)).encode("utf-8", "replace")
        return await asyncio.to_thread(self._bench.keep, text)


def model_named(text: str) -> Component:
    """The writer that `--model TEXT` stands for; options of the writer may follow the name beside the model's own.

    Raises:
        UsageError, UnknownName: it is no name of a model, or no option.
    """
    from kernelevolve.plugins import value_of

    own = {p.name for p in inspect.signature(ModelWriter).parameters.values()} - {"workbench", "model", "opened"}
    name, *pieces = text.split(",")
    args: dict[str, Any] = {}
    rest = [name]
    for piece in pieces:
        option, equals, value = (part.strip() for part in piece.partition("="))
        if equals and option in own:
            if option in args:
                raise UsageError(f"{option!r} comes twice in {redact(text)!r}")
            args[option] = value_of(value)
        else:
            rest.append(piece)
    model = ",".join(rest)
    checked_model(model, **{k: v for k, v in args.items() if k in ("temperature", "effort", "max_tokens")})
    return Component("model", {"model": model, **args})


def _refuse_odd(model: str, mode: str, steps: int, useless: int, opened: Any) -> None:
    if not model and opened is None:
        raise UsageError("the writer `model` needs a model: --model PROVIDER:NAME, or model:model=PROVIDER:NAME")
    if mode not in get_args(Mode):
        raise UnknownName("mode of a model", mode, get_args(Mode))
    for name, value in (("steps", steps), ("useless", useless)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{name}={value!r} of a model must be a whole number above 0")


def _takes_no_tools(ending: Ending) -> bool:
    """Whether the service refused the session's first call because of its tools."""
    fault = ending.fault
    refused = isinstance(fault, ModelFault) and fault.kind == "model" and "tool" in str(fault).lower()
    return refused and not any(message.kind == "response" for message in ending.messages)


def _by_digest(parents: Mapping[str, str]) -> dict[str, str]:
    return {digest_of(source): name for name, source in parents.items()}


def _source(graph: Graph, node: str) -> str:
    return graph.nodes[node].candidate.source


def _without_time(cost: Cost) -> Cost:
    return Cost(0.0, cost.tokens_in, cost.tokens_out, cost.money_usd, cost.calls, cost.unpriced)


def _sentence(text: str) -> str:
    flat = " ".join(text.split())
    first = flat.split(". ")[0].rstrip(".") + "." if flat else ""
    return first if len(first) <= LONGEST_NOTE else f"{first[: LONGEST_NOTE - 3].rstrip()}..."
