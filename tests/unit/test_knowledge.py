"""The knowledge library: its format, folders that add and replace, search, retrieval, checks, and the commands."""

from __future__ import annotations

import datetime
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.cli import main
from kernelevolve.errors import UnknownName, UsageError
from kernelevolve.knowledge.article import Article, BrokenArticle, parse_article
from kernelevolve.knowledge.faults import library_faults
from kernelevolve.knowledge.library import ENVIRONMENT, Library, holds_for, open_library, our_articles
from kernelevolve.knowledge.retrieve import Want, choose
from kernelevolve.propose.diagnose import LIMITS

FRONT = {
    "title": "Bank conflicts",
    "summary": "When shared memory is slow.",
    "platforms": ["nvidia"],
    "topics": ["shared-memory"],
    "helps": ["latency"],
    "languages": ["triton"],
    "sources": ["https://example.org/manual"],
    "reviewed": "2026-11-23",
}
BODY = "# Bank conflicts\nWhat they are.\n\n## Padding\nPad the rows.\n\n## Swizzling\nSee [masks](../b/masks.md).\n"


def text(body: str = BODY, **changes: object) -> str:
    fields = {**FRONT, **changes}
    rows = [f"{k}: {v if k == 'reviewed' else json.dumps(v)}" for k, v in fields.items() if v is not None]
    return "\n".join(("---", *rows, "---", body))


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an article below a folder of the test's own, and gives that folder."""

    def put(path: str, content: str | bytes | None = None, folder: str = "mine", **changes: object) -> Path:
        file = tmp_path / folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        title = changes.pop("title", path)
        said = text(title=title, **changes) if content is None else content
        file.write_bytes(said if isinstance(said, bytes) else said.encode())
        return tmp_path / folder

    return put


@pytest.fixture(autouse=True)
def no_folders_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def broken(content: str, path: str = "a/x.md") -> BrokenArticle:
    with pytest.raises(BrokenArticle) as caught:
        parse_article(content, path)
    return caught.value


def read(content: str) -> Article | BrokenArticle:
    try:
        return parse_article(content, "a/x.md")
    except BrokenArticle as error:
        return error


def named_or_read(content: str) -> bool:
    """Whether a file is an article with a title, or told with a reason and a line that it has."""
    found = read(content)
    if isinstance(found, BrokenArticle):
        return bool(found.message) and 1 <= found.line <= len(content.splitlines()) + 1
    return bool(found.title)


class TestFormat:
    def test_an_article_is_taken_apart_into_modules_with_their_lines(self) -> None:
        content = text()
        a = parse_article(content, "a/banks.md")
        assert (a.title, a.platforms, a.helps) == ("Bank conflicts", ("nvidia",), ("latency",))
        assert a.reviewed == "2026-11-23"
        assert [m.heading for m in a.modules] == ["Bank conflicts", "Padding", "Swizzling"]
        assert [m.text for m in a.modules[:2]] == ["What they are.", "Pad the rows."]
        rows = content.split("\n")
        assert [rows[m.line - 1] for m in a.modules] == ["# Bank conflicts", "## Padding", "## Swizzling"]
        assert a.links == ("b/masks.md",)
        assert a.text == BODY

    def test_code_holds_neither_headings_nor_links(self) -> None:
        code = "## Real\n~~~python\n## no heading\n[no](link.md)\n```\n~~~\n`[nor](this.md)` [yes](that.md)\n"
        a = parse_article(text(code), "a/x.md")
        assert [m.heading for m in a.modules] == ["Real"]
        assert a.links == ("a/that.md",)

    def test_links_to_addresses_and_pictures_are_not_followed(self) -> None:
        body = "[a](https://x.org/y.md) ![p](p.png) [m](mailto:a@b.c) [up](../../out.md) [same](#padding)\n"
        a = parse_article(text(body), "a/x.md")
        assert a.links == ("../out.md",)
        assert [(r.path, r.anchor) for r in a.references] == [("../out.md", ""), ("a/x.md", "padding")]

    def test_line_ends_and_marks_of_other_systems_change_nothing(self) -> None:
        assert parse_article("\ufeff" + text().replace("\n", "\r\n"), "a/x.md") == parse_article(text(), "a/x.md")

    @pytest.mark.parametrize(
        ("content", "line", "said"),
        [
            ("# No front matter\n", 1, "begins with its front matter"),
            ("---\ntitle: x\n", 1, "does not end"),
            ("---\ntitle: a: b\n---\n", 2, "mapping values are not allowed"),
            ("---\ntitle: x\nplatforms: [a\n---\n", 4, "front matter"),
            ("---\n- a\n---\n", 2, "field: value"),
            ("---\n---\n", 2, "field: value"),
            ("---\ntitle: x\ntitle: y\n---\n", 3, "`title` comes twice, first on line 2"),
            ("---\ntitle: x\nauthor: me\n---\n", 3, "unknown field `author`"),
            ("---\ntitle: x\n---\n", 1, "`summary`, `platforms`, `topics`"),
            (text(title=["a"]), 2, "one line of text"),
            (text(title="  "), 2, "one line of text"),
            (text(topics="memory"), 5, "a list of words"),
            (text(topics=["Memory"]), 5, "lower case"),
            (text(helps=[1]), 6, "a list of words"),
            (text(reviewed="soon"), 9, "a date"),
            (text(reviewed="2026-13-45"), 2, "month must be in 1..12"),
            (text(kernel="kernel.py"), 10, "both a kernel and a problem"),
            (text(kernel="../kernel.py", problem="problem.py"), 10, "beside the article"),
            (text("## A\n```python\nx = 1\n"), 12, "a code block does not end"),
            ("---\n" + "x" * 9000 + "\n---\n", 1, "more than 8000"),
            (text("x" * 200_001), 1, "split it"),
            ("---\ntitle: !!python/object/apply:os.system [echo]\n---\n", 2, "could not determine a constructor"),
        ],
    )
    def test_what_is_broken_is_named_with_its_line(self, content: str, line: int, said: str) -> None:
        error = broken(content)
        assert said in error.message
        assert error.line == line

    def test_what_is_nested_too_deep_is_said_where_it_begins_or_ends(self) -> None:
        """PyYAML 6.0.4 stops where a limit is exceeded, earlier ones where they miss the end."""
        error = broken("---\n" + "[" * 5000 + "\n---\n")
        assert "front matter" in error.message
        assert error.line in (2, 3)

    def test_an_index_needs_a_title_and_a_summary_only(self) -> None:
        a = parse_article("---\ntitle: Where\nsummary: What.\n---\n[x](a.md)\n", "index.md")
        assert a.is_index
        assert a.links == ("a.md",)
        assert "missing" in broken("---\ntitle: Where\n---\n", "index.md").message

    @given(st.text(max_size=300))
    @settings(max_examples=150, deadline=None)
    def test_any_front_matter_is_an_article_or_named(self, front: str) -> None:
        assert named_or_read(f"---\n{front}\n---\nbody\n")

    @given(
        st.dictionaries(
            st.sampled_from([*FRONT, "kernel", "problem", "other"]),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.dates() | st.text(max_size=20),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                max_leaves=6,
            ),
        )
    )
    @settings(max_examples=150, deadline=None)
    def test_any_values_of_fields_are_an_article_or_named(self, fields: dict[str, Any]) -> None:
        front = yaml.safe_dump({**FRONT, "reviewed": datetime.date(2026, 11, 23), **fields}, allow_unicode=True)
        assert named_or_read(f"---\n{front}---\nbody\n")

    @given(st.lists(st.sampled_from(["## h", "### h", "# t", "```", "~~~", "text", "", "## ", "[a](b.md)"])))
    @settings(max_examples=200, deadline=None)
    def test_modules_are_the_text_unchanged(self, rows: list[str]) -> None:
        body = "\n".join(rows)
        a = read(text(body))
        if isinstance(a, BrokenArticle):
            assert "code block does not end" in a.message
            return
        assert a.text == body
        assert all(m.text in body and m.text.strip() for m in a.modules)


class TestFolders:
    def test_a_folder_adds_and_replaces(self, write: Write, tmp_path: Path) -> None:
        write("a/one.md", topics=["first"])
        mine = write("a/two.md")
        yours = write("a/one.md", folder="yours", topics=["second"])
        library = open_library(mine, yours)
        assert library.articles["a/one.md"].topics == ("second",)
        assert library.articles["a/one.md"].folder == str(yours)
        assert library.articles["a/two.md"].folder == str(mine)
        assert library.replaced == ("a/one.md",)
        assert library.articles["index.md"].folder == ""
        assert [h.path for h in library.search("", topics=["second"])] == ["a/one.md"]
        assert library.search("", topics=["first"]) == ()

    def test_folders_of_the_environment_come_between(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        named = write("a/one.md", folder="named", topics=["named"])
        given_ = write("a/two.md", folder="given", topics=["given"])
        write("a/two.md", folder="named", topics=["named"])
        monkeypatch.setenv(ENVIRONMENT, f"{named}{os.pathsep}{os.pathsep}")
        library = open_library(given_)
        assert library.articles["a/one.md"].topics == ("named",)
        assert library.articles["a/two.md"].topics == ("given",)

    def test_the_digest_follows_contents_not_places(self, write: Write) -> None:
        here, there = write("a/one.md"), write("a/one.md", folder="there")
        digest = open_library(here).digest
        assert digest == open_library(there).digest != open_library().digest
        write("a/one.md", text("Other.", title="a/one.md"), folder="there")
        assert open_library(there).digest != digest

    def test_the_digest_follows_a_samples_code(self, write: Write) -> None:
        folder = write("samples/s/article.md", kernel="kernel.py", problem="problem.py")
        write("samples/s/kernel.py", "class ModelNew: ...\n")
        first = open_library(folder).digest
        write("samples/s/kernel.py", "class ModelNew: pass\n")
        assert open_library(folder).digest != first

    def test_what_is_no_article_is_passed_over(self, write: Write) -> None:
        for path in ("README.md", ".hidden.md", ".git/x.md", "__pycache__/x.md", "notes.txt"):
            folder = write(path, "no front matter")
        assert set(open_library(folder).articles) == set(open_library().articles)

    @pytest.mark.parametrize("by", ["argument", "environment"])
    def test_a_missing_folder_is_named(self, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        gone = tmp_path / "gone"
        if by == "environment":
            monkeypatch.setenv(ENVIRONMENT, str(gone))
        with pytest.raises(UsageError, match=r"gone( \(KERNELEVOLVE_KNOWLEDGE\))? does not exist"):
            open_library(*([gone] if by == "argument" else []))

    def test_a_file_in_place_of_a_folder_is_named(self, write: Write) -> None:
        file = write("one.md") / "one.md"
        with pytest.raises(UsageError, match=r"one\.md is not a folder"):
            open_library(file)

    def test_a_folder_that_cannot_be_read_is_named(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write("inner/one.md")
        scan = os.scandir

        def refuse(path: Any) -> Any:  # whoever runs this may be allowed to read everything
            if str(path).endswith("inner"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(UsageError, match=r"cannot be read: Permission denied: .*inner"):
            open_library(folder)

    def test_broken_articles_are_refused_with_file_and_line_or_kept(self, write: Write) -> None:
        write("a/fine.md")
        write("a/bytes.md", b"---\ntitle: x\n\xff\xfe\n---\n")
        folder = write("a/broken.md", "---\ntitle: a: b\n---\n")
        with pytest.raises(UsageError) as caught:
            open_library(folder)
        assert f"{folder}/a/broken.md:2: front matter" in str(caught.value)
        assert f"{folder}/a/bytes.md:3: bytes.md is not UTF-8" in str(caught.value)
        library = open_library(folder, lenient=True)
        assert [f.path for f in library.broken] == ["a/broken.md", "a/bytes.md"]
        assert "a/fine.md" in library.articles


    def test_what_is_no_file_to_read_is_told_and_not_waited_for(self, write: Write) -> None:
        folder = write("a/huge.md", b"x" * 900_000)
        os.mkfifo(folder / "a" / "pipe.md")
        (folder / "a" / "gone.md").symlink_to("nowhere.md")
        said = {f.path: f.message for f in open_library(folder, lenient=True).broken}
        assert said["a/huge.md"] == "huge.md has 900000 bytes, more than 800000; split it"
        assert said["a/pipe.md"] == "pipe.md is no regular file"
        assert "gone.md cannot be read: No such file" in said["a/gone.md"]

    def test_a_samples_code_that_cannot_be_read_breaks_the_sample(self, write: Write) -> None:
        folder = write("samples/s/article.md", kernel="kernel.py", problem="problem.py")
        write("samples/s/kernel.py", b"\xff")
        assert [f.message for f in open_library(folder, lenient=True).broken] == [
            "kernel.py is not UTF-8: invalid start byte; save it as UTF-8"
        ]


class TestSearch:
    @pytest.fixture
    def library(self, write: Write, tmp_path: Path) -> Library:
        write("a/banks.md", text())
        write("b/masks.md", text("## Ragged\nnum_warps and tl.dot at the café.\n", title="Masks", platforms=["any"],
                                 topics=["masks"], helps=["wrong-values"]))  # fmt: skip
        write("b/lds.md", text("## LDS\nBanks of the LDS.\n", title="LDS", platforms=["mi300x"], helps=[]))
        write("c/other.md", text("## Rest\nNothing else.\n", title="Rest", platforms=["h100"]))
        return mine_of(open_library(tmp_path / "mine"))

    def test_words_are_found_in_any_form(self, library: Library) -> None:
        (hit,) = library.search("pads row")
        assert (hit.path, hit.heading, hit.snippet) == ("a/banks.md", "Padding", "Pad the rows.")
        assert library.search("CAFE")[0].path == "b/masks.md"

    def test_words_that_hang_together_are_one(self, library: Library) -> None:
        assert [h.path for h in library.search("num_warps")] == ["b/masks.md"]
        assert library.search("warps_num") == ()

    def test_facets_narrow(self, library: Library) -> None:
        def paths(**facets: Any) -> set[str]:
            return {h.path for h in library.search("", most=99, **facets)}

        assert {"a/banks.md", "b/masks.md"} <= paths(platform="h200")
        assert "b/lds.md" not in paths(platform="h200")
        assert {"b/lds.md", "b/masks.md"} <= paths(platform="mi300x")
        assert "c/other.md" in paths(platform="nvidia")
        assert paths(limits=["wrong-values"], platform="h100") >= {"b/masks.md"}
        assert paths(topics=["masks"]) >= {"b/masks.md"}
        assert "a/banks.md" not in paths(topics=["masks"])

    @pytest.mark.parametrize(
        "query",
        ['"', "a AND", "NEAR(", "title:", "col : x", "*", "-", "^a", "(", "' OR 1=1 --", "{a b} : c", "\x00", "ﬀ"],
    )
    def test_operators_are_text(self, library: Library, query: str) -> None:
        library.search(query)
        assert library.search(f"{query} padding")[0].heading == "Padding"

    @given(st.text(max_size=200))
    @settings(max_examples=200, deadline=None)
    def test_any_query_is_answered(self, query: str) -> None:
        library = ANY_LIBRARY
        hits = library.search(query, most=3)
        assert len(hits) <= 3
        assert all(h.path in library.files for h in hits)
        assert hits == library.search(query, most=3)

    @given(st.lists(st.sampled_from(['"', "-", "*", "num_warps", "AND", "NOT", "NEAR", "(", ":", "bank", "tl.dot"])))
    @settings(max_examples=150, deadline=None)
    def test_any_mix_of_operators_and_words_is_answered(self, parts: list[str]) -> None:
        found = {h.path for h in ANY_LIBRARY.search(" ".join(parts))}
        assert ("a/x.md" in found) == ("bank" in parts) or not {"bank", "num_warps", "tl.dot"} & set(parts)

    def test_an_article_is_found_by_many_names(self, library: Library) -> None:
        for name in ("a/banks.md", "a/banks", "/a/banks.md", "./a/../a/banks.md", "a\\banks.md"):
            assert library.article(name).title == "Bank conflicts"
        with pytest.raises(UnknownName, match=r"unknown article 'banks'; known: .*a/banks\.md"):
            library.article("banks")

    def test_the_index_lists_what_holds(self, library: Library) -> None:
        listed = library.index("mi300x", "")
        assert "- `b/lds.md`: LDS. When shared memory is slow. (for mi300x; topics: shared-memory)" in listed
        assert "a/banks.md" not in listed
        assert "index.md" not in listed
        assert "b/masks.md" in library.index("h100", "wrong-values")

    def test_a_vendor_stands_for_its_platforms(self) -> None:
        a = parse_article(text(platforms=["mtia"]), "a/x.md")
        assert holds_for(a, "mtia2i", "meta")
        assert holds_for(a, "mtia")
        assert not holds_for(a, "h100")


def mine_of(library: Library) -> Library:
    """Without our own articles, which have all kinds of words."""
    return Library({path: a for path, a in library.articles.items() if a.folder})


ANY_LIBRARY = Library(
    {
        "a/x.md": parse_article(text(), "a/x.md"),
        "b/y.md": parse_article(text("num_warps and tl.dot\n", title="Other"), "b/y.md"),
    }
)


class TestRetrieval:
    @pytest.fixture
    def library(self, write: Write) -> Library:
        write("guidance/spill.md", text("## Why\nToo many registers.\n\n## What\nSmaller blocks. [roof](roof.md)\n",
                                        title="Spills", helps=["spills"], platforms=["any"]))  # fmt: skip
        write("guidance/roof.md", text("## Roof\nA ceiling.\n", title="Roof", helps=[], platforms=["any"]))
        write("hardware/amd/vgpr.md", text("## V\nRegisters.\n", title="VGPR", helps=["spills"], platforms=["amd"]))
        write("hardware/nvidia/regs.md", text("## R\nRegisters.\n", title="Regs", helps=["spills"], platforms=["h100"]))
        write("constraints/rules.md", text("## Rules\nSpill.\n", title="Rules", helps=["spills"], platforms=["any"]))
        write("guidance/start.md", text("## S\nBegin.\n", title="Start", helps=[], platforms=["any"],
                                        topics=["first-kernel"]))  # fmt: skip
        write("samples/scan/article.md", text("## How\nA scan.\n", title="Scan sample", helps=[], platforms=["any"],
                                              topics=["scan"], kernel="kernel.py", problem="problem.py"))  # fmt: skip
        write("samples/scan/problem.py", "class Model: ...\n")
        folder = write("samples/scan/kernel.py", "class ModelNew:\n    pass\n")
        return mine_of(open_library(folder))

    def test_what_limits_leads_and_links_are_followed(self, library: Library) -> None:
        found = choose(library, Want("h100", "nvidia", "spills", "smaller blocks"))
        assert (found[0].path, found[0].heading) == ("guidance/spill.md", "What")
        paths = [p.path for p in found]
        assert set(paths) == {"guidance/spill.md", "hardware/nvidia/regs.md", "guidance/roof.md"}
        why = {p.path: p.why for p in found}
        assert why["guidance/roof.md"] == "linked from guidance/spill.md"
        assert why["hardware/nvidia/regs.md"] == "helps against spills; for h100"

    def test_passages_are_quoted_unchanged(self, library: Library) -> None:
        for p in choose(library, Want("mi300x", limit="spills", query="scan registers")):
            module = next(m for m in library.article(p.path).modules if m.file == p.path and m.heading == p.heading)
            assert (p.text, p.line) == (module.text, module.line)

    def test_a_draft_begins_with_whole_kernels(self, library: Library) -> None:
        found = choose(library, Want("h100", query="scan", drafting=True))
        assert (found[0].path, found[0].text) == (
            "samples/scan/kernel.py", "```python\nclass ModelNew:\n    pass\n```"
        )  # fmt: skip
        assert "guidance/start.md" in {p.path for p in found}
        assert "samples/scan/problem.py" not in {p.path for p in found}

    def test_the_words_of_a_samples_code_do_not_lift_it(self, library: Library) -> None:
        found = choose(library, Want("h100", limit="spills", query="class pass registers"))
        assert {p.path for p in found} == {"guidance/spill.md", "hardware/nvidia/regs.md", "guidance/roof.md"}

    def test_nothing_wanted_is_nothing_found(self, library: Library) -> None:
        assert choose(library, Want("h100")) == ()
        assert choose(Library({}), Want("h100", limit="spills", query="x")) == ()

    @given(
        st.sampled_from(["", "h100", "mi300x", "unheard-of"]), st.sampled_from(["", *LIMITS]), st.text(max_size=80),
        st.lists(st.sampled_from(["scan", "shared-memory", "odd topic"]), max_size=2), st.booleans(),
    )  # fmt: skip
    @settings(max_examples=100, deadline=None)
    def test_any_want_is_answered_the_same_twice(
        self, platform: str, limit: str, query: str, topics: list[str], drafting: bool
    ) -> None:
        want = Want(platform, "", limit, query, tuple(topics), drafting)
        found = choose(ANY_LIBRARY, want)
        assert found == choose(Library(ANY_LIBRARY.articles), want)
        assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
        assert len({(p.path, p.heading) for p in found}) == len(found)


class TestChecks:
    def said(self, folder: Path) -> list[str]:
        library = open_library(folder, lenient=True)
        return [str(f).removeprefix(f"{folder}/") for f in library_faults(library, LIMITS) if f.folder]

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"sources": []}, "a/x.md:8: no sources"),
            ({"sources": ["our wiki"]}, "a/x.md:8: 'our wiki' is not a public address"),
            ({"platforms": []}, "a/x.md:4: no platforms"),
            ({"platforms": ["h900"]}, "a/x.md:4: unknown platform 'h900'; did you mean"),
            ({"platforms": ["any", "amd"]}, "a/x.md:4: `any` beside amd"),
            ({"helps": ["bandwith"]}, "a/x.md:6: unknown limit 'bandwith'; did you mean bandwidth?"),
            ({"topics": []}, "a/x.md:5: no topics"),
            ({"body": "## A\nx\n## A\ny\n"}, "a/x.md:13: heading 'A' comes twice, first on line 11"),
            ({"body": "[a](gone.md)\n"}, "a/x.md:11: link 'gone.md' leads to a/gone.md, which is not there"),
            ({"body": "[a](../../gone.md)\n"}, "leads out of the library"),
            ({"body": "## A\n[a](#b)\n"}, "a/x.md:12: link '#b' leads to no heading of a/x.md"),
            ({"body": "## A\nsee /home/me/x.py\n"}, "a/x.md:12: /home/me is one machine's path"),
            ({"body": f"## A\n{'x' * 12_001}\n"}, "a/x.md:11: 12001 characters under 'A'"),
            ({"body": "## A\n```python\nx = 1\ny = (\n```\n"}, "a/x.md:14: code does not parse: '(' was never closed"),
            ({"body": "\n"}, "a/x.md:1: has no text"),
        ],
    )
    def test_faults_are_told_with_file_and_line(self, write: Write, changes: dict[str, Any], said: str) -> None:
        body = changes.pop("body", "Words.\n")
        found = self.said(write("a/x.md", text(body, **changes)))
        assert len(found) == 1
        assert said in found[0]

    def test_equal_titles_and_broken_files_are_told(self, write: Write) -> None:
        write("a/x.md", text("W.\n"))
        write("a/y.md", text("W.\n", title="bank CONFLICTS"))
        found = self.said(write("a/z.md", "---\n"))
        assert [f.split(": ")[0] for f in found] == ["a/x.md:2", "a/y.md:2", "a/z.md:1"]
        assert "is also that of a/y.md" in found[0]

    def test_samples_without_sound_files_are_told(self, write: Write) -> None:
        sample = {"kernel": "kernel.py", "problem": "problem.py", "body": "W.\n"}
        write("samples/one/article.md", text(title="One", **sample))
        write("samples/two/article.md", text(title="Two", **sample))
        write("samples/two/kernel.py", "class ModelNew:\n    x = (\n")
        write("samples/two/problem.py", "class Model: ...\ndef get_inputs(): ...\n")
        found = self.said(write("samples/three/article.md", text("W.\n", title="Three")))
        assert [f.split(" ", 1)[1] for f in found if "one/" in f] == [
            "samples/one/kernel.py is not there", "samples/one/problem.py is not there"
        ]  # fmt: skip
        assert any("samples/two/kernel.py:2: does not parse" in f for f in found)
        assert any("samples/two/problem.py:1: does not define get_init_inputs" in f for f in found)
        assert any("samples/three/article.md:1: a sample's front matter names" in f for f in found)

    def test_anchors_and_links_to_samples_files_lead_somewhere(self, write: Write) -> None:
        write("samples/s/article.md", text("W.\n", title="S", kernel="kernel.py", problem="problem.py"))
        write("samples/s/kernel.py", "class ModelNew: ...\n")
        write("samples/s/problem.py", "class Model: ...\ndef get_inputs(): ...\ndef get_init_inputs(): ...\n")
        body = "## Two words, & more\n[k](../samples/s/kernel.py) [h](#two-words--more)\n"
        folder = write("a/x.md", text(body, title="X"))
        assert self.said(folder) == []

    def test_our_own_articles_have_no_fault(self) -> None:
        assert [str(f) for f in library_faults(open_library(), LIMITS)] == []

    def test_our_index_names_every_folder_and_every_limit_has_an_article(self) -> None:
        library = open_library()
        said = library.article("index.md").text
        assert all(f"`{path.split('/')[0]}/" in said for path in library.articles if "/" in path)
        assert set(LIMITS) - set(library.limits) == set()

    def test_every_article_of_ours_has_sections_to_quote(self) -> None:
        for a in open_library().articles.values():
            if not a.is_index:
                assert len([m for m in a.modules if m.file == a.path]) >= 2, a.path


def test_a_thousand_articles_open_and_are_searched_quickly(write: Write) -> None:
    """Processor time, so that a busy machine does not fail what is quick."""
    known = ("bank", "conflict", "register", "spill", "warps", "tile", "mask", "stride", "cache", "atomics", "scan")
    vocabulary = [*(f"word{i}" for i in range(40)), *known, *(f"rare{i}" for i in range(3000))]
    often = [1 / (rank + 1) for rank in range(len(vocabulary))]  # as in any language
    draw = random.Random(0)
    for i in range(1000):
        sections = (" ".join(draw.choices(vocabulary, often, k=150)) for _ in range(8))
        body = "".join(f"\n## Part {j}\n{section}\n" for j, section in enumerate(sections))
        folder = write(f"part{i % 20}/a{i}.md", text(body, title=f"Article {i}", platforms=["any"]))
    start = time.process_time()
    library = open_library(folder)
    assert len(library.articles) >= 1000
    assert time.process_time() - start < 2.0
    library.words  # noqa: B018
    library.search("bank conflict", platform="h100")
    for query in ("bank conflict", "many warps of a tile", "registers spill with 255 of them in tl.dot"):
        assert min(_seconds(library, query) for _ in range(5)) < 0.02, query


def _seconds(library: Library, query: str) -> float:
    start = time.process_time()
    assert library.search(query, platform="h100", limits=["latency"])
    return time.process_time() - start


class TestCommands:
    @pytest.fixture
    def run(self, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
        def call(*arguments: object) -> tuple[int, str, str]:
            with pytest.raises(SystemExit) as ended:
                main(["knowledge", *map(str, arguments)])
            out, err = capfd.readouterr()
            return int(ended.value.code or 0), out, err

        return call

    def test_search_prints_passages_and_an_object(self, run: Any, write: Write) -> None:
        folder = write("a/banks.md", text("## Padding\nZyzzyva rows.\n"))
        code, out, _ = run("search", 'zyzzyva "( *', "--platform", "h100", "--folder", folder)
        assert code == 0
        assert out.splitlines() == ["a/banks.md:11  Padding", "    Zyzzyva rows."]
        code, out, err = run("search", "zyzzyva", "--folder", folder, "--json")
        result = json.loads(out.splitlines()[-1])
        assert code == 0
        assert result["correct"] is True
        assert result["hits"][0]["path"] == "a/banks.md"
        assert "Zyzzyva" in err
        code, out, _ = run("search", "zyzzyva")
        assert code == 0
        assert "nothing found" in out

    def test_without_words_what_fits_is_listed(self, run: Any, write: Write) -> None:
        folder = write("a/banks.md", text("W.\n", topics=["zyzzyva"]))
        code, out, _ = run("search", "--topic", "zyzzyva", "--folder", folder)
        assert code == 0
        assert out.splitlines() == ["a/banks.md:1  Bank conflicts", "    When shared memory is slow."]

    @pytest.mark.parametrize(
        ("option", "said"),
        [
            (("--limit", "bandwith"), "unknown limit 'bandwith'; known: bandwidth"),
            (("--topic", "no-such"), "unknown topic 'no-such'"),
            (("--platform", "h900"), "unknown platform 'h900'"),
            (("--folder", "no/such"), "does not exist"),
        ],
    )
    def test_what_is_unknown_is_told_with_what_is_known(self, run: Any, option: tuple[str, ...], said: str) -> None:
        code, _, err = run("search", "x", *option)
        assert code == 2
        assert said in err

    def test_show_prints_an_article_or_a_section(self, run: Any, write: Write) -> None:
        folder = write("a/banks.md", text("Intro.\n## Padding\n  Pad.\n"))
        code, out, _ = run("show", "a/banks", "--folder", folder)
        assert code == 0
        assert out.splitlines()[0] == f"file: {folder}/a/banks.md"
        assert out.splitlines()[-6:] == ["", "Intro.", "", "## Padding", "", "  Pad."] or "## Padding" in out
        code, out, _ = run("show", "a/banks", "--section", "padding", "--folder", folder, "--json")
        assert json.loads(out.splitlines()[-1])["article"]["sections"] == [
            {"heading": "Padding", "file": "a/banks.md", "line": 12, "text": "  Pad."}
        ]
        code, _, err = run("show", "a/banks", "--section", "nope", "--folder", folder)
        assert code == 2
        assert "unknown section 'nope'; known: Bank conflicts, Padding" in err

    def test_check_exits_with_1_where_anything_is_wrong(self, run: Any, write: Write) -> None:
        code, out, _ = run("check", write("a/x.md", text("W.\n")))
        assert code == 0
        assert "nothing wrong" in out
        folder = write("a/y.md", "---\ntitle: a: b\n---\n")
        code, out, _ = run("check", folder, "--json")
        result = json.loads(out.splitlines()[-1])
        assert code == 1
        assert result["correct"] is False
        assert [(f["path"], f["line"]) for f in result["faults"]] == [("a/y.md", 2)]


def test_our_articles_lie_in_the_package() -> None:
    assert (our_articles() / "index.md").is_file()
