"""The plan lane as the host sees it: plans come from a real builder, through the cache, and take the worker's place in
comparing and timing. The device is a driver that runs the kernels on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from planned import FakeDriver
from test_plan_lane import CANDIDATE, KERNELS, POINTWISE, add

from kernelevolve import codec
from kernelevolve.candidate import Candidate
from kernelevolve.evaluate.artefacts import Gathered
from kernelevolve.evaluate.asking import Bounds, Failed, Trial
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.building import Builder
from kernelevolve.evaluate.climb import Climb
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.plan_lane import PlanPlace, carry_out, planned
from kernelevolve.evaluate.roles import Refusal, Roles
from kernelevolve.evaluate.session import Measured
from kernelevolve.evaluate.timing import Blocks, Timed
from kernelevolve.evaluation import Evidence, Figure, Guard, Samples, Timing, Verdict, samples_name
from kernelevolve.judge import replaying
from kernelevolve.packed import PackedPlan, kernel_name, packed_name
from kernelevolve.platforms.nvidia import H200
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Case
from kernelevolve.settings import LANES, settings_for
from kernelevolve.wire import Attachment, Channel, Message, memory_bytes

SOURCE = CANDIDATE.replace("EXTRA", "")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    problem = parse_problem(POINTWISE, None, name="pointwise", suite="test", path="pointwise.py")
    roles = Roles()
    made = Bench(replace(problem, baselines=("eager",)), roles, tmp_path_factory.mktemp("cache"))
    yield made
    made.close()
    roles.close()


@pytest.fixture(scope="module")
def builder(bench: Bench) -> Iterator[Builder]:
    made = Builder(bench, H200)
    yield made
    made.close()


@dataclass
class NearConversation:
    """A judge's child in this process, with a driver that runs kernels on the CPU."""

    state: dict[str, Any] = field(default_factory=dict)
    isolation: str = "none"
    about: str = ""
    root: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        self.ours, self.theirs = Channel.pair()

    def ask(
        self, kind: str, body: Any = None, attachments: Mapping[str, Attachment] | None = None, *, seconds: float
    ) -> Message:
        assert replaying.answered(self.theirs, self.state, Message(kind, codec.to_data(body or {}), attachments or {}))
        answer = self.ours.receive(5)
        if answer.kind == "fault":
            raise Refusal(str(answer.body["verdict"]), str(answer.body["message"]), answer.body)
        return answer

    def end(self) -> None:
        self.state.clear()

    def __enter__(self) -> NearConversation:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def near(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> None:
    """Plans are carried out in this process."""
    monkeypatch.setattr(replaying, "driver_of", lambda device: driver)

    def opened(place: PlanPlace, workload: str) -> NearConversation:
        made = NearConversation()
        packed, bench = place._packed[workload], place._bench
        files = {digest: memory_bytes(data) for digest, data in packed.binaries.items()}
        body = {"opened": bench.opened(bench.full(workload), "cpu"), "plan": packed.plan}
        assert made.ask("replay", body, files, seconds=5.0).body["covered"]
        return made

    monkeypatch.setattr(PlanPlace, "open", opened)


def trial_of(bench: Bench, source: str = SOURCE) -> Trial:
    return Trial(source, {}, bench.full("declared"), "cpu", {}, Bounds())


def test_plans_come_from_the_builder_and_again_from_the_cache(bench: Bench, builder: Builder) -> None:
    first = builder.pack(SOURCE, {}, "declared")
    assert first.plan is not None
    assert set(first.binaries) == {k.digest for k in first.plan.kernels}
    asked: list[str] = []
    roles, bench.roles = bench.roles, Refusing(bench.roles, asked)  # type: ignore[assignment]
    try:
        assert builder.pack(SOURCE, {}, "declared") == first
    finally:
        bench.roles = roles
    assert asked == ["builder"], "for its versions; nothing was opened"
    digest = next(iter(first.binaries))
    bench.cache._path(digest, "bin").write_bytes(b"damaged")
    assert builder.pack(SOURCE, {}, "declared") == first


class Refusing:
    """Roles that say what their versions are and open nothing."""

    def __init__(self, roles: Roles, asked: list[str]) -> None:
        self.roles, self.asked = roles, asked

    def __getitem__(self, name: Any) -> Any:
        self.asked.append(name)
        return SimpleNamespace(known_versions=self.roles[name].known_versions)


def test_a_plan_is_compared_and_timed_beside_the_baseline(
    bench: Bench, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    near(monkeypatch, FakeDriver(KERNELS))
    place = Device("cpu", "a processor", full_cases=2)
    lane = replace(LANES["screen"], defences=("fresh-inputs", "timed-outputs"))
    found = carry_out(bench, builder, place, trial_of(bench), [Case(1), Case(2, "D1")], lane=lane, blocks=Blocks(2, 0))
    place.free()
    assert found.guard.held == "held"
    assert found.correctness is not None
    assert found.correctness.passed
    assert {c.distribution for c in found.correctness.checks} == {"declared", "D1"}
    assert found.measured is not None
    (timed,) = found.measured.timed
    assert "from the launch plan" in timed.timing.candidate.how
    assert timed.timing.lane == "plan"
    assert set(timed.samples.arms) == {"candidate", "eager"}
    assert {g.name: g.held for g in found.measured.guards}["plan-lane:timed-outputs"] == "held"
    assert found.artefacts is not None
    plan = codec.loads(PackedPlan, found.artefacts[packed_name("h200", "declared")].decode())
    assert {kernel_name(k.digest) for k in plan.kernels} <= set(found.artefacts)


def test_a_climb_reports_the_plans_times(bench: Bench, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    near(monkeypatch, FakeDriver(KERNELS))
    figure = Figure(2.0, "ms", Evidence.MEASURED, "as a process")
    timing = Timing("declared", "", figure, {"eager": figure}, "eager", replace(figure, unit="x"))
    samples = Samples("declared", "", "ms", {"candidate": ((2.0,),), "eager": ((2.0,),)})
    as_process = Measured((Timed(timing, samples, Verdict.OK_SAME),), (Guard("clock", "held"),))
    lane = replace(LANES["screen"], defences=("fresh-inputs", "timed-outputs", "plan-lane"))
    candidate = Candidate("n1", "b1", "guest", SOURCE)
    climb = Climb(candidate, lambda text: None, Gathered("h200"), lane)
    climb.choices = {"declared": {}}
    place = Device("cpu", "a processor", full_cases=2, blocks=Blocks(2, 0))
    found = planned(climb, builder, place, "declared", [Case(1), Case(2)], as_process, {})
    place.free()
    assert [t.timing.lane for t in found.timed] == ["plan"]
    assert climb.guards["plan-lane"].held == "held"
    assert climb.labels == ["declared cold: 2 ms as a process"]
    kept: dict[str, bytes] = {}
    names = climb.gathered.hand_over(lambda data: kept.setdefault(str(len(kept)), data) and str(len(kept) - 1))
    assert {n.split(" h200")[0].split(" ")[0] for n in names} == {"packed", "kernel", "samples"}
    assert samples_name("h200", "declared", "cold process") in names


def test_who_behaves_otherwise_when_recorded_is_told_so(
    bench: Bench, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = {"add_kernel": add, "relu_kernel": lambda parameters, shape: None}
    near(monkeypatch, FakeDriver(kernels))
    place = Device("cpu", "a processor", full_cases=2)
    with pytest.raises(Failed, match="when it is recorded") as failed:
        carry_out(bench, builder, place, trial_of(bench), [Case(1)], timed=False)
    assert failed.value.verdict is Verdict.POLICY
    assert failed.value.artefact["guard"] == "plan-lane"
    assert failed.value.correctness is not None
    assert not failed.value.correctness.passed


def test_who_cannot_be_recorded_keeps_the_process_lane(bench: Bench, builder: Builder) -> None:
    place = Device("cpu", "a processor", full_cases=2)
    for source, reason in (
        (CANDIDATE.replace("EXTRA", "out.data_ptr()"), "address"),
        (SOURCE, "needs a device"),  # a real child of the judge, and no device here
    ):
        found = carry_out(bench, builder, place, trial_of(bench, source), [Case(1)])
        assert found.guard.held == "not run"
        assert reason in found.guard.detail
        assert (found.correctness, found.measured, found.artefacts) == (None, None, None)


def test_a_fault_of_the_plan_is_the_candidates(
    bench: Bench, builder: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packed = builder.pack(SOURCE, {}, "declared")
    assert packed.plan is not None
    spoiled = replace(packed, plan=replace(packed.plan, outputs=()))
    monkeypatch.setattr(Builder, "pack", lambda *_: spoiled)
    monkeypatch.setattr("kernelevolve.judge.replaying.driver_of", lambda device: FakeDriver())
    place = Device("cpu", "a processor", full_cases=2)
    # The real child has no driver here and says so before it looks; one with a driver convicts.
    made = NearConversation()
    body = {"opened": bench.opened(bench.full("declared"), "cpu"), "plan": spoiled.plan}
    with pytest.raises(Refusal) as refused:
        made.ask("replay", body, {}, seconds=5.0)
    assert refused.value.verdict == Verdict.TAMPER
    assert carry_out(bench, builder, place, trial_of(bench), [Case(1)]).guard.held == "not run"


def test_the_ladder_reports_the_plan_where_its_lane_says_so(
    bench: Bench, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    near(monkeypatch, FakeDriver(KERNELS))
    lane = replace(
        LANES["screen"], distributions=("D1",), structure=(), defences=("timed-outputs", "plan-lane"), blocks=2,
        doublings=0, verified=1.0,
    )  # fmt: skip
    device = Device("cpu", "a processor", full_cases=1)
    costs = SimpleNamespace(candidate=lambda *_: (), baselines=lambda *_: {}, least=lambda *_: ())
    ladder = Ladder(bench, H200, settings_for("quick"), costs, seed=0, device=device, interpret=False)
    monkeypatch.setattr(ladder, "lane", lane)
    monkeypatch.setattr(ladder.modelling, "limit", lambda climb, built: "")
    kept: list[bytes] = []
    found = ladder.climb(Candidate("n0", "b0", "guest", SOURCE), lambda rung: None, lambda data: str(kept.append(data)))
    device.close(bench)
    ladder.builder.close()
    assert found.verdict.ok, found.rungs[-1]
    assert [t.lane for t in found.timings] == ["plan"]
    assert {g.name: g.held for g in found.guards}["plan-lane"] == "held"
    assert packed_name("h200", "declared") in found.artefacts
