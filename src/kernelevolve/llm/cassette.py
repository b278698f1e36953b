"""What models were asked and what they answered, in a file; and a model that answers from it.

In: requests and answers behind the guard. Out: a file of JSON lines, without keys; a pydantic-ai Model. Left to others:
calling the real model (`guard`).

A request is recorded as what a model is told: texts, tool calls by number, the settings that the session gave; no
times, no ids that providers made up, no keys. Its digest must be found again exactly. Equal requests are answered in
the order in which they were recorded. What a recording has cost, its replay says too, so that limits end both at the
same place.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import threading
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from kernelevolve import codec
from kernelevolve.candidate import Cost
from kernelevolve.errors import ModelFault, UsageError
from kernelevolve.llm.names import ModelName
from kernelevolve.llm.prices import Price
from kernelevolve.llm.secrets import redact, redact_data

FORMAT = 1
_MONEY = "recorded_money_usd"
_MOST_LINES = 24
# Of a request's settings those that change what is said, not how it is carried.
_CARRIED = {"timeout", "max_retries", "request_timeout", "first_event_timeout", "extra_headers"}
_TOLD = ("content", "args", "tool_name", "outcome")


def canonical(
    messages: Sequence[ModelMessage], settings: Mapping[str, Any] | None, parameters: ModelRequestParameters
) -> dict[str, Any]:
    """What a model is told, as JSON data without keys: equal for equal requests."""
    numbers: dict[str, int] = {}

    def part(data: Mapping[str, Any]) -> dict[str, Any]:
        told = {name: data[name] for name in _TOLD if data.get(name) is not None}
        if isinstance(told.get("args"), str):
            told["args"] = _parsed(told["args"])
        if call := data.get("tool_call_id"):
            told["call"] = numbers.setdefault(call, len(numbers))
        return {"kind": data["part_kind"], **told}

    dumped = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
    tools = [
        {"name": tool.name, "description": tool.description}
        for tool in (*parameters.function_tools, *parameters.output_tools)
    ]
    # Without keys before it has a digest: what a model said of a key is told to it without it in a replay.
    told: dict[str, Any] = redact_data({
        "messages": [
            {
                "kind": message["kind"],
                **({"instructions": message["instructions"]} if message.get("instructions") else {}),
                "parts": [part(one) for one in message["parts"]],
            }
            for message in dumped
        ],
        "settings": {name: value for name, value in sorted((settings or {}).items()) if name not in _CARRIED},
        "tools": sorted(tools, key=lambda tool: str(tool["name"])),
    })  # fmt: skip
    return told


def digest(request: Mapping[str, Any]) -> str:
    """SHA-256 of a canonical request."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class Recording:
    """Adds to a cassette; one line for each request, also from many writers and processes at once."""

    def __init__(self, file: Path, name: ModelName) -> None:
        self._file, self._model, self._lock = file, redact(name.text), threading.Lock()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # A recording is somebody's prompts and answers.
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        except OSError as error:
            raise UsageError(f"the cassette {file} cannot be written: {error}; give another file to record") from None

    def answered(
        self,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
        response: ModelResponse,
        cost: Cost,
    ) -> None:
        """Adds an answer with what it has cost, repetitions included."""
        (said,) = ModelMessagesTypeAdapter.dump_python([response], mode="json")
        kept = {"parts": said["parts"], "finish_reason": said["finish_reason"], "model_name": said["model_name"]}
        self._add(
            canonical(messages, dict(settings or {}), parameters), {"response": kept, "cost": codec.to_data(cost)}
        )

    def failed(
        self,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
        fault: ModelFault,
    ) -> None:
        """Adds a request that had no answer."""
        told = {"kind": fault.kind, "message": str(fault)}
        self._add(
            canonical(messages, dict(settings or {}), parameters), {"fault": told, "cost": codec.to_data(fault.cost)}
        )

    def _add(self, request: dict[str, Any], outcome: dict[str, Any]) -> None:
        entry = {"cassette": FORMAT, "model": self._model, "digest": digest(request), "request": request}
        line = json.dumps({**entry, **redact_data(outcome)}, ensure_ascii=False, default=str) + "\n"
        with self._lock, self._file.open("a", encoding="utf-8") as file:
            file.write(line)


@dataclass(frozen=True)
class Exchange:
    """One request of a cassette and how it ended: a response as data, or a fault's kind and message."""

    digest: str
    request: Mapping[str, Any]
    cost: Cost
    response: Mapping[str, Any] | None = None
    fault: tuple[str, str] = ("", "")


def read_cassette(file: Path) -> tuple[Exchange, ...]:
    """What was recorded, in order.

    Raises:
        UsageError: it cannot be read, or is no cassette; the message says which line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the cassette {file} cannot be read: {error}") from None
    found = tuple(_exchange(line, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip())
    if not found:
        raise UsageError(f"the cassette {file} is empty; record one first, with record=")
    return found


def _exchange(line: str, where: str) -> Exchange:
    try:
        data = json.loads(line)
        if data["cassette"] != FORMAT:
            raise UsageError(f"{where}: format {data['cassette']!r:.20}, and this KernelEvolve reads {FORMAT}")
        fault = data.get("fault")
        return Exchange(
            data["digest"], data["request"], codec.from_data(Cost, data["cost"]), data.get("response"),
            (fault["kind"], fault["message"]) if fault else ("", ""),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where} is no entry of a cassette: {type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class RecordedPrice(Price):
    """Of a replay: what the recording has cost."""

    def cost(self, usage: RequestUsage, response: ModelResponse | None = None) -> float:
        details = (response.provider_details if response is not None else None) or {}
        return float(details.get(_MONEY, 0.0))


class CassetteModel(Model[Any]):
    """Answers exactly what was recorded.

    `request` raises UsageError where a request was not recorded, or not as often; the message shows what differs from
    the nearest one that was.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(profile=ModelProfile(supports_json_schema_output=True, supports_json_object_output=True))
        self._file, self._all = file, read_cassette(file)
        self._left: dict[str, deque[Exchange]] = defaultdict(deque)
        for one in self._all:
            self._left[one.digest].append(one)
        self._lock = threading.Lock()

    @property
    def model_name(self) -> str:
        return f"cassette:{self._file.name}"

    @property
    def system(self) -> str:
        return "cassette"

    @property
    def provider(self) -> None:
        return None

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        request = canonical(messages, dict(model_settings or {}), model_request_parameters)
        with self._lock:
            left = self._left.get(digest(request))
            found = left.popleft() if left else None
        if found is None:
            raise self._missing(request, known=left is not None)
        if found.response is None:
            kind, message = found.fault
            raise ModelFault(message, found.cost, kind=kind)
        return _replayed(found)

    def _missing(self, request: Mapping[str, Any], known: bool) -> UsageError:
        if known:
            times = sum(one.digest == digest(request) for one in self._all)
            return UsageError(
                f"the cassette {self._file} has this request {times} times and was asked for it once more; record it "
                "again with the run as it is now"
            )
        wanted = _lines(request)
        nearest = min(self._all, key=lambda one: _distance(wanted, _lines(one.request)))
        number = self._all.index(nearest) + 1
        changes = [
            line
            for line in difflib.unified_diff(_lines(nearest.request), wanted, "recorded", "asked", n=0, lineterm="")
            if not line.startswith("@@")
        ]
        more = [f"... {len(changes) - _MOST_LINES} lines more"] if len(changes) > _MOST_LINES else []
        shown = redact("\n".join([*(line[:200] for line in changes[:_MOST_LINES]), *more]))
        return UsageError(
            f"the cassette {self._file} has no answer to this request; the nearest of its {len(self._all)} is number "
            f"{number}, which differs in:\n{shown}\nrecord it again with the run as it is now"
        )


def replay_price() -> Price:
    """The price of a replay."""
    return RecordedPrice("as recorded", 0.0, 0.0)


def _replayed(found: Exchange) -> ModelResponse:
    response = {"kind": "response", "usage": {}, **(found.response or {})}
    (said,) = ModelMessagesTypeAdapter.validate_python([response])
    assert isinstance(said, ModelResponse)
    usage = RequestUsage(input_tokens=found.cost.tokens_in, output_tokens=found.cost.tokens_out)
    return replace(said, usage=usage, provider_details={_MONEY: found.cost.money_usd})


def _lines(request: Mapping[str, Any]) -> list[str]:
    """A request as lines, texts as they are."""
    return (
        json.dumps(request, indent=1, sort_keys=True, default=str, ensure_ascii=False).replace("\\n", "\n").splitlines()
    )


def _distance(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines are in one of two requests alone; the order is left out, which is quick and near enough."""
    return len(set(one) ^ set(other))
