"""Which modules have which words: SQLite's FTS5 in memory, ranked by BM25.

In: articles, and any text as a query. Out: matches with scores. Left to others: facets and what is done with a match
(`library`, `retrieve`).

A query is never handed to FTS5 as it is: its words are taken out and quoted one by one, so that operators, quotes and
hyphens are text like any other. Words that hang together, such as `num_warps` or `tl.dot`, are looked up as a phrase.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Collection, Iterable
from typing import NamedTuple

from kernelevolve.errors import MachineError
from kernelevolve.knowledge.article import Article

MOST_TERMS = 24
# A word in a title or a heading says more of a module than one in its text.
WEIGHTS = {"title": 6.0, "heading": 4.0, "facets": 3.0, "summary": 2.0, "body": 1.0}
_TERM = re.compile(r"\w+(?:[._-]\w+)*")
_PART = re.compile(r"[^\W_]+")
_COMMON_TEXT = """
a an and any are as at be been but by can could did do does each for from had has have how if in into is it its may
might more most must no nor not of on or other our out over same should so some such than that the their them then
there these they this those to too under up use used using very was were what when where which while who why will
with would you your
"""
_COMMON = frozenset(_COMMON_TEXT.split())


class Match(NamedTuple):
    """A module that has words of a query: its article's path, its number in the article, and BM25, larger is better."""

    path: str
    module: int
    score: float
    row: int


class WordIndex:
    """Words of every module of some articles. May be asked from several threads.

    Raises:
        MachineError: this Python's SQLite was built without FTS5.
    """

    def __init__(self, articles: Iterable[Article]) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._places: list[tuple[str, int]] = []
        rows: list[tuple[int | str, ...]] = []
        for a in articles:
            for number, m in enumerate(a.modules):
                facets = " ".join((*a.topics, *a.helps))
                rows.append((len(rows), a.title, m.heading, facets, "" if number else a.summary, m.text))
                self._places.append((a.path, number))
        try:
            self._database.execute(
                f"CREATE VIRTUAL TABLE modules USING fts5({', '.join(WEIGHTS)}, "
                "tokenize = 'porter unicode61 remove_diacritics 2')"
            )
        except sqlite3.OperationalError as error:
            raise MachineError(
                f"the knowledge library cannot be searched: {error}; use a Python whose SQLite has FTS5"
            ) from error
        self._database.executemany(
            f"INSERT INTO modules(rowid, {', '.join(WEIGHTS)}) VALUES (?, ?, ?, ?, ?, ?)", rows
        )

    def terms(self, query: str) -> tuple[str, ...]:
        """The words of a query that are looked up, each once, in its order."""
        found: dict[str, None] = {}
        for word in _TERM.findall(query.lower()):
            parts = _PART.findall(word)
            if parts and not (len(parts) == 1 and (parts[0] in _COMMON or len(parts[0]) == 1)):
                found.setdefault(" ".join(parts))
        return tuple(found)[:MOST_TERMS]

    def find(
        self,
        query: str,
        *,
        most: int | None = None,
        most_of_each: int | None = None,
        only: Collection[str] | None = None,
    ) -> tuple[Match, ...]:
        """Modules that have at least one of the query's words, best first; ties by path and place.

        Args:
            most: modules in all; None for all there are.
            most_of_each: modules of one article; None for all.
            only: paths of articles to look at; None for all.
        """
        expression = " OR ".join(f'"{term}"' for term in self.terms(query))
        if not expression:
            return ()
        rank = f"bm25(modules, {', '.join(str(w) for w in WEIGHTS.values())})"
        # Only row and score are asked for: the texts of thousands of rows would have to be fetched for anything else.
        with self._lock:
            rows = self._database.execute(
                f"SELECT {rank}, rowid FROM modules WHERE modules MATCH ?", (expression,)
            ).fetchall()
        rows.sort()
        taken: dict[str, int] = {}
        found: list[Match] = []
        for score, row in rows:
            if most is not None and len(found) >= most:
                break
            path, number = self._places[row]
            if only is not None and path not in only:
                continue
            taken[path] = taken.get(path, 0) + 1
            if most_of_each is None or taken[path] <= most_of_each:
                # BM25 of SQLite is negative, and better the lower it is.
                found.append(Match(path, number, -score, row))
        return tuple(found)

    def snippet(self, match: Match, query: str) -> str:
        """One line of the module's text around the words that were found."""
        expression = " OR ".join(f'"{term}"' for term in self.terms(query))
        column = list(WEIGHTS).index("body")
        with self._lock:
            rows = self._database.execute(
                f"SELECT snippet(modules, {column}, '', '', ' … ', 24) FROM modules "
                "WHERE modules MATCH ? AND rowid = ?",
                (expression, match.row),
            ).fetchall()
        return " ".join(str(rows[0][0]).split()) if rows else ""
