"""What lies beside the log, as the command line prints it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from kernelevolve import codec
from kernelevolve.candidate import Brief, Candidate
from kernelevolve.cli import artefacts as kept
from kernelevolve.evaluate.artefacts import Gathered
from kernelevolve.evaluation import Buffer, Evidence, Figure, Fill, Launch, LaunchPlan, Rung, Samples
from kernelevolve.events import Asked, Component, Created, Entry, Evaluated, Written
from kernelevolve.graph import fold_all
from kernelevolve.store.artefacts import Artefacts
from kernelevolve.store.blobs import Blobs
from kernelevolve.testing import fake_evaluation, fake_problem

BUFFERS = (
    Buffer("input0", (64, 32), (32, 1), "bfloat16", "input"),
    Buffer("partial", (8,), (1,), "float32", "scratch"),
)
LAUNCH = Launch(
    "sum_rows", {"WIDTH": "constexpr", "n": "i32", "x": "*bf16", "out": "*fp32"}, {"WIDTH": 32},
    {"x": "[['tt.divisibility', 16], ['tt.pointer_range', 32]]", "n": "[]", "out": "odd"},
    {"x": "buffer input0+0", "out": "buffer partial+16", "n": 2048}, (8, 2, 1), {"num_warps": 4, "num_stages": 3},
)  # fmt: skip


def page(folder: Path, gathered: Gathered) -> list[str]:
    """The lines of n0's page, without columns' widths."""
    blobs = Blobs(folder)
    found = replace(fake_evaluation(2.0), artefacts=gathered.hand_over(blobs.put))
    worth = Figure(2.0, "x", Evidence.MEASURED, "fake clock")
    events = (
        Created("r", fake_problem(), "h100", 0, Component("greedy"), Component("built-in"), {}, "0.1"),
        Asked(Brief("b0", 0, (), "")),
        Written(Candidate("n0", "b0", "built-in", "x = 1\n")),
        Evaluated("n0", found, worth),
    )
    graph = fold_all(Entry(i, 1, float(i), event) for i, event in enumerate(events))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(kept.page(Artefacts(graph, blobs), "n0"))
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


def test_a_launch_plan_reads_like_what_is_launched(tmp_path: Path) -> None:
    gathered = Gathered("h100")
    gathered.planned([LaunchPlan("declared", "h100", BUFFERS, (LAUNCH, LAUNCH), (Fill("partial", 0.0),))])
    assert page(tmp_path, gathered)[:12] == [
        "launch plan h100 declared: 2 launches, 2 buffers",
        "buffer role dtype shape stride",
        "input0 input bfloat16 (64, 32) (32, 1)",
        "partial scratch float32 (8) (1)",
        "fill of partial with 0",
        "1. sum_rows[(8, 2, 1)], 16 programs, num_stages=3, num_warps=4",
        "argument type value attributes",
        "out *fp32 buffer partial+16 odd",
        "x *bf16 buffer input0+0 divisibility 16, pointer_range 32",
        "n i32 2048",
        "WIDTH constexpr 32",
        "2. sum_rows[(8, 2, 1)], 16 programs, num_stages=3, num_warps=4",
    ]


def test_samples_and_errors_are_summed_up(tmp_path: Path) -> None:
    gathered = Gathered("h100")
    gathered.timed(Samples("wide", "h100", "ms", {"candidate": ((1.0, 1.25), (1.5,)), "eager": ()}))
    gathered.failed(Rung.BUILD, "\n".join(f"[red]line {i}[/]" for i in range(100)))
    lines = page(tmp_path, gathered)
    assert lines[:3] == [
        "samples h100 wide: ms",
        "candidate: 3 calls in 2 blocks, 1 to 1.5 ms",
        "eager: 0 calls in 0 blocks",
    ]
    assert lines[3] == "error h100 build: the last 80 of 100 lines"
    assert [line for line in lines[4:] if line] == [f"[red]line {i}[/]" for i in range(20, 100)]


def test_nothing_is_printed_of_what_is_not_there(tmp_path: Path) -> None:
    assert "".join(page(tmp_path, Gathered("h100"))) == ""
    assert codec.loads(Launch, codec.dumps(LAUNCH)) == LAUNCH
