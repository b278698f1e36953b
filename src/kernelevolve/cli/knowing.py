"""The commands about what is known before a run: `knowledge search`, `show` and `check`.

In: words, paths, folders of articles. Out: passages for people, one result object for scripts. Left to others: reading,
finding and judging articles (`kernelevolve.knowledge`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kernelevolve import LIMITS, Article, KernelEvolveError, UnknownName, library_faults, open_library
from kernelevolve.cli import public
from kernelevolve.cli.door import Json, door_of, print_lines

app = typer.Typer(
    help="What is known before a run: articles that briefs quote, and your own folders of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FOLDER = "of articles, beside ours and those in KERNELEVOLVE_KNOWLEDGE; give it again for more"
Folders = Annotated[list[Path] | None, typer.Option("--folder", help=FOLDER)]
Limits = Annotated[list[str] | None, typer.Option("--limit", help="only what helps against it, such as spills")]
Topics = Annotated[list[str] | None, typer.Option("--topic", help="only what is about it, such as reductions")]
Platform = Annotated[str, typer.Option("--platform", help="only what holds for this platform or vendor")]


@app.command()
def search(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="any words, such as a compiler's message; may be empty")] = "",
    platform: Platform = "",
    limit: Limits = None,
    topic: Topics = None,
    most: Annotated[int, typer.Option("--most", min=1, help="passages that are shown")] = 10,
    folder: Folders = None,
    as_json: Json = False,
) -> None:
    """Finds passages by words, platform, limit and topic; without words it lists the articles that fit.

    Exits with 0 whether or not anything is found; `correct` of the result object says it.
    """
    door = door_of(context, as_json)
    library = open_library(*(folder or ()))
    limits, topics = tuple(limit or ()), tuple(topic or ())
    _refuse_unknown("limit", limits, (*LIMITS, *library.limits))
    _refuse_unknown("topic", topics, library.topics)
    if platform:
        known = {name for a in library.articles.values() for name in a.platforms} | set(public.platforms())
        _refuse_unknown("platform", (platform,), known)
    most = most if query.strip() else max(most, len(library.articles))
    hits = library.search(query, platform=platform, limits=limits, topics=topics, most=most)
    lines = [line for h in hits for line in (f"{h.path}:{h.line}  {h.heading}", f"    {h.snippet}")]
    print_lines(door, lines or [f"nothing found; {len(library.articles)} articles were searched"])
    facts = [
        {"path": h.path, "line": h.line, "heading": h.heading, "title": h.title, "score": h.score, "snippet": h.snippet}
        for h in hits
    ]
    door.finish({"verdict": None, "correct": bool(hits), "hits": facts, "digest": library.digest})


@app.command()
def show(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="an article, such as guidance/fusion, or a sample's file")],
    section: Annotated[str | None, typer.Option("--section", help="this section only")] = None,
    folder: Folders = None,
    as_json: Json = False,
) -> None:
    """Prints an article, or one section of it; of a sample also its kernel and its problem."""
    door = door_of(context, as_json)
    article = open_library(*(folder or ())).article(path)
    modules = article.modules
    if section is not None:
        modules = tuple(m for m in modules if m.heading.casefold() == section.strip().casefold())
        if not modules:
            raise UnknownName("section", section, (m.heading for m in article.modules))
    else:
        print_lines(door, _head(article))
    for m in modules:
        mark = "#" if m.heading == article.title else "##"
        print_lines(door, [f"{mark} {m.heading}", "", *m.text.split("\n"), ""])
    facts = [{"heading": m.heading, "file": m.file, "line": m.line, "text": m.text} for m in modules]
    door.finish({"verdict": None, "correct": True, "article": {**_facts(article), "sections": facts}})


@app.command()
def check(
    context: typer.Context,
    folder: Annotated[list[Path] | None, typer.Argument(help="folders of articles to look at beside ours")] = None,
    as_json: Json = False,
) -> None:
    """Looks for what is wrong with the articles: front matter, links, limits, platforms, sources, samples.

    Exits with 1 where anything is, each with its file and line.
    """
    door = door_of(context, as_json)
    library = open_library(*(folder or ()), lenient=True)
    faults = library_faults(library, LIMITS)
    print_lines(door, [str(f) for f in faults])
    count = len(library.articles)
    replaced = f", {len(library.replaced)} of them in place of earlier ones" if library.replaced else ""
    print_lines(door, [f"{count} articles{replaced}; {len(faults) or 'nothing'} wrong; {library.digest}"])
    facts = [{"path": f.path, "line": f.line, "message": f.message, "folder": f.folder} for f in faults]
    door.finish(
        {"verdict": None, "correct": not faults, "articles": count, "replaced": list(library.replaced),
         "faults": facts, "digest": library.digest}
    )  # fmt: skip
    if faults:
        raise typer.Exit(KernelEvolveError.exit_code)


def _refuse_unknown(kind: str, given: tuple[str, ...], known: Any) -> None:
    for name in given:
        if name not in known:
            raise UnknownName(kind, name, set(known))


def _head(article: Article) -> list[str]:
    rows = {
        "file": f"{article.folder}/{article.path}" if article.folder else article.path,
        "when": article.summary,
        "platforms": ", ".join(article.platforms),
        "helps against": ", ".join(article.helps),
        "topics": ", ".join(article.topics),
        "sources": " ".join(article.sources),
        "reviewed": article.reviewed,
    }
    return [*(f"{name}: {text}" for name, text in rows.items() if text), ""]


def _facts(article: Article) -> dict[str, Any]:
    names = ("path", "title", "summary", "platforms", "topics", "helps", "languages", "sources", "reviewed", "folder")
    return {name: list(v) if isinstance(v := getattr(article, name), tuple) else v for name in names}
