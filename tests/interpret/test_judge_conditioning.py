"""Where a few badly conditioned elements decide the reference's error: honest kernels pass, cheats on them do not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from judged import TENSOR, Bench, source_of, tf32

from kernelevolve.judge import conditioning
from kernelevolve.protocol import Case

ATTENTION = source_of(
    "return nn.functional.scaled_dot_product_attention(q, k, v)",
    "[torch.rand(16, 16, 8, 16), torch.rand(16, 16, 8, 16), torch.rand(16, 16, 8, 16)]",
    arguments="q, k, v",
)
SEEDS = range(24)
Product = Callable[[TENSOR, TENSOR], TENSOR]


@pytest.fixture(scope="module")
def attention() -> Bench:
    return Bench(ATTENTION)


def attend(q: TENSOR, k: TENSOR, v: TENSOR, product: Product) -> TENSOR:
    logits = product(q, k.transpose(-1, -2).contiguous()) / math.sqrt(q.shape[-1])
    return product(torch.softmax(logits, -1), v)


def sequential(a: TENSOR, b: TENSOR) -> TENSOR:
    total = torch.zeros(*a.shape[:-1], b.shape[-1])
    for k in range(a.shape[-1]):
        total = total + a[..., k : k + 1] * b[..., k : k + 1, :]
    return total


def tf32x3(a: TENSOR, b: TENSOR) -> TENSOR:
    (x, y), (dx, dy) = (tf32(a), tf32(b)), (tf32(a - tf32(a)), tf32(b - tf32(b)))
    return (x.double() @ y.double() + x.double() @ dy.double() + dx.double() @ y.double()).float()


def planes(a: TENSOR, b: TENSOR) -> TENSOR:
    """Two fp16 planes per operand, scaled along K, as the built-in engineer writes them for sm_90."""

    def split(x: TENSOR, dim: int) -> tuple[TENSOR, TENSOR, TENSOR]:
        scale = 2.0 ** (14 - torch.floor(torch.log2(x.abs().amax(dim, keepdim=True).clamp_min(1e-30))))
        high = (x * scale).half().float()
        return high.double(), ((x * scale - high) * 2048).half().double(), scale.double()

    (ah, al, sa), (bh, bl, sb) = split(a, -1), split(b, -2)
    return ((ah @ bh + (al @ bh + ah @ bl) / 2048) / (sa * sb)).float()


HONEST: dict[str, Product] = {"sequential": sequential, "tf32x3": tf32x3, "planes": planes, "blas": torch.matmul}


@pytest.mark.parametrize("name", sorted(HONEST))
def test_honest_products_before_a_softmax_are_accepted(attention: Bench, name: str) -> None:
    for seed in SEEDS:
        case = Case(seed, "D6")
        assert attention.failed(case, attend(*attention.inputs(case), HONEST[name])) == [], seed


def test_one_run_of_the_reference_would_not_have_sufficed(attention: Bench) -> None:
    """The control of the control: without the second opinion honest kernels are rejected on some of these inputs."""
    beyond = 0
    for seed in range(120):
        case = Case(seed, "D6")
        attention.reference.compute(case)
        leaf = attention.reference._known[case][0][0]
        errors = [(attend(*attention.inputs(case), f) - leaf.oracle).abs().max().item() for f in HONEST.values()]
        beyond += max(errors) > 4 * leaf.reference_max
        assert max(errors) <= 4 * conditioning.largest_error(leaf), seed
    assert beyond


WRONG: dict[str, Product] = {
    "tf32": lambda a, b: tf32(a) @ tf32(b),
    "bf16": lambda a, b: a.bfloat16().float() @ b.bfloat16().float(),
    "last term dropped": lambda a, b: a[..., :-1] @ b[..., :-1, :],
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_cheats_are_rejected_all_the_same(attention: Bench, name: str) -> None:
    for seed in SEEDS:
        case = Case(seed, "D6")
        assert {"rms", "element"} & {
            c.name for c in attention.failed(case, attend(*attention.inputs(case), WRONG[name]))
        }


def test_one_wrong_element_is_found_all_the_same(attention: Bench) -> None:
    for seed in SEEDS:
        case = Case(seed, "D6")
        output = attend(*attention.inputs(case), sequential)
        output.view(-1)[seed * 100] += 0.05
        assert "element" in {c.name for c in attention.failed(case, output)}


def test_a_jump_does_not_open_the_rule() -> None:
    """At a jump a nudge moves the result by its height: the limit must not follow."""
    bench = Bench(source_of("return torch.floor(x @ w) + 0.01 * x.sum(1, keepdim=True)",
                            "[torch.rand(64, 256), torch.rand(256, 64)]", arguments="x, w"))  # fmt: skip
    case = Case(3, "D1")
    honest = dict(bench.honest(case))["out"]
    assert bench.failed(case, honest.clone()) == []
    wrong = honest.clone()
    wrong[7, 7] += 0.5
    assert "element" in {c.name for c in bench.failed(case, wrong)}


def test_gentle_errors_get_no_second_opinion() -> None:
    bench = Bench(source_of("return x @ w", "[torch.rand(96, 512), torch.rand(512, 80)]", arguments="x, w"))
    case = Case(1, "D1")
    bench.reference.compute(case)
    leaf = bench.reference._known[case][0][0]
    assert not conditioning.heavy_tailed(leaf)
    assert leaf.sensitivity == 0.0
    assert conditioning.largest_error(leaf) == leaf.reference_max
