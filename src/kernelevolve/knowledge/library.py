"""The library: every article by its path, with an index for readers and a search by words and facets.

In: folders of Markdown files. Out: a `Library`; what it finds are paths, headings and snippets. Left to others: the
form of one article (`article`), choosing what a brief quotes (`retrieve`), what is wrong with a library (`faults`).

Ours come first, then the folders of `KERNELEVOLVE_KNOWLEDGE`, then those given; a later folder adds articles, and
replaces one by giving a file the same path. The index of words is built in memory when it is first asked for.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from kernelevolve.errors import UnknownName, UsageError
from kernelevolve.knowledge.article import INDEX, MOST_TEXT, Article, BrokenArticle, Link, Module, parse_article
from kernelevolve.knowledge.words import WordIndex
from kernelevolve.plugins import load, names

__all__ = [
    "ANY", "ENVIRONMENT", "VENDORS", "Article", "BrokenArticle", "Fault", "Hit", "Library", "Link", "Module",
    "facet_of", "holds_for", "open_library", "our_articles", "vendor_of",
]  # fmt: skip

ENVIRONMENT = "KERNELEVOLVE_KNOWLEDGE"
ANY = "any"
# Files of people's folders that are no articles.
NO_ARTICLES = frozenset({"readme.md", "license.md", "changelog.md", "contributing.md"})
MOST_OF_ONE_ARTICLE = 2
MOST_BYTES = 4 * MOST_TEXT  # of UTF-8 for a character
_SHOWN_FAULTS = 5


@dataclass(frozen=True)
class Fault:
    """What is wrong with an article.

    Attributes:
        path: in the library.
        line: 1-based.
        message: what is wrong, and what to write instead.
        folder: the library folder; empty for ours.
    """

    path: str
    line: int
    message: str
    folder: str = ""

    def __str__(self) -> str:
        return f"{os.path.join(self.folder, self.path)}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Hit:
    """A module that a search found.

    Attributes:
        path: of the file that it stands in.
        heading: of the module.
        score: BM25, larger is better.
        snippet: one line around the words that were found.
        line: 1-based line of the heading.
        title: of its article.
    """

    path: str
    heading: str
    score: float
    snippet: str
    line: int
    title: str


class Library:
    """Articles by path, the ones of later folders in place of earlier ones.

    Args:
        articles: by path.
        broken: files that could not be read, as faults.
        replaced: paths that a later folder gave anew.
    """

    def __init__(
        self, articles: Mapping[str, Article], broken: Sequence[Fault] = (), replaced: Sequence[str] = ()
    ) -> None:
        self.articles: Mapping[str, Article] = MappingProxyType(dict(sorted(articles.items())))
        self.broken, self.replaced = tuple(broken), tuple(replaced)
        self._owners = {m.file: path for path, a in self.articles.items() for m in a.modules}
        self._quotable = {path: a for path, a in self.articles.items() if not a.is_index}
        self._words: WordIndex | None = None

    @cached_property
    def digest(self) -> str:
        """Of all contents by path, wherever they came from: equal digests give equal answers."""
        hashed = hashlib.sha256()
        for path, a in self.articles.items():
            facts = (a.title, a.summary, a.platforms, a.topics, a.helps, a.languages, a.sources, a.reviewed, a.text)
            for part in (path, repr(facts), *(text for m in a.modules if m.file != path for text in (m.file, m.text))):
                data = part.encode()
                hashed.update(len(data).to_bytes(8, "little") + data)
        return f"sha256:{hashed.hexdigest()}"

    @cached_property
    def files(self) -> frozenset[str]:
        """Paths of every article and of every file that one quotes."""
        return frozenset((*self.articles, *self._owners))

    @property
    def limits(self) -> tuple[str, ...]:
        """Every limit that some article helps against."""
        return tuple(sorted({limit for a in self.articles.values() for limit in a.helps}))

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(sorted({topic for a in self.articles.values() for topic in a.topics}))

    def article(self, path: str) -> Article:
        """The article of a path, with or without `.md`; a sample also by one of its files or by its folder.

        Raises:
            UnknownName: with the nearest paths.
        """
        wanted = posixpath.normpath(path.strip().replace("\\", "/")).lstrip("/")
        for one in (wanted, self._owners.get(wanted, ""), f"{wanted}.md", f"{wanted}/article.md", f"{wanted}/{INDEX}"):
            if one in self.articles:
                return self.articles[one]
        near = difflib.get_close_matches(wanted, self.articles, n=5, cutoff=0.4)
        word = posixpath.basename(wanted).removesuffix(".md")
        near += [p for p in self.articles if word and word in p and p not in near][:5]
        raise UnknownName("article", path, near or self.articles)

    def index(self, platform: str = "", limit: str = "") -> str:
        """The articles that hold for a platform and help against a limit, as a Markdown list grouped by folder.

        Args:
            platform: a platform or a vendor; empty for all.
            limit: empty for all.
        """
        lines: list[str] = []
        group = ""
        # An article is listed before the folders beside it, so that a folder's list is not torn apart.
        for a in sorted(self.articles.values(), key=lambda a: (posixpath.dirname(a.path), a.path)):
            if a.is_index or not holds_for(a, platform) or (limit and limit not in a.helps):
                continue
            folder = posixpath.dirname(posixpath.dirname(a.path) if a.is_sample else a.path)
            if folder != group or not lines:
                lines += ([""] if lines else []) + [f"## {folder or 'articles'}"]
                group = folder
            facets = [f"for {', '.join(a.platforms)}"]
            facets += [f"helps: {', '.join(a.helps)}"] if a.helps else []
            facets += [f"topics: {', '.join(a.topics)}"] if a.topics else []
            lines.append(f"- `{a.path}`: {a.title}. {a.summary} ({'; '.join(facets)})")
        return "\n".join(lines)

    def search(
        self,
        query: str,
        *,
        platform: str = "",
        limits: Sequence[str] = (),
        topics: Sequence[str] = (),
        most: int = 10,
    ) -> tuple[Hit, ...]:
        """Modules that have words of `query`, best first; at most two of one article.

        Any text may be asked for: its words are looked up, whatever else it has is passed over. Facets narrow: an
        article must hold for the platform and have one of the limits and one of the topics. Without words, facets
        alone find the articles, each by its first module.

        Args:
            most: hits that are returned.
        """
        fitting = {
            path: a
            for path, a in self._quotable.items()
            if holds_for(a, platform)
            and (not limits or not set(limits).isdisjoint(a.helps))
            and (not topics or not set(topics).isdisjoint(a.topics))
        }
        found: list[Hit] = []
        for match in self.words.find(query, most=most, most_of_each=MOST_OF_ONE_ARTICLE, only=fitting):
            a = fitting[match.path]
            m = a.modules[match.module]
            found.append(Hit(m.file, m.heading, match.score, self.words.snippet(match, query), m.line, a.title))
        if not self.words.terms(query):
            for a in list(fitting.values())[:most]:
                found.append(Hit(a.path, a.title, 0.0, a.summary, 1, a.title))
        return tuple(found)

    @property
    def words(self) -> WordIndex:
        """The index of words."""
        if self._words is None:
            self._words = WordIndex(self._quotable.values())
        return self._words


def holds_for(article: Article, platform: str, vendor: str = "") -> bool:
    """Whether an article holds for a platform: by its name, by its vendor's, or for any; empty asks for nothing.

    Args:
        platform: a platform's or a vendor's name.
        vendor: of the platform, where the caller knows it.
    """
    if not (platform or vendor) or ANY in article.platforms or platform in article.platforms:
        return True
    maker = vendor or vendor_of(platform)
    if maker:
        return facet_of(maker) in article.platforms
    # `platform` is a vendor's name itself: what holds for one of its platforms is worth showing.
    return any(vendor_of(name) == platform for name in article.platforms)


def facet_of(vendor: str) -> str:
    """The word of front matter for a vendor."""
    return _VENDOR_FACETS.get(vendor, vendor)


# Articles name the accelerators that people know; there is one line of them by Meta.
_VENDOR_FACETS = {"meta": "mtia"}
VENDORS = ("nvidia", "amd", "mtia")
_VENDORS: dict[str, str] = {}


def vendor_of(platform: str) -> str:
    """The vendor of a registered platform; empty for any other name."""
    if platform not in _VENDORS:
        _VENDORS[platform] = str(load("platforms", platform).vendor) if platform in names("platforms") else ""
    return _VENDORS[platform]


def our_articles() -> Path:
    """The folder of the articles that come with the package."""
    return Path(__file__).parent / "articles"


def open_library(*folders: Path, lenient: bool = False) -> Library:
    """Opens our articles, the folders of `KERNELEVOLVE_KNOWLEDGE`, and those given, in this order.

    Args:
        folders: later ones add, and replace articles of the same path.
        lenient: keep files that cannot be read as `Library.broken` instead of refusing.

    Raises:
        UsageError: a folder is missing or cannot be read, or an article is broken; it names file and line.
    """
    articles: dict[str, Article] = {}
    broken: list[Fault] = []
    replaced: list[str] = []
    for folder, said in _folders(folders):
        name = "" if folder == our_articles() else str(folder)
        for path, file in _files(folder, said):
            try:
                article = _read(folder, file, path, name)
            except BrokenArticle as error:
                broken.append(Fault(path, error.line, error.message, name))
                continue
            replaced += [path] if path in articles else []
            articles[path] = article
    if broken and not lenient:
        shown = "\n".join(map(str, broken[:_SHOWN_FAULTS]))
        more = f"\nand {len(broken) - _SHOWN_FAULTS} more" if len(broken) > _SHOWN_FAULTS else ""
        raise UsageError(
            f"{len(broken)} of the knowledge library's files cannot be read:\n{shown}{more}\n"
            "repair or remove them; `kernelevolve knowledge check` lists all"
        )
    return Library(articles, broken, replaced)


def _folders(given: Iterable[Path]) -> list[tuple[Path, str]]:
    """Every folder with who asked for it, each once."""
    named = [Path(part).expanduser() for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part.strip()]
    found = {our_articles(): "package"}
    for folder, said in (*((f, ENVIRONMENT) for f in named), *((f, "given") for f in given)):
        found.setdefault(Path(os.path.abspath(folder)), said)
    return list(found.items())


def _files(folder: Path, said: str) -> list[tuple[str, Path]]:
    """Path in the library and place of every Markdown file, sorted; hidden files and folders are passed over."""
    blame = f" ({said})" if said == ENVIRONMENT else ""

    def refuse(error: OSError) -> None:
        raise UsageError(
            f"knowledge folder {folder}{blame} cannot be read: {error.strerror or error}: {error.filename}; "
            "give a folder of articles, or leave it out"
        ) from error

    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"knowledge folder {folder}{blame} {what}; give a folder of articles, or leave it out")
    found = []
    for place, inner, files in os.walk(folder, onerror=refuse):
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__")))
        for name in files:
            if name.endswith(".md") and not name.startswith(".") and name.lower() not in NO_ARTICLES:
                file = Path(place, name)
                found.append((file.relative_to(folder).as_posix(), file))
    return sorted(found)


def _read(folder: Path, file: Path, path: str, name: str) -> Article:
    article = parse_article(_text(file), path, name)
    for inner in dict.fromkeys(filter(None, (article.problem, article.kernel))):
        code = folder / inner
        # A sample without its code is told by the check; its words are still worth reading.
        if code.is_file():
            article = article.with_code(inner, _text(code))
    return article


def _text(file: Path) -> str:
    try:
        about = file.stat()
        # A pipe would be waited for, and a huge file read, before anything could be said of either.
        if not stat.S_ISREG(about.st_mode):
            raise BrokenArticle(1, f"{file.name} is no regular file")
        if about.st_size > MOST_BYTES:
            raise BrokenArticle(1, f"{file.name} has {about.st_size} bytes, more than {MOST_BYTES}; split it")
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise BrokenArticle(line, f"{file.name} is not UTF-8: {error.reason}; save it as UTF-8") from error
    except OSError as error:
        raise BrokenArticle(1, f"{file.name} cannot be read: {error.strerror or error}") from error
