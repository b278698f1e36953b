"""Two workloads of one problem end with a choice each, and the tuned file finds them without us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kernelevolve import codec, plugins
from kernelevolve.candidate import Candidate
from kernelevolve.engineer import Engineer
from kernelevolve.equipment import Workshop
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluation import LaunchPlan, Verdict
from kernelevolve.problem import parse_problem
from kernelevolve.search.fitness import fitness
from kernelevolve.settings import settings_for

REFERENCE = """
import torch

ROWS, WIDTH = 4096, 64


class Model(torch.nn.Module):
    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def get_inputs():
    return [torch.rand(ROWS, WIDTH)]
"""
WORKLOADS = """
[[workload]]
name = "short"

[[workload]]
name = "long"
weight = 3.0
set = { ROWS = 64, WIDTH = 65536 }
"""
# Without kernelevolve: values of both workloads and of shapes that were never tuned, and which choice each one got.
ALONE = """
import sys
sys.modules["kernelevolve"] = None
import importlib.util
import torch
spec = importlib.util.spec_from_file_location("tuned", sys.argv[1])
tuned = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tuned)
for rows, width in ((4096, 64), (64, 65536), (33, 50)):
    x = torch.randn(rows, width) * 3 + 1
    exact = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(tuned.ModelNew()(x).double(), exact, rtol=1e-5, atol=1e-6)
    print(tuned.chosen(x)("ROWS"))
"""


def test_each_workload_gets_its_choice_and_the_tuned_file_runs_alone(tmp_path: Path) -> None:
    problem = parse_problem(REFERENCE, WORKLOADS, name="rows", suite="folder", path="rows.py")
    workshop = Workshop(problem, device="none")
    platform = plugins.load("platforms", "h100")
    engineer = Engineer(problem, platform, workshop.program)
    ladder = Ladder(workshop.bench(tmp_path / "builds"), platform, settings_for("quick"), engineer, seed=0)
    kept: dict[str, bytes] = {}

    def keep(data: bytes) -> str:
        kept[str(len(kept))] = data
        return str(len(kept) - 1)

    try:
        source = engineer._first(0).source
        knobs = source[source.index("KNOBS = ") : source.index("\nCHOICE")]
        # 32 rows of 65536 are more than Triton's largest block; two values are enough and compile quickly.
        source = source.replace(knobs, 'KNOBS = {"ROWS": [32, 1], "num_warps": [4]}')
        found = ladder.climb(Candidate("n0", "b0", "built-in", source), lambda rung: None, keep)
        assert found.verdict is Verdict.OK_UNTIMED, found.rungs[-1].message
        short, long = found.timings
        assert (short.workload, dict(short.knobs)) == ("short", {"ROWS": 32, "num_warps": 4})
        assert (long.workload, dict(long.knobs)) == ("long", {"ROWS": 1, "num_warps": 4})
        # What was judged under each choice is what the tuned file launches by itself.
        plans = [built.plan for built in ladder.builder.build(found.tuned_source, {})]
        assert [(p.workload, p.launches[0].constants["ROWS"]) for p in plans] == [("short", 32), ("long", 1)]
        for plan in plans:
            said = codec.loads(LaunchPlan, kept[found.artefacts[f"launch plan h100 {plan.workload}"]].decode())
            assert (said.workload, said.launches[0].constants["ROWS"]) == (
                plan.workload, plan.launches[0].constants["ROWS"],
            )  # fmt: skip
        mean = (short.speedup.value * long.speedup.value**3) ** 0.25
        scored = fitness(problem, found)
        assert abs(scored.value - mean) < 0.005 * mean  # unweighted it would be elsewhere
        assert abs((short.speedup.value * long.speedup.value) ** 0.5 - mean) > 0.005 * mean
        assert "weights short 1, long 3" in scored.how
    finally:
        ladder.builder.close()
        workshop.close()
    path = tmp_path / "rows_tuned.py"
    path.write_text(found.tuned_source)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [sys.executable, "-c", ALONE, str(path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == ["32", "1", "1"]  # the last is CHOICE, for what no table lists
