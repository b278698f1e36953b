"""What a model said and did to write a candidate, on a terminal.

In: a run's folder and the id of a node, or of a brief that was dropped. Out: the session as data, and Rich renderables.
Left to others: keeping sessions (`propose.model`), reading them (`store.artefacts`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from kernelevolve import Cost, Dropped, Graph, UnknownName, UsageError, from_data, read_artefacts, tail
from kernelevolve.cli import writing

Session = Annotated[
    bool,
    typer.Option("--session", help="what the model that wrote the node said and did; a dropped brief, such as b3, too"),
]
_PROMPT_LINES = 12  # of a prompt; the brief has all of it
_RESULT_LINES = 60
_CODE = {"source", "old", "new"}


def session_of(place: Path, graph: Graph, name: str | None) -> Mapping[str, Any]:
    """The session in which a node was written, or a brief not answered.

    Raises:
        UsageError: no node was named, or no model wrote it.
        UnknownName: no such node or brief.
        StoreError: the blob is missing or damaged.
    """
    if name is None:
        raise UsageError("--session needs a node: kernelevolve show RUN NODE --session")
    dropped = {
        entry.event.brief: entry.event.session
        for entry in tail(place)
        if isinstance(entry.event, Dropped) and entry.event.session
    }
    if name in graph.nodes:
        reference = graph.nodes[name].candidate.session
        who = graph.nodes[name].candidate.writer
    elif name in dropped:
        reference, who = dropped[name], ""
    else:
        raise UnknownName("node or dropped brief", name, [*graph.nodes, *dropped])
    if not reference:
        raise UsageError(f"{name} was written by {who}, which keeps no session; `show RUN` says who wrote what")
    return read_artefacts(place, graph).session(reference)


def page(session: Mapping[str, Any]) -> RenderableType:
    """A whole session: each message with its tokens, each tool call with its result."""
    parts: list[RenderableType] = [Text("\n".join(_head(session)), style="bold")]
    step = 0
    for message in session.get("messages", ()):
        if message.get("kind") == "response":
            parts.append(_title(f"model{_tokens(message.get('usage') or {})}"))
        for part in message.get("parts", ()):
            step += part.get("part_kind") == "tool-call"
            parts += _part(part, step)
    return Group(*parts)


def _head(session: Mapping[str, Any]) -> Iterator[str]:
    yield f"{session.get('writer')} on {session.get('brief')}"
    cost = writing.spent(from_data(Cost, session.get("cost") or {}))
    yield f"ended: {session.get('ended')}{f'; {cost}' * bool(cost)}"
    if session.get("tools"):
        yield f"tools: {', '.join(session['tools'])}; at most {session.get('steps')} steps"


def _tokens(usage: Mapping[str, Any]) -> str:
    read, written = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    return f" ({read:,} tokens read, {written:,} written)" if read or written else ""


def _part(part: Mapping[str, Any], step: int) -> Iterator[RenderableType]:
    kind, content = part.get("part_kind"), part.get("content")
    if kind == "tool-call":
        yield Text(f"step {step}: {part.get('tool_name')}", style="bold cyan")
        yield from _arguments(part.get("args"))
    elif kind == "tool-return":
        wrong = part.get("outcome") == "retried"
        yield Text(f"{part.get('tool_name')} says", style="cyan")
        yield _indented(_cut(_plain(content), _RESULT_LINES), "red" if wrong else "")
    elif kind == "user-prompt":
        yield _title("asked")
        yield _indented(_cut(_plain(content), _PROMPT_LINES), "dim")
    elif kind == "retry-feedback":
        yield _title("told")
        yield _indented(_cut(_plain(content), _RESULT_LINES), "yellow")
    elif kind == "thinking":
        yield _indented(_cut(_plain(content), _RESULT_LINES), "dim italic")
    elif content:
        yield _indented(_plain(content))


def _arguments(args: Any) -> Iterator[RenderableType]:
    if isinstance(args, str):
        try:
            args = json.loads(args)
        except ValueError:
            yield _indented(_cut(str(args), _RESULT_LINES), "red")
            return
    named = sorted((args or {}).items(), key=lambda pair: pair[0] == "new") if isinstance(args, dict) else [("", args)]
    for name, value in named:
        if name in _CODE and isinstance(value, str):
            yield _indented(f"{name}:")
            yield Padding(Syntax("", "python").highlight(value.rstrip("\n")), (0, 0, 0, 4), expand=False)
        else:
            yield _indented(f"{name}: {value}" if name else str(value))


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return json.dumps(content, ensure_ascii=False)


def _cut(text: str, most: int) -> str:
    lines = text.rstrip("\n").split("\n")
    if len(lines) <= most:
        return "\n".join(lines)
    return "\n".join([*lines[:most], f"... ({len(lines) - most} more lines; --json has them)"])


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _indented(text: str, style: str = "") -> Padding:
    return Padding(Text(text, style=style, overflow="fold"), (0, 0, 0, 2), expand=False)
