"""Where code is in a model's reply: fenced blocks, tags and whole texts, with what stands before each.

In: the text of one completion. Out: `Block`s, in order, and the prose around them. Left to others: which of them is the
answer (`reply`), changing a parent by a diff (`edits`).

Fences follow CommonMark 0.31 (section 4.5): three or more backticks or tildes, closed by as many or more of the same.
Models stray from it in a few ways that are read here too: a fence in a quoted or indented text, a file whose docstring
has fences, a fence that is never closed, and tags in place of fences.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})(?P<info>.*)$")
_THINKING = "think|thinking|thought|thoughts|reasoning|scratchpad|reflection|analysis"
_THOUGHT = re.compile(rf"^[ \t]*<(?P<name>{_THINKING})>", re.MULTILINE | re.IGNORECASE)
_THOUGHT_ENDS = re.compile(rf"^[ \t]*</(?:{_THINKING})>", re.MULTILINE | re.IGNORECASE)
_TAG = re.compile(r"<(?P<name>[A-Za-z][\w:.-]*)(?:\s[^<>\n]*)?>")
_CDATA = re.compile(r"<!\[CDATA\[|\]\]>")
_QUOTED = re.compile(r"^ {0,3}> ?(?:[`~]{3,})", re.MULTILINE)
_MOST_FENCES = 60
_MOST_ENDS = 6


@dataclass(frozen=True)
class Block:
    """A piece of a reply that is set apart from its prose.

    Attributes:
        language: the first word after the fence, in lower case; a tag's name for a tag.
        info: the rest of that line.
        text: what it holds.
        before: the line above it.
        closed: whether its end was announced.
        longer: what it holds where it ends at a later fence instead; from shorter to longer.
        start, end: where it lies in the reply, its fences included.
    """

    language: str
    info: str
    text: str
    before: str
    closed: bool
    start: int
    end: int
    longer: tuple[str, ...] = ()


def without_thoughts(text: str) -> tuple[str, bool]:
    """The text without what a model thought aloud; whether it broke off in the middle of a thought."""
    begins, ends = _THOUGHT.search(text), _THOUGHT_ENDS.search(text)
    if ends is not None and (begins is None or ends.start() < begins.start()):
        text = text[ends.end() :]  # some models begin to think without saying so
    kept: list[str] = []
    at, lower = 0, text.lower()
    while (begins := _THOUGHT.search(text, at)) is not None:
        kept.append(text[at : begins.start()])
        close = f"</{begins['name'].lower()}>"
        end = lower.find(close, begins.end())
        if end < 0:
            return "".join(kept), True
        at = end + len(close)
    return "".join([*kept, text[at:]]), False


def unquoted(text: str) -> str:
    """A reply that is a block quote as a whole, without its `>`."""
    if not _QUOTED.search(text):
        return text
    return "\n".join(re.sub(r"^ {0,3}> ?", "", line) for line in text.split("\n"))


def fenced(text: str) -> tuple[Block, ...]:
    """The fenced blocks, in order; those within one that is prose or markup included."""
    lines = text.split("\n")
    places = _places(lines)
    fences = [(i, found) for i, line in enumerate(lines) if (found := _FENCE.match(line))][:_MOST_FENCES]
    blocks: list[Block] = []
    inside = -1
    for order, (at, fence) in enumerate(fences):
        nested = at <= inside
        said = fence["info"].strip()
        if nested and not said:
            continue
        ends = [i for i, other in fences[order + 1 :] if _closes(fence, other)][:_MOST_ENDS]
        last = ends[0] if ends else len(lines)
        if not nested:
            inside = last
        language, info = _words(said)
        before = next((line.strip() for line in reversed(lines[max(at - 3, 0) : at]) if line.strip()), "")
        texts = [_inner(lines[at + 1 : end], fence["indent"]) for end in (ends or [last])]
        blocks.append(
            Block(language, info, texts[0], before, bool(ends), places[at], places[min(last + 1, len(lines))],
                  tuple(texts[1:]))
        )  # fmt: skip
    return tuple(blocks)


def tagged(text: str) -> tuple[Block, ...]:
    """What stands between `<tag>` and `</tag>`, such as `<code>` or `<file name="x.py">`, without CDATA marks."""
    blocks = []
    for opening in list(_TAG.finditer(text))[:_MOST_FENCES]:
        close = text.find(f"</{opening['name']}>", opening.end())
        if close >= 0:
            inner = _CDATA.sub("", text[opening.end() : close]).strip("\n")
            blocks.append(
                Block(opening["name"].lower(), "", textwrap.dedent(inner), "", True, opening.start(),
                      close + len(opening["name"]) + 3)
            )  # fmt: skip
    return tuple(blocks)


def prose(text: str, blocks: tuple[Block, ...]) -> tuple[str, str]:
    """What stands before the first and after the last block."""
    if not blocks:
        return text, ""
    return text[: min(block.start for block in blocks)], text[max(block.end for block in blocks) :]


def _places(lines: list[str]) -> list[int]:
    """Where each line begins, and the end."""
    found, at = [], 0
    for line in lines:
        found.append(at)
        at += len(line) + 1
    return [*found, at - 1]


def _closes(opening: re.Match[str], other: re.Match[str]) -> bool:
    same = other["mark"][0] == opening["mark"][0] and len(other["mark"]) >= len(opening["mark"])
    return same and not other["info"].strip()


def _words(info: str) -> tuple[str, str]:
    """The language and the rest: of `python title="x"`, `{.python}`, `python:kernel.py`."""
    found = re.match(r"\{?\.?([\w+#-]+)\}?(.*)", info)
    return (found[1].lower(), found[2].strip()) if found else ("", info)


def _inner(lines: list[str], indent: str) -> str:
    width = len(indent)
    if width and all(line[:width].isspace() for line in lines if line.strip()):
        lines = [line[width:] for line in lines]
    return "\n".join(lines)
