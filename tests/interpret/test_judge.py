"""The acceptance rule, asked as a candidate would be: what is wrong is rejected for the right reason, what is merely
different is accepted. Each wrong output differs from the honest one by exactly the cheat."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from judged import TENSOR, Bench, problem_of, source_of, tf32

from kernelevolve.judge import oracle
from kernelevolve.judge.admission import labels
from kernelevolve.protocol import Case, Variant
from kernelevolve.tensors.describe import describe

PRODUCT = source_of("return torch.relu(x @ w)", "[torch.rand(96, 512), torch.rand(512, 80)]", arguments="x, w")
SOFTMAX = source_of("return torch.softmax(x, dim=1)", "[torch.rand(64, 1000)]")
NORM = source_of("return self.norm(x)", "[torch.rand(64, 256)]", "self.norm = nn.LayerNorm(256)")
LOSS = source_of("return ((x - y) ** 2).mean()", "[torch.rand(200, 100), torch.rand(200, 100)]", arguments="x, y")


DISTRIBUTIONS = ("declared", "D1", "D3", "D5", "D6", "D7")


@pytest.fixture(scope="module")
def product() -> Bench:
    return Bench(PRODUCT)


@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, "D8"])
def test_another_order_of_summation_is_accepted(product: Bench, distribution: str) -> None:
    case = Case(1, distribution)
    x, w = product.inputs(case)
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    blocks = sum((x[:, k : k + 32] @ w[k : k + 32] for k in range(0, 512, 32)), torch.zeros(96, 80))
    sequential = torch.zeros(96, 80)
    for k in range(512):
        sequential += x[:, k : k + 1] * w[k : k + 1]
    for honest in (x @ w, x[:, order] @ w[order], blocks, sequential, (x.double() @ w.double()).float()):
        assert product.failed(case, torch.relu(honest)) == []


@pytest.mark.parametrize("terms", [128, 2048, 8192])
def test_terms_of_one_sign_may_be_added_one_after_the_other_beside_a_reference_that_hardly_errs(terms: int) -> None:
    inputs = f"[torch.rand(48, {terms}), torch.rand({terms}, 40)]"
    bench = Bench(source_of("return (x.double() @ w.double()).float()", inputs, arguments="x, w"))
    for case in (Case(1, "declared"), Case(2, "declared"), Case(3, "D1")):
        x, w = bench.inputs(case)
        sequential = torch.zeros(48, 40)
        for k in range(terms):
            sequential += x[:, k : k + 1] * w[k : k + 1]
        assert bench.failed(case, sequential) == []
        # What the sums leave room for is a few times their own error: operands of lower precision have none in it.
        one = sequential.clone()
        one[7, 9] *= 1 + 3e-5
        assert "element" in [c.name for c in bench.failed(case, one)]
        assert bench.failed(case, tf32(x) @ tf32(w))


WRONG: dict[str, Callable[[TENSOR, TENSOR], TENSOR]] = {
    "zeros": lambda x, w: torch.zeros(96, 80),
    "constant": lambda x, w: torch.relu(x @ w).mean().expand(96, 80).contiguous(),
    "row means": lambda x, w: torch.relu(x @ w).mean(1, keepdim=True).expand(96, 80).contiguous(),
    "bf16 operands": lambda x, w: torch.relu(x.bfloat16().float() @ w.bfloat16().float()),
    "fp16 operands": lambda x, w: torch.relu(x.half().float() @ w.half().float()),
    "tf32 operands": lambda x, w: torch.relu(tf32(x) @ tf32(w)),
    "bf16 result": lambda x, w: torch.relu(x @ w).bfloat16().float(),
    "last term dropped": lambda x, w: torch.relu(x[:, :-1] @ w[:-1]),
    "a tile shifted by one row": lambda x, w: torch.relu(x @ w).index_copy(
        0, torch.arange(32, 64), torch.relu(x @ w)[31:63]
    ),
    "last tile left out": lambda x, w: torch.cat([torch.relu(x @ w)[:, :64], torch.zeros(96, 16)], 1),
    "half of the sum, doubled": lambda x, w: torch.relu(2 * x[:, :256] @ w[:256]),
    "no relu, shifted": lambda x, w: torch.relu(x @ w) - 1e-3 * torch.relu(x @ w).std(),
    "one element": lambda x, w: torch.relu(x @ w).index_fill(0, torch.tensor([5]), 0.0),
}


@pytest.mark.parametrize("distribution", ["declared", "D1", "D6"])
@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_products_are_rejected(product: Bench, name: str, distribution: str) -> None:
    case = Case(2, distribution)
    wrong = product.failed(case, WRONG[name](*product.inputs(case)))
    assert {c.name for c in wrong} & {"rms", "element"}
    assert all(c.value > c.limit for c in wrong)


def test_one_wrong_element_is_named(product: Bench) -> None:
    case = Case(3, "D1")
    x, w = product.inputs(case)
    out = torch.relu(x @ w)
    out[7, 11] += 0.003
    (wrong,) = product.failed(case, out)
    assert wrong.name == "element"
    assert "1 of 7680 elements beyond their limit, worst at [7, 11]" in wrong.detail


def test_integers_small_enough_are_compared_bit_by_bit(product: Bench) -> None:
    case = Case(3, "D8")
    x, w = product.inputs(case)
    out = torch.relu(x @ w)
    assert product.failed(case, out) == []
    out[0, 0] += 1
    assert [c.name for c in product.failed(case, out)] == ["exact"]


def test_nan_is_never_equal_to_a_number(product: Bench) -> None:
    case = Case(4, "D1")
    x, w = product.inputs(case)
    out = torch.relu(x @ w)
    for value in (math.nan, math.inf, -math.inf):
        broken = out.clone()
        broken[3, 4] = value
        (wrong,) = product.failed(case, broken)
        assert wrong.name == "non-finite"
        assert "first at [3, 4]" in wrong.detail
    assert product.failed(case, torch.full_like(out, math.nan))[0].name == "non-finite"


def test_nan_where_the_reference_has_it_is_asked_for() -> None:
    bench = Bench(source_of("return torch.log(x)", "[torch.rand(100, 100) - 0.01]"))
    case = Case(1)
    (x,) = bench.inputs(case)
    right = torch.log(x)
    assert right.isnan().any()
    assert bench.failed(case, right) == []
    assert bench.failed(case, right.nan_to_num())[0].name == "non-finite"
    assert bench.failed(case, torch.full_like(right, math.nan))[0].name == "non-finite"


class Odd(torch.Tensor):
    """A subclass that could compute when it is read."""


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda out: out.double(), "out: is float64[96, 80], the reference gives float32[96, 80]"),
        (lambda out: out.bool(), "is bool"),
        (lambda out: out.t(), "is float32[80, 96]"),
        (lambda out: out[:1], "is float32[1, 80]"),
        (lambda out: out[0, 0], "is float32[]"),
        (lambda out: out.reshape(-1), "is float32[7680]"),
        (lambda out: out[:1].expand(96, 80), "repeats one element by a zero stride"),
        (lambda out: out.as_subclass(Odd), "is a Odd"),
        (lambda out: out.to_sparse(), "sparse"),
        (lambda out: 3.0, "is a float, not a plain torch.Tensor"),
    ],
)
def test_other_metadata_is_rejected_before_values(
    product: Bench, spoil: Callable[[TENSOR], object], words: str
) -> None:
    case = Case(5, "D1")
    x, w = product.inputs(case)
    (wrong,) = product.failed(case, spoil(torch.relu(x @ w)))
    assert wrong.name == "meta"
    assert words in wrong.detail


def test_any_layout_is_accepted(product: Bench) -> None:
    case = Case(5, "D1")
    x, w = product.inputs(case)
    assert product.failed(case, torch.relu(w.t() @ x.t()).t()) == []


def test_missing_and_surplus_outputs_are_rejected() -> None:
    bench = Bench(source_of("return x * 2, (x + 1).sum(1)", "[torch.rand(100, 70)]"))
    case = Case(1, "D1")
    right = bench.honest(case)
    assert bench.failed(case, right) == []
    assert "out[1]: missing" in bench.failed(case, right[:1])[0].detail
    assert (
        "out[2]: the reference gives no such output" in bench.failed(case, [*right, ("out[2]", right[0][1])])[0].detail
    )
    swapped = [("out[0]", right[1][1]), ("out[1]", right[0][1])]
    assert [c.name for c in bench.failed(case, swapped)] == ["meta", "meta"]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_softmax_of_another_kind_is_accepted_and_a_poor_one_not(distribution: str) -> None:
    bench, case = Bench(SOFTMAX), Case(1, distribution)
    (x,) = bench.inputs(case)
    top = x.max(1, keepdim=True).values
    exact = torch.exp2((x - top) * 1.4426950408889634)
    assert bench.failed(case, exact / exact.sum(1, keepdim=True)) == []
    assert bench.failed(case, torch.zeros_like(x))
    assert bench.failed(case, torch.full_like(x, 1e-3))
    assert bench.failed(case, torch.softmax(x.bfloat16().float(), 1))
    assert bench.failed(case, torch.softmax(x, 1).roll(1, 1))


def test_parameters_left_out_show_because_they_are_redrawn() -> None:
    bench, case = Bench(NORM), Case(1, "D7")
    (x,) = bench.inputs(case)
    plain = torch.nn.functional.layer_norm(x, (256,))
    assert bench.failed(case, plain)
    assert bench.failed(case, x)
    model = bench.model(case)
    assert bench.failed(case, plain * model.norm.weight + model.norm.bias) == []


def test_positions_may_differ_in_ties_only() -> None:
    bench = Bench(source_of("return torch.argmax(x, dim=1)", "[torch.rand(300, 50, 4)]"))
    case = Case(1, "D8")
    (x,) = bench.inputs(case)
    right = x.argmax(1)
    last = 49 - x.flip(1).argmax(1)
    assert not torch.equal(right, last)
    assert bench.failed(case, right) == []
    assert bench.failed(case, last) == []
    for wrong in (last - 1, torch.zeros_like(last), torch.full_like(last, -1), torch.full_like(last, 50)):
        assert bench.failed(case, wrong)[0].name == "positions"
    assert bench.failed(case, last.int())[0].name == "meta"


def test_top_k_positions_must_not_repeat() -> None:
    bench = Bench(source_of("return torch.topk(x, 5, dim=1)", "[torch.rand(100, 64)]"))
    case = Case(1, "D8")
    (x,) = bench.inputs(case)
    values, index = torch.topk(x, 5, dim=1)
    paths = bench.reference.compute(case).outputs
    assert bench.failed(case, list(zip(paths, (values, index), strict=True))) == []
    wrong = bench.failed(case, list(zip(paths, (values, index[:, :1].repeat(1, 5)), strict=True)))
    assert wrong
    assert wrong[0].name == "positions"


def test_integers_are_exact() -> None:
    bench = Bench(source_of("return x * 3 + 1", "[torch.randint(-5, 5, (100, 30))]"))
    case = Case(1)
    (x,) = bench.inputs(case)
    assert bench.failed(case, x * 3 + 1) == []
    (wrong,) = bench.failed(case, (x * 3 + 1).index_fill(0, torch.tensor([4]), 99))
    assert "30 of 3000 elements differ, first at [4, 0]: 99 instead of" in wrong.detail


def test_a_loss_needs_more_than_one_case() -> None:
    """One element can be right by luck: errors are pooled over 32 cases, and the reference's own beforehand."""
    bench = Bench(LOSS)
    case = Case(1, "D1")
    assert bench.failed(case, ((bench.inputs(case)[0] - bench.inputs(case)[1]) ** 2).double().mean().float()) == []
    assert bench.failed(case, ((bench.inputs(case)[0][:2] - bench.inputs(case)[1][:2]) ** 2).mean())
    pooled: dict[str, list[bool]] = {"honest": [], "bf16": []}
    for seed in range(32):
        case = Case(seed, "D7")
        x, y = bench.inputs(case)
        honest = ((x.t() - y.t()) ** 2).mean()
        rough = ((x.bfloat16().float() - y.bfloat16().float()) ** 2).mean()
        for name, out in (("honest", honest), ("bf16", rough)):
            checks = bench.judge(case, [("out", out)], name).checks
            pooled[name] += [c.passed for c in checks if c.name == "rms-pooled"]
            assert name == "bf16" or all(c.passed for c in checks)
    assert pooled == {"honest": [True], "bf16": [False]}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (source_of("y = x.mean(1, keepdim=True); return y - y.mean(1, keepdim=True)", "[torch.rand(99, 9)]"), "zero"),
        (source_of("return torch.ones_like(x) * 3", "[torch.rand(99, 9)]"), "nearly constant"),
        (source_of("return x / 0", "[torch.rand(99, 9)]"), "nowhere finite"),
        (source_of("return (x > 5).long()", "[torch.rand(99, 9)]"), "all elements are equal"),
        (source_of("return (x * 0).sum() + 4", "[torch.rand(99, 9)]"), "hardly depends on the inputs"),
        (source_of("return (x * x).mean(1).sqrt()", "[torch.rand(99, 9) * 6e4]"), "reference overflows"),
    ],
)
def test_a_case_that_says_nothing_is_unusable(source: str, reason: str) -> None:
    bench = Bench(source, 'precision = "fp16"' if reason == "reference overflows" else None)
    computed = bench.reference.compute(Case(1))
    assert not computed.usable
    assert reason in computed.reason


PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("distribution", ["D1", "D2"])
def test_half_precision_allows_its_own_rounding_and_no_more(precision: str, distribution: str) -> None:
    bench, case = Bench(PRODUCT, f'precision = "{precision}"'), Case(1, distribution)
    x, w = bench.inputs(case)
    kind = PRECISIONS[precision]
    assert x.dtype is w.dtype is kind
    assert bench.failed(case, torch.relu(x.float() @ w.float()).to(kind)) == []
    rough = torch.zeros(96, 80, dtype=kind)
    for k in range(512):
        rough += x[:, k : k + 1] * w[k : k + 1]
    assert bench.failed(case, torch.relu(rough))
    if distribution == "D1":  # with positive inputs the output's own rounding hides it
        assert bench.failed(case, torch.relu(x.to(torch.float8_e4m3fn).float() @ w.float()).to(kind))
    assert bench.failed(case, torch.relu(x.float() @ w.float()))[0].name == "meta"


def test_tf32_is_accepted_where_it_is_declared_and_bf16_is_not() -> None:
    bench, case = Bench(PRODUCT, 'precision = "tf32"'), Case(1, "D1")
    x, w = bench.inputs(case)
    assert bench.failed(case, torch.relu(tf32(x) @ tf32(w))) == []
    assert bench.failed(case, torch.relu(x.bfloat16().float() @ w.bfloat16().float()))


@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, "D2"])
def test_operands_that_a_tensor_core_cuts_off_are_tf32(distribution: str) -> None:
    """They make every sum of terms of one sign too small, far beyond the floor where the output hardly varies."""
    bench, case = Bench(PRODUCT, 'precision = "tf32"'), Case(1, distribution)
    x, w = bench.inputs(case)
    cut = [(t.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32) for t in (x, w)]
    assert bench.failed(case, torch.relu(cut[0] @ cut[1])) == []


def test_the_oracle_is_not_defeated_by_casts_inside_the_model() -> None:
    forward = (
        "y = (x.half().float() * 3).to(torch.bfloat16).float(); return y + torch.full_like(y, 1, dtype=torch.half)"
    )
    bench = Bench(source_of(forward, "[torch.rand(50, 50)]"))
    (x,) = bench.inputs(Case(1, "D1"))
    with oracle.Upcast():
        out = bench.reference.double(x.double())
    assert out.dtype is torch.float64
    assert torch.equal(out, x.double() * 3 + 1)


def test_running_statistics_are_compared() -> None:
    bench = Bench(source_of("return self.bn(x)", "[torch.rand(512, 70)]", "self.bn = nn.BatchNorm1d(70)"))
    case = Case(1, "D1")
    computed = bench.reference.compute(case)
    assert computed.outputs == ("out", "state:bn.running_mean", "state:bn.running_var", "state:bn.num_batches_tracked")
    right = bench.honest(case)
    assert bench.failed(case, right) == []
    missing = [leaf for leaf in right if leaf[0] != "state:bn.running_var"]
    assert [c.name for c in bench.failed(case, missing)] == ["state"]
    start = dict(bench.model(case).named_buffers())["bn.running_mean"]
    stale = [(p, start if p == "state:bn.running_mean" else t) for p, t in right]
    assert {c.name for c in bench.failed(case, stale)} == {"rms", "element"}


def test_inputs_that_the_reference_changes_are_reported() -> None:
    bench = Bench(source_of("x += 1; return x * y", "[torch.rand(99, 9), torch.rand(99, 9)]", arguments="x, y"))
    assert bench.reference.compute(Case(1)).changed_inputs == ("x",)


def test_gradients_are_judged_with_the_same_cotangents() -> None:
    bench = Bench(NORM, 'direction = "both"')
    case = Case(1, "D1")
    right = bench.honest(case)
    assert [p for p, _ in right] == ["out", "grad:x", "grad:norm.weight", "grad:norm.bias"]
    assert bench.failed(case, right) == []
    for spoilt in ("grad:x", "grad:norm.weight"):
        wrong = [(p, t * 1.001 if p == spoilt else t) for p, t in right]
        assert {c.name for c in bench.failed(case, wrong)} & {"rms", "element"}


def test_a_case_is_remembered_and_another_one_does_not_disturb_it(product: Bench) -> None:
    first, second = Case(11, "D1"), Case(12, "D1")
    computed = product.reference.compute(first)
    x, w = product.inputs(first)
    product.reference.compute(second)
    assert product.reference.compute(first) == computed
    assert product.failed(first, torch.relu(x @ w)) == []
    assert product.failed(second, torch.relu(x @ w))


def labelled(source: str) -> tuple[str, ...]:
    problem = problem_of(source)
    return labels(problem, describe(problem, Variant("declared", "full", source)))


def test_problems_that_say_nothing_are_labelled() -> None:
    assert labelled(PRODUCT) == ()
    zero = "y = self.fc(x).max(1, keepdim=True).values; return y - y.mean(1, keepdim=True)"
    assert labelled(source_of(zero, "[torch.rand(9, 4)]", "self.fc = nn.Linear(4, 4)")) == ("output identically zero",)
    assert labelled(source_of("return torch.full_like(x, 2.0)", "[torch.rand(9, 4)]")) == ("output constant",)
    dead = "return torch.softmax(self.fc(x) + self.shift, 1)"
    layers = "self.fc = nn.Linear(4, 4); self.shift = nn.Parameter(torch.rand(1))"
    assert labelled(source_of(dead, "[torch.rand(9, 4)]", layers)) == ("dead parameter shift",)
    unread = source_of("return x * 2 + 0 * y", "[torch.rand(9, 4), torch.rand(9, 4)]", arguments="x, y")
    assert labelled(unread) == ("dead input y",)


def test_an_input_that_the_reference_changes_is_compared() -> None:
    bench = Bench(source_of("x.add_(y); return x * 2", "[torch.rand(40, 30), torch.rand(40, 30)]", arguments="x, y"))
    case = Case(1, "D1")
    computed = bench.reference.compute(case)
    assert (computed.outputs, computed.changed_inputs) == (("out", "input:x"), ("x",))
    x, y = bench.inputs(case)
    right = x + y
    assert bench.failed(case, [("out", right * 2), ("input:x", right)]) == []
    for wrong in (x, right + 1):
        assert bench.failed(case, [("out", right * 2), ("input:x", wrong)])
    assert [c.name for c in bench.failed(case, [("out", right * 2)])] == ["meta"]


def test_a_dead_input_is_found_among_containers() -> None:
    forward = 'return batch["a"] + alpha * batch["b"]'
    inputs = '[{"a": torch.randn(8, 8), "b": torch.randn(8, 8)}, 0.5, torch.randn(8)]'
    problem = problem_of(source_of(forward, inputs, arguments="batch, alpha, unused"))
    assert labels(problem, describe(problem, Variant("declared", "scaled", problem.source))) == ("dead input unused",)
