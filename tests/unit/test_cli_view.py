"""What the command line writes about a run: every figure with its evidence, every node reachable."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from rich.console import Console

from kernelevolve.candidate import Brief, Candidate
from kernelevolve.cli import live, summary, view, words
from kernelevolve.errors import KernelEvolveError, ProblemError, SeatLost, UnknownName
from kernelevolve.evaluation import (
    Check,
    Correctness,
    Evaluation,
    Evidence,
    Figure,
    Resources,
    Rung,
    RungReport,
    Timing,
    Verdict,
    speedup,
)
from kernelevolve.events import Asked, Component, Created, Dropped, Entry, Evaluated, Finished, Written
from kernelevolve.graph import Graph, fold_all
from kernelevolve.problem import Problem
from kernelevolve.runs import create_run
from kernelevolve.settings import settings_for
from kernelevolve.testing import fake_equip, fake_problem

PROBLEM = Problem("rms_norm", "recsys", "rms_norm.py", "class Model: ...\ndef get_inputs(): ...\n")
MODELLED = Evidence.MODELLED


def ms(value: float, evidence: Evidence = MODELLED, how: str = "roofline: 2 launches, 1.5 GB") -> Figure:
    return Figure(value, "ms", evidence, how)


def evaluation(verdict: Verdict, time: float = 1.0, evidence: Evidence = MODELLED) -> Evaluation:
    rungs = (
        RungReport(Rung.CHECK, "passed", 0.01, "one kernel"),
        RungReport(Rung.BUILD, "passed", 0.5, "1 launch", "h100"),
        RungReport(Rung.INTERPRET, "passed" if verdict.ok else "failed", 2.0, f"{verdict}: rms 3 above the limit 1"),
    )
    checks = (Check("rms", "declared/scaled", "D1", 7, verdict.ok, 0.4, 1.0, "fp64 oracle"),)
    found = Correctness(Evidence.INTERPRETED, verdict.ok, checks, ("rows: 4096 -> 64",), ("races",), 1e-7, 2e-7)
    if not verdict.ok:
        return Evaluation(verdict, "h100", rungs, (found,))
    eager, candidate = ms(2.0, evidence), ms(time, evidence)
    timing = Timing("declared", "h100", candidate, {"eager": eager}, "eager", speedup(eager, candidate), {"BLOCK": 128})
    built = {"h100": (Resources("rms", "sm_90", "ab", 32, 0, 1024, 4, 0.75, {"load": 4}),),
             "mi300x": (Resources("rms", "gfx942", "cd", 40, 0, 0, 4, 0.5),)}  # fmt: skip
    return Evaluation(
        verdict, "h100", rungs, (found,), built, (timing,), "memory: 1.5 GB moved", isolation="namespaces",
        versions={"torch": "2.13.0"}, tuned_source="x = 2\n",
    )  # fmt: skip


def history(*steps: tuple[tuple[str, ...], Evaluation | None], finished: str = "plateau") -> Graph:
    """A graph whose nodes n0, n1, ... have these parents and evaluations; None = dropped."""
    events = [Created("r1", PROBLEM, "h100", 3, Component("greedy"), Component("built-in"), {"effort": "quick"}, "0.1")]
    number = 0
    for index, (parents, found) in enumerate(steps):
        brief = Brief(f"b{index}", index, parents, "write it")
        events.append(Asked(brief))
        if found is None:
            events.append(Dropped(brief.id, "no move left", exhausted=True))
            continue
        note = f"change {number}" if parents else "first plan"
        candidate = Candidate(f"n{number}", brief.id, "built-in", f"x = {number}\n", note)
        ratio = found.timings[0].speedup if found.timings else Figure(0.0, "x", MODELLED, "not correct")
        events += [Written(candidate), Evaluated(candidate.id, found, ratio)]
        number += 1
    if finished:
        events.append(Finished(finished))
    return fold_all(Entry(i, 1, 100.0 + i, e) for i, e in enumerate(events))


@pytest.fixture
def graph() -> Graph:
    return history(
        ((), evaluation(Verdict.OK_UNTIMED, 1.5)),
        (("n0",), evaluation(Verdict.OK_UNTIMED, 1.0)),
        (("n1",), evaluation(Verdict.WRONG_VALUE)),
        (("n1",), evaluation(Verdict.OK_UNTIMED, 1.25)),
        (("n1",), None),
    )


def printed(renderable: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure(0.254, "ms", Evidence.MEASURED, ""), "0.254 ms (measured)"),
        (Figure(0.0254, "ms", MODELLED, "", 0.02, 0.03), "25.4 us [20, 30] (modelled)"),
        (Figure(64, "registers", Evidence.COMPILED, ""), "64 registers (compiled)"),
    ],
)
def test_a_figure_is_written_with_its_evidence(figure: Figure, text: str) -> None:
    assert words.figure(figure) == text


def test_speedup_stands_alone_only_where_both_sides_were_measured() -> None:
    assert words.speedup(speedup(ms(2.0, Evidence.MEASURED), ms(1.0, Evidence.MEASURED))) == "2.00x speedup"
    assert words.speedup(speedup(ms(2.0, Evidence.MEASURED), ms(1.0))) == "2.00x modelled speedup"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (-1, "0 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_the_tree_shows_every_node_and_marks_the_best(graph: Graph) -> None:
    text = printed(view.tree(graph))
    assert all(name in text for name in ("n0", "n1", "n2", "n3"))
    assert "n1 best 2.00x modelled speedup" in text
    assert "n2 WRONG_VALUE" in text


def test_a_large_tree_is_cut_and_keeps_the_best() -> None:
    steps = [((), evaluation(Verdict.OK_UNTIMED, 0.5))]
    steps += [(("n0",), evaluation(Verdict.OK_UNTIMED, 1.0 + i / 100)) for i in range(60)]
    text = printed(view.tree(history(*steps), most=20))
    assert "n0 best" in text
    assert "n60" in text
    assert "n30" not in text
    assert "41 more" in text


def test_pending_briefs_are_in_the_tree(graph: Graph) -> None:
    events = [Entry(0, 1, 0.0, Created("r", PROBLEM, "h100", 0, Component("p"), Component("w"), {}, "0")),
              Entry(1, 1, 0.0, Asked(Brief("b0", 0, (), "")))]  # fmt: skip
    assert "b0 writing" in printed(view.tree(fold_all(events)))


def test_a_node_page_shows_all_that_was_found(graph: Graph) -> None:
    text = printed(view.node_page(graph, graph.nodes["n1"]))
    for part in (
        "OK_UNTIMED on h100", "correct (interpreted)", "n0 -> n1", "namespaces", "one kernel", "fp64 oracle",
        "scaled: rows: 4096 -> 64", "not seen by these comparisons", "races", "1 of 1",
        "1 ms (modelled)", "eager 2 ms (modelled)",
        "BLOCK=128", "roofline", "gfx942", "75%", "difference to n0", "-x = 0", "+x = 1",
    ):  # fmt: skip
        assert part in text, part


def test_a_node_page_names_each_failed_comparison(graph: Graph) -> None:
    text = printed(view.node_page(graph, graph.nodes["n2"]))
    assert "0 of 1" in text
    assert "failed: rms on declared/scaled, D1, seed 7: fp64 oracle" in text


def test_effects_of_moves(graph: Graph) -> None:
    effects = {name: words.effect(graph, node) for name, node in graph.nodes.items()}
    assert effects == {
        "n0": "accepted: first kernel",
        "n1": "accepted: 2.00x from 1.33x",
        "n2": "rejected: WRONG_VALUE",
        "n3": "rejected: 1.60x is no better than n1's 2.00x",
    }


def test_the_summary_answers_what_a_user_asks(graph: Graph) -> None:
    text = "\n".join(summary.lines(graph, Path("runs/r1"), Path("runs/r1/best.py")))
    for part in (
        "rms_norm on h100: OK_UNTIMED, 2.00x modelled speedup, correct (interpreted)", "runs/r1/best.py",
        "1 ms (modelled) against eager 2 ms (modelled)", "roofline: 2 launches, 1.5 GB", "rows: 4096 -> 64",
        "h100 (sm_90)", "mi300x (gfx942)", "memory: 1.5 GB moved", "1 of 3 moves", "2 of 3 moves",
        "ended: plateau", "kernelevolve show runs/r1 n1", "kernelevolve resume runs/r1",
    ):  # fmt: skip
        assert part in text, part


def test_the_summary_of_a_run_without_a_correct_candidate_says_what_failed() -> None:
    graph = history(((), evaluation(Verdict.WRONG_VALUE)))
    text = "\n".join(summary.lines(graph, Path("r"), None))
    assert "no correct candidate; n0 came furthest, WRONG_VALUE: rms 3 above the limit 1" in text
    nothing = history(((), None))
    assert "no candidate was evaluated (no move left)" in summary.lines(nothing, Path("r"), None)[0]


def test_the_result_object_is_json_with_verdict_and_correct(graph: Graph) -> None:
    data = json.loads(json.dumps(summary.result(graph, Path("r"), Path("r/best.py"))))
    assert data["verdict"] == "OK_UNTIMED"
    assert data["correct"] is True
    assert data["fitness"]["evidence"] == "modelled"
    assert data["timings"][0]["baselines"]["eager"]["value"] == 2.0
    assert data["built_for"] == {"h100": ["sm_90"], "mi300x": ["gfx942"]}
    wrong = summary.result(history(((), evaluation(Verdict.WRONG_VALUE))), Path("r"), None)
    assert (wrong["verdict"], wrong["correct"]) == ("WRONG_VALUE", False)
    empty = summary.result(history(), Path("r"), None)
    assert (empty["verdict"], empty["correct"]) == (None, False)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(ProblemError("x"), "TASK_INVALID"), (SeatLost("x"), "INFRA"), (UnknownName("platform", "h1", ["h100"]), None)],
)
def test_a_failed_command_still_has_a_result_object(error: KernelEvolveError, verdict: str | None) -> None:
    data = summary.failure(error)
    assert (data["verdict"], data["correct"]) == (verdict, False)
    assert data["error"] == str(error)


def test_the_live_page_shows_what_is_in_flight_and_the_time_left(tmp_path: Path) -> None:
    run = create_run(tmp_path / "r", fake_problem(), "h100", fake_equip(), settings=settings_for("quick"))
    with run:
        asyncio.run(run.step())
        brief = run.ask()
        run.feed.tell(brief.id, "n1", "interpret")
        text = printed(live.page(run, 60.0))
    assert "n0 " in text
    assert "interpret" in text
    assert "1 of 12 candidates, 1 min 00 s worked, 9 min 00 s left" in text
