"""What is wrong with a library, told with file and line before a run would stumble over it.

In: a library that was opened leniently, and the limits that the diagnosis knows. Out: faults in the order of the files.
Left to others: what cannot be read at all (`article`, kept in `Library.broken`), building and interpreting samples.
"""

from __future__ import annotations

import ast
import difflib
import re
import textwrap
from collections import Counter
from collections.abc import Collection, Iterator

from kernelevolve.knowledge.article import Article, Link, Module
from kernelevolve.knowledge.library import ANY, VENDORS, Fault, Library
from kernelevolve.plugins import names
from kernelevolve.syntax import parse

# About 3,000 tokens: a longer passage is dropped from most briefs as a whole.
MOST_OF_A_MODULE = 12_000
_SOURCE = re.compile(r"https?://[^\s/]+\.[^\s]+")
_OWN_PATHS = re.compile(r"(?<![\w.~])/(?:home|root|Users)/\w+")
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_DEFINED = {"kernel": ("ModelNew",), "problem": ("Model", "get_inputs", "get_init_inputs")}


def library_faults(
    library: Library, limits: Collection[str] = (), platforms: Collection[str] | None = None
) -> tuple[Fault, ...]:
    """Everything that `kernelevolve knowledge check` refuses.

    Args:
        limits: that the diagnosis knows; empty to accept any.
        platforms: that articles may name; None for `any`, the vendors and all registered platforms.
    """
    known = {ANY, *VENDORS, *names("platforms")} if platforms is None else set(platforms)
    titles = Counter(a.title.casefold() for a in library.articles.values())
    found = list(library.broken)
    for a in library.articles.values():
        found += _front_matter(a, limits, known)
        if titles[a.title.casefold()] > 1:
            others = [b.path for b in library.articles.values() if b.title.casefold() == a.title.casefold()]
            others.remove(a.path)
            found.append(_at(a, "title", f"the title {a.title!r} is also that of {', '.join(others)}"))
        found += [_broken_link(a, link, library) for link in a.references if not _leads_somewhere(link, library)]
        found += _modules(a)
        found += _code_blocks(a)
        found += _own_paths(a)
        found += _sample(a)
    return tuple(sorted(found, key=lambda f: (f.folder, f.path, f.line)))


def _at(article: Article, field: str, message: str) -> Fault:
    return Fault(article.path, article.lines.get(field, 1), message, article.folder)


def _front_matter(a: Article, limits: Collection[str], platforms: Collection[str]) -> Iterator[Fault]:
    if a.is_index:
        return
    if not a.platforms:
        yield _at(a, "platforms", f"no platforms; write `[{ANY}]` where it holds everywhere")
    if ANY in a.platforms and len(a.platforms) > 1:
        others = ", ".join(name for name in a.platforms if name != ANY)
        yield _at(a, "platforms", f"`{ANY}` beside {others}; write one or the other")
    for name in a.platforms:
        if name not in platforms:
            yield _at(a, "platforms", f"unknown platform {name!r}{_near(name, platforms)}")
    for name in a.helps if limits else ():
        if name not in limits:
            yield _at(a, "helps", f"unknown limit {name!r}{_near(name, limits)}")
    if not a.topics:
        yield _at(a, "topics", "no topics; one would look for it by at least one word")
    if not a.sources:
        yield _at(a, "sources", "no sources; give at least one public address that its facts can be checked with")
    for source in a.sources:
        if not _SOURCE.fullmatch(source):
            yield _at(a, "sources", f"{source!r} is not a public address; write https://...")


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(sorted(known))}"


def _leads_somewhere(link: Link, library: Library) -> bool:
    if link.path not in library.files:
        return False
    article = library.articles.get(link.path)
    return not link.anchor or article is None or link.anchor in _anchors(article)


def _anchors(article: Article) -> set[str]:
    """As Markdown viewers make them of headings of every depth."""
    headings = re.findall(r"^#{1,6} +(.+?)\s*$", article.text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _broken_link(a: Article, link: Link, library: Library) -> Fault:
    if link.path.startswith(".."):
        what = "leads out of the library"
    elif link.path in library.files:
        what = f"leads to no heading of {link.path}"
    else:
        near = difflib.get_close_matches(link.path, library.articles, n=2)
        what = f"leads to {link.path}, which is not there" + (f"; near: {', '.join(near)}" if near else "")
    return Fault(a.path, link.line, f"link {link.written!r} {what}", a.folder)


def _modules(a: Article) -> Iterator[Fault]:
    own = [m for m in a.modules if m.file == a.path]
    if not own:
        yield Fault(a.path, 1, "has no text", a.folder)
    seen: dict[str, Module] = {}
    for m in own:
        if m.heading.casefold() in seen:
            first = seen[m.heading.casefold()].line
            yield Fault(a.path, m.line, f"heading {m.heading!r} comes twice, first on line {first}", a.folder)
        seen.setdefault(m.heading.casefold(), m)
        if len(m.text) > MOST_OF_A_MODULE:
            yield Fault(
                a.path, m.line, f"{len(m.text)} characters under {m.heading!r}, more than {MOST_OF_A_MODULE}; split it",
                a.folder,
            )  # fmt: skip


def _code_blocks(a: Article) -> Iterator[Fault]:
    """Python that is shown is Python: somebody will take it as it stands."""
    for block in _PYTHON.finditer(a.text):
        try:
            parse(textwrap.dedent(block[1]))
        except (SyntaxError, ValueError) as error:
            line = a.start + a.text[: block.start(1)].count("\n") + (getattr(error, "lineno", None) or 1) - 1
            yield Fault(a.path, line, f"code does not parse: {getattr(error, 'msg', None) or error}", a.folder)


def _own_paths(a: Article) -> Iterator[Fault]:
    code = [(m.file, m.text, 0) for m in a.modules if m.file != a.path]  # a fence stands before its first line
    for file, text, start in ((a.path, a.text, a.start), *code):
        for number, row in enumerate(text.split("\n"), start):
            if found := _OWN_PATHS.search(row):
                yield Fault(file, number, f"{found[0]} is one machine's path; leave it out", a.folder)


def _sample(a: Article) -> Iterator[Fault]:
    if a.path.startswith("samples/") and not a.is_index and not a.is_sample:
        yield Fault(a.path, 1, "a sample's front matter names its `kernel` and its `problem`", a.folder)
    for field in _DEFINED if a.is_sample else ():
        file = getattr(a, field)
        code = next((m for m in a.modules if m.file == file), None)
        if code is None:
            yield _at(a, field, f"{file} is not there")
            continue
        source = code.text.removeprefix("```python\n").removesuffix("\n```")
        try:
            tree = parse(source)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            yield Fault(file, line, f"does not parse: {getattr(error, 'msg', None) or error}", a.folder)
            continue
        defined = {n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
        for name in _DEFINED[field]:
            if name not in defined:
                yield Fault(file, 1, f"does not define {name}", a.folder)
