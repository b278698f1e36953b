"""Where the slots of a ring lie, and mode `graph` with a stand-in for CUDA's capture: both on the CPU."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.evaluate.asking import Failed
from kernelevolve.evaluate.graphs import by_mode, captured
from kernelevolve.evaluate.timing import Timed
from kernelevolve.evaluation import Evidence, Figure, Samples, Timing, Verdict
from kernelevolve.protocol import Case
from kernelevolve.tensors import clock, graphs, ring
from kernelevolve.tensors.arm import Arm
from kernelevolve.wire import Message


def tensors_of(arguments: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]


def drawn_arguments(seed: int) -> list[Any]:
    source = torch.Generator().manual_seed(seed)
    base = torch.randn(1000, generator=source)
    return [
        torch.randn(33, 7, generator=source),
        {"view": base[13:413].view(20, 20).t(), "row": torch.randn(5, generator=source).expand(4, 5)},
        torch.empty(0, 3),
        torch.randn(4, generator=source, requires_grad=True),
        base[:10],
        torch.randint(0, 9, (3,), generator=source),
        torch.randn(3, generator=source).bfloat16(),
        7,
        None,
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**62))
def test_placed_arguments_are_the_same_ones_at_random_multiples_of_256_bytes(seed: int) -> None:
    given_ = drawn_arguments(1)
    placed, arena = ring.place(given_, "cpu", random.Random(seed))
    before, after = tensors_of(given_), tensors_of(placed)
    for was, now in zip(before, after, strict=True):
        assert torch.equal(was, now) and was.dtype == now.dtype
        assert (was.stride(), was.storage_offset(), was.requires_grad) == (
            now.stride(), now.storage_offset(), now.requires_grad,
        )  # fmt: skip
        if now.numel():
            begins = now.untyped_storage().data_ptr()
            assert begins % 256 == 0 and begins != was.untyped_storage().data_ptr()
            assert arena.data_ptr() <= begins
            assert begins + now.untyped_storage().nbytes() <= arena.data_ptr() + arena.numel()
            assert now.untyped_storage().nbytes() <= was.untyped_storage().nbytes(), "neighbours are not in it"
    assert placed[-2:] == [7, None]
    placed[4][0] = 99.0
    assert placed[1]["view"].untyped_storage().data_ptr() == placed[4].untyped_storage().data_ptr()
    spans = sorted({(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in after if t.numel()})
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(spans)), "none lies in another"


def offsets(seed: int | None, slots: int = 6) -> list[tuple[int, ...]]:
    """Where the tensors of each slot lie, beside the first of them."""
    made = ring.Ring(drawn_arguments(0), lambda i: drawn_arguments(i), "cpu", slots, seed=seed)
    found = [[t.untyped_storage().data_ptr() for t in tensors_of(slot) if t.numel()] for slot in made.slots]
    return [tuple(p - slot[0] for p in slot) for slot in found]


def test_addresses_follow_from_the_seed_and_differ_from_slot_to_slot() -> None:
    assert offsets(5) == offsets(5) != offsets(6)
    assert len(set(offsets(5))) == 6


def test_a_ring_takes_no_more_memory_than_it_was_counted_for() -> None:
    made = ring.Ring(drawn_arguments(0), drawn_arguments, "cpu", 5, seed=1)
    assert all(arena.numel() <= made.room for arena in made._arenas)
    large = [torch.empty(40 << 20, dtype=torch.uint8)]
    few = ring.Ring(large, lambda i: [torch.empty(40 << 20, dtype=torch.uint8)], "cpu", seed=1)
    assert len(few.slots) == int(ring.MEMORY_SHARE * ring.CPU_MEMORY) // few.room < ring.SLOTS_USUAL
    assert few.room <= few.footprint + ring.GAP_BYTES + 2 * ring.ALIGNED


def test_renewing_keeps_addresses_objects_and_versions() -> None:
    made = ring.Ring(drawn_arguments(0), drawn_arguments, "cpu", 3, seed=3)
    before = [(id(t), t.data_ptr(), t._version) for t in tensors_of(made.slots[1])]
    made.renew(1, drawn_arguments(77))
    assert [(id(t), t.data_ptr(), t._version) for t in tensors_of(made.slots[1])] == before
    assert all(
        torch.equal(a, b) for a, b in zip(tensors_of(made.slots[1]), tensors_of(drawn_arguments(77)), strict=True)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(tensors_of(made.slots[2]), tensors_of(drawn_arguments(2)), strict=True)
    )


class Recorder:
    """In place of CUDA's capture: the call runs once, and replaying runs it again into the same results."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, call: Callable[[], Any], pool: Any) -> tuple[Any, Callable[[], None]]:
        result = call()

        def replay() -> None:
            self.replays += 1
            for old, new in zip(tensors_of(result), tensors_of(call()), strict=True):
                old.copy_(new)

        return result, replay


def arm_of(function: Callable[..., Any]) -> Arm:
    def draw(case: Case) -> list[Any]:
        return [torch.randn(8, 4, generator=torch.Generator().manual_seed(case.seed))]

    made = Arm(function, draw, lambda result: [("out", result)], "cpu")
    made.warm({"seed": 11, "seconds": 0.0, "slots": 4, "hold": 4})
    return made


def test_replays_are_timed_held_and_summed_like_calls() -> None:
    recorder, arm = Recorder(), arm_of(lambda x: torch.relu(x) * 2)
    assert graphs.capture(arm.function, arm.ring, recorder) == "" and len(arm.ring.graphs) == 4
    assert graphs.capture(arm.function, arm.ring, recorder) == "", "once is enough"
    for _ in range(2):
        arm.renew({"calls": [[2, 101], [0, 102], [3, 103]], "drop": True})
        found = arm.burst({"mode": "graph", "untimed": 1, "hold": True})
        assert len(found["milliseconds"]) == 2 and min(found["milliseconds"]) > 0
        for seed, (copied,) in zip((102, 103), arm.results.calls, strict=True):
            wanted = torch.relu(torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))) * 2
            assert torch.equal(copied.values, wanted)
        assert [len(sums) for sums in found["sums"]] == [1, 1]
    assert recorder.replays == 6


def test_a_replay_of_other_inputs_gives_their_results_and_not_those_of_the_capture() -> None:
    frozen = {}

    def cached(x: torch.Tensor) -> torch.Tensor:
        return frozen.setdefault("first", x * 1)

    arm = arm_of(cached)
    graphs.capture(arm.function, arm.ring, Recorder())
    arm.renew({"calls": [[1, 55]], "drop": True})
    arm.burst({"mode": "graph", "untimed": 0, "hold": True})
    ((copied,),) = arm.results.calls
    right = torch.randn(8, 4, generator=torch.Generator().manual_seed(55))
    assert not torch.equal(copied.values, right), "what is stale is held as it is, for the judge to see"


def test_what_was_not_captured_is_not_timed_as_a_graph() -> None:
    arm = arm_of(torch.relu)
    assert "CPU" in graphs.capture(arm.function, arm.ring) and not arm.ring.graphs
    arm.renew({"calls": [[1, 5]], "drop": True})
    with pytest.raises(RuntimeError, match="nothing was captured"):
        arm.burst({"mode": "graph", "untimed": 0, "hold": False})

    def refuses(call: Callable[[], Any], pool: Any) -> tuple[Any, Callable[[], None]]:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="capturing"):
        graphs.capture(arm.function, arm.ring, refuses)
    assert not arm.ring.graphs


def test_a_busy_wait_in_front_is_no_matter_on_the_cpu() -> None:
    arm = arm_of(torch.relu)
    times = clock.burst(arm.function, arm.ring, [0], [1, 2], "cold", lambda result: None, 5.0)
    assert len(times) == 2 and min(times) > 0


def answers(why: str) -> Callable[[str, Any], Message]:
    return lambda kind, body: Message(kind, {"why": why} if kind == "capture" else {}, {})


def test_the_mode_is_not_run_where_one_arm_cannot_be_captured_and_the_reason_is_said() -> None:
    both = captured({"eager": answers(""), "candidate": answers("")}, "w", {})
    assert both.held == "held" and both.name == "graph"
    for name, other in (("candidate", "eager"), ("eager", "candidate")):
        guard = captured({name: answers("an .item()"), other: answers("")}, "w", {})
        assert guard.held == "not run" and f"{name} cannot be captured: an .item()" in guard.detail


@pytest.mark.parametrize(
    ("verdict", "accused"), [(Verdict.CRASH, False), (Verdict.TIMEOUT, False), (Verdict.TAMPER, True)]
)
def test_a_capture_that_ends_the_process_is_a_reason_and_a_forged_answer_is_not(
    verdict: Verdict, accused: bool
) -> None:
    def fails(kind: str, body: Any) -> Message:
        raise Failed(verdict, "it ended")

    if accused:
        with pytest.raises(Failed):
            captured({"candidate": fails}, "w", {})
    else:
        assert captured({"candidate": fails}, "w", {}).held == "not run"


def test_only_modes_that_every_process_was_timed_in_are_put_together() -> None:
    def timed(mode: str) -> Timed:
        figure = Figure(1.0, "ms", Evidence.MEASURED, "")
        timing = Timing("w", "p", figure, {"eager": figure}, "eager", figure, {}, mode=mode)
        return Timed(timing, Samples("w", "p", "ms", {}, mode, 4), Verdict.OK_SAME)

    runs = [[timed("cold"), timed("graph")], [timed("cold")], [timed("cold"), timed("graph")]]
    assert [[t.timing.mode for t in mode] for mode in by_mode(runs)] == [["cold"] * 3]
    assert [len(mode) for mode in by_mode([runs[0], runs[2]])] == [2, 2]
