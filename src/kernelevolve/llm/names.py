"""How a model is named: `PROVIDER:MODEL`, an address and a model, or a file that stands in for one.

In: what the user typed. Out: a `ModelName` and its options. Left to others: opening it (`models`).

A name is written into the run's log, so a key in it is refused here, before anything is written.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from kernelevolve.errors import UnknownName, UsageError
from kernelevolve.llm.secrets import looks_secret
from kernelevolve.plugins import value_of

Kind = Literal["provider", "address", "scripted", "cassette"]
Effort = Literal["", "minimal", "low", "medium", "high"]
_EFFORTS = ("", "minimal", "low", "medium", "high")


@dataclass(frozen=True)
class Provider:
    """Who serves models.

    Attributes:
        package: that must be installed to reach it.
        extra: of pydantic-ai-slim that brings the package.
        keys: environment variables, any of which holds the key; empty where none is needed.
        address: of the service; for a local server the usual one.
        address_variable: environment variable that replaces the address.
        prices: what genai-prices calls it; empty where it knows no prices.
    """

    name: str
    package: str
    extra: str
    keys: tuple[str, ...]
    address: str
    address_variable: str
    prices: str = ""


PROVIDERS: Mapping[str, Provider] = {
    one.name: one
    for one in (
        Provider("openai", "openai", "openai", ("OPENAI_API_KEY",), "https://api.openai.com/v1", "OPENAI_BASE_URL",
                 "openai"),
        Provider("anthropic", "anthropic", "anthropic", ("ANTHROPIC_API_KEY",), "https://api.anthropic.com",
                 "ANTHROPIC_BASE_URL", "anthropic"),
        Provider("google", "google.genai", "google", ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
                 "https://generativelanguage.googleapis.com", "GOOGLE_GEMINI_BASE_URL", "google"),
        Provider("bedrock", "boto3", "bedrock", ("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"), "",
                 "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "aws"),
        Provider("mistral", "mistralai", "mistral", ("MISTRAL_API_KEY",), "https://api.mistral.ai",
                 "MISTRAL_BASE_URL", "mistral"),
    )
}  # fmt: skip
"""Services with keys. Their key and address variables are those of their own packages."""

LOCAL: Mapping[str, Provider] = {
    one.name: one
    for one in (
        Provider("vllm", "openai", "openai", (), "http://127.0.0.1:8000/v1", "VLLM_BASE_URL"),
        Provider("ollama", "openai", "openai", (), "http://127.0.0.1:11434/v1", "OLLAMA_BASE_URL"),
        Provider("llama.cpp", "openai", "openai", (), "http://127.0.0.1:8080/v1", "LLAMA_CPP_BASE_URL"),
        Provider("lmstudio", "openai", "openai", (), "http://127.0.0.1:1234/v1", "LMSTUDIO_BASE_URL"),
    )
}
"""Servers with an OpenAI-compatible address that one runs oneself, at the ports of their documentation."""

KEY_OF_ADDRESSES = "KERNELEVOLVE_API_KEY"
_FILES: tuple[Kind, ...] = ("scripted", "cassette")
_SHAPES = (
    "PROVIDER:MODEL such as openai:gpt-5, ADDRESS:MODEL such as http://127.0.0.1:8000/v1:qwen3, scripted:FILE or "
    "cassette:FILE"
)


@dataclass(frozen=True)
class ModelOptions:
    """What may be said of a model beside its name; after it as `,option=value`, or as arguments of `open_model`.

    Attributes:
        price_in, price_out: US dollars per million tokens read and written, in place of what genai-prices knows.
        max_tokens: most that one call may write, thinking included.
        timeout: seconds without a sign of life (streamed) or without an answer (not streamed) that end a call.
        attempts: calls in all before a request is given up.
        backoff: seconds before the first retry; each later one waits twice as long, up to `patience`.
        patience: most seconds to wait before a retry, also where the provider asks for longer.
        per_minute: most calls of this provider per minute, all writers together; 0 for no limit.
        temperature: None for the model's own.
        effort: of thinking; empty for the model's own.
        stream: whether answers are streamed, which is how a stall is noticed early.
        key_env: environment variable that holds the key; empty for the provider's own.
        address: of the service, in place of its own.
        api: of OpenAI: `responses` or `chat`; empty for responses with OpenAI itself, and chat elsewhere.
        record: file to which requests and answers are added, for `cassette:FILE`; empty for none.
    """

    price_in: float | None = None
    price_out: float | None = None
    max_tokens: int = 16384
    timeout: float = 180.0
    attempts: int = 6
    backoff: float = 1.0
    patience: float = 60.0
    per_minute: float = 0.0
    temperature: float | None = None
    effort: Effort = ""
    stream: bool = True
    key_env: str = ""
    address: str = ""
    api: Literal["", "responses", "chat"] = ""
    record: str = ""

    def __post_init__(self) -> None:
        if (self.price_in is None) != (self.price_out is None):
            raise UsageError("a price needs both price_in= and price_out=, in US dollars per million tokens")
        for name in ("max_tokens", "timeout", "attempts", "patience"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name}={getattr(self, name)}: it must be above 0 and finite")
        for name in ("price_in", "price_out", "backoff", "per_minute"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise UsageError(f"{name}={getattr(self, name)}: it must be 0 or more and finite")
        if self.effort not in _EFFORTS:
            raise UnknownName("effort", self.effort, _EFFORTS[1:])
        if self.api not in ("", "responses", "chat"):
            raise UnknownName("api", self.api, ("responses", "chat"))


OPTIONS = {field.name: field for field in dataclasses.fields(ModelOptions)}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "price_in": (float, int), "price_out": (float, int), "max_tokens": (int,), "timeout": (float, int),
    "attempts": (int,), "backoff": (float, int), "patience": (float, int), "per_minute": (float, int),
    "temperature": (float, int), "effort": (str,), "stream": (bool,), "key_env": (str,), "address": (str,),
    "api": (str,), "record": (str,),
}  # fmt: skip


@dataclass(frozen=True)
class ModelName:
    """A model's name, understood.

    Attributes:
        text: the name without its options, as it is recorded.
        provider: a key of `PROVIDERS` or `LOCAL`; `openai-compatible` for another address; else the kind.
        model: what the service calls it; for a file its path.
        address: for `address` alone.
    """

    text: str
    kind: Kind
    provider: str
    model: str
    address: str = ""

    @property
    def is_free(self) -> bool:
        """Whether nothing is called, so that nothing is charged."""
        return self.kind in _FILES


def parse_name(text: str) -> tuple[ModelName, dict[str, Any]]:
    """The name in `text` and the options after it, `NAME[,option=value]...`, as arguments of `ModelOptions`.

    Raises:
        UsageError: it is no name of a model, or has a key in it.
        UnknownName: no such provider, or no such option.
    """
    name, options = _without_options(text.strip())
    for value in options.values():
        if isinstance(value, str) and looks_secret(value):
            raise UsageError(
                "an option of a model holds what looks like a key, which would be written into the run's log; put the "
                "key into an environment variable and give its name: key_env=NAME"
            )
    return _name(name), options


def _without_options(text: str) -> tuple[str, dict[str, Any]]:
    name, *pieces = text.split(",")
    options: dict[str, Any] = {}
    for piece in pieces:
        option, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or not value or option in options:
            raise UsageError(f"{option!r} after the name of a model is not option=value, or comes twice")
        options[option] = value if _TYPES.get(option) == (str,) else value_of(value)
    return name, options


def options_of(given: Mapping[str, Any]) -> ModelOptions:
    """The options that were given.

    Raises:
        UnknownName: no such option.
        UsageError: a value that it cannot have.
    """
    for option, value in given.items():
        if option not in OPTIONS:
            raise UnknownName("option of a model", option, OPTIONS)
        fits = value is None or isinstance(value, _TYPES[option])
        if not fits or (isinstance(value, bool) and option != "stream"):
            raise UsageError(f"{option}={value!r:.40} of a model is not {_TYPES[option][0].__name__}")
    return ModelOptions(**{option: value for option, value in given.items() if value is not None})


def _name(text: str) -> ModelName:
    if re.match(r"https?://", text):
        return _of_address(text)
    provider, colon, model = text.partition(":")
    if not colon or not model or not provider:
        raise UsageError(f"{_shown(text)} is no name of a model; write {_SHAPES}")
    if provider in _FILES:
        return ModelName(text, "scripted" if provider == "scripted" else "cassette", provider, model)
    if provider in LOCAL:
        server = LOCAL[provider]
        address = os.environ.get(server.address_variable) or server.address
        return ModelName(text, "address", provider, model, _checked(address, f"${server.address_variable}"))
    if provider in PROVIDERS:
        if looks_secret(model):
            raise UsageError(f"what follows {provider}: looks like a key, not like a model; write {_SHAPES}")
        return ModelName(text, "provider", provider, model)
    if looks_secret(text):
        raise UsageError(f"that looks like a key, not like a model; write {_SHAPES}")
    raise UnknownName("provider of models", provider, [*PROVIDERS, *LOCAL, *_FILES, "http://ADDRESS"])


def _of_address(text: str) -> ModelName:
    match = re.fullmatch(r"(https?://[^/]+/[^:]*):(.+)", text)
    if "@" in text.split("/")[2] or "?" in text.partition("//")[2].partition(":")[0]:
        _refuse_key_in_address()
    if not match:
        raise UsageError(
            f"{_shown(text)} is no address and model; write the path and the model, as in http://127.0.0.1:8000/v1:qwen3"
        )
    address, model = match[1].rstrip("/"), match[2]
    return ModelName(text, "address", "openai-compatible", model, _checked(address, "the address"))


def _checked(address: str, where: str) -> str:
    try:
        parts = urlsplit(address)
        has_secret = parts.username or parts.password or parts.query or parts.fragment
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{where} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UsageError(f"{where} is no address; write it as in http://127.0.0.1:8000/v1")
    if has_secret or looks_secret(address):
        _refuse_key_in_address()
    return address


def checked_address(address: str, where: str) -> str:
    """`address`, where it is one of a service and has no key in it.

    Raises:
        UsageError: it is not.
    """
    return _checked(address, where).rstrip("/")


def service_of(name: ModelName) -> Provider:
    """Who serves the model."""
    return PROVIDERS.get(name.provider) or LOCAL.get(name.provider) or LOCAL["vllm"]


def address_of(name: ModelName, options: ModelOptions) -> str:
    """Where the model is served; empty where its package knows (Bedrock's regions)."""
    if options.address:
        return checked_address(options.address, "address=")
    if name.address:
        return name.address
    service = service_of(name)
    given = os.environ.get(service.address_variable)
    return checked_address(given, f"${service.address_variable}") if given else service.address


def _refuse_key_in_address() -> None:
    raise UsageError(
        "an address with a user, a password or a query has a key in it, which would be written into the run's log; "
        f"put the key into an environment variable, {KEY_OF_ADDRESSES} or the one that key_env=NAME gives"
    )


def _shown(text: str) -> str:
    return "what looks like a key" if looks_secret(text) else repr(text[:80])
