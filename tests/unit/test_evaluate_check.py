"""The check rung: what a file's text alone tells, and what it only hints at."""

from __future__ import annotations

import pytest

from kernelevolve.evaluate.check import check_source
from kernelevolve.evaluation import Verdict

HONEST = """
import torch
import triton
import triton.language as tl

KNOBS = {"BLOCK": [64, 128], "amd": {"waves_per_eu": [0, 2]}}


@triton.jit
def kernel(x, BLOCK: tl.constexpr):
    pass


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return x
"""


def test_an_honest_file_passes_with_its_kernels_and_knobs() -> None:
    found = check_source(HONEST)
    assert found.verdict is None and found.kernels == ("kernel",) and found.hints == ()
    assert found.knobs.for_vendor("nvidia") == {"BLOCK": (64, 128)}
    assert found.knobs.for_vendor("amd") == {"BLOCK": (64, 128), "waves_per_eu": (0, 2)}
    assert "1 kernel: kernel" in found.message


@pytest.mark.parametrize(
    ("old", "new", "verdict", "words"),
    [
        ("def forward(self, x):", "def forward(self, x:", Verdict.LOAD_ERROR, "line 15: not Python"),
        ("class ModelNew", "class Model", Verdict.LOAD_ERROR, "no class ModelNew"),
        ("@triton.jit\n", "", Verdict.POLICY, "no @triton.jit function"),
        ("[64, 128]", "list(range(64))", Verdict.LOAD_ERROR, "line 6: KNOBS must be a literal"),
        ("[64, 128]", "[]", Verdict.LOAD_ERROR, "KNOBS['BLOCK'] = []"),
        ("[64, 128]", "64", Verdict.LOAD_ERROR, "a non-empty list of values"),
        ('{"waves_per_eu": [0, 2]}', "[2]", Verdict.LOAD_ERROR, "section of KNOBS"),
        ("import torch\n", "import torch\n#" + "x" * (256 << 10), Verdict.LOAD_ERROR, "at most 262144"),
        ("import torch\n", "import torch\x00\n", Verdict.LOAD_ERROR, "not Python"),
    ],
)
def test_a_broken_file_is_named_with_its_line(old: str, new: str, verdict: Verdict, words: str) -> None:
    assert old in HONEST
    found = check_source(HONEST.replace(old, new))
    assert found.verdict is verdict and words in found.message


@pytest.mark.parametrize("decorator", ["@triton.jit", "@triton.jit(noinline=True)", "@jit", "@gluon.jit"])
def test_a_jitted_function_is_known_by_its_decorator(decorator: str) -> None:
    assert check_source(HONEST.replace("@triton.jit", decorator)).kernels == ("kernel",)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("import os", "imports os"),
        ("from ctypes import CDLL", "imports ctypes"),
        ("torch.cuda.synchronize()", "names synchronize"),
        ("torch.cuda.Stream()", "names Stream"),
        ("exec('')", "names exec"),
        ("try:\n    pass\nexcept Exception:\n    pass", "catches exceptions"),
    ],
)
def test_words_are_hints_and_never_convict(line: str, hint: str) -> None:
    found = check_source(f"{HONEST}\n{line}\n")
    assert found.verdict is None and found.hints == (hint,)
