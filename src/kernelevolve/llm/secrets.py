"""Keeps keys out of what is written down or shown.

In: texts, and JSON data. Out: the same with `[key]` in place of keys. Left to others: where to apply it: each place
where a model's words or errors leave this package (`guard`, `cassette`, `reach`), and whoever stores its messages.

Two nets: the values of environment variables that hold keys, wherever they turn up, and shapes that keys have. The
first is exact, the second catches keys that reached us otherwise, such as in an address.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "[key]"
# A shorter value would be found in ordinary text.
_SHORTEST = 8
_NAMES = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:$|_)", re.IGNORECASE)
# Names of variables that say where a key is, not what.
_PLACES = re.compile(r"_(?:PATH|FILE|DIR|URL|HOST|ENV)$", re.IGNORECASE)

_SHAPES = re.compile(
    r"""
      (?<![A-Za-z0-9_-])(?:                                         # a mask-parallel kernel has no key
      sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}                     # OpenAI, Anthropic, OpenRouter
    | AIza[A-Za-z0-9_-]{30,}                                        # Google
    | (?:AKIA|ASIA)[A-Z0-9]{16}                                     # AWS access key
    | ABSK[A-Za-z0-9+/=]{30,}                                       # Bedrock
    | gsk_[A-Za-z0-9]{20,} | xai-[A-Za-z0-9]{20,} | hf_[A-Za-z0-9]{20,}
    | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,}
    | eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}  # JSON web token
      )
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----[\s\S]*?-----END[ ][A-Z ]*PRIVATE[ ]KEY-----
    """,
    re.VERBOSE,
)
# One of these is in every text that the pattern finds something in; most texts have none, and long ones are common.
_SHAPE_HINTS = ("sk-", "AIza", "AKIA", "ASIA", "ABSK", "gsk_", "xai-", "hf_", "gh", "eyJ", "PRIVATE KEY")
_AFTER_HINTS = (
    "://", "key=", "token=", "sig=", "signature=", "secret=", "password=", "authorization", "api-key", "security-token",
    "bearer",
)  # fmt: skip
# What precedes a key stays, so that one still sees where it was.
_AFTER = re.compile(
    r"""
    (?P<before>
        (?:https?|wss?)://[^/\s:@'"]*:(?=[^/\s@'"]+@)                                       # user:HERE@host
      | (?:https?|wss?)://(?=[^/\s:@'"]{8,}@)                                               # HERE@host
      | [?&](?:api[-_]?key|key|access[-_]?token|token|sig|signature|secret|password)=       # in a query
      | ["']?(?:authorization|proxy-authorization)["']?\s*[:=]\s*["']?(?:Bearer|Basic|Token)?\s*
      | ["']?(?:x-api-key|api-key|x-goog-api-key|x-amz-security-token)["']?\s*[:=]\s*["']?
      | \bBearer\s+(?=[A-Za-z._~+/=-]*[0-9])(?=[^\s'"]{12})                                # not "bearer of news"
    )
    (?P<key>[^\s'"&@,;}\])]{6,})
    """,
    re.VERBOSE | re.IGNORECASE,
)

_known: set[str] = set()
_lock = threading.Lock()


def keep_secret(value: str) -> None:
    """Has `redact` hide `value` from now on, whatever variable it came from."""
    if len(value) >= _SHORTEST:
        with _lock:
            _known.add(value)


def redact(text: str) -> str:
    """`text` with `[key]` in place of every key."""
    return _hidden(text, _values())


def redact_data(data: Any) -> Any:
    """JSON data with `[key]` in place of every key in its texts; the names of mappings too."""
    values = _values()

    # The values are looked for once, and each text is read once: a session says the same names thousands of times.
    @functools.cache
    def hidden(text: str) -> str:
        return _hidden(text, values)

    return _hidden_in(data, hidden)


def _hidden_in(data: Any, hidden: Callable[[str], str]) -> Any:
    if isinstance(data, str):
        return hidden(data)
    if isinstance(data, Mapping):
        return {hidden(str(name)): _hidden_in(value, hidden) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_hidden_in(value, hidden) for value in data]
    return data


def _hidden(text: str, values: list[str]) -> str:
    for value in values:
        for form in {value, quote(value, safe=""), quote_plus(value)}:
            if form in text:
                text = text.replace(form, HIDDEN)
    folded = text.lower()
    if any(hint in folded for hint in _AFTER_HINTS):
        text = _AFTER.sub(lambda found: found["before"] + HIDDEN, text)
    if any(hint in text for hint in _SHAPE_HINTS):
        text = _SHAPES.sub(HIDDEN, text)
    return text


def looks_secret(text: str) -> bool:
    """Whether `redact` would change it."""
    return redact(text) != text


def _values() -> list[str]:
    """Longest first, so that a key that begins like another is hidden whole."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _NAMES.search(name) and not _PLACES.search(name)
    }
    with _lock:
        found |= _known
    return sorted(found, key=len, reverse=True)
