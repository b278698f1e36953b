"""The cross-check of the clock with made-up arms, the shape of bursts where slots or memory are few, and the watch."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from kernelevolve.evaluate.arms import shape_for, turns_of
from kernelevolve.evaluate.consistency import Consistency, Taken, consistency
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.watch import Watch


def arm(rng: random.Random, blocks: int, takes: float, says: float, *, message: float = 0.3) -> list[list[Taken]]:
    """Bursts of 4 and 8 calls: each call takes `takes` and 0.2 ms of plumbing, each burst a message; it says `says`."""
    return [
        [Taken(n, message + abs(rng.gauss(0, 0.03)) + n * (takes + 0.2), n * says) for n in (4, 8, 8, 4)]
        for _ in range(blocks)
    ]


def between(blocks: int = 12, seed: int = 1, message: float = 0.3, **candidate: float) -> Consistency:
    rng = random.Random(seed)
    return consistency(arm(rng, blocks, message=message, **candidate), arm(rng, blocks, 1.0, 1.0))


def test_what_is_reported_truly_holds_whatever_messages_cost() -> None:
    for seed in range(200):
        assert between(seed=seed, takes=1.0, says=1.0).holds
        assert between(seed=seed, takes=0.2, says=0.2, message=5.0).holds, "a slow line is no false clock"


@pytest.mark.parametrize(("takes", "says"), [(1.0, 0.1), (1.0, 0.8), (0.3, 0.03)])
def test_a_time_that_is_too_short_does_not_hold(takes: float, says: float) -> None:
    found = between(takes=takes, says=says)
    assert not found.holds
    assert found.excess == pytest.approx(takes - says, abs=0.03)
    assert f"{found.excess * 1e3:.3g} us per call" in str(found)


def test_a_time_that_is_too_long_only_hurts_who_reports_it() -> None:
    assert between(takes=1.0, says=3.0).holds


def test_nothing_is_said_without_two_lengths() -> None:
    one = [[Taken(1, 1.0, 0.5), Taken(1, 1.0, 0.5)]] * 5
    found = consistency(one, one)
    assert found.holds and found.blocks == 0 and "no slope" in str(found)


def test_bursts_fit_slots_and_memory() -> None:
    usual = shape_for(4, False, 20, 1 << 20, 100 << 30)
    assert (usual.untimed, usual.calls, usual.longer, usual.hold, usual.by_burst) == (3, 4, 8, 24, False)
    few = shape_for(4, False, 4, 1 << 20, 100 << 30)
    assert (few.untimed, few.calls, few.longer) == (1, 1, 2)
    fewest = shape_for(4, True, 2, 1 << 20, 100 << 30)
    assert (fewest.untimed, fewest.calls, fewest.longer) == (1, 1, 1)
    large = shape_for(4, False, 20, 3 << 30, 100 << 30)  # results of 3 GiB where 8 GiB are for them
    assert large.by_burst and (large.calls, large.longer, large.hold) == (1, 2, 2)
    shared = shape_for(4, False, 20, 1 << 20, 100 << 30, blocks=6)
    assert (shared.untimed, shared.calls, shared.longer, shared.hold, shared.by_burst) == (1, 4, 8, 6 * 24, False)
    tight = shape_for(4, False, 20, 256 << 20, 100 << 30, blocks=4)  # 3 GiB for each of several on a device
    assert (tight.untimed, tight.calls, tight.longer, tight.hold, tight.by_burst) == (1, 1, 2, 12, False)
    for calls in (1, 2, 4):
        for slots in range(2, 30):
            for output in (1, 1 << 20, 1 << 30, 16 << 30):
                shape = shape_for(calls, False, slots, output, 64 << 30)
                assert shape.untimed + shape.longer <= slots and 1 <= shape.calls <= shape.longer <= 2 * shape.calls


def test_every_call_has_inputs_of_its_own_and_a_burst_visits_a_slot_once() -> None:
    turns = turns_of(Seeds(bytes(16)), "w", 12, 5)
    bursts = [turns(number, 11) for number in range(50)]
    assert all(len({call.slot for call in burst}) == 11 for burst in bursts)
    assert len({call.case.seed for burst in bursts for call in burst}) == 550
    assert {call.case.state for burst in bursts for call in burst} == {5}
    assert len({tuple(call.slot for call in burst) for burst in bursts}) > 45, "slots are visited in another order"
    assert turns(3, 11) == bursts[3], "both arms get the same"


def test_without_a_driver_to_ask_nothing_is_dropped_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for watch in (Watch(None), Watch(0)):
        with watch.watching() as seen:
            assert seen.why_drop(0.0, time.monotonic()) == ""
        assert "not watched" in watch.absent


def nvml(reasons: int, pids: tuple[int, ...]) -> Any:
    """A driver that answers what it is told to."""
    return SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: reasons,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=pid) for pid in pids],
    )


@pytest.mark.parametrize(
    ("reasons", "pids", "dropped"),
    [(0, (), ""), (0x4, (), ""), (0x8, (), "throttled (0x8)"), (0x60, (), "throttled (0x60)"), (0, (1,), "process 1")],
)
def test_what_disturbs_drops_a_block(
    monkeypatch: pytest.MonkeyPatch, reasons: int, pids: tuple[int, ...], dropped: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(reasons, pids))
    watch = Watch(0)
    start = time.monotonic()
    with watch.watching():
        why = watch.why_drop(start, time.monotonic())
    assert watch.absent == "" and (dropped in why if dropped else why == "")
    assert ("under the software power cap" in watch.notes) == (reasons == 0x4)


def test_a_second_process_of_the_candidate_on_the_device_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) as candidate:  # type: ignore[call-overload]
        assert candidate.stdout is not None
        below = int(candidate.stdout.readline())
        try:
            own = candidate.pid
            for pids, beside in [((), 0), ((own,), 1), ((own, below), 2), ((below, os.getpid()), 1)]:
                monkeypatch.setitem(sys.modules, "pynvml", nvml(0, pids))
                watch = Watch(0, own)
                with watch.watching():
                    assert watch.why_drop(0.0, time.monotonic()) == ""
                assert watch.beside == beside
        finally:
            os.kill(below, 9)
            candidate.stdin.close()
