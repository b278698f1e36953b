"""Changing a file by what a model says of the change: exact replacement, search and replace blocks, diffs.

In: the file's text, and the change. Out: the new text, or `NoFit` with what to tell the model. Left to others: finding
the change in a reply (`blocks`, `reply`), whether the result is any good.

Nothing is placed by guess: a piece must be found once. Line numbers of a diff are used only to tell apart places that
fit equally well, because models miscount.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

_HEADER = re.compile(r"^@@(?: -(?P<at>\d+)(?:,(?P<old>\d+))? \+\d+(?:,(?P<new>\d+))? @@)?")
_NAMED = re.compile(r"^(?:---|\+\+\+|\*\*\* (?:Update|Add|Delete) File:)\s+(?:[ab]/)?(?P<name>\S+)")
_SKIPPED = re.compile(r"^(?:diff --git|index |new file mode|deleted file|\*\*\* (?:Begin|End)|\\ No newline)")
_SEARCH, _MIDDLE, _REPLACE = re.compile(r"^<{5,9} ?\w*"), re.compile(r"^={5,9}\s*$"), re.compile(r"^>{5,9} ?\w*")
_NEAR = 0.6  # likeness (difflib ratio) from which a line is shown as what may have been meant


class NoFit(Exception):
    """The change cannot be made; the text is for the model."""


@dataclass(frozen=True)
class Hunk:
    """One piece of a diff: the lines that it expects, those it leaves, the line where it says that they begin (0 where
    it does not say), and whether it has as many lines as it announces."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    at: int
    complete: bool = True


def replace_once(source: str, old: str, new: str) -> str:
    """`source` with `new` in place of `old`, which occurs exactly once.

    Raises:
        NoFit: it does not occur, or more often.
    """
    if not old:
        raise NoFit("`old` is empty: quote the text to replace, or write the whole file with `write`")
    found = source.count(old)
    if found == 1:
        return source.replace(old, new)
    if found:
        lines = [source.count("\n", 0, match.start()) + 1 for match in re.finditer(re.escape(old), source)]
        raise NoFit(
            f"`old` occurs {found} times, at lines {', '.join(map(str, lines[:8]))}: quote more lines around it, so "
            "that it occurs once"
        )
    raise NoFit(_missing(source.split("\n"), old.split("\n"), "`old`"))


def is_search(text: str) -> bool:
    """Whether it has search and replace blocks."""
    lines = text.split("\n")
    return any(_SEARCH.match(line) for line in lines) and any(_MIDDLE.match(line) for line in lines)


def apply_search(source: str, text: str) -> str:
    """`source` changed by the blocks `<<<<<<< SEARCH`, `=======`, `>>>>>>> REPLACE`, one after the other.

    Raises:
        NoFit: one of them is not found once, or is cut off.
    """
    pairs = _pairs(text)
    for number, (old, new) in enumerate(pairs, 1):
        which = f"search block {number} of {len(pairs)}"
        if not any(line.strip() for line in old):
            if source.strip():
                raise NoFit(f"{which} searches for nothing, and the file is not empty")
            source = "\n".join(new) + "\n"
            continue
        source = "\n".join(_placed(source.split("\n"), Hunk(old, new, 0), which))
    return source


def is_diff(text: str) -> bool:
    """Whether it is a unified diff, or a patch with `*** Update File`."""
    lines = text.split("\n")
    hunks = any(line.startswith("@@") for line in lines)
    changes = any(re.match(r"[+-](?![+-]{2} )", line) for line in lines)
    named = any(line.startswith("--- ") for line in lines) and any(line.startswith("+++ ") for line in lines)
    return changes and (hunks or named or any(line.startswith("*** Update File") for line in lines))


def diff_names(text: str) -> tuple[str, ...]:
    """Names of the files that a diff speaks of."""
    found = [match["name"] for line in text.split("\n") if (match := _NAMED.match(line))]
    return tuple(dict.fromkeys(name for name in found if name != "/dev/null"))


def apply_diff(source: str, text: str) -> str:
    """`source` changed by a diff.

    Raises:
        NoFit: a piece of it is not found once, or is cut off.
    """
    hunks = _hunks(text)
    if not hunks:
        raise NoFit("the diff changes nothing")
    lines, moved = source.split("\n"), 0
    for number, hunk in enumerate(hunks, 1):
        which = f"piece {number} of {len(hunks)} of the diff"
        if not hunk.complete:
            raise NoFit(f"{which} is cut off: its header announces more lines than it has")
        shifted = Hunk(hunk.old, hunk.new, hunk.at + moved if hunk.at else 0)
        lines = _placed(lines, shifted, which)
        moved += len(hunk.new) - len(hunk.old)
    return "\n".join(lines)


def _pairs(text: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    old: list[str] = []
    new: list[str] = []
    state = "outside"
    for line in text.split("\n"):
        if state == "outside" and _SEARCH.match(line):
            state, old, new = "search", [], []
        elif state == "search" and _MIDDLE.match(line):
            state = "replace"
        elif state == "replace" and _REPLACE.match(line):
            found.append((tuple(old), tuple(new)))
            state = "outside"
        elif state != "outside":
            (old if state == "search" else new).append(line)
    if state != "outside":
        raise NoFit(f"search block {len(found) + 1} is cut off: it has no end `>>>>>>> REPLACE`")
    if not found:
        raise NoFit("there is no complete search block")
    return found


def _hunks(text: str) -> list[Hunk]:
    hunks: list[Hunk] = []
    body: list[str] = []
    header: re.Match[str] | None = None
    lines = text.strip("\n").split("\n")
    for index, line in enumerate(lines):
        after = lines[index + 1] if index + 1 < len(lines) else ""
        names = line.startswith("--- ") and after.startswith("+++ ")
        if names or _SKIPPED.match(line) or line.startswith(("*** ", "@@")) or _is_second_name(lines, index):
            hunks += _hunk(header, body)
            header, body = _HEADER.match(line) if line.startswith("@@") else None, []
        else:
            body.append(line)
    return hunks + _hunk(header, body)


def _is_second_name(lines: list[str], index: int) -> bool:
    return index > 0 and lines[index].startswith("+++ ") and lines[index - 1].startswith("--- ")


def _hunk(header: re.Match[str] | None, body: list[str]) -> list[Hunk]:
    """The piece that these lines make; none where they change nothing."""
    if not any(line[:1] in ("+", "-") for line in body):
        return []
    while body and not body[-1].strip():
        body = body[:-1]
    # A line that is neither marked nor blank is context whose blank was lost.
    old = tuple(line[1:] if line[:1] in (" ", "-") else line for line in body if not line.startswith("+"))
    new = tuple(line[1:] if line[:1] in (" ", "+") else line for line in body if not line.startswith("-"))
    at, complete = 0, True
    if header is not None and header["at"]:
        at = int(header["at"])
        announced = int(header["old"] or 1), int(header["new"] or 1)
        # A few lines fewer are miscounted; more than half of them missing are cut off.
        complete = not (2 * len(old) < announced[0] and 2 * len(new) < announced[1])
    return [Hunk(old, new, at, complete)]


def _placed(lines: list[str], hunk: Hunk, which: str) -> list[str]:
    """`lines` with the piece's new lines in place of its old ones."""
    if not hunk.old:
        if len([line for line in lines if line.strip()]) == 0:
            return [*hunk.new]
        if 0 < hunk.at <= len(lines):
            return [*lines[: hunk.at], *hunk.new, *lines[hunk.at :]]
        raise NoFit(f"{which} adds lines without saying after which: quote the line above them")
    size = len(hunk.old)
    for same in (_exactly, _but_for_trailing):
        starts = [i for i in range(len(lines) - size + 1) if same(lines[i : i + size], hunk.old)]
        if len(starts) > 1 and hunk.at - 1 in starts:
            starts = [hunk.at - 1]
        if len(starts) > 1:
            places = ", ".join(str(i + 1) for i in starts[:8])
            raise NoFit(f"{which} fits at lines {places}: quote more lines around it, so that it fits once")
        if starts:
            return [*lines[: starts[0]], *hunk.new, *lines[starts[0] + size :]]
    raise NoFit(_missing(lines, list(hunk.old), which))


def _exactly(found: list[str], wanted: tuple[str, ...]) -> bool:
    return tuple(found) == wanted


def _but_for_trailing(found: list[str], wanted: tuple[str, ...]) -> bool:
    return all(a.rstrip() == b.rstrip() for a, b in zip(found, wanted, strict=True))


def _missing(lines: list[str], wanted: list[str], which: str) -> str:
    """What is not there, and the line that may have been meant."""
    first = next((line for line in wanted if line.strip() and line not in lines), "")
    if not first:
        return f"{which} is not found: its lines are in the file, but not one after the other; read the file again"
    near = difflib.get_close_matches(first, lines, 1, _NEAR)
    meant = f"; the nearest is line {lines.index(near[0]) + 1}: {near[0]!r:.160}" if near else ""
    return f"{which} is not found: the file has no line {first!r:.160}{meant}"
