"""The whole ladder on an accelerator: values at full size, tuning by time, interleaved timing; skipped without one."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from kernelevolve import Component, Evidence, Run, Verdict, Workshop, create_run, plugins, read_problem, settings_for
from kernelevolve.equipment import find_devices, is_platform

pytestmark = pytest.mark.gpu

PROBLEM = """
import torch
from torch import nn

rows = 4096
columns = 8192


class Model(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(columns))

    def forward(self, x):
        return torch.relu(x * self.gain) / x.abs().mean(dim=1, keepdim=True)


def get_inputs():
    return [torch.rand(rows, columns)]


def get_init_inputs():
    return [columns]
"""


def platform_here() -> str:
    names = list(find_devices().values())
    loaded = {p: plugins.load("platforms", p) for p in plugins.names("platforms")}
    known = [p for p, platform in loaded.items() if any(is_platform(platform, n) for n in names)]
    if not known:
        pytest.skip(f"no accelerator that is a known platform; devices: {names or 'none'}")
    return known[0]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    platform = platform_here()
    path = tmp_path / "gained_relu.py"
    path.write_text(PROBLEM)
    problem = read_problem(path)
    shop = Workshop(problem)
    settings = dataclasses.replace(settings_for("quick"), tuner_trials=4)
    made = create_run(tmp_path / "run", problem, platform, shop, settings=settings, writer=Component("built-in"))
    yield made
    made.close()
    shop.close()


def test_a_run_on_a_device_measures_what_it_claims(run: Run) -> None:
    # One step: a whole run measures its best candidates again in the accept lane, which takes minutes.
    best = asyncio.run(run.step())
    assert best.id == run.graph.best.id
    found = best.evaluation
    timed = (Verdict.OK_FASTER, Verdict.OK_SAME, Verdict.OK_SLOWER, Verdict.INCONCLUSIVE)
    assert found.verdict in timed, found.rungs[-1].message
    assert {c.evidence for c in found.correctness} >= {Evidence.MEASURED}
    (timing,) = found.timings
    assert timing.speedup.evidence is Evidence.MEASURED
    (samples,) = run.artefacts.samples(best.id).values()
    assert {*timing.baselines, *timing.aside} == {"eager", "compile"}
    # A baseline far behind the other one is not timed with each candidate.
    assert {"candidate", timing.against} <= set(samples.arms) <= {"candidate", "eager", "compile"}
    held = {g.name: g.held for g in found.guards}
    assert {held[name] for name in ("fresh-inputs", "timed-outputs", "clock", "floor")} == {"held"}, held
    # 4096 x 8192 floats are read and written once: no accelerator here moves them faster than its sheet allows.
    least = 2 * 4096 * 8192 * 4 / plugins.load("platforms", found.platform).figures.bandwidth * 1e3
    assert timing.candidate.value > 0.9 * least
    assert timing.speedup.value < 10
