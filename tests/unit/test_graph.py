"""The graph is what the log tells: incrementally as in one go, and nothing that does not follow is taken in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.errors import StoreError, UsageError
from kernelevolve.evaluation import Evidence, Figure, Verdict
from kernelevolve.events import Asked, Component, Created, Dropped, Entry, Evaluated, Finished, Noted, Written
from kernelevolve.graph import Graph, fold, fold_all
from kernelevolve.search.greedy import Greedy
from kernelevolve.testing import Chapter, fake_evaluation, fake_log, fake_problem

CREATED = Created("r", fake_problem(), "h100", 0, Component("greedy"), Component("fake"), {"candidates": 3}, "0")


def log(*events):
    return tuple(Entry(i, 1, float(i), event) for i, event in enumerate((CREATED, *events)))


def told(index, *, parents=(), quality=1.5, verdict=None, evidence=Evidence.MEASURED, source=None, cost=None):
    evaluation = fake_evaluation(quality, verdict=verdict)
    return (
        Asked(Brief(f"b{index}", index, parents, "")),
        Written(Candidate(f"n{index}", f"b{index}", "fake", source or f"# {index}\n", cost=cost or Cost())),
        Evaluated(f"n{index}", evaluation, Figure(quality if evaluation.correct else 0.0, "x", evidence, "test")),
    )


def test_nodes_children_and_lineage():
    graph = fold_all(
        log(*told(0), *told(1, parents=("n0",)), *told(2, parents=("n0",)), *told(3, parents=("n1", "n2")))
    )
    assert list(graph.nodes) == ["n0", "n1", "n2", "n3"]
    assert graph.children("n0") == ("n1", "n2")
    assert graph.children("n3") == ()
    assert graph.lineage("n3") == ("n0", "n1", "n2", "n3")
    assert graph.drafts == 1


def test_best_is_correct_then_by_evidence_then_by_fitness_then_the_earliest():
    faulty = told(0, quality=9.0, verdict=Verdict.WRONG_VALUE)
    modelled = told(1, quality=3.0, evidence=Evidence.MODELLED)
    assert fold_all(log(*faulty)).best is None
    assert fold_all(log(*faulty, *modelled)).best.id == "n1"
    graph = fold_all(log(*faulty, *modelled, *told(2, quality=0.7), *told(3, quality=0.7)))
    assert graph.best.id == "n2"
    assert graph.since_best == 1


def test_pending_briefs_are_part_of_the_graph():
    asked, written, evaluated = told(0)
    graph = fold_all(log(asked))
    assert graph.pending["b0"].candidate is None
    assert (graph.drafts, graph.candidates) == (1, 1)
    graph = fold_all(log(asked, written))
    assert graph.pending["b0"].candidate == written.candidate
    graph = fold_all(log(asked, written, evaluated))
    assert not graph.pending
    assert graph.candidates == 1


def test_drops_and_exhaustion():
    events = (
        *told(0),
        Asked(Brief("b1", 1, ("n0",), "")),
        Dropped("b1", "the model was silent"),
        Asked(Brief("b2", 2, ("n0",), "")),
        Dropped("b2", "no move is left", exhausted=True),
        Asked(Brief("b3", 3, (), "")),
        Dropped("b3", "silent again"),
    )
    graph = fold_all(log(*events))
    assert graph.is_exhausted(("n0",))
    assert not graph.is_exhausted(())
    assert graph.drops_in_a_row == 2
    assert graph.last_drop == "silent again"
    assert graph.drafts == 1
    assert fold_all(log(*events, *told_at(4, 1))).drops_in_a_row == 0


def told_at(brief, candidate):
    return (
        Asked(Brief(f"b{brief}", brief, (), "")),
        Written(Candidate(f"n{candidate}", f"b{brief}", "fake", "# other\n")),
    )


def test_costs_settings_and_the_end():
    cost = Cost(1.0, 100, 20, 0.5)
    events = (*told(0, cost=cost), *told(1, cost=cost))
    graph = fold_all(log(*events, Noted("settings", "more", {"candidates": 9}), Finished("done")))
    assert (graph.tokens, graph.money_usd) == (240, 1.0)
    assert graph.settings == {"candidates": 9}
    assert graph.finished == "done"
    assert fold_all(log(*events, Finished("done"), Asked(Brief("b2", 2, (), "")))).finished == ""


def test_only_time_within_one_opening_counts():
    graph = Graph()
    for entry in (
        Entry(0, 1, 100.0, CREATED),
        Entry(1, 1, 103.0, Noted("a", "")),
        Entry(2, 2, 900.0, Noted("b", "")),
        Entry(3, 2, 901.5, Noted("c", "")),
    ):
        fold(graph, entry)
    assert graph.active_seconds == 4.5


def test_the_same_source_is_found_by_its_digest():
    graph = fold_all(log(*told(0, source="a"), *told(1, source="a"), *told(2, source="b")))
    assert graph.with_digest(graph.nodes["n1"].candidate.digest) == "n0"
    assert graph.with_digest("0" * 64) == ""


@pytest.mark.parametrize(
    "events",
    [
        (Written(Candidate("n0", "b0", "fake", "")),),
        (Evaluated("n0", fake_evaluation(1.0), Figure(1.0, "x", Evidence.MEASURED, "")),),
        (Dropped("b0", ""),),
        (Asked(Brief("b0", 0, ("n7",), "")),),
        (Asked(Brief("b1", 1, (), "")),),
        (*told(0), told(0)[2]),
        (*told(0)[:2], told(0)[1]),
        (CREATED,),
    ],
)
def test_what_does_not_follow_is_refused(events):
    with pytest.raises(StoreError):
        fold_all(log(*events))


def test_a_gap_is_refused():
    entries = log(*told(0))
    with pytest.raises(StoreError, match="missing or doubled"):
        fold_all(entries[:2] + entries[3:])
    with pytest.raises(StoreError, match="missing or doubled"):
        fold_all((*entries, entries[-1]))


def test_an_empty_log_has_no_first_event():
    with pytest.raises(StoreError, match="empty"):
        _ = Graph().created


def test_policies_cannot_change_it():
    graph = fold_all(log(*told(0)))
    with pytest.raises(TypeError):
        graph.nodes["n1"] = graph.nodes["n0"]
    with pytest.raises(TypeError):
        graph.pending["b1"] = None
    with pytest.raises(AttributeError):
        graph.best = None


class Counts:
    name = "counts"

    def start(self):
        return {}

    def fold(self, state, event, graph):
        kind = type(event).__name__
        return {**state, kind: state.get(kind, 0) + 1, "nodes": len(graph.nodes)}


def test_reducers_are_folded_along_after_the_graph():
    graph = fold_all(log(*told(0), *told(1)), (Counts(),))
    assert graph.reduced("counts") == {"Created": 1, "Asked": 2, "Written": 2, "Evaluated": 2, "nodes": 2}
    with pytest.raises(UsageError, match="counts"):
        graph.reduced("visits")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), nodes=st.integers(0, 30), pending=st.integers(0, 3), cut=st.floats(0, 1))
def test_folding_on_equals_folding_again(seed, nodes, pending, cut):
    policy = Greedy(drafts=2)
    entries = fake_log(policy, Chapter(nodes, pending, seed))
    at = int(cut * len(entries))
    graph = fold_all(entries[:at], policy.reducers)
    for entry in entries[at:]:
        fold(graph, entry)
    whole = fold_all(entries, policy.reducers)
    assert dict(graph.nodes) == dict(whole.nodes)
    assert dict(graph.pending) == dict(whole.pending)
    assert graph.best == whole.best
    assert graph.reduced("frontier") == whole.reduced("frontier")
