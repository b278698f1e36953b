"""One problem opened in the judge on the CPU, and a way to have made-up outputs judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernelevolve.evaluation import Check
from kernelevolve.judge.reference import Comparison, Reference
from kernelevolve.problem import Problem, parse_problem
from kernelevolve.protocol import Case, Opened, Variant
from kernelevolve.tensors import call, draw, load, outputs
from kernelevolve.tensors.describe import describe

HEAD = "import torch\nimport torch.nn as nn\n"
TENSOR = torch.Tensor
Honest = Callable[..., TENSOR]


def source_of(forward: str, inputs: str, init: str = "pass", arguments: str = "x") -> str:
    return HEAD + (
        f"class Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n        {init}\n"
        f"    def forward(self, {arguments}):\n        {forward}\n"
        f"def get_inputs():\n    return {inputs}\n"
    )


def problem_of(source: str, sidecar: str | None = None) -> Problem:
    return parse_problem(source, sidecar, name="p", suite="s", path="p.py")


class Bench:
    """One problem opened on the CPU, and a way to judge made-up outputs."""

    def __init__(self, source: str, sidecar: str | None = None) -> None:
        self.problem = problem_of(source, sidecar)
        self.description = describe(self.problem, Variant("declared", "full", source))
        p = self.problem
        self.opened = Opened(
            self.description, "cpu", p.precision, p.direction, p.mode, special_values=p.special_values
        )
        self.reference = Reference(self.opened)

    def inputs(self, case: Case) -> list[TENSOR]:
        needs = self.problem.direction != "forward"
        return draw.draw_inputs(self.description, case, "cpu", self.reference.module, requires_grad=needs)

    def model(self, case: Case) -> torch.nn.Module:
        model = load.build_model(self.reference.module, seed=0, precision=self.problem.precision)
        draw.apply_state(model, draw.draw_state(self.description.state, case, "cpu"))
        return model

    def honest(self, case: Case) -> list[tuple[str, TENSOR]]:
        cotangents = draw.draw_cotangents(case, "cpu")
        model = self.model(case)
        leaves = call.run(model, self.inputs(case), self.problem.direction, cotangents)
        return [*leaves, *((f"state:{n}", b) for n, b in model.named_buffers())]

    def judge(self, case: Case, leaves: Sequence[tuple[str, object]], candidate: str = "") -> Comparison:
        values = dict(leaves)
        metas = [outputs.meta_of(path, leaf) for path, leaf in leaves]
        return self.reference.compare(case, metas, lambda meta: values[meta.path], candidate)

    def failed(self, case: Case, leaves: Sequence[tuple[str, object]] | object) -> list[Check]:
        if not isinstance(leaves, list):
            leaves = [("out", leaves)]
        assert self.reference.compute(case).usable
        return [c for c in self.judge(case, leaves).checks if not c.passed]


def tf32(t: TENSOR) -> TENSOR:
    """Rounded to 10 bits of mantissa, as tensor cores read float32."""
    bits = (t.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF
    return bits.view(torch.float32)
