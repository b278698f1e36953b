"""The kernel that every prompt shows is one: taken from the prompt's own file, it is compiled and interpreted."""

from __future__ import annotations

import re

import pytest
from court import Court
from test_samples import build_all, with_choice

from kernelevolve import plugins
from kernelevolve.candidate import read_knobs
from kernelevolve.problem import parse_problem
from kernelevolve.propose.prose import template
from kernelevolve.protocol import Case
from kernelevolve.worker.load import load_candidate

BLOCKS = re.findall(r"```python\n(.*?)```", template("constraints"), re.DOTALL)
PROBLEM = parse_problem(
    """
import torch


class Model(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return x * self.scale


rows, columns = 1024, 4096


def get_inputs():
    return [torch.randn(rows, columns)]


def get_init_inputs():
    return [0.7]
""",
    None, name="scale", suite="folder", path="scale.py",
)  # fmt: skip


def test_the_prompt_shows_one_kernel() -> None:
    assert len(BLOCKS) == 1


@pytest.mark.parametrize("name", ["h100", "mi300x"])
def test_it_compiles(name: str) -> None:
    platform = plugins.load("platforms", name)
    module = load_candidate(BLOCKS[0], read_knobs(BLOCKS[0]).defaults(platform.vendor))
    assert list(build_all(PROBLEM, PROBLEM.workloads[0], module, platform)) == ["scale_kernel"]


def test_it_is_right_at_every_choice() -> None:
    court = Court(PROBLEM)
    for block in read_knobs(BLOCKS[0]).values["BLOCK"]:
        verdict, found = court.verdict(with_choice(BLOCKS[0], {"BLOCK": block}), [Case(1, "declared"), Case(2, "D2")])
        assert verdict.ok, found
