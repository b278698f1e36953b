"""The best of a run is measured again at its end, and only that is the run's result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kernelevolve.candidate import Candidate
from kernelevolve.cli import summary
from kernelevolve.errors import SeatLost
from kernelevolve.evaluation import Evaluation, Evidence, Figure, Verdict
from kernelevolve.graph import RESULT, Graph
from kernelevolve.run import Equipment, Run
from kernelevolve.runs import create_run, open_run, read_run
from kernelevolve.search.contenders import MOST, contenders
from kernelevolve.settings import settings_for
from kernelevolve.testing import FAKE_PLATFORM, FakeEvaluator, FakeTranslator, fake_evaluation, fake_problem

SETTINGS = replace(settings_for("quick"), candidates=12, plateau=1000)


class Again:
    """Measures again: says `quality` of every candidate, and remembers which and as one of how many."""

    def __init__(self, quality: Callable[[str], float], verdict: Verdict | None = None) -> None:
        self.quality, self.verdict = quality, verdict
        self.asked: list[tuple[str, int]] = []
        self.lost = 0

    def __call__(self, screened: Evaluation, count: int) -> Again:
        assert screened.correct and screened.timings
        self.count = count
        return self

    async def evaluate(
        self, candidate: Candidate, *, progress: Callable[[str], None], keep: Callable[[bytes], str]
    ) -> Evaluation:
        if self.lost:
            self.lost -= 1
            raise SeatLost("a seat was lost")
        progress("time")
        self.asked.append((candidate.id, self.count))
        return fake_evaluation(self.quality(candidate.id), verdict=self.verdict)


def begin(folder: Path, confirm: Again | None) -> Run:
    made = Equipment(FakeEvaluator(), translator=FakeTranslator(), confirm=confirm)
    return create_run(folder, fake_problem(), FAKE_PLATFORM, lambda created, builds: made, settings=SETTINGS)


def results(graph: Graph) -> list[tuple[str, dict[str, object]]]:
    return [(note.text, dict(note.data)) for note in graph.notes if note.topic == RESULT]


def test_the_best_is_measured_again_and_that_is_the_result(tmp_path: Path) -> None:
    confirm = Again(lambda node: 1.25)
    with begin(tmp_path, confirm) as run:
        assert asyncio.run(run.drive()) == "12 candidates"
        best = run.graph.best
    assert best is not None and best.fitness.value > 1.25, "by screen it looks better"
    ((text, data),) = results(read_run(tmp_path))
    assert data["result"] == best.id and confirm.asked == [(best.id, 1)]
    assert text.startswith(f"{best.id}: 1.25x, OK_FASTER") and f"{best.fitness.value:.4g}x by screen" in text
    shown = summary.lines(run.graph, tmp_path, None)
    assert f"  result       {text}" in shown
    said = summary.result(run.graph, tmp_path, None)["result"]
    assert said["said"] == text and said["again"][0]["fitness"]["value"] == 1.25


def test_a_run_that_was_confirmed_is_not_confirmed_again(tmp_path: Path) -> None:
    confirm = Again(lambda node: 1.25)
    with begin(tmp_path, confirm) as run:
        asyncio.run(run.drive())
        asyncio.run(run.drive())
    made = Equipment(FakeEvaluator(), translator=FakeTranslator(), confirm=confirm)
    with open_run(tmp_path, lambda created, builds: made) as run:
        asyncio.run(run.drive())
    assert len(confirm.asked) == len(results(read_run(tmp_path))) == 1


def test_what_no_longer_holds_is_no_result(tmp_path: Path) -> None:
    with begin(tmp_path, Again(lambda node: 1.0, Verdict.REPLAY)) as run:
        asyncio.run(run.drive())
        ((text, data),) = results(run.graph)
    assert data["result"] == "" and "no candidate held" in text and "REPLAY" in text


def test_without_a_device_nothing_is_measured_again(tmp_path: Path) -> None:
    with begin(tmp_path, None) as run:
        asyncio.run(run.drive())
        assert results(run.graph) == []


def test_a_lost_seat_is_tried_again(tmp_path: Path) -> None:
    confirm = Again(lambda node: 1.25)
    confirm.lost = 2
    with begin(tmp_path, confirm) as run:
        asyncio.run(run.drive())
        assert len(results(run.graph)) == 1


def interval(graph: Graph, widths: dict[str, float]) -> Graph:
    """The graph with an interval of that relative half-width around each node's fitness."""
    for name, node in graph.nodes.items():
        f, w = node.fitness, widths.get(name, 0.0)
        figure = Figure(f.value, "x", Evidence.MEASURED, f.how, f.value * (1 - w), f.value * (1 + w))
        graph.nodes[name] = replace(node, fitness=figure)  # type: ignore[index]
    return graph


@pytest.mark.parametrize(("width", "least"), [(0.0, 1), (0.05, 1), (0.9, MOST)])
def test_whose_interval_reaches_the_best_ones_may_be_the_best(tmp_path: Path, width: float, least: int) -> None:
    with begin(tmp_path, None) as run:
        asyncio.run(run.drive())
        best = run.graph.best
        assert best is not None
        values = {name: replace(node) for name, node in run.graph.nodes.items()}
    stand_in = type("G", (), {"nodes": values, "best": best})()
    interval(stand_in, dict.fromkeys(values, width))
    stand_in.best = values[best.id]
    chosen = contenders(stand_in)
    assert least <= len(chosen) <= MOST and chosen[0].id == best.id
    assert all(node.evaluation.correct for node in chosen)
    floor = best.fitness.value * (1 - width)
    assert all(node.fitness.value * (1 + width) >= floor for node in chosen)
