"""Talking with a model until there is a kernel file: with tools, or in single completions.

In: a pydantic-ai Model, a brief's prompt, a `Desk`. Out: an `Ending`: how it ended, with every message. Left to
others: what the tools do (`desk`), reading a completion (`reply`), accounts and retries of single calls (`llm`), what
the writer makes of it (`model`).

This module imports pydantic-ai; nothing imports it before a model writes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic_ai import Agent, ModelRetry, RunContext, Tool, UsageLimits
from pydantic_ai import exceptions as pydantic
from pydantic_ai.direct import model_request
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings

from kernelevolve.candidate import Cost
from kernelevolve.errors import BudgetSpent, ModelFault
from kernelevolve.propose.desk import Desk
from kernelevolve.propose.prose import template
from kernelevolve.propose.reply import Parsed, Unparseable, parse_reply
from kernelevolve.tools import Report

# A session ends by its own counts; the agent's must never come first.
_UNLIMITED = 1_000_000
_Context: TypeAlias = "RunContext[Desk]"


@dataclass(frozen=True)
class Ending:
    """How a session ended.

    Attributes:
        source: the kernel file; empty where there is none.
        note: one sentence by the model; empty where it said none.
        why: how it ended, in words.
        messages: all that was said.
        fault: what ended it early; None where it came to its own end.
        tools: names of the tools that were offered.
    """

    source: str
    note: str
    why: str
    messages: tuple[ModelMessage, ...]
    fault: ModelFault | BudgetSpent | None = None
    tools: tuple[str, ...] = ()


def supports_tools(model: Model) -> bool:
    """Whether the model's profile says that it can call tools."""
    try:
        return bool(model.profile.get("supports_tools", True))
    except NotImplementedError:  # a router has no profile of its own
        return True


def usage_of(messages: tuple[ModelMessage, ...]) -> Cost:
    """What the answers in `messages` say that they read and wrote."""
    answers = [message for message in messages if isinstance(message, ModelResponse)]
    read = sum(answer.usage.input_tokens for answer in answers)
    written = sum(answer.usage.output_tokens for answer in answers)
    return Cost(tokens_in=read, tokens_out=written, calls=len(answers), unpriced=read + written)


def data_of(messages: tuple[ModelMessage, ...]) -> Any:
    """The messages as JSON data."""
    return json.loads(ModelMessagesTypeAdapter.dump_json(list(messages)))


# -- with tools --


class ToolSession:
    """Sessions with tools, of one kind of desk; any number of them at the same time.

    Args:
        trials: whether the desk's tools can check, compile and interpret.
        articles: whether it has a library.
        useless: answers in a row without a tool call or a file that end a session.
    """

    def __init__(self, *, trials: bool, articles: bool, useless: int = 10) -> None:
        functions: list[Callable[..., Any]] = [read, write, replace]
        functions += [check, compile_, interpret] if trials else []
        functions += [look_up] if articles else []
        tools = [Tool(function, name=function.__name__.rstrip("_"), sequential=True) for function in functions]
        self.names = tuple(tool.name for tool in tools)
        self._useless = useless
        self._agent: Agent[Desk, str] = Agent(
            deps_type=Desk, output_type=str, tools=tools, instructions=template("session"),
            retries={"tools": _UNLIMITED, "output": _UNLIMITED},
        )  # fmt: skip
        self._agent.output_validator(_accepted)

    async def run(self, model: Model, prompt: str, desk: Desk, settings: ModelSettings) -> Ending:
        """One session.

        Raises:
            MachineError: a tool found the machine at fault.
        """
        watch = _Watch(desk, self._useless)
        fault: ModelFault | BudgetSpent | None = None
        note = ""
        async with self._agent.iter(
            prompt, model=model, deps=desk, model_settings=settings, usage_limits=UsageLimits(request_limit=None)
        ) as run:
            try:
                async for node in run:
                    request = getattr(node, "request", None)
                    if isinstance(request, ModelRequest):
                        watch.before(run.all_messages(), request)
                    if desk.ended or watch.useless:
                        break
            except (ModelFault, BudgetSpent) as error:
                fault = error
            except pydantic.AgentRunError as error:
                fault = _fault(error)
            messages = watch.all(run.all_messages())
            if run.result is not None:
                said = parse_reply(run.result.output)  # beside the file once more there may be a note
                note = (said.note if isinstance(said, Parsed) else run.result.output) or "The model said nothing of it."
        if note:
            return Ending(desk.source, note, "done", messages, None, self.names)
        if watch.useless and fault is None:
            fault = ModelFault(watch.useless, kind="useless")
        source, what = await desk.best()
        why = str(fault) if fault is not None else desk.ended
        return Ending(source, what, why, messages, fault, self.names)


class _Watch:
    """Counts what does not reach the desk: malformed calls, unknown tools, answers without a call."""

    def __init__(self, desk: Desk, most: int) -> None:
        self._desk, self._most, self._idle, self._changes = desk, most, 0, 0
        self._last: ModelRequest | None = None
        self.useless = ""

    def before(self, messages: list[ModelMessage], request: ModelRequest) -> None:
        """Looks at what is about to be said to the model."""
        self._last = request
        answer = next((m for m in reversed(messages) if isinstance(m, ModelResponse)), None)
        if answer is None:
            return
        calls = {part.tool_call_id: part for part in answer.parts if isinstance(part, ToolCallPart)}
        feedback = [part for part in request.parts if isinstance(part, RetryFeedbackPart)]
        for part in request.parts:
            if isinstance(part, ToolReturnPart) and part.outcome == "retried":
                call = calls.get(part.tool_call_id)
                self._desk.step()
                self._desk.wrong(part.tool_name, call.args if call else None, f"{part.content!s:.300}")
        useful = bool(calls) or self._desk.changes > self._changes
        self._idle, self._changes = 0 if useful else self._idle + 1, self._desk.changes
        if feedback:
            self._desk.step()
        if self._idle >= self._most:
            self.useless = f"the model gave nothing useful {self._idle} times in a row, neither a tool call nor a file"

    def all(self, messages: list[ModelMessage]) -> tuple[ModelMessage, ...]:
        """All messages, with the one that was not sent any more."""
        last = self._last
        sent = last is None or any(message is last or _same(message, last) for message in messages)
        return tuple(messages) if sent or last is None else (*messages, last)


def _same(message: ModelMessage, other: ModelRequest) -> bool:
    return isinstance(message, ModelRequest) and message.parts == other.parts and bool(message.parts)


def _fault(error: pydantic.AgentRunError) -> ModelFault:
    """What pydantic-ai says of an answer that it could not use."""
    if isinstance(error, pydantic.ContentFilterError):
        kind = "refused"
    elif isinstance(error, pydantic.IncompleteToolCall):
        kind = "cut"
    else:
        kind = "network" if isinstance(error, pydantic.ModelAPIError) else "malformed"
    return ModelFault(f"the model's answer cannot be used ({kind}): {' '.join(str(error).split())[:400]}", kind=kind)


async def _accepted(context: _Context, text: str) -> str:
    """The model's last word, where the file is clean; else what is still to be done."""
    todo = await context.deps.done(text)
    if todo:
        raise ModelRetry(todo)
    return text


async def _step(context: _Context, work: Callable[[], Awaitable[str]]) -> str:
    if not context.deps.step():
        return "The session is over: there are no steps left."
    return await work()


async def read(context: _Context, file: str) -> str:
    """Gives a file's text.

    Args:
        file: kernel.py (the working file), reference.py, or a node of the run, such as n3.
    """
    return await _step(context, lambda: context.deps.read(file))


async def write(context: _Context, source: str) -> str:
    """Puts a whole new text into the working file, and checks it.

    Args:
        source: the whole file.
    """
    return await _step(context, lambda: context.deps.write(source))


async def replace(context: _Context, old: str, new: str) -> str:
    """Replaces a piece of the working file that occurs exactly once, and checks the file.

    Args:
        old: the piece as it stands in the file, blanks included.
        new: what takes its place.
    """
    return await _step(context, lambda: context.deps.replace(old, new))


async def check(context: _Context) -> str:
    """Reads the working file's text: interface, knobs, kernels. Nothing of it runs."""
    return await _step(context, context.deps.check)


async def compile_(context: _Context, targets: list[str] | None = None) -> str:
    """Compiles every launch of the working file: registers, spills, shared memory, occupancy, instructions.

    Args:
        targets: platforms, or ["all"]; default: the one that counts.
    """
    return await _step(context, lambda: context.deps.compile(targets or ()))


async def interpret(context: _Context) -> str:
    """Runs the working file on scaled workloads on the CPU and compares it with the reference."""
    return await _step(context, context.deps.interpret)


async def look_up(context: _Context, query: str = "", path: str = "") -> str:
    """Searches the knowledge base, or opens one of its articles.

    Args:
        query: a few words to search for.
        path: of an article to open, as a search gave it.
    """
    return await _step(context, lambda: context.deps.look_up(query, path))


# -- in single completions --


@dataclass(frozen=True)
class Completing:
    """Completions without tools: an answer that cannot be used is told why, and asked for again.

    Args:
        check: whether a file is a kernel; None where nothing says so.
        known: the name of what the run has with this source already; empty for nothing.
        useless: answers in a row that cannot be used, which end it.
    """

    check: Callable[[str], Awaitable[Report]] | None
    known: Callable[[str], str]
    useless: int = 10

    async def run(self, model: Model, prompt: str, parents: Mapping[str, str], settings: ModelSettings) -> Ending:
        """One file, or a fault."""
        instructions = template("single")
        first = ModelRequest([UserPromptPart(prompt)], instructions=instructions)
        messages: list[ModelMessage] = [first]
        said = ""
        for _ in range(self.useless):
            # Of what went before only the last answer is told again: the others were no better.
            asked = [first, *messages[-2:]] if len(messages) > 2 else [first]
            try:
                answer = await model_request(model, asked, model_settings=settings)
            except (ModelFault, BudgetSpent) as error:
                return Ending("", "", str(error), tuple(messages), error)
            except pydantic.AgentRunError as error:
                fault = _fault(error)
                return Ending("", "", str(fault), tuple(messages), fault)
            messages.append(answer)
            if answer.finish_reason == "content_filter":
                fault = ModelFault(f"the model refused: {_text(answer)[:300] or 'it says nothing'}", kind="refused")
                return Ending("", "", str(fault), tuple(messages), fault)
            found = await self._read(answer, parents)
            if isinstance(found, Parsed):
                return Ending(found.source, found.note, f"done: {found.how}", tuple(messages))
            said = found.reason
            messages.append(ModelRequest([UserPromptPart(f"That cannot be used: {said}.")], instructions=instructions))
        fault = ModelFault(
            f"the model gave nothing useful {self.useless} times in a row; the last time {said}", kind="useless"
        )
        return Ending("", "", str(fault), tuple(messages), fault)

    async def _read(self, answer: ModelResponse, parents: Mapping[str, str]) -> Parsed | Unparseable:
        text = _text(answer)
        # Long texts are read in a thread: other writers wait in this loop.
        found = await asyncio.to_thread(parse_reply, text, dict(parents), cut=answer.finish_reason == "length")
        if isinstance(found, Unparseable):
            return found
        if name := self.known(found.source):
            return Unparseable(f"the file is that of {name}, which the run has already; change it", "known")
        if self.check is not None and not (report := await self.check(found.source)).ok:
            return Unparseable(f"{report.text}; give the whole file again, repaired", "check")
        return found


def _text(answer: ModelResponse) -> str:
    return answer.text or ""
