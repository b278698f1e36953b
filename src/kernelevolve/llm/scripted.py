"""A model that reads its answers from a file: for demos and tests, without a key, the same each time.

In: a YAML or JSON file. Out: a pydantic-ai Model. Left to others: accounts and faults' handling (`guard`).

    tokens: {in: 1200, out: 300}        # of each answer that does not say its own; default: estimated
    answers:                            # in the order of the calls
      - text: First I look around.
        tools: [{name: check, args: {source: {file: first.py}}}]
      - file: first.py                  # the file's text as one block of code
      - fault: refused                  # the answer that a guard tells as that fault: refused, empty or cut
    briefs:                             # a conversation that begins with a prompt in which `when` is found
      - when: "b3"                      # has answers of its own, in the order of its calls
        answers: [...]
    repeat: true                        # begin anew after the last one; default: say that there are no more

Answers under `briefs` depend on the conversation alone, so they are the same with any number of parallel writers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kernelevolve.errors import ModelFault, UsageError
from kernelevolve.llm.estimate import request_tokens, response_tokens

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model
    from pydantic_ai.models.function import AgentInfo

Played = Literal["", "refused", "empty", "cut"]
_PLAYED: tuple[Played, ...] = ("refused", "empty", "cut")
_ANSWER = {"text", "file", "tools", "fault", "tokens"}
_SCRIPT = {"answers", "briefs", "repeat", "tokens"}


@dataclass(frozen=True)
class ScriptedCall:
    """A tool that an answer calls."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScriptedAnswer:
    """One answer; `tokens` read and written, None where they are estimated."""

    text: str = ""
    tools: tuple[ScriptedCall, ...] = ()
    fault: Played = ""
    tokens: tuple[int, int] | None = None


@dataclass(frozen=True)
class Script:
    """All answers of a file; `briefs` are tried in order."""

    where: str
    answers: tuple[ScriptedAnswer, ...]
    briefs: tuple[tuple[str, tuple[ScriptedAnswer, ...]], ...] = ()
    repeat: bool = False


def read_script(file: Path) -> Script:
    """The script in `file`.

    Raises:
        UsageError: it cannot be read, or is no script; the message says where.
    """
    import yaml

    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the script {file} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"the script {file} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    return _Reading(file).script(data)


class _Reading:
    def __init__(self, file: Path) -> None:
        self._file = file

    def script(self, data: Any) -> Script:
        fields = self._fields(data, _SCRIPT, "the file")
        tokens = self._tokens(fields.get("tokens"), "the file")
        answers = self._answers(fields.get("answers") or [], "answers", tokens)
        briefs = []
        for index, one in enumerate(self._list(fields.get("briefs") or [], "briefs")):
            where = f"briefs[{index}]"
            brief = self._fields(one, {"when", "answers"}, where)
            if not isinstance(brief.get("when"), str) or not brief["when"]:
                raise self._wrong(f"{where}: `when` must be a text that the prompt of that brief has")
            briefs.append((brief["when"], self._answers(brief.get("answers") or [], where, tokens)))
        if not answers and not briefs:
            raise self._wrong("it has neither `answers` nor `briefs`")
        repeat = fields.get("repeat", False)
        if not isinstance(repeat, bool):
            raise self._wrong(f"`repeat` must be true or false, got {repeat!r:.40}")
        return Script(str(self._file), answers, tuple(briefs), repeat)

    def _answers(self, data: Any, where: str, tokens: tuple[int, int] | None) -> tuple[ScriptedAnswer, ...]:
        return tuple(self._answer(one, f"{where}[{i}]", tokens) for i, one in enumerate(self._list(data, where)))

    def _answer(self, data: Any, where: str, tokens: tuple[int, int] | None) -> ScriptedAnswer:
        if isinstance(data, str):
            return ScriptedAnswer(data, tokens=tokens)
        fields = self._fields(data, _ANSWER, where)
        text, fault = fields.get("text", ""), fields.get("fault", "")
        if not isinstance(text, str):
            raise self._wrong(f"{where}: `text` must be a text, got {text!r:.40}")
        if fault and fault not in _PLAYED:
            raise self._wrong(f"{where}: unknown fault {fault!r:.40}; known: {', '.join(_PLAYED)}")
        if "file" in fields:
            text += f"\n```python\n{self._text_of(fields['file'], where).rstrip()}\n```\n"
        tools = tuple(
            self._call(one, f"{where}.tools[{i}]") for i, one in enumerate(self._list(fields.get("tools") or [], where))
        )
        if not text.strip() and not tools and not fault:
            raise self._wrong(f"{where}: it says nothing; give `text`, `file`, `tools`, or `fault: empty`")
        return ScriptedAnswer(text, tools, fault, self._tokens(fields.get("tokens"), where) or tokens)

    def _call(self, data: Any, where: str) -> ScriptedCall:
        fields = self._fields(data, {"name", "args"}, where)
        args = fields.get("args") or {}
        if not isinstance(fields.get("name"), str) or not isinstance(args, dict):
            raise self._wrong(f"{where}: a tool call has a `name` and `args` by name")
        return ScriptedCall(fields["name"], {str(k): self._argument(v, where) for k, v in args.items()})

    def _argument(self, value: Any, where: str) -> Any:
        return self._text_of(value["file"], where) if isinstance(value, dict) and set(value) == {"file"} else value

    def _text_of(self, name: Any, where: str) -> str:
        try:
            return (self._file.parent / str(name)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self._wrong(f"{where}: {name!r} cannot be read: {error}") from None

    def _tokens(self, data: Any, where: str) -> tuple[int, int] | None:
        if data is None:
            return None
        if not isinstance(data, dict) or set(data) != {"in", "out"} or not all(type(v) is int for v in data.values()):
            raise self._wrong(f"{where}: `tokens` must be {{in: N, out: N}}, got {data!r:.60}")
        return data["in"], data["out"]

    def _list(self, data: Any, where: str) -> list[Any]:
        if not isinstance(data, list):
            raise self._wrong(f"{where}: a list is expected, got {data!r:.60}")
        return data

    def _fields(self, data: Any, known: set[str], where: str) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise self._wrong(f"{where}: expected {', '.join(sorted(known))}, got {data!r:.60}")
        if unknown := sorted(str(name) for name in data if name not in known):
            raise self._wrong(f"{where}: unknown {unknown[0]!r}; known: {', '.join(sorted(known))}")
        return data

    def _wrong(self, what: str) -> UsageError:
        return UsageError(f"the script {self._file}: {what}")


def scripted_model(script: Script) -> Model:
    """The model that answers by `script`."""
    from pydantic_ai.models.function import FunctionModel
    from pydantic_ai.profiles import ModelProfile

    player = _Player(script)
    profile = ModelProfile(supports_json_schema_output=True, supports_json_object_output=True)
    return FunctionModel(player.answer, model_name=f"scripted:{Path(script.where).name}", profile=profile)


class _Player:
    def __init__(self, script: Script) -> None:
        self._script, self._played, self._lock = script, 0, threading.Lock()

    async def answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        answers, index, whose = self._turn(messages)
        if index >= len(answers) and self._script.repeat and answers:
            index %= len(answers)
        if index >= len(answers):
            raise ModelFault(
                f"the script {self._script.where} has {len(answers)} answers{whose} and was asked for one more; "
                "add answers, or `repeat: true`",
                kind="useless",
            )
        return _response(answers[index], messages, info, self._script.where)

    def _turn(self, messages: Sequence[ModelMessage]) -> tuple[Sequence[ScriptedAnswer], int, str]:
        begins = _opening(messages)
        for when, answers in self._script.briefs:
            if when in begins:
                return answers, sum(message.kind == "response" for message in messages), f" for {when!r}"
        with self._lock:
            index, self._played = self._played, self._played + 1
        return self._script.answers, index, ""


def _opening(messages: Sequence[ModelMessage]) -> str:
    """All text of the request that opened the conversation."""
    first = messages[0]
    texts = [getattr(first, "instructions", None) or ""]
    for part in first.parts:
        content = getattr(part, "content", "")
        texts.append(content if isinstance(content, str) else json.dumps(content, default=str))
    return "\n".join(texts)


def _response(answer: ScriptedAnswer, messages: Sequence[ModelMessage], info: AgentInfo, where: str) -> ModelResponse:
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.usage import RequestUsage

    parts: list[Any] = [TextPart(answer.text)] if answer.text and answer.fault != "empty" else []
    turn = sum(message.kind == "response" for message in messages)
    parts += [
        ToolCallPart(call.name, dict(call.args), tool_call_id=f"scripted-{turn}-{i}")
        for i, call in enumerate(answer.tools)
    ]
    usual = "tool_call" if answer.tools else "stop"
    reason: Any = {"refused": "content_filter", "cut": "length"}.get(answer.fault, usual)
    read, written = answer.tokens or (
        request_tokens(messages, info.model_request_parameters), max(response_tokens(parts), 1)
    )  # fmt: skip
    usage = RequestUsage(input_tokens=read, output_tokens=written)
    return ModelResponse(parts, usage=usage, finish_reason=reason, provider_name="scripted")
