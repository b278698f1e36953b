"""The plan lane without a device: what is packed is what Triton's launcher would pass, and what is replayed is the
plan, in order, in memory of the judge's own; plans that no recording gives are refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from planned import FakeDriver, floats, generated, opened_for, packed

from kernelevolve import codec
from kernelevolve.evaluation import Verdict
from kernelevolve.judge import claims, cubin, plan_lane, replaying
from kernelevolve.judge.claims import Limits, NotCovered, PlanFault
from kernelevolve.judge.driver import DriverRefused, Shape, driver_of
from kernelevolve.judge.parameters import scalar_bytes
from kernelevolve.judge.plan_lane import PlanArm, read
from kernelevolve.judge.reference import Reference
from kernelevolve.packed import PackedLaunch, PackedPlan, View
from kernelevolve.protocol import Case
from kernelevolve.tensors.outputs import TensorMeta, from_attachment, meta_of
from kernelevolve.wire import Channel, Message, memory_bytes
from kernelevolve.worker.pack import Unpackable

POINTWISE = """
import torch
import torch.nn as nn

ROWS, WIDTH = 24, 640


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return torch.relu(x + self.bias)


def get_inputs():
    return [torch.rand(ROWS, WIDTH)]


def get_init_inputs():
    return [WIDTH]
"""
# Two kernels with a workspace, a fill, a copy of a view, a float and a folded scalar.
CANDIDATE = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def add_kernel(x, bias, out, count, width, scale: tl.float32, BLOCK: tl.constexpr, step=1):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at * step, mask=at < count) + tl.load(bias + at % width, mask=at < count)
    tl.store(out + at, value * scale, mask=at < count)


@triton.jit
def relu_kernel(x, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.maximum(tl.load(x + at, mask=at < count), 0.0), mask=at < count)


class ModelNew(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x):
        between, out = torch.empty_like(x), torch.zeros_like(x)
        grid = lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)
        add_kernel[grid](x, self.bias, between, x.numel(), x.shape[1], 1.0, BLOCK=256)
        relu_kernel[grid](between, out, x.numel(), BLOCK=256, num_warps=8)
        out[:1].copy_(out[:1])
        EXTRA
        return out
"""
LIMITS = Limits(227 << 10, 1 << 30)


def add(parameters: Sequence[bytes], shape: Shape) -> None:
    x, bias, out, count, width, scale = parameters[:6]
    n, w = int.from_bytes(count, "little"), int.from_bytes(width, "little")
    assert scale == scalar_bytes("fp32", 1.0)
    floats(out, n).copy_((floats(x, n).view(-1, w) + floats(bias, w)).view(-1))


def relu(parameters: Sequence[bytes], shape: Shape) -> None:
    x, out, count = parameters[:3]
    n = int.from_bytes(count, "little")
    floats(out, n).copy_(floats(x, n).relu())


KERNELS = {"add_kernel": add, "relu_kernel": relu}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackedPlan, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("candidates")
    return packed(opened_for(POINTWISE), CANDIDATE.replace("EXTRA", ""), folder)


def arm_of(made: tuple[PackedPlan, dict[str, bytes]], driver: FakeDriver) -> PlanArm:
    plan, binaries = made
    return PlanArm(opened_for(POINTWISE), plan, binaries, driver, LIMITS)


def verdict_of(plan: PackedPlan, binaries: dict[str, bytes], driver: FakeDriver | None = None) -> Verdict:
    with pytest.raises(PlanFault) as fault:
        arm_of((plan, binaries), driver or FakeDriver())
    return fault.value.verdict


def test_a_plan_is_data(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    plan, binaries = made
    assert codec.loads(PackedPlan, codec.dumps(plan)) == plan
    assert read(codec.to_data(plan)) == plan
    assert [type(s).__name__ for s in plan.steps] == ["PackedFill", "PackedLaunch", "PackedLaunch", "PackedCopy"]
    assert {s.name: s.role for s in plan.stores} == {
        "input0": "input", "bias": "parameter", "scratch2": "scratch", "scratch3": "scratch",
    }  # fmt: skip
    assert set(binaries) == {k.digest for k in plan.kernels}
    assert [k.warps for k in plan.kernels] == [4, 8]


def test_parameters_are_those_that_the_binary_takes(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    plan, binaries = made
    first = plan.steps[1]
    assert isinstance(first, PackedLaunch)
    # `step` is 1 and folded, BLOCK is a constant, the two last pointers are scratch.
    assert [p.type for p in first.parameters] == ["*fp32", "*fp32", "*fp32", "i32", "i32", "fp32", "*i8", "*i8"]
    assert [p.value for p in first.parameters[3:6]] == [24 * 640, 640, 1.0]
    assert all(p.divisible for p in first.parameters[:3])
    for step in plan.steps:
        if isinstance(step, PackedLaunch):
            kernel = plan.kernels[step.kernel]
            sizes = cubin.parameter_sizes(binaries[kernel.digest], kernel.symbol)
            assert len(sizes) == len(step.parameters)


def test_a_replay_is_right_and_the_judge_says_so(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    driver = FakeDriver(KERNELS)
    arm, case = arm_of(made, driver), Case(7, "D1")
    found = arm.replay(case)
    assert (found.changed, found.aliases) == ([], [])
    ((path, leaf),) = found.leaves
    values = {path: leaf.clone()}
    compared = Reference(opened_for(POINTWISE)).compare(case, [meta_of(path, leaf)], lambda meta: values[meta.path])
    assert compared.checks and all(c.passed for c in compared.checks)
    assert [(one.symbol, one.shape.grid, one.shape.threads) for one in driver.launches] == [
        ("add_kernel", (60, 1, 1), 128), ("relu_kernel", (60, 1, 1), 256),
    ]  # fmt: skip
    assert not torch.equal(values[path], arm.replay(Case(8, "D1")).leaves[0][1])


def test_every_verified_call_begins_afresh(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    driver = FakeDriver({"relu_kernel": relu})  # the first kernel writes nothing: its workspace is poison
    arm = arm_of(made, driver)
    for seed in (1, 2):
        ((_, leaf),) = arm.replay(Case(seed, "D1")).leaves
        assert leaf.isnan().all()
    assert len({one.module for one in driver.launches}) == 4, "two modules, loaded again for the second call"
    assert len(driver.loaded) == 2, "those of the first call were given back"


def test_writes_beside_the_memory_are_seen(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    def beyond(parameters: Sequence[bytes], shape: Shape) -> None:
        relu(parameters, shape)
        floats(parameters[1], 24 * 640 + 1)[-1] = 1.0

    with pytest.raises(PlanFault, match="outside") as fault:
        arm_of(made, FakeDriver({**KERNELS, "relu_kernel": beyond})).replay(Case(1))
    assert fault.value.verdict is Verdict.MEM_RACE


def test_changed_inputs_and_weights_are_named(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    def spoil(parameters: Sequence[bytes], shape: Shape) -> None:
        add(parameters, shape)
        floats(parameters[0], 1)[0] += 1
        floats(parameters[1], 1)[0] += 1

    arm = arm_of(made, FakeDriver({**KERNELS, "add_kernel": spoil}))
    assert arm.replay(Case(1)).changed == ["x", "bias"]
    assert arm_of(made, FakeDriver(KERNELS)).replay(Case(1)).changed == []


def test_what_is_prepared_is_kept_for_the_clock(
    made: tuple[PackedPlan, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver(KERNELS)
    arm = arm_of(made, driver)
    slots = [arm.inputs(Case(seed)) for seed in (1, 2)]
    arm.restore(Case(1))
    arm.fresh()
    bias = dict(arm._parameters())["bias"]
    for slot in (*slots, *slots):
        (out,) = arm(*slot)
        assert torch.equal(out, (slot[0] + bias).relu())
    before = driver.loads
    monkeypatch.setattr(plan_lane, "MOST_PREPARED", 4)
    arm.fresh()
    assert driver.loads == before, "with very many launches the modules of a timing stay"
    monkeypatch.undo()
    arm.fresh()
    assert driver.loads == before + 2
    (out,) = arm(*slots[0])
    assert torch.equal(out, (slots[0][0] + bias).relu())
    assert driver.launches[-1].module == before + 2


def test_generated_candidates_pack(tmp_path: Path) -> None:
    """Pointwise, a reduction in parts, products by planes with tensor maps and by tiles."""
    sources: dict[str, tuple[str, Callable[[Any], Any] | None]] = {"pointwise": (POINTWISE, None)}
    head, tail = "import torch\nimport torch.nn as nn\n\n\nclass Model(nn.Module):\n    def forward(self, ", "\n\n\n"
    ends = "def get_init_inputs():\n    return []\n"
    sources["parts"] = (
        f"{head}x):\n        return x.sum(){tail}def get_inputs():\n    return [torch.rand(1 << 24)]\n\n\n{ends}", None,
    )  # fmt: skip
    matmul = (
        f"{head}a, b):\n        return torch.matmul(a, b){tail}"
        f"def get_inputs():\n    return [torch.rand(512, 1024), torch.rand(1024, 768)]\n\n\n{ends}"
    )
    for scheme in ("planes", "tiles"):
        sources[scheme] = matmul, scheme_of(scheme)
    counts = {}
    for name, (source, choose) in sources.items():
        plan, binaries = packed(opened_for(source), generated(source, choose), tmp_path)
        driver = FakeDriver()
        PlanArm(opened_for(source), plan, binaries, driver, LIMITS).replay(Case(1))
        counts[name] = len(driver.launches), len(driver.maps)
        for one, step in zip(driver.launches, plan.steps, strict=True):
            assert isinstance(step, PackedLaunch)
            kernel = plan.kernels[step.kernel]
            sizes = cubin.parameter_sizes(binaries[kernel.digest], kernel.symbol)
            assert tuple(len(p) for p in one.parameters) == sizes
            assert one.shape.shared == kernel.shared
    assert counts["pointwise"] == (1, 0)
    assert counts["parts"][0] == 2
    assert counts["planes"] == (3, 2)
    assert counts["tiles"][0] == 1


def scheme_of(scheme: str) -> Callable[[Any], Any]:
    def choose(program: Any) -> Any:
        from kernelevolve.translate.first import first_plan
        from kernelevolve.translate.moves import moves

        plan = first_plan(program, "nvidia")
        found = [plan, *(move.plan for move in moves(program, plan, "compute", ()))]
        return next(p for p in found if any(k.scheme == scheme for k in p.kernels))

    return choose


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("out = out + 1", "aten.add"),
        ("out.data_ptr()", "address"),
        ("out.copy_(torch.ones(out.shape, device='cpu'))", "host memory"),
        ("out = out, 3", "pytree"),
    ],
)
def test_what_cannot_be_recorded_keeps_the_process_lane(extra: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(Unpackable, match=reason):
        packed(opened_for(POINTWISE), CANDIDATE.replace("EXTRA", extra), tmp_path)


def test_views_aliases_and_several_outputs(tmp_path: Path) -> None:
    candidate = CANDIDATE.replace("EXTRA", "return {'a': out.t()[1:], 'b': [x, between]}")
    plan, binaries = packed(opened_for(POINTWISE), candidate, tmp_path)
    assert [(o.path, o.view.offset, o.view.shape) for o in plan.outputs] == [
        ("out['a']", 4, (639, 24)), ("out['b'][0]", 0, (24, 640)), ("out['b'][1]", 0, (24, 640)),
    ]  # fmt: skip
    found = arm_of((plan, binaries), FakeDriver(KERNELS)).replay(Case(1))
    assert found.aliases == [("out['b'][0]", "x")]
    leaves = dict(found.leaves)
    assert leaves["out['a']"].shape == (639, 24)
    assert torch.equal(leaves["out['a']"], leaves["out['b'][1]"].relu().t()[1:])


def with_step(plan: PackedPlan, index: int, **changes: Any) -> PackedPlan:
    steps = list(plan.steps)
    steps[index] = dataclasses.replace(steps[index], **changes)
    return dataclasses.replace(plan, steps=tuple(steps))


def with_parameter(plan: PackedPlan, index: int, **changes: Any) -> PackedPlan:
    step = plan.steps[1]
    assert isinstance(step, PackedLaunch)
    parameters = list(step.parameters)
    parameters[index] = dataclasses.replace(parameters[index], **changes)
    return with_step(plan, 1, parameters=tuple(parameters))


def with_kernel(plan: PackedPlan, **changes: Any) -> PackedPlan:
    return dataclasses.replace(plan, kernels=(dataclasses.replace(plan.kernels[0], **changes), *plan.kernels[1:]))


def with_store(plan: PackedPlan, index: int, **changes: Any) -> PackedPlan:
    stores = list(plan.stores)
    stores[index] = dataclasses.replace(stores[index], **changes)
    return dataclasses.replace(plan, stores=tuple(stores))


def fewer(plan: PackedPlan) -> PackedPlan:
    step = plan.steps[1]
    assert isinstance(step, PackedLaunch)
    return with_step(plan, 1, parameters=step.parameters[:-1])


HOSTILE: dict[str, Callable[[PackedPlan], PackedPlan]] = {
    "fewer parameters than the kernel reads": fewer,
    "a negative grid": lambda p: with_step(p, 1, grid=(-1, 1, 1)),
    "a grid beyond the limit": lambda p: with_step(p, 1, grid=(1, 1 << 16, 1)),
    "an unknown kernel": lambda p: with_step(p, 1, kernel=9),
    "an unknown symbol": lambda p: with_kernel(p, symbol="nothing"),
    "a binary that is another": lambda p: with_kernel(p, digest=p.kernels[1].digest),
    "too much shared memory": lambda p: with_kernel(p, shared=1 << 20),
    "no warps": lambda p: with_kernel(p, warps=0),
    "a cluster of three": lambda p: with_kernel(p, ctas=3),
    "scratch below zero": lambda p: with_kernel(p, scratch_bytes=-1),
    "an address of its own": lambda p: with_parameter(p, 0, store="", offset=4096),
    "an offset outside": lambda p: with_parameter(p, 0, offset=1 << 40),
    "an offset before": lambda p: with_parameter(p, 0, offset=-16),
    "an unknown store": lambda p: with_parameter(p, 0, store="oracle"),
    "a number of another size": lambda p: with_parameter(p, 3, type="i64"),
    "a number too large": lambda p: with_parameter(p, 3, value=1 << 40),
    "a number of no type": lambda p: with_parameter(p, 3, type="i33"),
    "a fill outside": lambda p: with_step(p, 0, view=View("scratch3", 0, (25, 640), (640, 1), "float32")),
    "a view of no type": lambda p: with_step(p, 0, view=View("scratch3", 0, (24, 640), (640, 1), "float33")),
    "a view of odd rank": lambda p: with_step(p, 0, view=View("scratch3", 0, (24, 640), (1,), "float32")),
    "a view off its elements": lambda p: with_step(p, 0, view=View("scratch3", 2, (1, 1), (1, 1), "float32")),
    "a copy of other shape": lambda p: with_step(p, 3, source=View("scratch3", 0, (7,), (1,), "float32")),
    "memory below zero": lambda p: with_store(p, 2, nbytes=-8),
    "an input of other size": lambda p: with_store(p, 0, nbytes=8, shape=(2,), stride=(1,)),
    "an input that is none": lambda p: with_store(p, 0, name="input7"),
    "no outputs": lambda p: dataclasses.replace(p, outputs=()),
    "one output twice": lambda p: dataclasses.replace(p, outputs=p.outputs * 2),
    "memory of one name": lambda p: dataclasses.replace(p, stores=(*p.stores, p.stores[-1])),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_plans_are_refused(what: str, made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    plan, binaries = made
    assert verdict_of(HOSTILE[what](plan), binaries) is Verdict.TAMPER


def test_hostile_binaries_are_refused(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    plan, binaries = made
    first = plan.kernels[0].digest
    assert verdict_of(plan, {**binaries, first: binaries[first][:-1]}) is Verdict.TAMPER
    assert verdict_of(plan, {k: v for k, v in binaries.items() if k != first}) is Verdict.TAMPER
    for text in (b"", b"// PTX", binaries[first][:100], b"\x7fELF" + bytes(60)):
        with pytest.raises(ValueError, match="cubin"):
            cubin.sections(text)


def test_a_driver_that_reads_the_binary_otherwise_is_believed(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    class Other(FakeDriver):
        def parameter_sizes(self, function: tuple[int, str]) -> tuple[int, ...]:
            return (*super().parameter_sizes(function), 8)

    with pytest.raises(PlanFault, match="the driver sees"):
        arm_of(made, Other()).replay(Case(1))


def test_what_the_lane_does_not_cover_is_no_fault(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    plan, binaries = made
    absurd = with_store(plan, 2, nbytes=1 << 50)
    own = with_store(plan, 1, name="gain")
    scratch = with_kernel(plan, scratch_bytes=1 << 40)
    for odd in (absurd, own, scratch):
        odd = dataclasses.replace(
            odd, steps=tuple(s for s in odd.steps if not _names(s, "bias")) if odd is own else odd.steps
        )
        with pytest.raises(NotCovered):
            arm_of((odd, binaries), FakeDriver())
    with pytest.raises(PlanFault) as fault:
        arm_of((with_store(plan, 1, nbytes=4, shape=(1,)), binaries), FakeDriver())
    assert fault.value.verdict is Verdict.WRONG_META


def test_binaries_for_another_device_are_not_loaded(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    plan, binaries = made
    limits = dataclasses.replace(LIMITS, target="sm_100")
    with pytest.raises(NotCovered, match="sm_90, and the device is sm_100"):
        PlanArm(opened_for(POINTWISE), plan, binaries, FakeDriver(), limits)


def _names(step: Any, store: str) -> bool:
    return isinstance(step, PackedLaunch) and any(p.store == store for p in step.parameters)


def test_a_misaligned_address_is_not_covered(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    plan, binaries = made
    arm = arm_of((with_parameter(plan, 0, offset=4), binaries), FakeDriver(KERNELS))
    with pytest.raises(NotCovered, match="multiple of 16"):
        arm.try_on(Case(0))


def test_what_is_no_plan_is_tampering() -> None:
    for data in (None, [], {"steps": 3}, {"workload": "declared"}):
        with pytest.raises(PlanFault) as fault:
            read(data)
        assert fault.value.verdict is Verdict.TAMPER


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("i32", -1, b"\xff\xff\xff\xff"), ("u32", (1 << 32) - 1, b"\xff\xff\xff\xff"), ("i1", True, b"\x01"),
        ("i64", -2, b"\xfe" + b"\xff" * 7), ("fp32", 1.0, b"\x00\x00\x80\x3f"), ("fp16", 1.0, b"\x00\x3c"),
        ("bf16", 1.0, b"\x80\x3f"), ("fp64", 1, b"\x00" * 6 + b"\xf0\x3f"), ("fp32", math.inf, b"\x00\x00\x80\x7f"),
    ],
)  # fmt: skip
def test_numbers_as_tritons_launcher_packs_them(kind: str, value: bool | int | float, wanted: bytes) -> None:
    assert scalar_bytes(kind, value) == wanted
    sizes = claims.INTEGERS | claims.FLOATS
    assert sizes[kind] == len(wanted)


def test_a_number_that_its_type_cannot_hold_is_tampering() -> None:
    with pytest.raises(PlanFault):
        scalar_bytes("fp32", 1e300)


class Asking:
    """The judge's child in this process, with a driver that runs kernels on the CPU."""

    def __init__(
        self, made: tuple[PackedPlan, dict[str, bytes]], driver: FakeDriver, patch: pytest.MonkeyPatch
    ) -> None:
        patch.setattr(replaying, "driver_of", lambda device: driver)
        self.ours, self.theirs = Channel.pair()
        self.state: dict[str, Any] = {}
        plan, binaries = made
        files = {digest: memory_bytes(data) for digest, data in binaries.items()}
        body = {"opened": codec.to_data(opened_for(POINTWISE)), "plan": codec.to_data(plan)}
        self.first = self(Message("replay", body, files))

    def __call__(self, message: Message) -> Message:
        assert replaying.answered(self.theirs, self.state, message)
        return self.ours.receive(5)

    def ask(self, kind: str, **body: Any) -> Message:
        return self(Message(kind, body))


def test_a_judges_child_answers_as_a_worker_would(
    made: tuple[PackedPlan, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver(KERNELS)
    child = Asking(made, driver, monkeypatch)
    assert child.first.body == {"covered": True, "reason": ""}
    assert driver.launches == []
    called = child.ask("call", case=codec.to_data(Case(3)), state=[])
    ((name, file),) = called.attachments.items()
    opened = opened_for(POINTWISE)
    reference = Reference(opened)
    metas = [codec.from_data(TensorMeta, m) for m in called.body["metas"]]
    compared = reference.compare(Case(3), metas, lambda meta: from_attachment(meta, file))
    assert name == "out"
    assert all(c.passed for c in compared.checks)
    assert child.ask("later", seconds=0.0).attachments["out"].read() == file.read()
    assert not replaying.answered(child.theirs, child.state, Message("describe", {}))


@pytest.mark.parametrize("mode", ["cold", "hot", "burst"])
def test_a_plan_is_timed_as_any_arm(
    mode: str, made: tuple[PackedPlan, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver(KERNELS)
    child = Asking(made, driver, monkeypatch)
    rules = {"seed": 100, "state": 5, "distribution": "declared"}
    warmed = child.ask("warm", **rules, seconds=0.0, slots=4, hold=3)
    assert warmed.body["slots"] == 4
    loads = driver.loads
    child.ask("renew", calls=[[0, 200], [2, 201], [1, 202], [3, 203]], distribution="declared", drop=True)
    assert driver.loads == loads + 2, "each burst begins with modules of its own"
    timed = child.ask("burst", mode=mode, untimed=1, hold=True)
    assert len(timed.body["milliseconds"]) == len(timed.body["sums"]) == 3
    holding = child.ask("held")
    arena = holding.attachments["arena"].read()
    reference = Reference(opened_for(POINTWISE))
    for seed, one in zip((201, 202, 203), holding.body["calls"], strict=True):
        (meta,), (offset,) = [codec.from_data(TensorMeta, m) for m in one["metas"]], one["offsets"]
        values = torch.frombuffer(bytearray(arena[offset : offset + meta.nbytes]), dtype=torch.float32)
        case = Case(seed, "declared", state=5)
        compared = reference.compare(case, [meta], lambda m, v=values: v.view(m.shape))
        assert all(c.passed for c in compared.checks), seed


def test_a_fault_of_the_plan_is_answered_with_its_verdict(
    made: tuple[PackedPlan, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, binaries = made
    said = Asking((fewer(plan), binaries), FakeDriver(), monkeypatch).first
    assert (said.kind, said.body["verdict"]) == ("fault", "TAMPER")
    said = Asking((with_store(plan, 2, nbytes=1 << 50), binaries), FakeDriver(), monkeypatch).first
    assert (said.kind, said.body["covered"]) == ("replayed", False)


def test_without_a_device_there_is_no_lane(made: tuple[PackedPlan, dict[str, bytes]]) -> None:
    with pytest.raises(DriverRefused, match="needs a device"):
        driver_of("cpu")
