"""Diagnosis, the prompt, and the built-in writer's choice of moves."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from kernelevolve.candidate import Brief, Candidate
from kernelevolve.errors import NoMovesLeft, UncoveredOp, UsageError, WriterError
from kernelevolve.evaluation import Evidence, Figure, Resources, Rung, RungReport, Verdict
from kernelevolve.events import Asked, Component, Created, Entry, Evaluated, Written
from kernelevolve.graph import fold_all
from kernelevolve.hardware import HardwareFigures
from kernelevolve.propose import Draft, Workbench
from kernelevolve.propose.builtin import BuiltinWriter, plan_key
from kernelevolve.propose.compose import fill
from kernelevolve.propose.diagnose import LIMITS, diagnose
from kernelevolve.propose.memory import CHILDREN, remember
from kernelevolve.propose.operator import Operator
from kernelevolve.propose.prose import details
from kernelevolve.testing import FakeTranslator, FakeWriter, fake_evaluation, fake_problem

FIGURES = HardwareFigures(
    name="Testing 1", units=100, clock_hz=1.5e9, memory_bytes=2**36, bandwidth=3e12, l2_bytes=2**25,
    shared_bytes_per_block=100_000, shared_bytes_per_unit=110_000, registers_per_unit=65536, max_warps_per_unit=64,
    max_blocks_per_unit=32, peak_flops={"fp32": 6e13, "tf32": 4e14}, launch_seconds=3e-6, sources={"all": "made up"},
)  # fmt: skip
USED = Resources("kernel", "sm_90", "aa", 64, 0, 1000, 4, 0.9)


def evaluation(*resources, ms=1.0, verdict=None, message="", diagnosis=""):
    base = fake_evaluation(1.0 / ms, verdict=verdict)
    rungs = (RungReport(Rung.BUILD, "failed", 0.1, message),) if message else base.rungs
    return replace(base, resources={"h100": resources}, rungs=rungs, diagnosis=diagnosis)


@pytest.mark.parametrize(
    ("found", "limit", "evidence"),
    [
        (evaluation(verdict=Verdict.COMPILE_ERROR, message="line 3: no"), "compile-error", "build: line 3: no"),
        (evaluation(verdict=Verdict.COMPILE_ERROR, message="out of shared memory"), "shared-memory", "out of shared"),
        (evaluation(verdict=Verdict.WRONG_VALUE), "wrong-values", "WRONG_VALUE"),
        (evaluation(verdict=Verdict.WRONG_META), "wrong-interface", "WRONG_META"),
        (evaluation(verdict=Verdict.MEM_RACE), "race", "MEM_RACE"),
        (evaluation(verdict=Verdict.TIMEOUT), "timeout", "TIMEOUT"),
        (evaluation(verdict=Verdict.REPLAY), "breach", "REPLAY"),
        (evaluation(USED, replace(USED, spill_bytes=48)), "spills", "48 bytes per thread"),
        (evaluation(USED, diagnosis="latency: waits for memory"), "latency", "waits for memory"),
        (evaluation(replace(USED, occupancy=0.1)), "occupancy", "0.10 with 64 registers"),
        (evaluation(replace(USED, occupancy=0.1, shared_bytes=99_000)), "shared-memory", "99000 of 100000"),
        (evaluation(USED, USED, ms=0.008), "launch", "in 2 launches"),
        (evaluation(USED, ms=0.005), "latency", "5.0 us (measured)"),
        (evaluation(replace(USED, occupancy=0.1, instructions={"matrix": 8, "load": 2})), "compute", "8 matrix"),
        (evaluation(replace(USED, instructions={"fma": 100, "load": 2})), "compute", "100 fma"),
        (evaluation(replace(USED, instructions={"fma": 3, "load": 2, "store": 1})), "bandwidth", "1 store"),
        (evaluation(USED), "unknown", "neither"),
    ],
)
def test_the_diagnosis_and_its_evidence(found, limit, evidence):
    diagnosis = diagnose(found, FIGURES)
    assert (diagnosis.limit, diagnosis.tries) == (limit, LIMITS[limit])
    assert evidence in diagnosis.evidence


@pytest.mark.parametrize("verdict", [v for v in Verdict if not v.ok])
def test_every_fault_has_a_diagnosis(verdict):
    assert diagnose(evaluation(verdict=verdict)).limit in LIMITS


def story(*steps, source="# n{}\n", plans=None, evidence=Evidence.MEASURED):
    """A graph; each step is (parents, quality or verdict)."""
    created = Created("r", fake_problem(), "h100", 0, Component("greedy"), Component("fake"), {}, "0")
    events = [created]
    for i, (parents, outcome) in enumerate(steps):
        verdict = outcome if isinstance(outcome, Verdict) else None
        found = fake_evaluation(1.0 if verdict else outcome, verdict=verdict)
        worth = Figure(0.0 if verdict else outcome, "x", evidence, "test")
        events += [
            Asked(Brief(f"b{i}", i, parents, "")),
            Written(Candidate(f"n{i}", f"b{i}", "fake", source.format(i), f"note {i}", (plans or {}).get(i, {}))),
            Evaluated(f"n{i}", found, worth),
        ]
    writer = BuiltinWriter(Workbench(fake_problem(), "h100", 0, translator=FakeTranslator()))
    return fold_all([Entry(i, 1, 0.0, e) for i, e in enumerate(events)], operator(writer).reducers)


def operator(writer=None, **more):
    return Operator(writer or FakeWriter(Workbench(fake_problem(), "h100", 0)), **more)


def test_a_first_brief_has_the_problem_and_the_rules():
    brief = operator(figures=FIGURES).brief(story(), ())
    for text in (
        fake_problem().source.rstrip(),
        "fp32-strict",
        "Testing 1",
        "tf32 400",
        "ModelNew",
        "KNOBS",
        "first kernel",
    ):
        assert text in brief.prompt
    assert (brief.id, brief.index, brief.parents, dict(brief.move), brief.diagnosis) == ("b0", 0, (), {}, "")


def test_a_later_brief_has_parents_findings_diagnosis_and_memory():
    graph = story(((), 1.2), (("n0",), Verdict.WRONG_VALUE), (("n0",), 1.6))
    brief = operator().brief(graph, ("n1", "n2"))
    for text in ("# n1", "# n2", "verdict: WRONG_VALUE", "note 1", "note 2"):
        assert text in brief.prompt
    assert "Go on from n1; take over from n2 what is better there" in brief.prompt
    assert brief.move == {"from": ["n1", "n2"], "limit": "wrong-values"}
    assert brief.diagnosis.startswith("wrong-values: ")
    assert "Best so far" not in brief.prompt, "the best is a parent, and the prompt has the parents"
    assert "came about:\n\n- n0 (fresh): OK_FASTER, fitness 1.2 x (measured). note 0" in brief.prompt
    going_on = operator().brief(graph, ("n0",))
    assert "Best so far:\n\n- n2 (from n0): OK_FASTER, fitness 1.6 x (measured). note 2" in going_on.prompt


def test_a_label_says_what_it_means():
    found = replace(fake_evaluation(1.2), labels=("dead parameter fc.bias", "odd"))
    lines = details(found)
    assert "label: dead parameter fc.bias (no output of the reference depends on it, whatever its values)" in lines
    assert "label: odd" in lines


def test_what_failed_is_told_to_whoever_goes_on():
    graph = story(((), 1.2), (("n0",), Verdict.WRONG_VALUE))
    assert "- n1 (from n0): WRONG_VALUE, correct: WRONG_VALUE. note 1" in operator().brief(graph, ("n0",)).prompt


@pytest.mark.parametrize(
    ("evidence", "worth", "lost"),
    [(Evidence.MEASURED, 1.19, True), (Evidence.MODELLED, 1.19, False), (Evidence.MODELLED, 1.1, True)],
)
def test_what_a_model_cannot_tell_apart_is_not_lost(evidence, worth, lost):
    graph = story(((), 1.2), (("n0",), worth), evidence=evidence)
    told = "Already tried, and lost; do not repeat:" in operator().brief(graph, ("n0",)).prompt
    assert told == lost


def test_what_a_candidate_says_fills_no_blank():
    graph = story(((), 1.2), source="# {{{{memory}}}} {}\n")
    assert "# {{memory}} 0" in operator().brief(graph, ("n0",)).prompt


def test_memory_stays_short():
    graph = story(((), 1.0), *(((f"n{i}",), 1.0) for i in range(20)), *((("n3",), 1.0) for _ in range(20)))
    memory = remember(graph, ("n3",))
    assert len(memory.children) == CHILDREN
    assert len(remember(graph, ("n20",)).lineage) == 8


def test_templates_lose_nothing():
    assert fill("a {{x}} b", {"x": "{{y}}"}) == "a {{y}} b"
    with pytest.raises(ValueError, match="y"):
        fill("{{x}}", {"x": "", "y": ""})
    with pytest.raises(ValueError, match="x"):
        fill("{{x}}", {})


def builtin(translator, seed=0):
    return BuiltinWriter(Workbench(fake_problem(), "h100", seed, translator=translator))


def answer(writer, brief, graph):
    return asyncio.run(writer.write(brief, graph))


def test_the_built_in_needs_a_translator():
    with pytest.raises(UsageError, match="translator"):
        BuiltinWriter(Workbench(fake_problem(), "h100", 0))


def test_the_first_draft_is_the_plainest_and_later_ones_differ():
    writer = builtin(FakeTranslator())
    first = answer(writer, Brief("b0", 0, (), ""), story())
    assert first.plan == {"path": [0]}
    later = answer(writer, Brief("b1", 1, (), ""), story())
    assert later.plan != first.plan


def test_drafts_run_out():
    class One(FakeTranslator):
        async def first(self, seed):
            return Draft("# one\n", {"path": [0]}, "the only one")

    with pytest.raises(NoMovesLeft, match="no other first kernel"):
        answer(builtin(One()), Brief("b1", 1, (), ""), story(((), 1.0), plans={0: {"path": [0]}}))


def test_moves_are_not_repeated_and_run_out():
    plans = {0: {"path": [0]}, 1: {"path": [0, 1]}}
    graph = story(((), 1.0), (("n0",), 1.0), plans=plans)
    writer = builtin(FakeTranslator(moves=3))
    made = [answer(writer, Brief(f"b{i}", i, ("n0",), ""), graph).plan["path"] for i in (2, 3)]
    assert sorted(made) == [[0, 0], [0, 2]]
    with pytest.raises(NoMovesLeft, match="no move is left from n0"):
        answer(writer, Brief("b4", 4, ("n0",), ""), graph)


def test_the_choice_is_the_same_for_the_same_seed_and_brief():
    graph = story(((), 1.0), plans={0: {"path": [0]}})
    briefs = [Brief(f"b{i}", i, ("n0",), "") for i in range(1, 12)]
    made = [
        [answer(builtin(FakeTranslator(moves=50), seed), brief, graph).plan["path"] for brief in briefs]
        for seed in (0, 0, 1)
    ]
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert len({tuple(path) for path in made[0]}) > 3


def test_a_brief_that_is_issued_again_gets_the_same_answer():
    graph = story(((), 1.0), plans={0: {"path": [0]}})
    writer, brief = builtin(FakeTranslator()), Brief("b1", 1, ("n0",), "")
    assert answer(writer, brief, graph).plan == answer(writer, brief, graph).plan


def test_writers_side_by_side_make_different_moves():
    graph = story(((), 1.0), plans={0: {"path": [0]}})
    writer = builtin(FakeTranslator(moves=6, seconds=0.001))

    async def all_at_once():
        return await asyncio.gather(*(writer.write(Brief(f"b{i}", i, ("n0",), ""), graph) for i in range(1, 7)))

    assert len({plan_key(a.plan) for a in asyncio.run(all_at_once())}) == 6


def test_of_two_parents_the_first_goes_on_with_what_the_other_has():
    plans = {0: {"path": [0]}, 1: {"path": [0, 1]}, 2: {"path": [0, 2]}}
    graph = story(((), 1.0), (("n0",), 2.0), (("n0",), 1.5), plans=plans)
    writer = builtin(FakeTranslator(moves=4))
    made = answer(writer, Brief("b3", 3, ("n1", "n2"), ""), graph)
    assert made.plan["path"] == [0, 1, 2] and made.note.startswith("n1 with n2's ")
    again = answer(writer, Brief("b4", 4, ("n1", "n2"), ""), graph)
    assert again.plan["path"][:2] == [0, 1] and len(again.plan["path"]) == 3 and again.plan["path"][2] != 2


def test_two_parents_without_any_move_are_exhausted():
    plans = {0: {"path": [0]}, 1: {"path": [0, 1]}}
    graph = story(((), 1.0), (("n0",), 2.0), plans=plans)
    with pytest.raises(NoMovesLeft, match="no move is left from n1, n0"):
        answer(builtin(FakeTranslator(depth=0)), Brief("b3", 3, ("n1", "n0"), ""), graph)


def test_the_built_in_cannot_go_on_from_a_guests_kernel():
    with pytest.raises(NoMovesLeft, match="its own plans only, and n0 has none"):
        answer(builtin(FakeTranslator()), Brief("b1", 1, ("n0",), ""), story(((), 1.0)))


def test_a_translator_that_repeats_itself_is_caught():
    class Stuck(FakeTranslator):
        async def next(self, plan, limit, tried, rng):
            return Draft("# same\n", plan, "nothing new")

    with pytest.raises(WriterError, match="must not come again"):
        answer(builtin(Stuck()), Brief("b1", 1, ("n0",), ""), story(((), 1.0), plans={0: {"path": [0]}}))


def test_an_op_that_cannot_be_written_is_told_as_such():
    class Uncovered(FakeTranslator):
        async def first(self, seed):
            raise UncoveredOp("aten.sort.default", "relu.py:4")

    with pytest.raises(UncoveredOp, match=r"aten.sort.default, used at relu.py:4"):
        answer(builtin(Uncovered()), Brief("b0", 0, (), ""), story())


def test_the_translator_sees_the_diagnosis_and_plain_data():
    seen = []

    class Watching(FakeTranslator):
        async def next(self, plan, limit, tried, rng):
            seen.append((plan, limit, sorted(tried), isinstance(rng, random.Random)))
            return Draft("# x\n", {"path": (7, 8)}, "x")

    graph = story(((), 1.0), plans={0: {"path": [0]}})
    made = answer(builtin(Watching()), Brief("b1", 1, ("n0",), "", {"limit": "spills"}), graph)
    assert seen == [({"path": [0]}, "spills", [plan_key({"path": [0]})], True)]
    assert made.plan == {"path": [7, 8]}
