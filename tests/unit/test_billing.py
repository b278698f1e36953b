"""What a run's models have cost, and what a verified percent came to."""

from dataclasses import replace

import pytest

from kernelevolve import codec
from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.cli import billing
from kernelevolve.evaluation import Evidence, Figure, Verdict
from kernelevolve.events import Asked, Component, Created, Evaluated, Noted, Written
from kernelevolve.graph import RESULT, Graph, fold_all
from kernelevolve.settings import settings_for
from kernelevolve.store import Entry
from kernelevolve.testing import FAKE_PLATFORM, fake_evaluation, fake_problem


def graph_of(fitness: Figure, cost: Cost, *, correct: bool = True, result: Figure | None = None) -> Graph:
    created = Created(
        "r", fake_problem(), FAKE_PLATFORM, 0, Component("greedy"), Component("model", {"model": "scripted:s"}),
        codec.to_data(settings_for("quick")), "0",
    )  # fmt: skip
    found = fake_evaluation(max(fitness.value, 0.1))
    found = found if correct else replace(found, verdict=Verdict.WRONG_VALUE, timings=())
    events = [
        created, Asked(Brief("b0", 0, (), "")),
        Written(Candidate("n0", "b0", "model", "# 0\n", "", cost=cost)), Evaluated("n0", found, fitness),
    ]  # fmt: skip
    if result is not None:
        data = {"result": "n0", "again": [{"node": "n0", "fitness": codec.to_data(result)}]}
        events.append(Noted(RESULT, "measured again", data))
    return fold_all(Entry(i, 1, 0.0, event) for i, event in enumerate(events))


PAID = Cost(tokens_in=1000, tokens_out=500, money_usd=3.0, calls=2)


def measured(value: float, low: float, high: float) -> Figure:
    return Figure(value, "x", Evidence.MEASURED, "test", low, high)


def test_the_money_is_divided_by_what_is_sure_of_the_gain() -> None:
    found = billing.bill_facts(graph_of(measured(1.5, 1.3, 1.7), PAID))
    assert found is not None and found["per_verified_percent"] == pytest.approx(0.1)
    assert found["tokens"] == 1500
    assert found["said"] == "0.1 US dollars per verified percent, of 30 by screen, not measured again"


def test_what_measuring_again_gave_goes_before_the_screen() -> None:
    graph = graph_of(measured(1.5, 1.3, 1.7), PAID, result=measured(1.25, 1.2, 1.3))
    (line,) = billing.bill(graph)
    assert line.startswith("  cost         1,500 tokens, 3 US dollars; 0.15 US dollars per verified percent, ")
    assert line.endswith("of 20 measured again in lane accept")
    slower = graph_of(measured(1.5, 1.3, 1.7), PAID, result=measured(1.02, 0.99, 1.05))
    assert "not measurably faster" in billing.bill(slower)[0]


@pytest.mark.parametrize(
    ("fitness", "correct", "said"),
    [
        (Figure(1.5, "x", Evidence.MODELLED, "test"), True, "the best's time is modelled"),
        (measured(1.0, 0.98, 1.02), True, "not measurably faster"),
        (Figure(0.0, "x", Evidence.INTERPRETED, "test"), False, "no candidate is correct"),
    ],
)
def test_no_percent_is_made_up(fitness: Figure, correct: bool, said: str) -> None:
    found = billing.bill_facts(graph_of(fitness, PAID, correct=correct))
    assert found is not None and found["per_verified_percent"] is None and said in found["said"]


def test_a_run_without_a_model_has_no_bill() -> None:
    assert billing.bill(graph_of(measured(1.5, 1.3, 1.7), Cost())) == []
