"""What the present keys and addresses can reach, and whether a model answers.

In: the environment, addresses, names of models. Out: `Reached` and `Pinged` values; each failure by name, with what to
do next. Left to others: printing (`cli.models`).

Lists are asked for with the standard library, so that nothing needs to be installed to see what could be; they cost
nothing. A ping is one real call through the same guard as a run's calls, and costs what it says.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import urlsplit

from kernelevolve.candidate import Cost
from kernelevolve.errors import BudgetSpent, KernelEvolveError, ModelFault, UsageError
from kernelevolve.llm.ledger import Ledger
from kernelevolve.llm.models import checked_model, open_model
from kernelevolve.llm.names import (
    KEY_OF_ADDRESSES,
    LOCAL,
    PROVIDERS,
    ModelName,
    ModelOptions,
    Provider,
    address_of,
    checked_address,
)
from kernelevolve.llm.prices import Price, context_window, price_for
from kernelevolve.llm.providers import install_command, is_installed, key_of
from kernelevolve.llm.secrets import keep_secret, redact

State = Literal["ok", "no key", "wrong key", "no package", "no network", "not there", "fault"]
ADDRESSES = "KERNELEVOLVE_MODEL_ADDRESSES"
SECONDS = 8.0
_PING_TOKENS = 64
_PING = "Answer with the single word: ready"
_LIST_VERSION = "2023-06-01"  # anthropic-version: the only one there is
_UNUSABLE = ("embed", "whisper", "tts", "dall-e", "moderation", "image", "audio", "realtime", "transcribe", "sora",
             "speech", "rerank", "ocr", "veo", "imagen", "aqa")  # fmt: skip


@dataclass(frozen=True)
class Offered:
    """A model that is offered.

    Attributes:
        name: as `--model` takes it.
        price_in, price_out: US dollars per million tokens; None where they are not known.
        window: most tokens of one call; None where it is not known.
    """

    name: str
    price_in: float | None = None
    price_out: float | None = None
    window: int | None = None


@dataclass(frozen=True)
class Reached:
    """What one provider or address gave.

    Attributes:
        found: what was seen, in one line.
        remedy: what to do; empty where nothing is to do.
    """

    provider: str
    address: str
    state: State
    found: str
    remedy: str = ""
    models: tuple[Offered, ...] = ()


@dataclass(frozen=True)
class Pinged:
    """One real call.

    Attributes:
        kind: of the fault, see `errors.ModelFault`; `usage` where nothing could be called; empty where it answered.
        text: what it answered, or what went wrong and what to do.
        priced: whether `cost.money_usd` is what it cost.
    """

    name: str
    answered: bool
    seconds: float
    cost: Cost
    text: str
    kind: str = ""
    priced: bool = True


def reachable_models(addresses: Sequence[str] = (), *, seconds: float = SECONDS) -> tuple[Reached, ...]:
    """Every provider, every local server at its usual port, and the given addresses, in that order.

    Args:
        addresses: of OpenAI-compatible services; those in KERNELEVOLVE_MODEL_ADDRESSES (separated by commas) follow.
        seconds: to wait for each; all are asked at the same time.

    Raises:
        UsageError: what is given as an address is none, or has a key in it.
    """
    more = [one.strip() for one in os.environ.get(ADDRESSES, "").split(",") if one.strip()]
    extra = [checked_address(one, f"the address {redact(one)!r}") for one in (*addresses, *more)]
    services: list[tuple[str, Provider, str]] = [(one.name, one, "") for one in (*PROVIDERS.values(), *LOCAL.values())]
    services += [("openai-compatible", LOCAL["vllm"], address) for address in dict.fromkeys(extra)]
    with ThreadPoolExecutor(len(services)) as pool:
        return tuple(pool.map(lambda one: _reached(one[0], one[1], one[2], seconds), services))


def _reached(provider: str, service: Provider, address: str, seconds: float) -> Reached:
    name = ModelName(f"{provider}:", "address" if address or provider in LOCAL else "provider", provider, "", address)
    options = ModelOptions()
    try:
        where = address or address_of(name, options)
    except UsageError as error:
        return Reached(provider, "", "fault", str(error), f"set ${service.address_variable} right, or leave it unset")
    if not is_installed(service.package):
        return Reached(provider, where, "no package", f"{service.package} is not installed",
                       install_command(service.extra))  # fmt: skip
    try:
        key = key_of(name, options)
    except UsageError as error:
        return Reached(provider, where, "wrong key", str(error), f"set {' or '.join(service.keys) or KEY_OF_ADDRESSES}")
    if service.keys and not key:
        return Reached(provider, where, "no key", f"{' or '.join(service.keys)} is not set", f"set {service.keys[0]}")
    keep_secret(key)
    if provider == "bedrock":
        return _bedrock(where)
    return _listed(provider, service, where, key, seconds)


def _listed(provider: str, service: Provider, address: str, key: str, seconds: float) -> Reached:
    url, headers = _list_request(provider, address, key)
    try:
        data = _fetched(url, headers, seconds)
        ids = _ids(data)
    except urllib.error.HTTPError as error:
        with error:
            said = _said(error)
        if error.code in (401, 403) or (error.code == 400 and "key" in said.lower()):
            wants = service.keys[0] if service.keys else KEY_OF_ADDRESSES
            return Reached(provider, address, "wrong key", said, f"set {wants} to a key that is valid here")
        return Reached(provider, address, "fault", said, "is the address right? it ends in /v1 as a rule")
    except (urllib.error.URLError, OSError, HTTPException) as error:
        return _unreached(provider, address, error)
    except ValueError as error:
        return Reached(provider, address, "fault", f"no list of models: {redact(str(error))[:200]}",
                       "is the address right? it ends in /v1 as a rule")  # fmt: skip
    models = tuple(_offered(provider, address, one) for one in sorted(ids) if not _is_other(one))
    return Reached(provider, address, "ok", f"{len(models)} models", "", models)


def _unreached(provider: str, address: str, error: Exception) -> Reached:
    reason = getattr(error, "reason", error)
    said = redact(" ".join(str(reason).split()))[:200] or type(error).__name__
    if isinstance(reason, ConnectionRefusedError):
        return Reached(provider, address, "not there", "nothing listens there", _start(provider))
    return Reached(provider, address, "no network", said, "is the network up, and does a proxy have to be set?")


def _start(provider: str) -> str:
    service = LOCAL.get(provider)
    return f"start it, or set ${service.address_variable} to where it is" if service else "start the server"


def _list_request(provider: str, address: str, key: str) -> tuple[str, dict[str, str]]:
    if provider == "anthropic":
        return f"{address}/v1/models?limit=1000", {"x-api-key": key, "anthropic-version": _LIST_VERSION}
    if provider == "google":
        # In a header: an address with a key in it ends up in logs on the way.
        return f"{address}/v1beta/models?pageSize=1000", {"x-goog-api-key": key}
    path = "/v1/models" if provider == "mistral" else "/models"
    return f"{address}{path}", {"Authorization": f"Bearer {key}"} if key else {}


def _fetched(url: str, headers: Mapping[str, str], seconds: float) -> Any:
    # A proxy is for what lies outside; it does not know this machine's own servers.
    handlers = [urllib.request.ProxyHandler({})] if _is_here(url) else []
    request = urllib.request.Request(url, headers={"Accept": "application/json", **headers})
    with urllib.request.build_opener(*handlers).open(request, timeout=seconds) as answer:
        return json.loads(answer.read())


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ids(data: Any) -> list[str]:
    listed = data.get("data", data.get("models")) if isinstance(data, dict) else data
    if not isinstance(listed, list):
        raise ValueError(f"got {str(data)[:80]!r}")
    names = [one.get("id") or one.get("name") for one in listed if isinstance(one, dict)]
    return list(dict.fromkeys(str(name).removeprefix("models/") for name in names if name))


def _said(error: urllib.error.HTTPError) -> str:
    """The status and the service's own words."""
    body = error.read(4000).decode("utf-8", "replace")
    try:
        data = json.loads(body)
        found = data.get("error", data) if isinstance(data, dict) else data
        words = found.get("message", body) if isinstance(found, dict) else str(found)
    except ValueError:
        words = body
    return redact(f"HTTP {error.code}: {' '.join(str(words).split())}")[:200]


def _is_other(model: str) -> bool:
    """Whether a model is one that does not write text."""
    return any(word in model.lower() for word in _UNUSABLE)


def _offered(provider: str, address: str, model: str) -> Offered:
    text = f"{address}:{model}" if provider == "openai-compatible" else f"{provider}:{model}"
    kind: Literal["provider", "address"] = "provider" if provider in PROVIDERS else "address"
    name = ModelName(text, kind, provider, model, "" if kind == "provider" else address)
    price = price_for(name, ModelOptions())
    window = context_window(name)
    return Offered(text, price.read, price.written, window) if price is not None else Offered(text, window=window)


def _bedrock(address: str) -> Reached:
    """Bedrock signs its requests, so boto3 has to ask."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

    config = Config(retries={"total_max_attempts": 1}, connect_timeout=SECONDS, read_timeout=SECONDS)
    remedy = "see that the key is valid, and allowed to list and invoke models in this region"
    try:
        client = boto3.Session(region_name=os.environ.get("AWS_REGION")).client("bedrock", config=config)
        listed = client.list_foundation_models(byOutputModality="TEXT")["modelSummaries"]
    except EndpointConnectionError as error:
        return Reached("bedrock", address, "no network", redact(str(error))[:200], "is the network up?")
    except ClientError as error:
        return Reached("bedrock", address, "wrong key", redact(str(error))[:200], remedy)
    except BotoCoreError as error:
        return Reached("bedrock", address, "fault", redact(str(error))[:200], "set AWS_REGION, and keys for it")
    models = tuple(_offered("bedrock", address, one["modelId"]) for one in listed)
    return Reached("bedrock", address, "ok", f"{len(models)} models", "", models)


def to_ping(found: Iterable[Reached]) -> tuple[str, ...]:
    """One model of each service that was reached: the cheapest where prices are known, else the first."""
    chosen = []
    for one in found:
        priced = [offered for offered in one.models if offered.price_out is not None]
        first = min(priced, key=lambda offered: offered.price_out or 0.0) if priced else next(iter(one.models), None)
        if first is not None:
            chosen.append(first.name)
    return tuple(chosen)


def ping_models(names: Sequence[str], *, money_usd: float | None = None) -> tuple[Pinged, ...]:
    """One real, minimal call of each model, all at the same time; no failure is tried again.

    Args:
        money_usd: cap on all of them together.
    """
    ledger = Ledger(money_usd)

    async def all_of_them() -> list[Pinged]:
        return await asyncio.gather(*(_ping(name, ledger) for name in names))

    return tuple(asyncio.run(all_of_them()))


async def _ping(name: str, ledger: Ledger) -> Pinged:
    start, shown = time.monotonic(), redact(name)
    price: Price | None = None
    with ledger.account() as account:
        try:
            _, _, price = checked_model(name, ledger.money_usd)
            text = await _asked(name, ledger)
            kind, answered = "", True
        except ModelFault as fault:
            # Cut off after a few tokens is an answer: thinking models think before they are ready.
            answered = fault.kind in ("cut", "empty") and fault.cost.tokens_out > 0
            kind, text = ("", "answered, and was cut off") if answered else (fault.kind, str(fault))
        except BudgetSpent as error:
            kind, text, answered = "budget", str(error), False
        except KernelEvolveError as error:
            kind, text, answered = "usage", str(error), False
    return Pinged(
        shown, answered, time.monotonic() - start, account.cost, redact(text), kind, price is not None
    )  # fmt: skip


async def _asked(name: str, ledger: Ledger) -> str:
    from pydantic_ai.messages import ModelRequest, TextPart, UserPromptPart
    from pydantic_ai.models import ModelRequestParameters

    model = open_model(name, ledger, max_tokens=_PING_TOKENS, attempts=1, timeout=60.0)
    asked = ModelRequest(parts=[UserPromptPart(_PING)])
    async with model:
        answer = await model.request([asked], None, ModelRequestParameters())
    words = " ".join(part.content for part in answer.parts if isinstance(part, TextPart))
    return " ".join(words.split())[:80]
