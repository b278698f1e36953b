"""The second instrument with made-up spans, and on a machine without a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelevolve.evaluate.asking import Failed
from kernelevolve.evaluate.kernels import busy, counted
from kernelevolve.evaluation import Verdict
from kernelevolve.tensors.kernels import spans_of
from kernelevolve.tensors.ring import Ring
from kernelevolve.wire import Message

PIECES = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)).map(lambda p: (p[0], p[0] + p[1])), max_size=12)


@given(spans=PIECES)
def test_time_under_way_counts_each_moment_once(spans: list[tuple[int, int]]) -> None:
    moments = {m for start, end in spans for m in range(start, end)}
    assert busy(spans) == len(moments)


def seen(*spans: list[tuple[float, float]], why: str = "") -> Callable[[str, Any], Message]:
    return lambda kind, body: Message("seen", {"spans": list(spans), "why": why}, {})


def test_what_two_instruments_say_alike_is_held_with_both_figures() -> None:
    guard = counted(seen(*[[(0.0, 6.0), (7.0, 9.0)]] * 5), "w", 0.01)
    assert guard.held == "held" and "2 on the device per call, busy for 8 us of 10 us" in guard.detail
    guard = counted(seen([(0.0, 6.0)], [(0.0, 6.0), (6.0, 12.0)], [(0.0, 12.0)]), "w", 0.01)
    assert "1 to 2, not constant," in guard.detail and "20% more" in guard.detail


def test_kernels_that_take_far_longer_than_their_call_are_a_false_clock() -> None:
    with pytest.raises(Failed) as caught:
        counted(seen(*[[(0.0, 90.0)]] * 5), "w", 0.01)
    assert caught.value.verdict is Verdict.TIMER_INCONSISTENT and caught.value.artefact["guard"] == "kernels"


def test_where_it_cannot_start_that_is_said() -> None:
    assert counted(seen(why="no CUPTI"), "w", 0.01).held == "not run"

    def ends(kind: str, body: Any) -> Message:
        raise Failed(Verdict.CRASH, "the worker ended by SIGSEGV")

    assert "SIGSEGV" in counted(ends, "w", 0.01).detail
    ring = Ring([torch.ones(4)], lambda i: [torch.ones(4)], "cpu", 3)
    with pytest.raises(RuntimeError, match="no device"):
        spans_of(torch.relu, ring, 2)
    with pytest.raises(RuntimeError, match="sees nothing"):
        spans_of(torch.relu, ring, 2, lambda call: [])


def test_each_call_is_looked_at_by_itself_on_a_slot_of_its_own() -> None:
    calls: list[float] = []

    def record(call: Callable[[], Any]) -> list[tuple[float, float]]:
        calls.append(float(call()[0]))
        return [(0.0, calls[-1])]

    ring = Ring([torch.full((1,), 1.0)], lambda i: [torch.full((1,), 1.0 + i)], "cpu", 4)
    assert spans_of(torch.relu, ring, 3, record) == [[(0.0, 1.0)], [(0.0, 2.0)], [(0.0, 3.0)]]
    assert calls == [1.0, 1.0, 2.0, 3.0], "once before, to set up"
