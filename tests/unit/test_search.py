"""Choosing parents, fitness, when to stop, and what counts as a duplicate."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.errors import UsageError
from kernelevolve.evaluation import Evaluation, Evidence, Figure, Timing, Verdict, speedup
from kernelevolve.events import Asked, Component, Created, Dropped, Entry, Evaluated, Written
from kernelevolve.graph import fold_all
from kernelevolve.problem import Workload
from kernelevolve.search.fitness import fitness
from kernelevolve.search.greedy import Greedy
from kernelevolve.search.novelty import BinariesReducer, told_as_duplicate
from kernelevolve.testing import check_policy, fake_evaluation, fake_problem

CREATED = Created("r", fake_problem(), "h100", 0, Component("greedy"), Component("fake"), {}, "0")


class Story:
    """Builds a log step by step."""

    def __init__(self, policy=None):
        self.events = [CREATED]
        self.policy = policy or Greedy()
        self.asked = self.written = 0

    @property
    def graph(self):
        entries = [Entry(i, 1, float(i), e) for i, e in enumerate(self.events)]
        return fold_all(entries, (*self.policy.reducers, BinariesReducer()))

    def ask(self, *parents):
        self.events.append(Asked(Brief(f"b{self.asked}", self.asked, parents, "")))
        self.asked += 1
        return self

    def told(self, *parents, fitness=1.0, verdict=Verdict.OK_FASTER, duplicate_of="", evidence=Evidence.MEASURED,
    cost=None, binary=""):  # fmt: skip
        self.ask(*parents)
        name = f"n{self.written}"
        self.written += 1
        self.events.append(Written(Candidate(name, f"b{self.asked - 1}", "fake", f"# {name}\n", cost=cost or Cost())))
        evaluation = fake_evaluation(1.5, verdict=verdict, binary=binary)
        figure = Figure(fitness if verdict.ok else 0.0, "x", evidence, "test")
        self.events.append(Evaluated(name, evaluation, figure, duplicate_of))
        return self

    def dropped(self, *parents, exhausted=False):
        self.ask(*parents)
        self.events.append(Dropped(f"b{self.asked - 1}", "test", exhausted))
        return self

    def select(self):
        return self.policy.select(self.graph, random.Random(0))


WRONG = Verdict.WRONG_VALUE


def test_greedy_keeps_the_rules():
    check_policy(lambda: Greedy(drafts=3))


def test_greedy_drafts_first_and_counts_pending_ones():
    story = Story(Greedy(drafts=2))
    assert story.select() == ()
    assert story.told().select() == ()
    assert story.ask().select() == ("n0",)


def test_greedy_takes_the_best_and_the_earliest_of_equals():
    story = Story().told(fitness=1.0).told("n0", fitness=2.0).told("n0", fitness=2.0).told("n0", fitness=0.5)
    assert story.select() == ("n1",)


def test_greedy_passes_over_duplicates_and_exhausted_parents():
    story = Story().told(fitness=1.0).told("n0", fitness=2.0).told("n1", fitness=3.0, duplicate_of="n1")
    assert story.select() == ("n1",)
    assert story.dropped("n1", exhausted=True).select() == ("n0",)
    assert story.dropped("n0", exhausted=True).select() == ()
    story.dropped(exhausted=True)
    assert story.graph.is_exhausted(story.select())


def test_greedy_repairs_faulty_nodes_only_while_nothing_is_correct_and_not_for_ever():
    story = Story(Greedy(repairs=2)).told(verdict=WRONG)
    assert story.select() == ("n0",)
    story.told("n0", verdict=WRONG)
    assert story.select() == ("n1",)
    story.told("n1", verdict=WRONG)
    assert story.select() == ("n1",)
    assert story.told("n1", fitness=0.1).select() == ("n3",)


def test_greedy_refuses_no_drafts():
    with pytest.raises(UsageError, match="drafts=0"):
        Greedy(drafts=0)


def ms(value, evidence=Evidence.MEASURED, low=None, high=None):
    return Figure(value, "ms", evidence, "clock", low, high)


def timed(workload, mine, platform="h100", **baselines):
    against = min(baselines, key=lambda name: baselines[name].value)
    return Timing(workload, platform, mine, baselines, against, speedup(baselines[against], mine))


def found(*timings, verdict=Verdict.OK_FASTER):
    return Evaluation(verdict, "h100", (), timings=timings)


def problem(*weights):
    return replace(fake_problem(), workloads=tuple(Workload(f"w{i}", weight=w) for i, w in enumerate(weights)))


def test_fitness_is_the_weighted_geometric_mean_over_the_faster_baseline():
    evaluation = found(
        timed("w0", ms(1.0), eager=ms(8.0), compile=ms(4.0)), timed("w1", ms(2.0), eager=ms(1.0), compile=ms(3.0))
    )
    assert fitness(problem(1, 1), evaluation).value == pytest.approx(math.sqrt(4.0 * 0.5))
    assert fitness(problem(3, 1), evaluation).value == pytest.approx((4.0**3 * 0.5) ** 0.25)


def test_fitness_ignores_baselines_that_are_not_its_own():
    evaluation = found(timed("w0", ms(1.0), eager=ms(2.0), **{"compile-max-autotune": ms(0.5)}))
    assert fitness(problem(1), evaluation).value == pytest.approx(2.0)


def test_fitness_compares_like_with_like_only():
    modelled = ms(3.0, Evidence.MODELLED)
    mixed = timed("w0", ms(1.0), eager=modelled, compile=ms(4.0))
    assert fitness(problem(1), found(mixed)).value == pytest.approx(4.0)
    assert fitness(problem(1), found(mixed)).evidence is Evidence.MEASURED
    none = fitness(problem(1), found(timed("w0", ms(1.0), eager=modelled)))
    assert none.value == 0.0
    assert "no comparable time" in none.how


def test_fitness_has_the_weakest_evidence():
    evaluation = found(
        timed("w0", ms(1.0), eager=ms(2.0)),
        timed("w1", ms(1.0, Evidence.MODELLED), eager=ms(2.0, Evidence.MODELLED)),
    )
    assert fitness(problem(1, 1), evaluation).evidence is Evidence.MODELLED


@pytest.mark.parametrize(("evidence", "same"), [(Evidence.MODELLED, True), (Evidence.MEASURED, False)])
def test_a_model_does_not_tell_a_thousandth_apart(evidence, same):
    both = [timed("w0", ms(value, evidence), eager=ms(0.8904, evidence)) for value in (0.6285, 0.6275)]
    one, other = (fitness(problem(1), found(timing)).value for timing in both)
    assert (one == other) is same and 1.41 < min(one, other) <= max(one, other) < 1.43


def test_fitness_keeps_the_clocks_own_interval():
    timing = timed("w0", ms(1.0), eager=ms(2.0))
    paired = replace(timing, speedup=Figure(2.0, "x", Evidence.MEASURED, "paired", 1.9, 2.1))
    figure = fitness(problem(1), found(paired))
    assert (figure.low, figure.high) == (pytest.approx(1.9), pytest.approx(2.1))
    assert fitness(problem(1, 1), found(paired, timed("w1", ms(1.0), eager=ms(2.0)))).low is None


def test_fitness_is_zero_unless_correct_and_complete():
    timing = timed("w0", ms(1.0), eager=ms(2.0))
    wrong = fitness(problem(1), found(timing, verdict=WRONG))
    assert (wrong.value, wrong.how) == (0.0, "not correct: WRONG_VALUE")
    assert fitness(problem(1, 1), found(timing)).value == 0.0
    assert fitness(problem(1), found(replace(timing, platform="a100"))).value == 0.0


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.1, 10)), min_size=1, max_size=5))
def test_fitness_of_the_swapped_sides_is_the_inverse(rows):
    there = found(*(timed(f"w{i}", ms(a), eager=ms(b)) for i, (a, b, _) in enumerate(rows)))
    back = found(*(timed(f"w{i}", ms(b), eager=ms(a)) for i, (a, b, _) in enumerate(rows)))
    weights = problem(*(w for _, _, w in rows))
    assert fitness(weights, there).value * fitness(weights, back).value == pytest.approx(1.0)


def test_duplicates_by_source_and_by_machine_code_are_told_apart():
    graph = Story().told(binary="aa").told(verdict=WRONG, binary="bb").graph
    same = graph.nodes["n0"].candidate
    other = replace(same, id="n9", source="# other\n")
    assert told_as_duplicate(graph, same, fake_evaluation(1.0))[0] == "n0"
    twin, labelled = told_as_duplicate(graph, other, fake_evaluation(1.5, binary="aa"))
    assert twin == "n0"
    assert labelled.labels == ("duplicate of n0 (same machine code)",)
    assert told_as_duplicate(graph, other, fake_evaluation(1.5, binary="bb"))[0] == ""
    assert told_as_duplicate(graph, other, fake_evaluation(1.5, binary="cc")) == ("", fake_evaluation(1.5, binary="cc"))
