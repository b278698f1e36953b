"""How results of timed calls are compared: fast, without a change to what is compared, and never laxer than slowly."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import Bench, source_of

from kernelevolve.judge.timed import Limit, TimedCalls, quickly_near
from kernelevolve.protocol import Case
from kernelevolve.tensors.outputs import meta_of

CAUSAL = source_of("return torch.where(torch.ones(48, 48).tril() > 0, x @ x.T, -torch.inf)", "[torch.randn(48, 32)]")
LIMIT = Limit(1e-6, 1e-5, constant=False)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 300),
    error=st.sampled_from([0.0, 1e-7, 1e-6, 1.9e-6, 2.1e-6, 1e-5, 1.0]),
    special=st.sampled_from([None, math.inf, -math.inf, math.nan]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_the_quick_way_changes_nothing_and_accepts_only_what_the_slow_way_does(seed, count, error, special, dtype):
    generator = torch.Generator().manual_seed(seed)
    honest = torch.randn(count, generator=generator)
    found = (honest + error * torch.randn(count, generator=generator)).to(dtype)
    honest = honest.to(dtype)
    if special is not None and count:
        honest[seed % count] = found[seed % count] = special
    before = honest.clone(), found.clone()
    near = quickly_near(LIMIT, honest, found)
    for was, now in zip(before, (honest, found), strict=True):
        assert torch.equal(was.view(torch.uint8), now.view(torch.uint8))
    if special is not None or not count:
        assert not near
    if near:
        assert TimedCalls._leaf_near(LIMIT, honest, found)
    if count > 50 and special is None and error == 0.0:
        assert near


@pytest.mark.parametrize("quick", [False, True])
def test_what_the_quick_way_leaves_open_is_decided_by_the_full_rule_on_the_same_values(quick, monkeypatch):
    if quick:  # as on a device, whose tensors are looked at quickly first

        def near(limit, honest, found):
            return bool(quickly_near(limit, honest.reshape(-1), found.reshape(-1))) or slow(limit, honest, found)

        slow = TimedCalls._leaf_near
        monkeypatch.setattr(TimedCalls, "_leaf_near", staticmethod(near))
    bench = Bench(CAUSAL)
    timed = TimedCalls(bench.reference)
    for seed, full in ((1, True), (2, False), (3, False)):
        case = Case(seed)
        ((path, value),) = bench.honest(case)
        looked = timed.look(case, [meta_of(path, value)], {path: value}, full=full, candidate="")
        assert looked.passed and looked.full is full
        wrong = value.clone()
        wrong[5, 3] *= 1.01
        assert not timed.look(case, [meta_of(path, wrong)], {path: wrong}, full=False, candidate="").passed
