"""FLOPs of the floor: those of the products that the reference computes, einsum and transposed convolutions too."""

from __future__ import annotations

import contextlib
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.translate.baseline import least
from kernelevolve.translate.capture import capture_source
from kernelevolve.translate.expr import const
from kernelevolve.translate.family import family_of
from kernelevolve.translate.ir import Op, Program, Ref, Tensor, Value

SOURCE = """import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = {inner}

    def forward(self, {names}):
        return {expression}


def get_inputs():
    return [{inputs}]


def get_init_inputs():
    return []
"""


def captured(expression: str, *shapes: tuple[int, ...], inner: str = "None") -> Program:
    names = ", ".join("xyz"[: len(shapes)])
    inputs = ", ".join(f"torch.randn{shape}" for shape in shapes)
    with contextlib.redirect_stderr(io.StringIO()):
        return capture_source(SOURCE.format(inner=inner, names=names, expression=expression, inputs=inputs))


@pytest.mark.parametrize(
    ("equation", "shapes", "flops"),
    [
        ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        ("ijkl,lm->ijkm", ((2, 3, 4, 5), (5, 6)), 2 * 2 * 3 * 4 * 5 * 6),
        ("ij,jk,kl->il", ((6, 7), (7, 5), (5, 3)), 2 * 6 * 5 * (7 + 3)),
    ],
)
def test_einsum_is_captured_as_products_and_counted(equation: str, shapes, flops: int) -> None:
    program = captured(f"torch.einsum({equation!r}, {', '.join('xyz'[: len(shapes)])})", *shapes)
    assert least(program, program.at_full_size()).flops == flops


def test_a_captured_transposed_convolution_is_counted() -> None:
    inner = "nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)"
    program = captured("self.inner(x)", (2, 4, 7, 9), inner=inner)
    ones = torch.nn.functional.conv_transpose2d(
        torch.ones(2, 4, 7, 9), torch.ones(4, 6, 3, 3), stride=2, padding=1, output_padding=1
    )
    assert least(program, program.at_full_size()).flops == 2 * ones.sum().item()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_transposed_convolution_costs_two_flops_per_product_that_lands_in_the_result(data) -> None:
    """Of ones by ones each element of the result is how many products were added."""
    axes, groups = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))

    def drawn(least: int, most: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(least, most)) for _ in range(axes))

    taps, stride, dilation = drawn(1, 4), drawn(1, 3), drawn(1, 2)
    padding = tuple(data.draw(st.integers(0, d * (k - 1))) for d, k in zip(dilation, taps, strict=True))
    more = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    x, w = torch.ones(2, 2 * groups, *drawn(2, 6)), torch.ones(2 * groups, 3, *taps)
    args = (stride, padding, dilation, True, more, groups)
    try:
        y = torch.ops.aten.convolution(x, w, None, *args)
    except RuntimeError:
        return  # a result without elements

    def value(tensor) -> Value:
        return Value(tuple(const(n) for n in tensor.shape), "float32")

    op = Op("y", "aten.convolution.default", (Ref("x"), Ref("w"), None, *args), (), (value(y),))
    tensors = (Tensor("x", "x", "input", value(x)), Tensor("w", "self.w", "parameter", value(w)))
    found = least(Program("Model", (), tensors, (op,), Ref("y")), {})
    assert found.flops == 2 * y.sum().item()


def test_a_family_is_what_is_computed_apart_from_sizes() -> None:
    text = "torch.softmax(x * 2.0, dim=-1) + y"
    first, second = (family_of(captured(text, (n, m), (m,))) for n, m in ((64, 32), (16, 128)))
    assert first.ops == {"_softmax": 1, "add": 1, "mul": 1} and first.alike(second)
    assert (first.dtypes, first.ranks, first.sizes) == (("float32", "float32"), (2, 1), (6.0, 5.0, 5.0))
    assert first.apart(second) == pytest.approx(2.0)
    assert not first.alike(family_of(captured("torch.softmax(x * 2.0, dim=-1) - y", (64, 32), (32,))))
    assert not first.alike(family_of(captured("torch.softmax(x * 2.0, dim=-1) + y", (64, 32), (64, 32))))
    views = family_of(captured("torch.softmax(x.transpose(0, 1) * 2.0, dim=-1) + y", (32, 64), (32,)))
    assert views.ops == first.ops
