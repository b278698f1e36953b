"""Makes the Model of each provider with its own package, retries of that package off.

In: an understood name and its options. Out: a guarded Model. Left to others: everything after that (`guard`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernelevolve.errors import UsageError
from kernelevolve.llm import secrets
from kernelevolve.llm.faults import key_remedy
from kernelevolve.llm.gate import Gate, gate_of
from kernelevolve.llm.ledger import Ledger
from kernelevolve.llm.names import KEY_OF_ADDRESSES, PROVIDERS, ModelName, ModelOptions, address_of, service_of
from kernelevolve.llm.prices import Price
from kernelevolve.llm.scripted import read_script, scripted_model

if TYPE_CHECKING:
    from pydantic_ai.models import Model

_EXTRAS = ("bedrock", "google", "mistral")
# Our own timeout speaks first; the transport's is for what hangs below it.
_TRANSPORT_GRACE = 10.0


def guarded(
    name: ModelName,
    ledger: Ledger,
    price: Price | None,
    options: ModelOptions,
    record: Path | None,
    tell: Callable[[str], None] | None,
) -> Model[Any]:
    """The Model of `name` behind its guard; see `models.open_model`."""
    _require("pydantic_ai", "openai")
    from kernelevolve.llm.guard import GuardedModel

    if name.is_free:
        options = replace(options, stream=False, attempts=1)
        model, price = _from_file(name, price)
        return GuardedModel(model, name, ledger, price, options, Gate(), None, None, tell)
    service = service_of(name)
    _require(service.package, service.extra)
    address = address_of(name, options)
    gate = gate_of(f"{name.provider} {address}")
    gate.limit(options.per_minute)
    model, settings = _MAKERS[name.provider if name.kind == "provider" else "address"](name, options, address)
    settings = {"max_tokens": options.max_tokens, **settings}
    if options.temperature is not None:
        settings["temperature"] = options.temperature
    if options.effort:
        settings["thinking"] = options.effort
    recorder = None
    if record is not None:
        from kernelevolve.llm.cassette import Recording

        recorder = Recording(record, name)
    return GuardedModel(model, name, ledger, price, options, gate, settings, recorder, tell)


def key_of(name: ModelName, options: ModelOptions) -> str:
    """The key for a model; empty where there is none. `secrets` knows it from now on.

    Raises:
        UsageError: `key_env=` names a variable that is not set, or the variable holds no key.
    """
    service = PROVIDERS.get(name.provider)
    variables = (options.key_env,) if options.key_env else service.keys if service else (KEY_OF_ADDRESSES,)
    for variable in variables:
        if value := os.environ.get(variable, "").strip():
            secrets.keep_secret(value)
            if not value.isascii() or not value.isprintable():
                raise UsageError(f"{variable} holds characters that no key has, such as a line break; set it again")
            return value
    if options.key_env:
        raise UsageError(f"{name.text}: the environment variable {options.key_env!r} that key_env= names is not set")
    return ""


def _needed_key(name: ModelName, options: ModelOptions) -> str:
    key = key_of(name, options)
    if not key:
        raise UsageError(f"{name.text} needs a key and there is none: {key_remedy(name, options)}")
    return key


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def install_command(extra: str) -> str:
    """What installs what a provider needs."""
    return f'pip install "kernelevolve[{extra}]"' if extra in _EXTRAS else f'pip install "pydantic-ai-slim[{extra}]"'


def _require(package: str, extra: str) -> None:
    if not is_installed(package):
        raise UsageError(f"the package {package} is not installed, which models of this provider need: "
                         f"{install_command(extra)}")  # fmt: skip


def _from_file(name: ModelName, price: Price | None) -> tuple[Any, Price | None]:
    if name.kind == "scripted":
        return scripted_model(read_script(Path(name.model))), price
    from kernelevolve.llm.cassette import CassetteModel, replay_price

    return CassetteModel(Path(name.model)), replay_price()


def _by_http(options: ModelOptions) -> dict[str, Any]:
    return {"timeout": options.timeout + _TRANSPORT_GRACE, "max_retries": 0}


def _address(name: ModelName, options: ModelOptions, address: str) -> tuple[Any, dict[str, Any]]:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    # A stream that ends without a reason has broken off, whatever the connection says.
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    provider = OpenAICompatibleProvider(
        "openai-compatible", base_url=address, api_key=key_of(name, options) or None, profile=profile
    )
    return OpenAIChatModel(name.model, provider=provider), _by_http(options)


def _openai(name: ModelName, options: ModelOptions, address: str) -> tuple[Any, dict[str, Any]]:
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.profiles import merge_profile
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=address, api_key=_needed_key(name, options))
    own = address == PROVIDERS["openai"].address
    if options.api == "chat" or (not options.api and not own):
        strict = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
        profile = merge_profile(provider.model_profile(name.model), strict)
        return OpenAIChatModel(name.model, provider=provider, profile=profile), _by_http(options)
    return OpenAIResponsesModel(name.model, provider=provider), _by_http(options)


def _anthropic(name: ModelName, options: ModelOptions, address: str) -> tuple[Any, dict[str, Any]]:
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    provider = AnthropicProvider(api_key=_needed_key(name, options), base_url=address)
    return AnthropicModel(name.model, provider=provider), _by_http(options)


def _google(name: ModelName, options: ModelOptions, address: str) -> tuple[Any, dict[str, Any]]:
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    provider = GoogleProvider(api_key=_needed_key(name, options), base_url=address)
    return GoogleModel(name.model, provider=provider), _by_http(options)


def _mistral(name: ModelName, options: ModelOptions, address: str) -> tuple[Any, dict[str, Any]]:
    from pydantic_ai.models.mistral import MistralModel
    from pydantic_ai.providers.mistral import MistralProvider

    provider = MistralProvider(api_key=_needed_key(name, options), base_url=address)
    return MistralModel(name.model, provider=provider), _by_http(options)


def _bedrock(name: ModelName, options: ModelOptions, address: str) -> tuple[Any, dict[str, Any]]:
    from pydantic_ai.models.bedrock import BedrockConverseModel
    from pydantic_ai.providers.bedrock import BedrockProvider

    provider = BedrockProvider(bedrock_client=_bedrock_client(name, options, address))
    return BedrockConverseModel(name.model, provider=provider), {}


def _bedrock_client(name: ModelName, options: ModelOptions, address: str) -> Any:
    """A client of boto3 that tries once; keys and region as boto3 finds them."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    for variable in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"):
        secrets.keep_secret(os.environ.get(variable, ""))
    config = Config(
        retries={"total_max_attempts": 1}, read_timeout=options.timeout + _TRANSPORT_GRACE, connect_timeout=10
    )
    try:
        # boto3 itself reads AWS_DEFAULT_REGION alone; everything else of AWS reads this one first.
        session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
        return session.client("bedrock-runtime", config=config, endpoint_url=address or None)
    except (BotoCoreError, ValueError) as error:
        raise UsageError(
            f"{name.text} cannot be opened: {secrets.redact(str(error))}; set AWS_REGION, and keys that boto3 finds "
            f"({', '.join(PROVIDERS['bedrock'].keys)})"
        ) from None


_MAKERS: dict[str, Callable[[ModelName, ModelOptions, str], tuple[Any, dict[str, Any]]]] = {
    "address": _address, "openai": _openai, "anthropic": _anthropic, "google": _google, "mistral": _mistral,
    "bedrock": _bedrock,
}  # fmt: skip
