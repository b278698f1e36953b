"""The judge's models begin every call in the state of its case, whatever earlier calls left behind in them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import HEAD, Bench

from kernelevolve.protocol import Case
from kernelevolve.tensors import draw

# Running statistics, which an operator moves without a version; a parameter that forward changes behind autograd's
# back; weights under two names; a plain tensor that is no buffer.
SOURCE = (
    HEAD
    + """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.one = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8, bias=False)
        self.other.weight = self.one.weight
        self.calls = torch.zeros(())

    def forward(self, x):
        self.one.bias.data.add_(1.0)
        self.calls.add_(1.0)
        return self.other(self.one(self.norm(x))) + self.calls

def get_inputs():
    return [torch.randn(16, 8)]

def get_init_inputs():
    return []
"""
)
SIDECAR = 'mode = "train"\n'

cases = st.builds(
    Case,
    st.integers(0, 3),
    st.sampled_from(["declared", "D1", "D8"]),
    st.booleans(),
    state=st.sampled_from([None, 1, 2]),
)
asked = st.tuples(cases, st.sampled_from(["rerun", "oracle", "compute", "state"]))


def outputs(bench: Bench, case: Case, how: str) -> dict[str, torch.Tensor]:
    reference = bench.reference
    if how == "state":
        return {name: t.detach().clone() for name, t in reference.state(case)}
    if how == "compute":
        reference.drop(case)
        return {leaf.path: leaf.oracle for leaf in reference.leaves(case)}
    return {path: t.detach().clone() for path, t in reference.rerun(case, double=how == "oracle")}


@settings(max_examples=25, deadline=None)
@given(st.lists(asked, min_size=2, max_size=6))
def test_what_a_case_gives_does_not_depend_on_the_calls_before(calls: list[tuple[Case, str]]) -> None:
    used = Bench(SOURCE, SIDECAR)
    for case, how in calls:
        found, fresh = outputs(used, case, how), outputs(Bench(SOURCE, SIDECAR), case, how)
        assert list(found) == list(fresh)
        for path, values in fresh.items():
            assert torch.equal(found[path], values), f"{path} of {case} by {how}"


@given(cases, cases)
@settings(max_examples=40, deadline=None)
def test_cases_of_one_key_draw_the_same_state(one: Case, other: Case) -> None:
    specs = Bench(SOURCE, SIDECAR).description.state
    first, second = draw.draw_state(specs, one, "cpu"), draw.draw_state(specs, other, "cpu")
    same = list(first) == list(second) and all(torch.equal(t, second[name]) for name, t in first.items())
    if draw.state_key(one) == draw.state_key(other):
        assert same
    else:
        assert not same
