"""Which passages of the library a brief should quote: two deterministic steps, without a model.

In: a library and what is wanted: the platform, what limits the kernel, words, topics. Out: whole passages, quoted
unchanged with their file, best first, more than will fit. Left to others: the words to look for, and cutting by the
room there is (`propose`).

First the index: articles that hold for the platform are scored by their facets and by BM25. Then their modules: the
best few articles are opened and the modules that answer best are taken; the links of the very best are followed one
step. Constraints are never chosen: every prompt has them anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernelevolve.knowledge.article import Article, Module
from kernelevolve.knowledge.library import ANY, Library, facet_of, holds_for, vendor_of

MOST_ARTICLES = 12
MODULES_OF_EACH = 3
FOLLOWED = 4
LINKS_OF_EACH = 3
# An article for those who have no kernel yet has this topic.
FIRST_KERNEL = "first-kernel"
# Topics that name an arithmetic.
PRECISIONS = frozenset(("fp64", "fp32", "fp16", "bf16", "fp8", "int8"))

# Score of an article: the share of each reason. What limits the kernel weighs as much as the words do.
_LIMIT, _WORDS, _TOPIC, _MOST_TOPICS = 3.0, 3.0, 1.0, 2
# One limit among many is a smaller promise than one alone, and an article that speaks of it by name keeps it.
_FOCUS, _NAMED, _OTHER_SAMPLE = 0.6, 0.8, 0.5
_SPECIFIC, _FOR_VENDOR, _STARTING = 0.6, 0.4, 1.0
# Of a first kernel nothing is known but what the problem is about: its topics weigh more than words, which many
# articles have in passing, and the topics that decide the structure more than the later ones.
_DRAFT_TOPIC, _LATER_TOPIC, _LEAST_TOPIC, _DRAFT_WORDS = 2.0, 0.2, 0.2, 1.5
# A first kernel is begun from one whole kernel, perhaps with an eye on a second; of an article it needs what to decide.
MOST_KERNELS, DRAFT_MODULES = 2, 2
# Sections stand in the order of their use; the words of a problem tell little against that, those of a finding more. An
# introduction comes last: it says what the article is about, so that it is found.
_WORD, _DRAFT_WORD, _PLACES, _INTRODUCTION = 2.0, 0.5, (0.6, 0.45, 0.3, 0.15), -1.0
# What fits far less than the best is not worth its tokens, and a whole kernel has many.
_LEAST_SHARE, _LEAST_KERNEL = 0.25, 0.57
# Of an article's second and third module, of a linked article, and of where a module stands.
_LATER_MODULES = (1.0, 0.7, 0.5)
_LINKED = 0.4
_FACET_WORDS, _CODE = 0.5, 2.0


@dataclass(frozen=True)
class Want:
    """What is wanted.

    Attributes:
        platform: a registered platform's name.
        vendor: its vendor; looked up where it is empty.
        limit: what limits the kernel, a key of the diagnosis; empty where nothing is known.
        query: any text: the evidence, ops, a compiler's message.
        topics: facets of the problem.
        drafting: there is no kernel yet: a kernel to begin from goes first, and earlier topics before later ones.
        others: kinds of problem that this is none of: what has one as its first topic is not quoted.
        unwanted: topics that speak against a sample wherever they stand, such as a backward pass.
    """

    platform: str
    vendor: str = ""
    limit: str = ""
    query: str = ""
    topics: tuple[str, ...] = ()
    drafting: bool = False
    others: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passage:
    """A module, quoted unchanged.

    Attributes:
        path: of its file in the library.
        heading: of the module.
        text: without the heading's line.
        why: it was chosen, for people and models.
        line: 1-based line of the heading in the file.
        score: larger is better; comparable within one answer only.
    """

    path: str
    heading: str
    text: str
    why: str
    line: int
    score: float


@dataclass(frozen=True)
class _Chosen:
    article: Article
    score: float
    why: str


def choose(library: Library, want: Want) -> tuple[Passage, ...]:
    """The passages that answer `want` best, best first; equal libraries and wants give equal answers."""
    matches = _matches(library, want.query)
    facets = _matches(library, " ".join((want.limit, *want.topics)))
    articles = _from_index(library, want, matches, facets)
    found: list[tuple[float, _Chosen, Module]] = []
    for chosen in (*articles, *_linked(library, want, articles, matches)):
        most = 1 if chosen not in articles else DRAFT_MODULES if want.drafting else MODULES_OF_EACH
        modules = _modules(chosen.article, matches, facets, want.drafting)[:most]
        found += [(chosen.score * part, chosen, m) for part, m in zip(_LATER_MODULES, modules, strict=False)]
    found.sort(key=lambda one: (-one[0], one[2].file, one[2].line))
    found = _with_few_kernels(found, want)
    return tuple(Passage(m.file, m.heading, m.text, c.why, m.line, round(score, 6)) for score, c, m in found)


def _with_few_kernels(found: list[tuple[float, _Chosen, Module]], want: Want) -> list[tuple[float, _Chosen, Module]]:
    """No kernels but those that fit: before a first kernel the best one goes first, and perhaps another; later one."""
    kernels = [one for one in found if one[2].file == one[1].article.kernel]
    if want.topics:

        def order(one: tuple[float, _Chosen, Module]) -> tuple[int, bool, float]:
            topics = one[1].article.topics
            other = bool(PRECISIONS.intersection(topics)) and not PRECISIONS.intersection(topics, want.topics)
            return min(map(want.topics.index, set(want.topics).intersection(topics))), other, -one[0]

        deciding = set(want.topics if want.drafting else want.topics[:1])
        kernels = sorted((one for one in kernels if deciding.intersection(one[1].article.topics)), key=order)
    kept = kernels[:1]
    others = [one for one in kernels[1:] if one[0] >= _LEAST_KERNEL * kernels[0][0]] if want.drafting else []
    if others:
        # What the first one lacks is worth more than the same once more.
        lacking = [topic for topic in want.topics if topic not in kept[0][1].article.topics]
        firsts = [one for topic in lacking for one in others if topic in one[1].article.topics]
        kept = [*kept, *(firsts or others)[: MOST_KERNELS - 1]]
    best = max((score for score, _, _ in found), default=0.0)
    first = kept[:1] if want.drafting else []
    rest = [one for one in found if one[0] >= _LEAST_SHARE * best and one not in first]
    # What is said of a sample explains its kernel, and is of no use without it.
    explained = {chosen.article.path for _, chosen, _ in kept}
    rest = [one for one in rest if not one[1].article.is_sample or one[1].article.path in explained]
    return [*((best, chosen, m) for _, chosen, m in first), *rest]


def _matches(library: Library, query: str) -> dict[tuple[str, int], float]:
    """BM25 of every module that has words of the query, as a share of the best."""
    found = library.words.find(query)
    best = max((m.score for m in found), default=0.0)
    return {(m.path, m.module): m.score / best if best > 0 else 1.0 for m in found}


def _from_index(
    library: Library,
    want: Want,
    matches: Mapping[tuple[str, int], float],
    facets: Mapping[tuple[str, int], float],
) -> tuple[_Chosen, ...]:
    """The first step: the best articles by facets and words."""
    words, named = _best_of_article(library, matches), _best_of_article(library, facets)
    scored = [
        chosen
        for a in library.articles.values()
        if _may_be_quoted(a, want)
        and (chosen := _score(a, want, words.get(a.path, 0.0), named.get(a.path, 0.0))) is not None
    ]
    return tuple(sorted(scored, key=lambda c: (-c.score, c.article.path))[:MOST_ARTICLES])


def _best_of_article(library: Library, matches: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """By its prose: the words of a sample's code, such as `load` and `store`, say nothing of what it is about."""
    best: dict[str, float] = {}
    for (path, number), score in matches.items():
        if library.articles[path].modules[number].file == path:
            best[path] = max(score, best.get(path, 0.0))
    return best


def _may_be_quoted(article: Article, want: Want) -> bool:
    if article.topics[:1] and article.topics[0] in want.others:
        return False
    # An article may speak of gradients beside its subject; a kernel with gradients is another kernel.
    if article.is_sample and any(topic in article.topics for topic in want.unwanted):
        return False
    return not article.is_index and not article.is_constraint and holds_for(article, want.platform, want.vendor)


def _score(article: Article, want: Want, words: float, named: float) -> _Chosen | None:
    """An article's score and why; None where nothing speaks for it.

    Args:
        words, named: BM25 of its best module, by the query and by the names of limit and topics, as shares of the best.
    """
    score, why = 0.0, []
    shared = [topic for topic in want.topics if topic in article.topics]
    if want.limit and want.limit in article.helps:
        # A whole kernel of another kind is a long answer to a short question.
        limit = _LIMIT if shared or not article.is_sample else _LIMIT * _OTHER_SAMPLE
        score += limit + _FOCUS / len(article.helps) + _NAMED * named
        why.append(f"helps against {want.limit}")
    if shared:
        score += _topics(want, shared)
        why.append(f"about {', '.join(shared)}")
    if words > 0:
        score += (_DRAFT_WORDS if want.drafting else _WORDS) * words
        why.append("has the words asked for")
    if want.drafting and FIRST_KERNEL in article.topics:
        score += _STARTING
        why.append("for a first kernel")
    if not why:
        return None
    if want.drafting:
        return _Chosen(article, score, "; ".join(why))
    if want.platform in article.platforms:
        score += _SPECIFIC
        why.append(f"for {want.platform}")
    elif ANY not in article.platforms:
        score += _FOR_VENDOR
        why.append(f"for {facet_of(want.vendor or vendor_of(want.platform))}")
    return _Chosen(article, score, "; ".join(why))


def _topics(want: Want, shared: list[str]) -> float:
    """What an article's topics are worth; the first ones that are wanted decide a first kernel's structure."""
    if not want.drafting:
        return _TOPIC * min(len(shared), _MOST_TOPICS)
    return _DRAFT_TOPIC * sum(max(1 - _LATER_TOPIC * want.topics.index(topic), _LEAST_TOPIC) for topic in shared)


def _linked(
    library: Library, want: Want, chosen: tuple[_Chosen, ...], matches: Mapping[tuple[str, int], float]
) -> tuple[_Chosen, ...]:
    """Articles that the very best lead to, one step, which the index did not give."""
    words = _best_of_article(library, matches)
    seen = {c.article.path for c in chosen}
    found: list[_Chosen] = []
    for source in chosen[:FOLLOWED]:
        fresh = [
            library.article(path)
            for path in source.article.links
            if path in library.files and library.article(path).path not in seen
        ]
        fresh = [a for a in dict.fromkeys(fresh) if _may_be_quoted(a, want)]
        for a in sorted(fresh, key=lambda a: -words.get(a.path, 0.0))[:LINKS_OF_EACH]:
            seen.add(a.path)
            found.append(_Chosen(a, source.score * _LINKED, f"linked from {source.article.path}"))
    return tuple(found)


def _modules(
    article: Article,
    matches: Mapping[tuple[str, int], float],
    facets: Mapping[tuple[str, int], float],
    drafting: bool = False,
) -> list[Module]:
    """The second step: an article's modules, best first; of a sample the kernel goes before the words about it."""

    def merit(number: int, module: Module) -> float:
        place = (article.path, number)
        score = matches.get(place, 0.0) + _FACET_WORDS * facets.get(place, 0.0)
        if module.file == article.kernel:
            return score + _CODE
        place_in_it = _PLACES[min(number, len(_PLACES)) - 1] if number else _INTRODUCTION
        return (_DRAFT_WORD if drafting or article.is_sample else _WORD) * score + place_in_it

    usable = [(n, m) for n, m in enumerate(article.modules) if m.file != article.problem]
    return [m for n, m in sorted(usable, key=lambda one: (-merit(*one), one[0]))]
