"""How many tokens a request has at most, before any provider counted them.

In: messages and tools as pydantic-ai has them. Out: a number from above. Left to others: what they cost (`prices`).

Tokenisers of today's models give one token for three to five bytes of English or code. Two bytes for ASCII, and one for
each byte of anything else, is an upper bound for text that people or models write, not for noise; `guard` raises it
where a provider counted more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models import ModelRequestParameters

_ASCII_BYTES_PER_TOKEN = 2
_TOKENS_PER_PART = 16  # roles and separators around each part
# What services put before a request with tools: a few hundred tokens, by their own documentation.
_TOKENS_FOR_TOOLS = 700
_TOKENS_AT_LEAST = 32


def tokens_from_above(text: str) -> int:
    """Most tokens that `text` has."""
    if text.isascii():
        return math.ceil(len(text) / _ASCII_BYTES_PER_TOKEN)
    ascii_bytes = sum(character < "\x80" for character in text)
    return math.ceil(ascii_bytes / _ASCII_BYTES_PER_TOKEN) + len(text.encode("utf-8", "replace")) - ascii_bytes


def request_tokens(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> int:
    """Most tokens that a request is read as."""
    total = _TOKENS_AT_LEAST
    for text in _texts(messages):
        total += tokens_from_above(text) + _TOKENS_PER_PART
    tools = [*parameters.function_tools, *parameters.output_tools]
    for tool in tools:
        schema = json.dumps(tool.parameters_json_schema)
        total += tokens_from_above(f"{tool.name}{tool.description}{schema}") + _TOKENS_PER_PART
    if parameters.output_object is not None:
        total += tokens_from_above(json.dumps(parameters.output_object.json_schema))
    return total + (_TOKENS_FOR_TOOLS if tools else 0)


def response_tokens(parts: Iterable[Any]) -> int:
    """Most tokens that the parts of an answer were written as, as far as they arrived."""
    return sum(tokens_from_above(text) for part in parts for text in _of_part(part))


def _texts(messages: Iterable[ModelMessage]) -> Iterable[str]:
    for message in messages:
        instructions = getattr(message, "instructions", None)
        if instructions:
            yield str(instructions)
        for part in message.parts:
            yield from _of_part(part)


def _of_part(part: Any) -> Iterable[str]:
    for field in ("content", "args", "tool_name", "signature"):
        value = getattr(part, field, None)
        if isinstance(value, str):
            yield value
        elif value is not None:
            yield json.dumps(value, default=str)
