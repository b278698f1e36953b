"""The clock on an accelerator: where slots lie, replays of CUDA graphs, the sharper look at short calls, the sanitizer.

Skipped without an NVIDIA device; under a minute on one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from kernelevolve.evaluate import sanitizer
from kernelevolve.evaluate.asking import Failed, Trial
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.roles import Roles
from kernelevolve.evaluate.session import Measured
from kernelevolve.evaluate.timing import Blocks
from kernelevolve.evaluation import Verdict
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Case
from kernelevolve.settings import LANES, Lane
from kernelevolve.tensors import clock, graphs, ring

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or torch.version.hip is not None, reason="no NVIDIA device"),
]
DEVICE = "cuda:0"
WIDTH = 1024
REFERENCE = f"""
import torch


class Model(torch.nn.Module):
    def forward(self, x, y):
        return torch.relu(x + y)


def get_inputs():
    return [torch.randn({WIDTH}, {WIDTH}), torch.randn({WIDTH}, {WIDTH})]


def get_init_inputs():
    return []
"""
CANDIDATE = """
import torch
import triton
import triton.language as tl
{before}

@triton.jit
def add_relu(x, y, out, n, times: tl.constexpr, extra: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n + extra
    for _ in range(times):
        value = tl.maximum(tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), 0.0)
        tl.store(out + at, value, mask=inside)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        {first}
        out = torch.empty_like(x)
        n = x.numel()
        add_relu[(triton.cdiv(n + {extra}, 1024),)](x, y, out, n, {times}, {extra}, BLOCK=1024)
        return out
"""


def candidate(before: str = "", first: str = "pass", times: int = 1, extra: int = 0) -> str:
    return CANDIDATE.format(before=before, first=first, times=times, extra=extra)


def slots(count: int = 6, shape: tuple[int, ...] = (WIDTH, WIDTH)) -> ring.Ring:
    def draw(seed: int) -> list[Any]:
        source = torch.Generator(DEVICE).manual_seed(seed)
        return [torch.randn(shape, generator=source, device=DEVICE) for _ in range(2)]

    return ring.Ring(draw(0), draw, DEVICE, count, seed=17)


def test_slots_lie_at_multiples_of_256_and_are_ordinary_memory() -> None:
    made = slots()
    addresses = [t.data_ptr() for slot in made.slots for t in slot]
    assert len(set(addresses)) == 12 and all(a % 256 == 0 for a in addresses)
    assert any(a % 4096 for a in addresses), (
        "an allocator's own would be multiples of 512 at least, large ones of 2 MiB"
    )
    compiled = torch.compile(lambda x, y: torch.relu(x @ y))
    for x, y in made.slots:
        assert torch.allclose(compiled(x, y), torch.relu(x @ y), rtol=1e-2, atol=1e-2)
        x.record_stream(torch.cuda.Stream())
    before = [t.data_ptr() for t in made.slots[2]]
    fresh = [torch.ones(WIDTH, WIDTH, device=DEVICE), torch.zeros(WIDTH, WIDTH, device=DEVICE)]
    made.renew(2, fresh)
    assert [t.data_ptr() for t in made.slots[2]] == before and made.slots[2][0].eq(1).all()
    assert all(arena.numel() <= made.room for arena in made._arenas)


def test_a_ring_takes_the_memory_that_it_was_counted_for() -> None:
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    made = slots(20, (4096, 1024))
    torch.cuda.empty_cache()
    assert free - torch.cuda.mem_get_info()[0] <= 20 * (made.room + (2 << 20)) + (64 << 20)


def test_replays_give_the_results_of_renewed_inputs_in_any_order() -> None:
    made, held = slots(), []
    function = lambda x, y: torch.relu(x + y) * torch.rsqrt(x.square().mean() + 1)  # noqa: E731
    assert graphs.capture(function, made) == ""
    for round_ in range(3):
        order = [3, 1, 5, 0]
        for slot in order:
            made.renew(slot, [t * (round_ + slot + 1) for t in made.slots[slot]])
        held.clear()
        times = clock.burst(function, made, [2], order, "graph", lambda result: held.append(result.clone()))
        assert all(0 < t < 1 for t in times)
        for slot, result in zip(order, held, strict=True):
            assert torch.equal(result, function(*made.slots[slot]))


def test_a_replay_of_many_small_kernels_is_faster_than_calling_them() -> None:
    made = slots(4, (64, 64))

    def many(x: Any, y: Any) -> Any:
        for _ in range(200):
            x = x + y
        return x

    graphs.capture(many, made)
    called = sorted(clock.burst(many, made, [0], [1, 2, 3], "cold", lambda r: None))[1]
    replayed = sorted(clock.burst(many, made, [0], [1, 2, 3], "graph", lambda r: None))[1]
    assert replayed < called


def test_what_cannot_be_captured_leaves_the_device_usable() -> None:
    made = slots(3, (64, 64))
    with pytest.raises(RuntimeError):
        graphs.capture(lambda x, y: x * float(y.sum().item()), made)
    assert not made.graphs
    assert graphs.capture(lambda x, y: x + y, made) == "" and len(made.graphs) == 3
    assert min(clock.burst(lambda x, y: x + y, made, [0], [1, 2], "graph", lambda r: None)) > 0


def test_gradients_are_captured_too() -> None:
    def draw(seed: int) -> list[Any]:
        source = torch.Generator(DEVICE).manual_seed(seed)
        return [torch.randn(64, 64, generator=source, device=DEVICE).requires_grad_()]

    made = ring.Ring(draw(0), draw, DEVICE, 3, seed=1)
    function = lambda x: torch.autograd.grad(torch.tanh(x).square().sum(), x)[0]  # noqa: E731
    with torch.enable_grad():
        assert graphs.capture(function, made) == ""
        made.renew(1, draw(50))
        held: list[Any] = []
        clock.burst(function, made, [], [1], "graph", lambda r: held.append(r.clone()))
        assert torch.allclose(held[0], function(*made.slots[1]))


def test_the_busy_wait_lasts_about_as_long_as_it_is_asked_to() -> None:
    for wanted in (0.1, 5.0):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        clock._wait_on_device(wanted)
        end.record()
        torch.cuda.synchronize()
        assert 0.9 * wanted < start.elapsed_time(end) < 3 * wanted + 0.05


def test_calls_behind_a_busy_wait_take_what_they_take_one_by_one() -> None:
    made = slots(20)
    function = lambda x, y: torch.relu(x + y)  # noqa: E731
    clock.warm(function, made, 0.2)
    order = list(range(3, 20))
    apart = sorted(clock.burst(function, made, [0, 1, 2], order, "cold", lambda r: None))[8]
    assert not made.ahead
    ahead = sorted(clock.burst(function, made, [0, 1, 2], order, "cold", lambda r: None, 5.0))[8]
    assert made.ahead, "17 calls of one kernel are submitted in less than 5 ms"
    assert ahead == pytest.approx(apart, rel=0.25, abs=5e-3)


Time = Callable[..., Measured]
SHORT = dataclasses.replace(LANES["accept"], blocks=6, doublings=0, modes=("cold",))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    problem = parse_problem(REFERENCE, None, name="add_relu", suite="folder", path="add_relu.py")
    roles = Roles()
    made = Bench(dataclasses.replace(problem, baselines=("eager",)), roles, tmp_path_factory.mktemp("builds"))
    yield made
    made.close()
    roles.close()


@pytest.fixture(scope="module")
def time_it(bench: Bench) -> Iterator[Time]:
    device = Device(DEVICE, "this device", full_cases=1, blocks=Blocks(6, 0))

    def timed(source: str, lane: Lane = SHORT) -> Measured:
        return device.time(bench, "declared", source, {}, lane=lane)

    yield timed
    device.free()


def test_graphs_are_timed_where_both_arms_can_be_captured(time_it: Time) -> None:
    lane = dataclasses.replace(SHORT, modes=("cold", "graph"))
    measured = time_it(candidate(), lane)
    assert [t.timing.mode for t in measured.timed] == ["cold", "graph"]
    guards = {g.name: g for g in measured.guards}
    assert guards["graph"].held == "held" and "graph: " in guards["timed-outputs"].detail
    measured = time_it(candidate(first="float(x[0, 0].item())"), lane)
    assert [t.timing.mode for t in measured.timed] == ["cold"]
    (guard,) = [g for g in measured.guards if g.name == "graph"]
    assert guard.held == "not run" and "candidate cannot be captured" in guard.detail


def test_the_sharper_look_believes_who_tells_the_truth(time_it: Time) -> None:
    for source in (candidate(), candidate(times=4), candidate(first="import time; time.sleep(1e-4)")):
        start = time.monotonic()
        (guard,) = [g for g in time_it(source).guards if g.name == "clock"]
        print(f"{time.monotonic() - start:.2f} s: {guard.detail}")
        assert guard.held == "held" and "submitted ahead of the device" in guard.detail, guard.detail


def test_a_call_that_waits_for_the_device_is_not_accused_of_it(time_it: Time) -> None:
    (guard,) = [g for g in time_it(candidate(first="float(x[0, 0].item())")).guards if g.name == "clock"]
    assert guard.held == "held" and "candidate cannot be submitted ahead" in guard.detail, guard.detail


LIAR = """
from kernelevolve.tensors import clock
_was = clock.burst
def burst(*asked):
    return [max(1e-3, t - {less}) for t in _was(*asked)]
clock.burst = burst
"""


def test_a_lie_of_12_microseconds_is_found(time_it: Time) -> None:
    with pytest.raises(Failed) as caught:
        time_it(candidate(before=LIAR.format(less=0.012), times=8))
    assert caught.value.verdict is Verdict.TIMER_INCONSISTENT
    assert "submitted ahead of the device" in str(caught.value), "the wider look alone would not have seen it"


def looked(bench: Bench, source: str, tools: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    if not sanitizer.find():
        pytest.skip("compute-sanitizer is not installed")
    monkeypatch.setattr(sanitizer, "TOOLS", tools)
    said: list[tuple[str, str]] = []
    trial = Trial(source, {}, bench.full("declared"), DEVICE, {})
    sanitizer.sanitize(bench, trial, [Case(5)], lambda name, held, detail="": said.append((held, detail)))
    return said[0]


def test_the_sanitizer_runs_in_the_seal_and_finds_nothing_in_an_honest_kernel(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, detail = looked(bench, candidate(), ("racecheck",), monkeypatch)
    print(detail)
    assert held == "held", detail


def test_the_sanitizer_finds_a_store_beyond_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed) as caught:
        print(looked(bench, candidate(extra=4096), ("memcheck",), monkeypatch))
    assert caught.value.verdict is Verdict.MEM_RACE and "add_relu" in caught.value.detail


def test_the_profiler_sees_the_kernels_of_a_call_in_the_seal(time_it: Time) -> None:
    lane = dataclasses.replace(SHORT, defences=(*SHORT.defences, "kernels"))
    (guard,) = [g for g in time_it(candidate(times=4), lane).guards if g.name == "kernels"]
    if guard.held == "not run":
        pytest.skip(guard.detail)  # not every driver lets a process without privileges count
    assert guard.held == "held" and "1 on the device per call" in guard.detail, guard.detail
