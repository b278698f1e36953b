"""One article: Markdown with front matter, taken apart into modules that can be quoted alone.

In: a file's text and its path in the library. Out: an `Article`, or `BrokenArticle` with the line at fault. Left to
others: finding files (`library`), judging what an article says of limits, platforms and links (`faults`).

The front matter is YAML between two lines `---`; `title`, `summary`, `platforms`, `topics`, `helps`, `languages`,
`sources` and `reviewed` are required, `kernel` and `problem` belong to samples. A file `index.md` leads to others: it
needs `title` and `summary` only. Every `## ` section is a module, and so is what stands before the first.
"""

from __future__ import annotations

import datetime
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

INDEX = "index.md"
LISTS = ("platforms", "topics", "helps", "languages", "sources")
TEXTS = ("title", "summary")
SAMPLE_FILES = ("kernel", "problem")
FIELDS = (*TEXTS, *LISTS, "reviewed")
MOST_FRONT_MATTER = 8_000
MOST_TEXT = 200_000

# The compiled parser reads front matter about ten times faster; both know the same safe subset.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FACET = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(\s*<?([^)\s>]+)>?[^)\n]*\)")
_CODE_SPAN = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_EXTERNAL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


class BrokenArticle(Exception):
    """A file that cannot be read as an article.

    Args:
        line: 1-based line at fault.
        message: what is wrong there and what to write instead.
    """

    def __init__(self, line: int, message: str) -> None:
        self.line, self.message = line, message
        super().__init__(message)


@dataclass(frozen=True)
class Module:
    """A section that can be quoted alone.

    Attributes:
        heading: the text after `## `; the article's title for what stands before the first section; a file's name for
            a sample's code.
        text: unchanged, without the heading's line.
        line: 1-based line of the heading in its file.
        file: path in the library of the file that it stands in.
    """

    heading: str
    text: str
    line: int
    file: str


@dataclass(frozen=True)
class Link:
    """A relative link of an article.

    Attributes:
        path: what it leads to, as a path in the library; begins with `..` where it leads out of it.
        anchor: what follows `#`.
        line: 1-based.
        written: as it stands in the file.
    """

    path: str
    anchor: str
    line: int
    written: str


@dataclass(frozen=True)
class Article:
    """One article of a library.

    Attributes:
        path: in the library: `guidance/fusion.md`.
        title, summary: one line each; the summary says when one would open it.
        platforms: `any`, vendors (`nvidia`) and platforms (`h100`) that it holds for.
        topics: free facets.
        helps: limits that it helps against; empty for background.
        languages: that its code is written in.
        sources: public addresses.
        reviewed: ISO date.
        text: everything after the front matter, unchanged.
        start: 1-based line where `text` begins.
        modules: in the file's order; those of a sample's code come last.
        links: paths in the library that it leads to, each once, in the text's order.
        folder: the library folder that it came from; empty for ours.
        kernel, problem: paths in the library of a sample's files; empty for other articles.
        references: every relative link with its place.
        lines: 1-based line of each field of the front matter.
    """

    path: str
    title: str
    summary: str
    platforms: tuple[str, ...]
    topics: tuple[str, ...]
    helps: tuple[str, ...]
    languages: tuple[str, ...]
    sources: tuple[str, ...]
    reviewed: str
    text: str
    start: int
    modules: tuple[Module, ...]
    links: tuple[str, ...]
    folder: str
    kernel: str
    problem: str
    references: tuple[Link, ...]
    lines: Mapping[str, int] = field(hash=False)

    @property
    def is_index(self) -> bool:
        """Whether it only leads to others; then it is never searched or quoted."""
        return posixpath.basename(self.path) == INDEX

    @property
    def is_sample(self) -> bool:
        return bool(self.kernel)

    @property
    def is_constraint(self) -> bool:
        """Whether it says what a candidate must be."""
        return self.path.startswith("constraints/")

    def with_code(self, file: str, source: str) -> Article:
        """The article with a file of a sample as one more module, as a fenced block that quotes it unchanged."""
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", source))])
        code = Module(posixpath.basename(file), f"{fence}python\n{source.rstrip()}\n{fence}", 1, file)
        return replace(self, modules=(*self.modules, code))


def parse_article(text: str, path: str, folder: str = "") -> Article:
    """The article of a file.

    Args:
        text: of the whole file.
        path: in the library, with forward slashes.
        folder: the library folder that it came from.

    Raises:
        BrokenArticle: names the line.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > MOST_TEXT:
        raise BrokenArticle(1, f"{len(text)} characters, more than {MOST_TEXT}; split it into articles that link")
    front, body, first_line = _split(text)
    fields, lines = _fields(front)
    index = posixpath.basename(path) == INDEX
    _refuse_missing(fields, index)
    title = _line_of_text(fields, "title", lines)
    kernel, problem = (_sample_file(fields, name, lines, path) for name in SAMPLE_FILES)
    if bool(kernel) != bool(problem):
        raise BrokenArticle(lines.get("kernel", lines.get("problem", 1)), "a sample names both a kernel and a problem")
    modules, links = _read_body(body, path, title, first_line)
    return Article(
        path=path,
        title=title,
        summary=_line_of_text(fields, "summary", lines),
        platforms=_words(fields, "platforms", lines),
        topics=_words(fields, "topics", lines),
        helps=_words(fields, "helps", lines),
        languages=_words(fields, "languages", lines),
        sources=_words(fields, "sources", lines),
        reviewed=_date(fields, lines, index),
        text=body,
        start=first_line,
        modules=modules,
        links=tuple(dict.fromkeys(link.path for link in links if link.path != path)),
        folder=folder,
        kernel=kernel,
        problem=problem,
        references=links,
        lines=lines,
    )


def _split(text: str) -> tuple[str, str, int]:
    """Front matter, body, and the body's first line."""
    rows = text.split("\n")
    if rows[0].rstrip() != "---":
        raise BrokenArticle(1, "does not begin with `---`; an article begins with its front matter")
    end = next((i for i, row in enumerate(rows[1:], 1) if row.rstrip() == "---"), None)
    if end is None:
        raise BrokenArticle(1, "the front matter does not end; write `---` after its last field")
    front = "\n".join(rows[1:end])
    if len(front) > MOST_FRONT_MATTER:
        raise BrokenArticle(1, f"front matter of {len(front)} characters, more than {MOST_FRONT_MATTER}")
    return front, "\n".join(rows[end + 1 :]), end + 2


def _fields(front: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The front matter's fields, and the line of each."""
    try:
        loader = _Loader(front)
        try:
            node = loader.get_single_node()
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BrokenArticle(mark.line + 2 if mark else 1, f"front matter: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # Dates such as 2026-13-45 are a ValueError of the constructor.
        raise BrokenArticle(2, f"front matter: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise BrokenArticle(2, "front matter: not a list of `field: value`")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name, line = str(key.value), key.start_mark.line + 2
        if name in lines:
            raise BrokenArticle(line, f"front matter: `{name}` comes twice, first on line {lines[name]}")
        if name not in (*FIELDS, *SAMPLE_FILES):
            raise BrokenArticle(line, f"front matter: unknown field `{name}`; known: {', '.join(FIELDS)}")
        lines[name] = line
    return data, lines


def _refuse_missing(fields: Mapping[str, Any], index: bool) -> None:
    needed = TEXTS if index else FIELDS
    if missing := [name for name in needed if fields.get(name) is None]:
        raise BrokenArticle(1, f"front matter: {', '.join(f'`{name}`' for name in missing)} missing")


def _line_of_text(fields: Mapping[str, Any], name: str, lines: Mapping[str, int]) -> str:
    value = fields[name]
    if not isinstance(value, str) or not value.strip() or "\n" in value.strip():
        raise BrokenArticle(lines[name], f"front matter: `{name}` is {_shown(value)}; it must be one line of text")
    return value.strip()


def _words(fields: Mapping[str, Any], name: str, lines: Mapping[str, int]) -> tuple[str, ...]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise BrokenArticle(lines[name], f"front matter: `{name}` is {_shown(value)}; it must be a list of words")
    if name != "sources" and (odd := [one for one in value if not _FACET.fullmatch(one)]):
        raise BrokenArticle(
            lines[name], f"front matter: `{name}` has {_shown(odd[0])}; words are lower case, joined by hyphens"
        )
    return tuple(dict.fromkeys(value))


def _sample_file(fields: Mapping[str, Any], name: str, lines: Mapping[str, int], path: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not value.endswith(".py") or posixpath.basename(value) != value:
        raise BrokenArticle(
            lines[name], f"front matter: `{name}` is {_shown(value)}; it must name a .py file beside the article"
        )
    return posixpath.join(posixpath.dirname(path), value)


def _date(fields: Mapping[str, Any], lines: Mapping[str, int], index: bool) -> str:
    value = fields.get("reviewed")
    if value is None and index:
        return ""
    if isinstance(value, datetime.datetime) or not isinstance(value, datetime.date):
        raise BrokenArticle(
            lines["reviewed"], f"front matter: `reviewed` is {_shown(value)}; it must be a date such as 2026-11-23"
        )
    return value.isoformat()


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read_body(body: str, path: str, title: str, first_line: int) -> tuple[tuple[Module, ...], tuple[Link, ...]]:
    """The modules and the links; code blocks hold neither headings nor links."""
    parts: list[tuple[str, int, list[str]]] = [(title, first_line, [])]
    links: list[Link] = []
    fence, opened = "", 0
    for number, row in enumerate(body.split("\n"), first_line):
        opening = _FENCE.match(row)
        if fence:
            if opening and opening[1].startswith(fence) and not row.strip().strip(fence[0]):
                fence = ""
        elif opening:
            fence, opened = opening[1], number
        elif row.startswith("## ") and row[3:].strip():
            parts.append((row[3:].strip(), number, []))
            continue
        elif row.startswith("# ") and len(parts) == 1 and not any(one.strip() for one in parts[0][2]):
            parts[0] = (title, number, [])  # the title's own line
            continue
        elif "](" in row:
            links += _links(row, path, number)
        parts[-1][2].append(row)
    if fence:
        raise BrokenArticle(opened, f"a code block does not end; close it with {fence}")
    modules = (Module(heading, "\n".join(rows).strip("\n"), line, path) for heading, line, rows in parts)
    return tuple(module for module in modules if module.text.strip()), tuple(links)


def _links(row: str, path: str, number: int) -> Sequence[Link]:
    found = []
    for written in _LINK.findall(_CODE_SPAN.sub("", row)):
        if _EXTERNAL.match(written) or written.startswith("//"):
            continue
        target, _, anchor = written.partition("#")
        # An anchor alone stays within the article.
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else path
        found.append(Link(place, anchor, number, written))
    return found
