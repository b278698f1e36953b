"""Helps the tests of the plan lane: candidates packed for Hopper without a device, and a driver that writes down what
it is asked and, where it is told what a kernel does, does it on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from kernelevolve.judge import cubin
from kernelevolve.judge.driver import Encoded, Shape
from kernelevolve.packed import PackedPlan
from kernelevolve.platforms.nvidia import H200
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Opened, Variant
from kernelevolve.tensors import describe, load
from kernelevolve.translate.capture import capture_source
from kernelevolve.translate.first import first_plan
from kernelevolve.translate.ir import Program
from kernelevolve.translate.plan import Plan
from kernelevolve.translate.render import render
from kernelevolve.worker.load import build_candidate
from kernelevolve.worker.pack import pack
from kernelevolve.worker.plan import Recording, record_plan

NUMBER = itertools.count()


def loaded(source: str, folder: Path) -> ModuleType:
    """The candidate's module, from a file, as Triton needs one."""
    path = folder / f"candidate_{next(NUMBER)}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{path.stem}".replace("-", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def generated(source: str, choose: Callable[[Program], Plan] | None = None) -> str:
    """The translator's candidate for a reference."""
    with contextlib.redirect_stderr(io.StringIO()):
        program = capture_source(source)
    plan = choose(program) if choose else first_plan(program, "nvidia")
    return render(program, plan, reference_source=source)


def opened_for(source: str, device: str = "cpu") -> Opened:
    """The problem at full size."""
    problem = parse_problem(source, None, name="problem", suite="test", path="problem.py")
    description = describe.describe(problem, Variant("declared", "full", source))
    return Opened(description, device, problem.precision, problem.direction, problem.mode)


def recorded(opened: Opened, candidate: str, folder: Path) -> tuple[Recording, Any, list[Any]]:
    """What `forward` does at full size on a stand-in H200, the model, its inputs."""
    problem = load.load_module(opened.description.variant.source)
    with torch.device("meta"):
        init = problem.get_init_inputs()
    model = build_candidate(loaded(candidate, folder), init, 0, "meta")
    made = [torch.empty_strided(s.shape, s.stride, dtype=getattr(torch, s.dtype), device="meta") for s in
            opened.description.inputs]  # fmt: skip
    _, recording = record_plan(
        model, (made, {}), workload="declared", platform=H200.name, target=H200.target,
        answers=H200.device_answers(), device_index=next(NUMBER) + 100,
    )  # fmt: skip
    return recording, model, made


def packed(opened: Opened, candidate: str, folder: Path) -> tuple[PackedPlan, dict[str, bytes]]:
    """The candidate's plan for an H200, and its binaries."""
    recording, model, inputs = recorded(opened, candidate, folder)
    return pack(recording, model, inputs, workload="declared", platform=H200.name, target=H200.target)


@dataclass
class Launched:
    """One launch as the driver was asked for it."""

    symbol: str
    shape: Shape
    parameters: tuple[bytes, ...]
    module: int


Kernel = Callable[[Sequence[bytes], Shape], None]


@dataclass
class FakeDriver:
    """Writes down loads, tensor maps and launches; `kernels` says by symbol what a launch does on the CPU."""

    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    launches: list[Launched] = field(default_factory=list)
    maps: list[Encoded] = field(default_factory=list)
    loaded: dict[int, bytes] = field(default_factory=dict)
    loads: int = 0

    def load(self, binary: bytes) -> int:
        self.loads += 1
        self.loaded[self.loads] = binary
        return self.loads

    def unload(self, module: int) -> None:
        del self.loaded[module]

    def function(self, module: int, symbol: str, shared: int) -> tuple[int, str]:
        return module, symbol

    def parameter_sizes(self, function: tuple[int, str]) -> tuple[int, ...]:
        return cubin.parameter_sizes(self.loaded[function[0]], function[1])

    def encode(self, wanted: Encoded) -> bytes:
        self.maps.append(wanted)
        return wanted.address.to_bytes(8, "little") * 16

    def prepare(self, function: tuple[int, str], shape: Shape, parameters: Sequence[bytes]) -> Callable[[], None]:
        module, symbol = function
        assert module in self.loaded, "a launch from a module that was given back"

        def go() -> None:
            self.launches.append(Launched(symbol, shape, tuple(parameters), module))
            if symbol in self.kernels:
                self.kernels[symbol](parameters, shape)

        return go


def floats(address: bytes, count: int) -> torch.Tensor:
    """The fp32 numbers in host memory that a pointer parameter points to; writes go through."""
    kind = ctypes.c_float * count
    return torch.frombuffer(kind.from_address(int.from_bytes(address, "little")), dtype=torch.float32)
