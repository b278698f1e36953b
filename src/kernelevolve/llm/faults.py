"""What went wrong with a call: one kind, whether to try again, and what a person can do.

In: exceptions of pydantic-ai, of providers' packages and of the transport under them; answers that are none. Out: a
`Trouble`. Left to others: trying again (`guard`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelevolve.llm.names import KEY_OF_ADDRESSES, LOCAL, PROVIDERS, ModelName, ModelOptions
from kernelevolve.llm.secrets import redact

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelResponse

_LONGEST = 400


@dataclass(frozen=True)
class Trouble:
    """Why a call gave nothing that can be used.

    Attributes:
        kind: as in `errors.ModelFault`.
        text: what happened, without keys.
        again: whether the same call may go better.
        after: seconds that the provider asks to wait; None where it does not say.
        sent: whether the provider may have begun to work on it, and so may charge for it.
        remedy: what a person can do.
    """

    kind: str
    text: str
    again: bool
    after: float | None = None
    sent: bool = False
    remedy: str = ""


def trouble_of(error: Exception, name: ModelName, options: ModelOptions) -> Trouble:
    """What an exception of a call means."""
    from pydantic_ai import exceptions as pydantic

    text = _text(error)
    if isinstance(error, TimeoutError):
        what = "no sign of life" if options.stream else "no answer"
        return Trouble("network", f"{what} for {options.timeout:g} s", True, sent=True, remedy="wait longer: timeout=")
    if isinstance(error, pydantic.ModelAPIError):
        return _of_api(error, text, name, options)
    if isinstance(error, pydantic.ContentFilterError):
        return Trouble("refused", text, False, sent=True, remedy=_REPHRASE)
    if isinstance(error, pydantic.UnexpectedModelBehavior):
        return Trouble("malformed", text, True, sent=True)
    if isinstance(error, pydantic.UserError):
        return Trouble("model", text, False, remedy="see docs/models.md")
    if _is_transport(error):
        return Trouble("cut", text, True, sent=True)
    if type(error).__module__.startswith("botocore"):
        return _of_boto(type(error).__name__, text, name, options)
    # What providers' packages raise on data that they did not expect: whatever comes to their authors' minds.
    return Trouble("malformed", f"{type(error).__name__}: {text}", True, sent=True)


def _of_api(error: Exception, text: str, name: ModelName, options: ModelOptions) -> Trouble:
    from pydantic_ai import exceptions as pydantic

    assert isinstance(error, pydantic.ModelAPIError)
    began = error.in_stream
    if isinstance(error, pydantic.ModelAuthenticationError):
        return Trouble("key", text, False, remedy=key_remedy(name, options))
    if isinstance(error, pydantic.ModelNotFoundError):
        near = getattr(error, "suggested_model_id", None)
        meant = f"did you mean {near}? " if near else ""
        return Trouble("model", text, False, remedy=f"{meant}see what there is: kernelevolve models")
    if isinstance(error, pydantic.ModelContextWindowExceededError) or _is_too_large(error):
        return Trouble("overflow", text, False, remedy=_SHORTER)
    if isinstance(error, pydantic.ModelQuotaExceededError):
        return Trouble("rate", text, False, remedy="the account's quota or credit is used up: top it up, or wait")
    if isinstance(error, pydantic.ModelRateLimitError):
        return Trouble("rate", text, True, error.retry_after, began, remedy="fewer calls: per_minute=, or --parallel")
    if isinstance(error, (pydantic.ModelUnavailableError, pydantic.ModelServerError)):
        return Trouble("network", text, _may_retry(error), error.retry_after, began, remedy="try again later")
    if isinstance(error, (pydantic.ModelTimeoutError, pydantic.ModelRequestTimeout)):
        return Trouble("network", text, True, sent=_was_sent(error), remedy="wait longer: timeout=")
    if isinstance(error, pydantic.ModelConnectionError):
        sent = _was_sent(error)
        where = f"is the server at {name.address} running, and the network up?" if name.address else _ONLINE
        return Trouble("cut" if sent else "network", text, True, sent=sent, remedy="" if sent else where)
    if isinstance(error, pydantic.ModelRequestRejectedError):
        return Trouble("model", text, False, remedy="the service does not take this request; see docs/models.md")
    status = getattr(error, "status_code", None)
    if status in (408, 409, 425):
        return Trouble("network", text, True, error.retry_after)
    if status is not None:
        return Trouble("model", text, False, remedy="see docs/models.md")
    if _is_transport(error.__cause__):
        return Trouble("cut", text, True, sent=True)
    return Trouble("malformed", text, True, sent=True)


def _of_boto(kind: str, text: str, name: ModelName, options: ModelOptions) -> Trouble:
    """What boto3 says before a request left, or instead of an answer; what Bedrock says comes as an API error."""
    if "Credential" in kind or "Token" in kind:
        return Trouble("key", text, False, remedy=key_remedy(name, options))
    if "Connection" in kind or "Timeout" in kind or "ProxyConnection" in kind or "SSL" in kind:
        sent = kind in ("ReadTimeoutError", "ConnectionClosedError")
        return Trouble("cut" if sent else "network", text, True, sent=sent, remedy="" if sent else _ONLINE)
    return Trouble("model", text, False, remedy="set AWS_REGION and the keys of AWS right; see docs/models.md")


# How servers word an overflow that send no code for it.
_OVERFLOWS = (
    "context length", "context window", "context size", "available context", "prompt is too long", "input is too long",
    "too many tokens", "exceeds the maximum number of tokens",
)  # fmt: skip
_HTTP_PACKAGES = ("httpx", "httpcore", "httpx2", "httpcore2")
_SHORTER = "ask with a shorter prompt, let it write less (max_tokens=), or take another model"
_ONLINE = "is the network up, and does a proxy have to be set?"
_REPHRASE = "the provider's filter or the model itself declined; another model may not"


def trouble_with(response: ModelResponse, name: ModelName, options: ModelOptions) -> Trouble | None:
    """What is wrong with an answer that did arrive; None where it can be used."""
    from pydantic_ai import messages as said

    how = response.finish_reason
    if how == "content_filter":
        detail = str((response.provider_details or {}).get("refusal", ""))
        text = "the model refused" + (f": {redact(detail)[:_LONGEST]}" if detail else "")
        return Trouble("refused", text, False, remedy=_REPHRASE)
    if response.state in ("incomplete", "interrupted") or how == "error" or (how is None and not name.is_free):
        return Trouble("cut", "the answer ended before its end was announced", True)
    if how == "length":
        wrote = response.usage.output_tokens
        text = f"the answer was cut off after {wrote:,} tokens, at most {options.max_tokens:,} were asked for"
        return Trouble("cut", text, False, remedy=f"let it write more: {name.text},max_tokens={2 * options.max_tokens}")
    if response.state == "suspended":
        return None
    for part in response.parts:
        if isinstance(part, said.TextPart) and part.content.strip():
            return None
        if not isinstance(part, (said.TextPart, said.ThinkingPart)):
            return None
    return Trouble("empty", "the answer has neither text nor a tool call", True)


def key_remedy(name: ModelName, options: ModelOptions) -> str:
    """What to do where a key is missing or wrong."""
    service = PROVIDERS.get(name.provider) or LOCAL.get(name.provider)
    variables = (options.key_env,) if options.key_env else service.keys if service else ()
    return f"set {' or '.join(variables or (KEY_OF_ADDRESSES,))} to a key that may use this model"


def _text(error: BaseException) -> str:
    body = getattr(error, "body", None)
    found = _message(body)
    status = getattr(error, "status_code", None)
    said = found or str(error) or type(error).__name__
    return redact(" ".join(f"{f'HTTP {status}: ' if status and found else ''}{said}".split()))[:_LONGEST]


def _message(body: object) -> str:
    """The provider's own words in the body of an error."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            return ""
    if isinstance(body, dict):
        inner = body.get("error") or body.get("Error") or body
        words = (inner.get("message") or inner.get("Message")) if isinstance(inner, dict) else inner
        return words if isinstance(words, str) else ""
    return ""


def _is_too_large(error: BaseException) -> bool:
    said = str(error).lower()
    return getattr(error, "status_code", None) in (400, 413, 422, 500) and any(marker in said for marker in _OVERFLOWS)


def _may_retry(error: BaseException) -> bool:
    return getattr(error, "provider_retry_hint", None) is not False


def _was_sent(error: BaseException) -> bool:
    return getattr(error, "phase", "read") not in ("pool", "connect", "write")


def _is_transport(error: BaseException | None) -> bool:
    """Whether it is from the HTTP packages that providers' packages use."""
    return error is not None and (isinstance(error, OSError) or type(error).__module__.split(".")[0] in _HTTP_PACKAGES)
