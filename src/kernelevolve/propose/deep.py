"""The deep-search sub-agent: which passages of the library a brief quotes, in two steps: the index, then modules.

In: a library and what is wanted: platform, diagnosis, what the problem is about (`subject`). Out: passages with their
file, the most useful first. Left to others: how rules choose (`knowledge.retrieve`), how many have room (`compose`).

Rules choose by default. A model is asked for the same reason and at the same moment as in `analysis`; the log has the
names of what it chose, and the library the text, whose digest is in the log too. What rules choose stands behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kernelevolve import codec
from kernelevolve.candidate import Candidate, Cost
from kernelevolve.errors import UnknownName
from kernelevolve.events import LOOKUP, Noted
from kernelevolve.knowledge.library import Library
from kernelevolve.knowledge.retrieve import Want, choose
from kernelevolve.problem import Problem
from kernelevolve.propose.asking import Asker
from kernelevolve.propose.diagnose import Diagnosis
from kernelevolve.propose.prose import fill, one_line, template
from kernelevolve.propose.subject import subject_of

#: Articles that a model may open, and passages that it may choose from them.
MOST_OPENED, MOST_CHOSEN = 6, 8
#: First topic of articles on counters and traces.
PROFILING = "profiling"
#: Characters of the articles that it is shown at once.
MOST_SHOWN = 120_000


class Passage(Protocol):
    """What is quoted; `knowledge.retrieve.Passage` is one."""

    @property
    def path(self) -> str: ...

    @property
    def heading(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def why(self) -> str: ...


@dataclass(frozen=True)
class Quoted:
    """A passage that a model chose."""

    path: str
    heading: str
    text: str
    why: str


@dataclass
class Opened:
    """A model's first answer: paths of articles, as listed."""

    paths: list[str]


@dataclass
class Chosen:
    """One passage of a model's second answer."""

    path: str
    heading: str
    why: str


def wanted(
    problem: Problem,
    platform: str,
    diagnosis: Diagnosis | None,
    traced: Iterable[str] = (),
    *,
    measured: bool = False,
) -> Want:
    """What to look for: for a first kernel by what the problem is about, later by what limits the parent too.

    Args:
        traced: ATen ops of the captured reference; empty where it was not captured.
        measured: whether an accelerator is there, so that reading its counters is of use.
    """
    about = subject_of(problem, traced)
    if diagnosis is None:
        limit, query = "", about.query
    else:
        limit, query = diagnosis.limit, " ".join((diagnosis.evidence, diagnosis.directive, about.query))
    return Want(
        platform, limit=limit, query=query, topics=about.topics, drafting=diagnosis is None,
        others=(*about.others, *(() if measured else (PROFILING,))), unwanted=about.unwanted,
    )  # fmt: skip


def look_up(library: Library, want: Want, noted: Mapping[str, Any] | None = None) -> tuple[Passage, ...]:
    """The passages for a brief: those that a model chose before, then those of the rules, none twice."""
    ruled: tuple[Passage, ...] = choose(library, want)
    named = [_quoted(library, *map(str, one)) for one in (noted or {}).get("passages", ())]
    by: dict[tuple[str, str], Passage] = {}
    for passage in (*(one for one in named if one is not None), *ruled):
        by.setdefault((passage.path, passage.heading), passage)
    return tuple(by.values())


def _quoted(library: Library, path: str, heading: str, why: str) -> Quoted | None:
    """The passage of that name; None where the library has none."""
    try:
        article = library.article(path)
    except UnknownName:
        return None
    for module in article.modules:
        if module.heading == heading:
            return Quoted(module.file, heading, module.text, why)
    return None


async def look_up_by_model(asker: Asker, library: Library, candidate: Candidate, want: Want, need: str) -> Noted:
    """What a model chooses for whoever goes on from a candidate, for the log; or why the rules choose alone.

    Args:
        need: the diagnosis in words.
    """
    cost, passages, why = Cost(), list[list[str]](), ""
    index = "\n".join(line for line in library.index(want.platform).splitlines() if "`constraints/" not in line)
    first = await asker.ask(_prompt(", and the index of a library of articles", MOST_OPENED, need, index), Opened)
    cost += first.cost
    if first.said is None:
        why = first.why
    else:
        paths = [path for path in dict.fromkeys(first.said.paths) if path in library.articles][:MOST_OPENED]
        if not paths:
            why = "it names no article of the library"
        else:
            second = await asker.ask(_prompt(", and articles", MOST_CHOSEN, need, _shown(library, paths)), list[Chosen])
            cost += second.cost
            for one in (second.said or [])[:MOST_CHOSEN]:
                found = _quoted(library, one.path, one.heading, one_line(one.why))
                passages += [[found.path, found.heading, found.why]] if found is not None else []
            why = "" if passages else second.why or "it names no passage of the articles"
    data = {"candidate": candidate.id, "by": asker.name, "cost": codec.to_data(cost), "passages": passages, "why": why}
    said = ", ".join(f"{path}#{heading}" for path, heading, _ in passages)
    return Noted(LOOKUP, f"{candidate.id}: {said or f'by rules, since {asker.name} failed: {why}'}", data)


def _prompt(what: str, most: int, need: str, listed: str) -> str:
    return fill(template("deep"), {"what": what, "most": str(most), "need": need, "listed": listed})


def _shown(library: Library, paths: list[str]) -> str:
    """The articles by their passages, as many as may be shown."""
    texts: list[str] = []
    room = MOST_SHOWN
    for path in paths:
        article = library.articles[path]
        for module in article.modules:
            text = f"### path: {article.path}, heading: {module.heading}\n\n{module.text.strip()}"
            room -= len(text)
            if room >= 0:
                texts.append(text)
    return "\n\n".join(texts)
