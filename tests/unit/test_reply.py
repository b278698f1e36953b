"""Reading replies: the corpus of odd ones in replies/, and whatever text there may be."""

from __future__ import annotations

import ast
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.propose.edits import NoFit, apply_diff, apply_search, replace_once
from kernelevolve.propose.reply import LONGEST, Parsed, Unparseable, lacks, parse_reply

REPLIES = Path(__file__).parent / "replies"
KERNEL = (REPLIES / "kernel.source").read_text()
PARENT = (REPLIES / "parent.source").read_text()
NAMES = sorted(path.stem for path in REPLIES.glob("*.txt"))


def read(name):
    expected = json.loads((REPLIES / f"{name}.json").read_text())
    text = (REPLIES / f"{name}.txt").read_bytes().decode("utf-8", "surrogatepass")
    parents = {"n3": PARENT} if expected.get("parents", True) else {}
    return expected, parse_reply(text, parents, cut=expected.get("cut", False))


def test_the_corpus_is_large():
    assert len(NAMES) >= 45


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus(name):
    expected, found = read(name)
    if "kind" in expected:
        assert isinstance(found, Unparseable), found
        assert found.kind == expected["kind"] and expected["reason"] in found.reason
        return
    assert isinstance(found, Parsed), found
    wanted = KERNEL if expected["source"] == "kernel" else expected["source"]
    assert found.source == wanted
    assert found.how == expected.get("how", found.how)
    assert found.note == expected.get("note", found.note)


@pytest.mark.parametrize("name", NAMES)
def test_no_reply_of_the_corpus_crashes_wherever_it_is_cut(name):
    text = (REPLIES / f"{name}.txt").read_bytes().decode("utf-8", "surrogatepass")
    for end in range(0, len(text), max(1, len(text) // 25)):
        for cut in (True, False):
            is_sound(parse_reply(text[:end], {"n3": PARENT}, cut=cut))


def is_sound(found):
    """What is returned is a file with ModelNew, or says what lacks."""
    if isinstance(found, Parsed):
        tree = ast.parse(found.source)
        assert any(isinstance(node, ast.ClassDef) and node.name == "ModelNew" for node in tree.body)
        assert lacks(found.source) == ""
    else:
        assert found.reason and found.kind


PIECES = st.sampled_from(
    ["```", "```python\n", "\n```\n", "~~~\n", "````\n", KERNEL, PARENT, "class ModelNew:\n    pass\n",
     "import torch\n", "<think>\n", "</think>\n", "<code>", "</code>", '{"code": "', '"}', "--- a/n3.py\n+++ b/n3.py\n",
     "@@ -1,3 +1,4 @@\n", "+x = 1\n", "-CHOICE = {}\n", " CHOICE = {}\n", "<<<<<<< SEARCH\n", "=======\n",
     ">>>>>>> REPLACE\n", "\\n", "&lt;", "> ", "    ", "Here it is:\n", "*** Begin Patch\n", "1 | ", "\r\n", "\0",
     "\ud800", "]]>", "[[[[", "(" * 50]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=40)), max_size=14).map("".join), st.booleans())
def test_any_text_is_read_or_told(text, cut):
    is_sound(parse_reply(text, {"n3": PARENT}, cut=cut))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_text_without_code_gives_none(text):
    found = parse_reply(text)
    assert isinstance(found, Unparseable) or "ModelNew" in text


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_characters="`~<>{}\\|&\r", exclude_categories=["Cs", "Cc"]), max_size=200))
def test_prose_around_a_block_does_not_matter(prose):
    found = parse_reply(f"{prose}\n\n```python\n{KERNEL}```\n\n{prose}\n")
    assert isinstance(found, Parsed) and found.source == KERNEL


@pytest.mark.parametrize(
    "text",
    ["<think>\n" * 50_000, "```a" + " " * 300_000 + "b", "<a>" + " " * 300_000 + "x", "```\n" * 50_000,
     "```python\nclass A: pass\n" * 4_000, "```python\nx = 1\n```\n" * 9_000, "> ```\n" * 50_000,
     "import torch\n" * 20_000, "import torch\n\nThis is a sentence of prose.\n\n" * 9_000, "&lt;" * 60_000,
     "<a></a>" * 50_000, "@@\n-a\n" * 50_000, "<<<<<<< SEARCH\n=======\n" * 20_000, '{"code": "' * 20_000,
     "1 | x\n" * 50_000],
    ids=range(15),
)  # fmt: skip
def test_no_text_takes_long(text):
    start = time.process_time()
    is_sound(parse_reply(text, {"n3": PARENT}))
    assert time.process_time() - start < 5.0


def test_deep_nesting_and_endless_texts_are_told():
    assert parse_reply("x" * (LONGEST + 1)).kind == "long"
    is_sound(parse_reply("```python\n" + "(" * 20_000 + "\n```"))
    is_sound(parse_reply("[" * 100_000))
    is_sound(parse_reply('{"a":' * 50_000 + "1"))
    is_sound(parse_reply("```\n" * 20_000))
    is_sound(parse_reply("<a>" * 20_000))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_diff_of_any_change_is_applied(data):
    import difflib

    lines = PARENT.split("\n")
    at = data.draw(st.integers(0, len(lines) - 1))
    new = [*lines[:at], *data.draw(st.lists(st.sampled_from(["# a", "# b", ""]), max_size=3)), *lines[at + 1 :]]
    diff = "\n".join(difflib.unified_diff(lines, new, "a/n3.py", "b/n3.py", lineterm=""))
    if lines != new:
        assert apply_diff(PARENT, diff) == "\n".join(new)


def test_replacing_needs_one_place():
    assert replace_once("a b c", "b", "x") == "a x c"
    for old, said in (("", "empty"), ("z", "not found"), ("a", "occurs 2 times")):
        with pytest.raises(NoFit, match=said):
            replace_once("a b a", old, "x")


def test_a_search_block_that_fits_twice_is_refused():
    with pytest.raises(NoFit, match="fits at lines 1, 2"):
        apply_search("a\na\n", "<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE")


def test_a_diff_that_fits_twice_is_placed_by_its_line_number_or_refused():
    source = "a\nb\na\nb\n"
    assert apply_diff(source, "@@ -3,2 +3,2 @@\n a\n-b\n+c") == "a\nb\na\nc\n"
    with pytest.raises(NoFit, match="fits at lines 1, 3"):
        apply_diff(source, "@@\n a\n-b\n+c")


def test_a_diff_is_applied_to_the_parent_that_it_names():
    other = PARENT.replace("CHOICE = {}", "CHOICE = {}\nOTHER = 1")
    diff = '```diff\n--- a/n5.py\n+++ b/n5.py\n@@\n-KNOBS = {"BLOCK": [128]}\n+KNOBS = {"BLOCK": [64]}\n```'
    found = parse_reply(diff, {"n3": PARENT, "n5": other})
    assert isinstance(found, Parsed) and found.how == "a diff of n5" and "OTHER" in found.source
    found = parse_reply(diff.replace("n5", "kernel"), {"n3": PARENT, "n5": other})
    assert isinstance(found, Parsed) and found.how == "a diff of n3"
