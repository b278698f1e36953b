"""The sample kernels of the knowledge base: every folder is found by walking, checked, compiled for each platform that
its article claims (all launches of the recorded plan, those of a backward too), and interpreted against its problem."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from court import Court
from triton.runtime.jit import JITFunction

import kernelevolve
from kernelevolve import plugins
from kernelevolve.candidate import Candidate, Choice, Knobs, keeps_table, read_knobs
from kernelevolve.engineer import Engineer
from kernelevolve.equipment import Workshop
from kernelevolve.evaluate.check import check_source
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluation import Rung, Verdict
from kernelevolve.platforms import Platform
from kernelevolve.problem import Problem, Workload, parse_problem, workload_source
from kernelevolve.protocol import Case, Variant
from kernelevolve.settings import settings_for
from kernelevolve.tensors import describe, load
from kernelevolve.worker.build import build
from kernelevolve.worker.load import build_candidate, load_candidate
from kernelevolve.worker.plan import record_plan

FOLDER = Path(kernelevolve.__file__).parent / "knowledge" / "articles" / "samples"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/kernel.py"))
LEAST = 12
#: A vendor's claim is held to one of its platforms; CI has no time for all.
PLATFORMS = {"nvidia": ("h100",), "amd": ("mi300x",), "any": ("h100", "mi300x")}
#: How many cases are compared at the ragged size, where it is not one: descriptors do not take it.
RAGGED = {"matmul_descriptors": 0}
DEVICES = itertools.count(1000)  # Triton keeps specialisations by device


def front(name: str) -> Mapping[str, Any]:
    """The front matter of a sample's article."""
    _, matter, _ = (FOLDER / name / "article.md").read_text().split("---\n", 2)
    return yaml.safe_load(matter)


def text(name: str) -> str:
    return (FOLDER / name / front(name)["kernel"]).read_text()


def problem_of(name: str) -> Problem:
    path = FOLDER / name / front(name)["problem"]
    rules = path.with_suffix(".toml")
    sidecar = rules.read_text() if rules.exists() else None
    return parse_problem(path.read_text(), sidecar, name=name, suite="folder", path=path.name)


def platforms(name: str) -> tuple[str, ...]:
    return tuple(p for claimed in front(name)["platforms"] for p in PLATFORMS.get(claimed, (claimed,)))


CLAIMS = [(name, platform) for name in NAMES for platform in platforms(name)]


def with_choice(source: str, choice: Mapping[str, Choice]) -> str:
    assert "\nCHOICE = {}\n" in source
    return source.replace("\nCHOICE = {}\n", f"\nCHOICE = {dict(choice)!r}\n")


def tiny(knobs: Knobs, vendor: str) -> dict[str, Choice]:
    """Blocks so small that every loop goes round several times at the sizes that the interpreter runs."""
    chosen = knobs.for_vendor(vendor)
    sizes = {name: allowed for name, allowed in chosen.items() if name.isupper() and isinstance(allowed[0], int)}
    least = {"BLOCK": 64, "PARTS": 4, "PROGRAMS": 4}  # one-dimensional blocks; how many share the work; else 16
    return knobs.defaults(vendor) | {name: min(least.get(name, 16), *allowed) for name, allowed in sizes.items()}


class Gradients(torch.nn.Module):
    """What autograd launches, as a `forward` whose plan can be recorded."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in given]
            out = self.model(*leaves)
            wanted = [x for x in (*leaves, *self.model.parameters()) if x.requires_grad]
            return torch.autograd.grad(out, wanted, torch.empty_like(out))


def test_there_are_samples() -> None:
    assert len(NAMES) >= LEAST
    assert [p.name for p in sorted(FOLDER.iterdir()) if p.is_dir() and p.name not in NAMES] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_keeps_the_rules_of_a_candidate(name: str) -> None:
    source = text(name)
    finding = check_source(source)
    assert finding.verdict is None, finding.message
    assert read_knobs(source).values and keeps_table(source)


@pytest.mark.parametrize(("name", "platform"), CLAIMS)
def test_every_launch_compiles(name: str, platform: str) -> None:
    problem, source = problem_of(name), text(name)
    target: Platform = plugins.load("platforms", platform)
    module = load_candidate(source, read_knobs(source).defaults(target.vendor))
    built = {kernel for workload in problem.workloads for kernel in build_all(problem, workload, module, target)}
    launched = {n for n, value in vars(module).items() if isinstance(value, JITFunction) and f"{n}[" in source}
    assert launched and built == launched


def build_all(problem: Problem, workload: Workload, module: ModuleType, platform: Platform) -> Iterator[str]:
    """Names of the kernels that a workload launches at full size, each compiled for the platform."""
    variant = Variant(workload.name, "full", workload_source(problem, workload))
    reference = load.load_module(variant.source)
    with torch.device("meta"):
        init = reference.get_init_inputs()
    model = build_candidate(module, init, 0, "meta")
    model = load.prepare(model, device="meta", precision=problem.precision, mode=problem.mode)
    inputs = [
        torch.empty_strided(s.shape, s.stride, dtype=getattr(torch, s.dtype), device="meta")
        for s in describe.describe(problem, variant).inputs
    ]
    for called in (model,) if problem.direction == "forward" else (model, Gradients(model)):
        _, recording = record_plan(
            called, (inputs, {}), workload=workload.name, platform=platform.name, target=platform.target,
            answers=platform.device_answers(), device_index=next(DEVICES),
        )  # fmt: skip
        assert not recording.forbidden
        for compilable in recording.compilables:
            resources = build(compilable, platform.target, platform.figures)
            assert resources.registers > 0 and resources.spill_bytes == 0, resources
            yield resources.kernel


@pytest.mark.parametrize("name", NAMES)
def test_the_interpreter_finds_the_reference_s_values(name: str) -> None:
    source = text(name)
    knobs, vendor = read_knobs(source), plugins.load("platforms", platforms(name)[0]).vendor
    court = Court(problem_of(name))
    for choice in (knobs.defaults(vendor), tiny(knobs, vendor)):
        verdict, found = court.verdict(with_choice(source, choice), [Case(1, "declared")], ragged=RAGGED.get(name, 1))
        assert verdict.ok, f"{choice}: {verdict}: {found}"


def test_a_sample_that_refuses_shapes_climbs_the_ladder(tmp_path: Path) -> None:
    """The copy engine does not take the ragged size, which is the harness's own and none of the problem's."""
    workshop = Workshop(problem_of("matmul_descriptors"), device="none")
    platform: Platform = plugins.load("platforms", "h100")
    ladder = Ladder(
        workshop.bench(tmp_path), platform, replace(settings_for("quick"), last_rung=Rung.INTERPRET.value),
        Engineer(workshop.problem, platform, workshop.program), seed=0,
    )  # fmt: skip
    try:
        found = ladder.climb(
            Candidate("n0", "b0", "guest", text("matmul_descriptors")), lambda rung: None, lambda data: "sha256:0"
        )
    finally:
        ladder.builder.close()
        workshop.close()
    assert found.verdict is Verdict.OK_UNTIMED, found.rungs[-1].message
    assert "shapes: declared only" in found.labels
    assert [one.passed for one in found.correctness] == [True], "the declared size alone was compared"
