"""What follows from null models and honest kernels: distributions dropped, problems refused, each with its reason."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernelevolve.evaluate.admission import Admission, Sized, decide, harness, refused
from kernelevolve.problem import Problem
from kernelevolve.protocol import NullModel, Tolerance, Tried

PROBLEM = Problem("p", "s", "p.py", "source")
TOLERANCE = Tolerance("out", "float32", "fp32-strict", "rms", 1e-6, 5e-6, "the floor of fp32-strict and float32")


def tried(distribution: str, *models: NullModel, unusable: str = "") -> Tried:
    return Tried(distribution, unusable, models, (TOLERANCE,), (), 0.1)


def null(name: str, outcome: str = "accepted", kind: str = "null") -> NullModel:
    return NullModel(name, kind, outcome, "rms 1 exceeds 0.1")  # type: ignore[arg-type]


def decided(*tries: Tried, anyway: bool = False) -> Admission:
    return decide(PROBLEM, [Sized("declared/scaled", tries)], anyway=anyway)


def test_what_only_honest_kernels_pass_is_admitted_with_its_tolerances() -> None:
    good = (null("zeros", "rejected"), null("the reference again", "accepted", "control"))
    found = decided(tried("declared", *good), tried("D1", *good))
    assert (found.admitted, found.distributions, dict(found.dropped), found.reason) == (
        True, ("declared", "D1"), {}, ""
    )  # fmt: skip
    (limit,) = found.limits
    assert (limit.label, limit.distribution, limit.tolerance) == ("declared/scaled", "declared", TOLERANCE)
    assert found.models == 4


def test_a_distribution_on_which_a_null_model_passes_is_dropped_and_named() -> None:
    found = decided(tried("declared", null("input copy x")), tried("D1", null("input copy x", "rejected")))
    assert found.admitted
    assert found.distributions == ("D1",)
    assert found.dropped == {"declared": "the null model 'input copy x' passes"}
    assert found.limits[0].distribution == "D1"


def test_a_null_model_that_passes_everywhere_refuses_the_problem_with_a_fix() -> None:
    found = decided(tried("declared", null("input copy x"), null("zeros")), tried("D1", null("input copy x")))
    assert not found.admitted
    assert "'input copy x' and 1 more pass on declared" in found.reason
    assert found.fix == "the output is the input: give inputs that the op changes"
    assert "--admit-anyway" in str(refused(PROBLEM, found))


def test_different_null_models_on_each_distribution_leave_nothing() -> None:
    found = decided(tried("declared", null("zeros")), tried("D1", null("output for another seed")))
    assert not found.admitted
    assert "'zeros' passes on declared; the null model 'output for another seed' passes on D1" in found.reason


def test_what_says_nothing_is_dropped_and_where_nothing_else_is_left_refused() -> None:
    empty = "out: the exact output is identically zero"
    found = decided(tried("declared", unusable=empty), tried("D1"))
    assert found.dropped == {"declared": empty}
    found = decided(tried("declared", unusable=empty), tried("D1", unusable=empty))
    assert found.reason.endswith(f"{empty} on all of them")
    assert found.fix.startswith("scale inputs or weights")


def test_an_honest_kernel_that_fails_on_the_problem_s_own_inputs_refuses_it() -> None:
    fails = null("another order of summation", "rejected", "control")
    found = decided(tried("declared", fails), tried("D1"))
    assert not found.admitted
    assert found.reason == ("on its own inputs an honest kernel fails (another order of summation): rms 1 exceeds 0.1")
    assert found.fix.startswith("declare the precision")
    found = decided(tried("declared"), tried("D1", fails))
    assert found.admitted
    assert list(found.dropped) == ["D1"]


def test_a_reference_that_does_not_repeat_is_told_to_be_deterministic() -> None:
    found = decided(tried("declared", null("the reference again", "rejected", "control")), tried("D1"))
    assert not found.admitted
    assert "two runs of the reference differ" in found.reason
    assert "use_deterministic_algorithms" in found.fix


def test_lower_precision_drops_a_distribution_as_long_as_another_one_tells() -> None:
    passes, fails = null("tf32", "accepted", "precision"), null("tf32", "rejected", "precision")
    found = decided(tried("declared", fails), tried("D3", passes))
    assert (found.admitted, found.dropped) == (True, {"D3": "tf32 passes"})
    found = decided(tried("declared", passes), tried("D3", passes))
    assert found.admitted
    assert found.distributions == ("declared", "D3")
    assert found.labels == (
        "tf32 passes wherever it is judged: values cannot show whether fp32-strict was kept",
    )  # fmt: skip


def test_every_size_has_a_say() -> None:
    good, bad = tried("declared", null("zeros", "rejected")), tried("declared", null("zeros"))
    found = decide(PROBLEM, [Sized("a/scaled", (good, tried("D1"))), Sized("b/scaled", (bad, tried("D1")))])
    assert found.distributions == ("D1",)
    assert found.dropped == {"declared": "the null model 'zeros' passes (b/scaled)"}


def test_a_size_that_was_not_looked_at_has_no_say() -> None:
    small = Sized("declared/scaled", (tried("declared", null("zeros")), tried("D1")))
    full = Sized("declared", (tried("D1"),))  # what was dropped at the small size is not tried again
    found = decide(PROBLEM, [small, full], ("cpu", "cuda:0"))
    assert (found.admitted, found.distributions, found.device) == (True, ("D1",), "cpu, cuda:0")
    assert found.dropped == {"declared": "the null model 'zeros' passes (declared/scaled)"}


def test_going_on_all_the_same_keeps_every_distribution_and_says_so() -> None:
    found = decided(tried("declared", null("zeros")), tried("D1", null("zeros")), anyway=True)
    assert not found.admitted
    assert found.distributions == ("declared", "D1")
    assert found.sentence.startswith("ADMITTED ANYWAY, as asked: no distribution")


MODELS = st.lists(
    st.builds(
        null,
        st.sampled_from(["zeros", "input copy x", "first half of x along dim 0, scaled", "the reference again"]),
        st.sampled_from(["accepted", "rejected", "skipped"]),
        st.sampled_from(["null", "precision", "control"]),
    ),
    max_size=4,
)


@given(
    st.lists(st.tuples(MODELS, st.sampled_from(["", "out: it says nothing"])), min_size=1, max_size=5), st.booleans()
)
def test_every_distribution_is_used_or_dropped_and_only_used_ones_are_sound(
    found: list[tuple[list[NullModel], str]], anyway: bool
) -> None:
    names = ["declared", "D1", "D2", "D3", "D4"][: len(found)]
    tries = [tried(n, *models, unusable=why) for n, (models, why) in zip(names, found, strict=True)]
    admission = decided(*tries, anyway=anyway)
    if admission.admitted:
        assert set(admission.distributions) | set(admission.dropped) == set(names)
        assert not set(admission.distributions) & set(admission.dropped)
        assert not (admission.reason or admission.fix)
        for one in tries:
            sound = not one.unusable and not any(
                (m.kind == "null" and m.outcome == "accepted") or (m.kind == "control" and m.outcome == "rejected")
                for m in one.models
            )
            assert sound or one.distribution in admission.dropped
    else:
        assert admission.reason and admission.fix
        assert admission.distributions == (tuple(names) if anyway else admission.distributions)


def test_the_harness_is_known_by_its_content() -> None:
    assert len(harness()) == 64
    assert harness() == harness()
