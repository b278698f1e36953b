"""Duplicates by text: which renamings are the same program; they are not measured, and the next brief has them."""

from __future__ import annotations

import asyncio
import keyword
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelevolve.runs import create_run, read_run
from kernelevolve.search.program import program_digest
from kernelevolve.settings import settings_for
from kernelevolve.testing import FAKE_PLATFORM, FakeEvaluator, fake_equip, fake_problem

SOURCE = """
import torch
import triton
import triton.language as tl

KNOBS = {"BLOCK": [64, 128], "num_warps": [4, 8]}


@triton.jit
def KERNEL(X, Y, N, BLOCK: tl.constexpr):
    AT = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    VALUE = tl.load(X + AT, mask=AT < N)
    tl.store(Y + AT, tl.maximum(VALUE, 0.0), mask=AT < N)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        OUT = torch.empty_like(x)
        KERNEL[(triton.cdiv(x.numel(), 64),)](x, OUT, x.numel(), BLOCK=64, num_warps=4)
        return OUT
"""
FREE = ("KERNEL", "X", "Y", "N", "AT", "VALUE", "OUT")
NAMES = st.from_regex(r"[a-z]{1,3}_[a-z0-9]{0,3}", fullmatch=True).filter(lambda n: not keyword.iskeyword(n))


def renamed(names: dict[str, str], source: str = SOURCE) -> str:
    marked = source
    for i, name in enumerate(names):
        marked = re.sub(rf"\b{name}\b", f"<{i}>", marked)
    for i, new in enumerate(names.values()):
        marked = marked.replace(f"<{i}>", new)
    return marked


@given(st.lists(NAMES, min_size=len(FREE), max_size=len(FREE), unique=True))
def test_a_one_to_one_renaming_is_the_same_program(names) -> None:
    assert program_digest(renamed(dict(zip(FREE, names, strict=True)))) == program_digest(SOURCE) != ""


@pytest.mark.parametrize(("one", "other"), [("X", "Y"), ("AT", "N"), ("VALUE", "AT")])
def test_two_names_that_became_one_are_another_program(one, other) -> None:
    assert program_digest(renamed({one: other})) != program_digest(SOURCE)


def test_comments_and_docstrings_are_no_part_of_a_program() -> None:
    said = SOURCE.replace("    AT = tl.pro", '    """What X is."""\n    # here\n    AT = tl.pro').replace(
        "KNOBS", "\n\nKNOBS"
    )
    assert program_digest(said) == program_digest(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.0", "1.0"),
        ("tl.maximum", "tl.minimum"),
        ("64, 128", "128, 64"),
        ("num_warps=4", "num_warps=8"),
        ("ModelNew", "Other"),
        ("forward(self, x)", "forward(self, z)"),  # somebody may call it by name
        ("tl.load(X + AT, mask=AT < N)", "tl.load(X + AT)"),
        ("(x, OUT,", "(OUT, x,"),
    ],
)
def test_what_changes_the_program_changes_the_digest(old, new) -> None:
    assert old in SOURCE and program_digest(SOURCE.replace(old, new)) != program_digest(SOURCE)


def test_names_that_strings_or_keywords_mean_are_kept() -> None:
    text = "def k(A, B): pass\nr = Config({'A': 1, 'B': 2})\n"
    assert program_digest(text) != program_digest(text.replace("k(A, B)", "k(B, A)"))
    launch = "def f(a, b):\n    return g(num_warps=a, num_stages=b)\n"
    assert program_digest(launch) != program_digest(
        launch.replace("num_warps=a, num_stages=b", "num_stages=a, num_warps=b")
    )


NO_PROGRAM = ["def f(:", "x = getattr(tl, 'dot')", "import inspect", "n = f.__name__", "\x00", "# nothing"]


@pytest.mark.parametrize("text", NO_PROGRAM)
def test_nothing_is_said_of_what_is_no_python_or_looks_at_itself(text) -> None:
    assert program_digest(text) == ""


@given(st.text(max_size=200))
def test_any_text_has_a_digest_or_none(text) -> None:
    assert program_digest(text) in ("", program_digest(text))


class Counting(FakeEvaluator):
    def __init__(self) -> None:
        super().__init__(faulty=0.0)
        self.measured: list[str] = []

    async def evaluate(self, candidate, *, progress, keep):
        self.measured.append(candidate.id)
        return replace(await super().evaluate(candidate, progress=progress, keep=keep), device_seconds=3.0)


def test_duplicates_by_text_cost_no_device_time_are_told_and_inform_the_next_brief(tmp_path) -> None:
    counting = Counting()
    other = renamed({"AT": "places", "VALUE": "loaded"})
    with create_run(
        tmp_path, fake_problem(), FAKE_PLATFORM, fake_equip(counting), settings=settings_for("quick")
    ) as run:
        first = asyncio.run(run.submit(run.ask().id, SOURCE, "a first kernel"))
        same = asyncio.run(run.submit(run.ask().id, SOURCE, "the same again"))
        again = asyncio.run(run.submit(run.ask().id, other, "a shiny new idea"))
        brief = run.ask()
    assert counting.measured == ["n0"]
    assert (first.duplicate_of, same.duplicate_of, again.duplicate_of) == ("", "n0", "n0")
    assert "duplicate of n0 (same source)" in same.evaluation.labels
    assert "duplicate of n0 (same program under other names)" in again.evaluation.labels
    assert sum(n.evaluation.device_seconds for n in read_run(tmp_path).nodes.values()) == 3.0
    assert brief.parents == ("n0",)
    assert "Repeats: these were kernels that the run had already" in brief.prompt
    assert "n2: duplicate of n0 (same program under other names). a shiny new idea" in brief.prompt


def test_a_fresh_draft_is_told_of_drafts_that_repeated_one(tmp_path) -> None:
    settings = replace(settings_for("quick"), drafts=3)
    with create_run(tmp_path, fake_problem(), FAKE_PLATFORM, fake_equip(Counting()), settings=settings) as run:
        asyncio.run(run.submit(run.ask().id, SOURCE))
        asyncio.run(run.submit(run.ask().id, SOURCE + "# again\n"))
        brief = run.ask()
    assert brief.parents == () and "n1: duplicate of n0" in brief.prompt
