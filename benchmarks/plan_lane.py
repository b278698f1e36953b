"""The launch-plan lane on a device: generated kernels carried out from their plans, beside the same as a process.

For each problem: records and packs the translator's candidate, carries the plan out with memory and a driver of the
judge's own, compares its outputs with the fp64 oracle and, bit by bit, with the candidate's own `ModelNew`, and times
both in turn (ABBA, cold L2, CUDA events behind a spin). Then it tries what must be refused: a kernel that writes beside
its output, one that crashes, one that writes nothing, a plan with too few parameters. Without a device (`--no-device`)
it records and packs only.

    python benchmarks/plan_lane.py --out plan_lane.json [--device cuda:0] [--blocks 24] [--host [--no-seal]]

`--host` also takes one problem through builder, judge and worker processes, as a run does (`evaluate.plan_lane`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton

from kernelevolve.errors import KernelEvolveError
from kernelevolve.judge.claims import NotCovered, PlanFault
from kernelevolve.judge.driver import DriverRefused, driver_of
from kernelevolve.judge.plan_lane import PlanArm
from kernelevolve.judge.reference import Reference
from kernelevolve.packed import PackedLaunch, PackedPlan
from kernelevolve.platforms.nvidia import H100, H200
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Case, Opened, Variant
from kernelevolve.tensors import describe, draw, load
from kernelevolve.tensors.outputs import meta_of
from kernelevolve.translate.capture import capture_source
from kernelevolve.translate.first import first_plan
from kernelevolve.translate.moves import moves
from kernelevolve.translate.render import render
from kernelevolve.worker.load import build_candidate
from kernelevolve.worker.pack import pack
from kernelevolve.worker.plan import record_plan

FLUSH_BYTES = 256 << 20
SPIN_CYCLES = 200_000
CALLS = 6  # of a burst
SAID = "said: "
HEAD = """import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        {init}

    def forward(self, {arguments}):
        return {expression}


def get_inputs():
    return [{inputs}]


def get_init_inputs():
    return []
"""


@dataclass(frozen=True)
class Asked:
    """A problem, and the scheme of its first product's plan where that is not left to the translator."""

    source: str
    scheme: str = ""


def asked(expression: str, arguments: str, inputs: str, init: str = "pass", scheme: str = "") -> Asked:
    text = HEAD.format(expression=expression, arguments=arguments, inputs=inputs, init=init)
    return Asked(text, scheme)


PROBLEMS = {
    "pointwise": asked(
        "torch.relu(x + self.bias)", "x", "torch.rand(4096, 8192)", "self.bias = nn.Parameter(torch.randn(8192))"
    ),
    "softmax": asked("torch.softmax(x, dim=-1)", "x", "torch.randn(4096, 4096)"),
    "sum in parts": asked("x.sum()", "x", "torch.rand(1 << 26)"),
    "planes": asked("torch.matmul(a, b)", "a, b", "torch.randn(2048, 2048), torch.randn(2048, 2048)", "pass", "planes"),
    "tiles": asked("torch.matmul(a, b)", "a, b", "torch.randn(2048, 2048), torch.randn(2048, 2048)", "pass", "tiles"),
}
BESIDE = """import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def kernel(x, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at + SHIFT, tl.maximum(tl.load(x + at, mask=at < count), 0.0), mask=MASK)


class ModelNew(nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        kernel[(triton.cdiv(x.numel(), 1024),)](x, out, x.numel(), BLOCK=1024)
        return out
"""
RELU = asked("torch.relu(x)", "x", "torch.randn(1000, 1000)")
#: name: where the kernel writes, under which mask, and what must be said.
REFUSED = {
    "writes beside its output": ("1", "at < count", "MEM_RACE"),
    "writes far outside": ("(1 << 40)", "at < count", "CRASH"),
    "writes nothing": ("0", "at < 0", "not finite"),
}


def loaded(source: str, folder: Path) -> ModuleType:
    """The candidate's module from a file, as Triton needs one."""
    path = folder / f"candidate_{len(list(folder.iterdir()))}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{path.stem}".replace("-", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def generated(problem: Asked) -> str:
    """The translator's candidate."""
    with contextlib.redirect_stderr(io.StringIO()):
        program = capture_source(problem.source)
    plan = first_plan(program, "nvidia")
    if problem.scheme:
        found = [plan, *(move.plan for move in moves(program, plan, "compute", ()))]
        plan = next(p for p in found if any(k.scheme == problem.scheme for k in p.kernels))
    return render(program, plan, reference_source=problem.source)


def opened_for(source: str, device: str) -> Opened:
    """The problem at full size on a device."""
    problem = parse_problem(source, None, name="problem", suite="benchmark", path="problem.py")
    description = describe.describe(problem, Variant("declared", "full", source))
    return Opened(description, device, problem.precision, problem.direction, problem.mode)


def packed_for(opened: Opened, module: ModuleType, accelerator: Any) -> tuple[PackedPlan, dict[str, bytes]]:
    """The candidate's plan and binaries, recorded on meta tensors."""
    problem = load.load_module(opened.description.variant.source)
    with torch.device("meta"):
        init = problem.get_init_inputs()
    model = build_candidate(module, init, 0, "meta")
    inputs = [
        torch.empty_strided(s.shape, s.stride, dtype=getattr(torch, s.dtype), device="meta")
        for s in opened.description.inputs
    ]
    _, recording = record_plan(
        model, (inputs, {}), workload="declared", platform=accelerator.name, target=accelerator.target,
        answers=accelerator.device_answers(), device_index=99,
    )  # fmt: skip
    return pack(recording, model, inputs, workload="declared", platform=accelerator.name, target=accelerator.target)


def accelerator_of(device: str) -> Any:
    """The platform of a device, by its name; without one the H200."""
    name = torch.cuda.get_device_name(device).lower() if torch.cuda.is_available() else "h200"
    return H100 if "h100" in name else H200


def process_of(opened: Opened, module: ModuleType, case: Case) -> torch.nn.Module:
    """The candidate's own `ModelNew` with the state of `case`."""
    problem = load.load_module(opened.description.variant.source)
    model = build_candidate(module, problem.get_init_inputs(), 0, "cpu").to(opened.device)
    draw.apply_state(model, draw.draw_state(opened.description.state, case, opened.device))
    return model


def compare(opened: Opened, arm: PlanArm, module: ModuleType) -> dict[str, Any]:
    """The plan's outputs against the oracle and against the process lane's."""
    reference = Reference(opened)
    found: dict[str, Any] = {"cases": [], "equal to the process lane": True}
    for case in (Case(11, "declared"), Case(12, "D1"), Case(13, "D6")):
        replayed = arm.replay(case)
        values = {path: leaf.clone() for path, leaf in replayed.leaves}
        metas = [meta_of(path, leaf) for path, leaf in replayed.leaves]
        checks = reference.compare(case, metas, lambda meta, held=values: held[meta.path]).checks
        model = process_of(opened, module, case)
        with torch.no_grad():
            own = model(*arm.inputs(case))
        torch.cuda.synchronize()
        same = torch.equal(own, next(iter(values.values())))
        found["equal to the process lane"] &= same
        worst = max(checks, key=lambda c: (not c.passed, c.value / c.limit if c.limit else 0.0))
        found["cases"].append({
            "distribution": case.distribution, "passed": all(c.passed for c in checks), "bitwise": same,
            "worst": f"{worst.name} {worst.value:.3g} of {worst.limit:.3g}", "changed": replayed.changed,
        })  # fmt: skip
    return found


def burst(function: Callable[..., Any], slots: Sequence[Sequence[Any]], flush: Any) -> tuple[list[float], float]:
    """Milliseconds on the device of each of some calls, and microseconds on the host per call."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(CALLS)]
    host = 0.0
    torch.cuda.synchronize()
    for i, (start, end) in enumerate(events):
        flush.add_(1)
        torch.cuda._sleep(SPIN_CYCLES)
        start.record()
        before = time.perf_counter()
        function(*slots[i % len(slots)])
        host += time.perf_counter() - before
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events], host / CALLS * 1e6


def time_both(opened: Opened, arm: PlanArm, module: ModuleType, blocks: int) -> dict[str, Any]:
    """Both arms in turn, ABBA; raw samples, medians, and the interval of their ratio."""
    case = Case(21)
    model = process_of(opened, module, case)
    slots = [arm.inputs(Case(30 + i)) for i in range(4)]
    arm.restore(case)
    arm.forget()
    arm.fresh()
    arms: dict[str, Callable[..., Any]] = {"plan": arm, "process": model}
    flush = torch.zeros(FLUSH_BYTES // 4, dtype=torch.int32, device=opened.device)
    samples: dict[str, list[list[float]]] = {"plan": [], "process": []}
    hosts: dict[str, list[float]] = {"plan": [], "process": []}
    with torch.no_grad():
        for function in arms.values():
            burst(function, slots, flush)
        for block in range(blocks):
            order = ["plan", "process", "process", "plan"]
            for name in order if block % 2 == 0 else reversed(order):
                times, host = burst(arms[name], slots, flush)
                samples[name].append(times)
                hosts[name].append(host)
    logs = [
        statistics.mean(math.log(statistics.median(samples["process"][2 * b + i])) for i in (0, 1))
        - statistics.mean(math.log(statistics.median(samples["plan"][2 * b + i])) for i in (0, 1))
        for b in range(blocks)
    ]
    half = 2.1 * statistics.stdev(logs) / math.sqrt(blocks) if blocks > 1 else math.inf
    mean = statistics.mean(logs)
    medians = {name: statistics.median(t for times in taken for t in times) for name, taken in samples.items()}
    return {
        "milliseconds": medians,
        "process / plan": [math.exp(mean - half), math.exp(mean), math.exp(mean + half)],
        "host microseconds per call": {name: statistics.median(taken) for name, taken in hosts.items()},
        "samples": samples,
    }


def refused(device: str, name: str) -> str:
    """What the lane says of a kernel that does wrong; it may take the process with it."""
    shift, mask, _ = REFUSED[name]
    with tempfile.TemporaryDirectory() as folder:
        opened = opened_for(RELU.source, device)
        module = loaded(BESIDE.replace("SHIFT", shift).replace("MASK", mask), Path(folder))
        plan, binaries = packed_for(opened, module, accelerator_of(device))
        try:
            ((_, leaf),) = PlanArm(opened, plan, binaries, driver_of(device)).replay(Case(1)).leaves
        except PlanFault as fault:
            return f"{fault.verdict.value}: {fault}"
        return "not finite" if bool(leaf.isnan().all().item()) else "nothing was said"


def refusals(device: str) -> dict[str, dict[str, str]]:
    """What must be refused, each tried in a process of its own, side by side: they mostly import."""
    found, begun = {}, {}
    for name in REFUSED:
        command = [sys.executable, str(Path(__file__).resolve()), "--device", device, "--refuse", name]
        begun[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for name, process in begun.items():
        try:
            printed, told = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, told = process.communicate()
        said = [line for line in printed.splitlines() if line.startswith(SAID)]
        found[name] = {
            "wanted": REFUSED[name][2],
            "said": said[-1].removeprefix(SAID) if said else f"exit {process.returncode}: {told[-300:]}",
        }
    return found


def too_few(opened: Opened, plan: PackedPlan, binaries: dict[str, bytes], device: str) -> str:
    """What is said of a plan whose first launch lacks its last parameter."""
    steps = list(plan.steps)
    index = next(i for i, step in enumerate(steps) if isinstance(step, PackedLaunch))
    step = steps[index]
    assert isinstance(step, PackedLaunch)
    steps[index] = dataclasses.replace(step, parameters=step.parameters[:-1])
    try:
        PlanArm(opened, dataclasses.replace(plan, steps=tuple(steps)), binaries, driver_of(device))
    except PlanFault as fault:
        return f"{fault.verdict.value}: {fault}"
    return "nothing was said"


def through_the_host(device: str, folder: Path, *, seal: bool = True) -> dict[str, Any]:
    """One problem through builder and judge processes, as a run does, beside eager PyTorch."""
    from kernelevolve.evaluate.bench import Bench
    from kernelevolve.evaluate.building import Builder
    from kernelevolve.evaluate.correct import Bounds, Trial
    from kernelevolve.evaluate.measure import Device
    from kernelevolve.evaluate.plan_lane import carry_out
    from kernelevolve.evaluate.roles import Roles
    from kernelevolve.evaluate.timing import Blocks

    source = PROBLEMS["pointwise"].source
    problem = parse_problem(source, None, name="pointwise", suite="benchmark", path="problem.py")
    problem = dataclasses.replace(problem, baselines=("eager",))  # compiling takes longer than all the rest
    accelerator, roles, start = accelerator_of(device), Roles(seal=seal), time.monotonic()
    place = Device(device, accelerator.name, full_cases=4)
    try:
        bench = Bench(problem, roles, folder)
        builder = Builder(bench, accelerator)
        trial = Trial(generated(PROBLEMS["pointwise"]), {}, bench.full("declared"), device, {}, Bounds())
        cases = [Case(41), Case(42, "D1")]
        found = carry_out(bench, builder, place, trial, cases, blocks=Blocks(6, 0))
        timed = [t.timing for t in found.measured.timed] if found.measured else []
        return {
            "guard": dataclasses.asdict(found.guard),
            "speedups": {t.mode: [t.speedup.low, t.speedup.value, t.speedup.high] for t in timed},
            "milliseconds": {t.mode: t.candidate.value for t in timed},
            "guards": [dataclasses.asdict(g) for g in found.measured.guards] if found.measured else [],
            "artefacts": {name: len(data) for name, data in (found.artefacts or {}).items()},
            "seconds": time.monotonic() - start,
        }
    finally:
        place.free()
        builder.close()
        bench.close()
        roles.close()


def facts(device: str) -> dict[str, str]:
    made = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    if torch.cuda.is_available():
        made |= {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return made | {"date": time.strftime("%Y-%m-%d")}


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--out", type=Path, help="JSON with everything, raw samples included")
    reader.add_argument("--device", default="cuda:0")
    reader.add_argument("--blocks", type=int, default=24)
    reader.add_argument("--host", action="store_true", help="also through builder, judge and worker processes")
    reader.add_argument("--no-seal", action="store_true", help="those processes without their sandbox")
    reader.add_argument("--no-device", action="store_true", help="record and pack only")
    reader.add_argument("--refuse", choices=list(REFUSED), help=argparse.SUPPRESS)
    options = reader.parse_args()
    if options.refuse:
        print(SAID + refused(options.device, options.refuse), flush=True)
        return
    device = "cpu" if options.no_device else options.device
    out: dict[str, Any] = {"machine": facts(options.device), "problems": {}}

    def write() -> None:
        if options.out:
            options.out.write_text(json.dumps(out, indent=1))

    folder = Path(tempfile.mkdtemp(prefix="plan-lane-"))
    cache = folder / "cache"
    (modules := folder / "modules").mkdir()
    for name, problem in PROBLEMS.items():
        start = time.monotonic()
        opened, module = opened_for(problem.source, device), loaded(generated(problem), modules)
        plan, binaries = packed_for(opened, module, accelerator_of(options.device))
        row: dict[str, Any] = {
            "launches": [plan.kernels[s.kernel].symbol for s in plan.steps if isinstance(s, PackedLaunch)],
            "steps": len(plan.steps), "bytes of binaries": sum(len(b) for b in binaries.values()),
            "scratch bytes": plan.scratch_bytes,
        }  # fmt: skip
        out["problems"][name] = row
        if not options.no_device:
            try:
                arm = PlanArm(opened, plan, binaries, driver_of(device))
                row |= compare(opened, arm, module)
                row |= time_both(opened, arm, module, options.blocks)
            except (PlanFault, NotCovered, DriverRefused, KernelEvolveError, RuntimeError) as error:
                row["failed"] = f"{type(error).__name__}: {error}"
            torch.cuda.empty_cache()
        row["seconds"] = time.monotonic() - start
        shown = {k: v for k, v in row.items() if k not in ("samples", "cases")}
        print(f"{name}: {json.dumps(shown)}", flush=True)
        for case in row.get("cases", ()):
            print(f"    {case}", flush=True)
        write()
    if not options.no_device:
        out["refused"] = {**refusals(device), "too few parameters": {"said": too_few(opened, plan, binaries, device)}}
        print(json.dumps(out["refused"], indent=1), flush=True)
        write()
        if options.host:
            out["host"] = through_the_host(device, cache, seal=not options.no_seal)
            print(json.dumps(out["host"], indent=1), flush=True)
            write()


if __name__ == "__main__":
    main()
