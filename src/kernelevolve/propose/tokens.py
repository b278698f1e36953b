"""How many tokens a text has, estimated without a tokeniser.

In: text. Out: a number a little above what today's tokenisers count. Left to others: what is done with it (`compose`),
what a call may cost (`llm`, which has bounds of its own).

Tokenisers differ and their vocabularies are not ours to ship, so this follows what byte-pair encodings have in common
(the splitting rules published with `tiktoken`): a common word is one token with the space before it, long words come in
pieces of five letters and more, capitals in smaller ones; a figure gives a token for one to three digits; punctuation
comes in ones and twos; a line break and the indentation after it are one each; beyond ASCII no tokeniser gives more
tokens than bytes. It errs upward, since a prompt that is longer than its budget costs more than one that is shorter.
"""

from __future__ import annotations

import functools
import re

_PIECE = re.compile(
    r"(?P<word>[a-z]+|[A-Z][a-z]+)|(?P<capitals>[A-Z]+)|(?P<digits>[0-9]+)|(?P<line>\r?\n[\r\n]*)"
    r"|(?P<space>[ \t]{2,})|(?P<one>[ \t\r])|(?P<same>([!-/:-@\[-`{-~])\8{2,})|(?P<mark>[!-/:-@\[-`{-~])"
)
_COMMON, _LETTERS, _CAPITALS, _DIGITS, _SPACES, _SAME = 7, 5, 3, 2, 16, 4


@functools.lru_cache(maxsize=512)
def tokens(text: str) -> int:
    """The estimate; 0 for no text. Of two texts joined by line breaks it is at most the sum of theirs and 1."""
    total = seen = 0
    for match in _PIECE.finditer(text):
        length, kind = match.end() - match.start(), match.lastgroup
        seen += length
        if kind == "word":
            total += 1 if length <= _COMMON else -(-length // _LETTERS)
        elif kind == "mark" or kind == "line":
            total += 1
        elif kind == "capitals":
            total += -(-length // _CAPITALS)
        elif kind == "digits":
            total += -(-length // _DIGITS)
        elif kind == "space":
            total += -(-length // _SPACES)
        elif kind == "same":
            total += -(-length // _SAME)
    if seen == len(text):
        return total
    return total + len(_PIECE.sub("", text).encode("utf-8", "surrogatepass"))
