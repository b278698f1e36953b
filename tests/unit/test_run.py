"""The loop end to end with fakes: ask, write, evaluate, tell, drive, stop, resume."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.errors import (
    MachineError,
    NoMovesLeft,
    PluginFault,
    RunBusy,
    SeatLost,
    StaleLease,
    StoreError,
    UncoveredOp,
    UnknownName,
    UsageError,
    WriterError,
)
from kernelevolve.evaluation import Rung, RungReport, Verdict
from kernelevolve.events import Component, Dropped, Evaluated, Finished, Noted, Written
from kernelevolve.propose import Answer
from kernelevolve.run import Equipment
from kernelevolve.runs import create_run, holds_run, open_run, optimize, read_run, tail
from kernelevolve.settings import settings_for
from kernelevolve.testing import (
    FAKE_PLATFORM,
    FakeEvaluator,
    FakeTranslator,
    fake_equip,
    fake_evaluation,
    fake_problem,
    same_story,
)

SETTINGS = replace(settings_for("quick"), candidates=20, plateau=1000)
ACTS = ("ask", "write", "tell", "drop", "submit", "reopen")


def begin(folder, equip=None, **more):
    more = {"settings": SETTINGS, **more}
    return create_run(folder, fake_problem(), FAKE_PLATFORM, equip or fake_equip(), **more)


def drive(run):
    return asyncio.run(run.drive())


def kinds(folder):
    return [entry.kind for entry in tail(folder)]


def test_a_run_goes_to_its_end_and_reads_the_same_again(tmp_path):
    with begin(tmp_path) as run:
        assert drive(run) == "20 candidates"
        graph = run.graph
    assert len(graph.nodes) == 20
    assert graph.best.fitness.value > 1
    assert graph.best.evaluation.diagnosis == "unknown: neither profile, nor resources, nor instruction mix say more"
    again = read_run(tmp_path)
    assert dict(again.nodes) == dict(graph.nodes)
    assert (again.finished, again.best) == ("20 candidates", graph.best)
    assert kinds(tmp_path)[:4] == ["created", "asked", "written", "evaluated"]
    assert tail(tmp_path, 3)[0].sequence == 3


def test_one_writer_and_one_seat_are_deterministic(tmp_path):
    for name in ("a", "b"):
        with begin(tmp_path / name, fake_equip(FakeEvaluator(seconds=0.0005))) as run:
            drive(run)
    assert same_story(tail(tmp_path / "a"), tail(tmp_path / "b")) == ""
    with begin(tmp_path / "c", seed=1) as run:
        drive(run)
    assert same_story(tail(tmp_path / "a"), tail(tmp_path / "c")) != ""


def test_a_step_is_ask_write_evaluate_tell(tmp_path):
    async def steps(run):
        return [await run.step() for _ in range(3)]

    with begin(tmp_path) as run:
        nodes = asyncio.run(steps(run))
    assert [n.id for n in nodes] == ["n0", "n1", "n2"]
    assert kinds(tmp_path) == ["created", *["asked", "written", "evaluated"] * 3]


def test_writers_and_seats_are_two_limits(tmp_path):
    evaluator = FakeEvaluator(seconds=0.003)
    with begin(tmp_path, fake_equip(evaluator), settings=replace(SETTINGS, candidates=40, writers=6, seats=3)) as run:
        assert drive(run) == "40 candidates"
        assert len(run.graph.nodes) == 40
    assert evaluator.most_busy == 3


def test_a_guest_answers_a_brief(tmp_path):
    with begin(tmp_path) as run:
        brief = run.ask()
        assert "ModelNew" in brief.prompt
        node = asyncio.run(run.submit(brief.id, "# a guest's kernel\n", "by hand"))
        assert (node.candidate.writer, node.candidate.note, node.id) == ("guest", "by hand", "n0")
        with pytest.raises(UsageError, match="'b0' waits for no answer; pending: none"):
            asyncio.run(run.submit(brief.id, "# again\n"))
        with pytest.raises(UsageError, match="'b7'"):
            asyncio.run(run.submit("b7", "# what\n"))


def test_a_written_brief_cannot_be_answered_by_a_guest_too(tmp_path):
    with begin(tmp_path) as run:
        brief = run.ask()
        asyncio.run(run.write(brief))
        with pytest.raises(UsageError, match="answered already"):
            asyncio.run(run.submit(brief.id, "# late\n"))


def test_a_guest_may_try_again_after_the_machine_failed(tmp_path):
    with begin(tmp_path, fake_equip(FakeEvaluator(lost=1.0))) as run:
        brief = run.ask()
        with pytest.raises(SeatLost):
            asyncio.run(run.submit(brief.id, "# by hand\n"))
    with open_run(tmp_path, fake_equip()) as run:
        with pytest.raises(UsageError, match="answered already"):
            asyncio.run(run.submit(brief.id, "# something else\n"))
        assert asyncio.run(run.submit(brief.id, "# by hand\n")).id == "n0"


def test_what_does_not_follow_never_gets_into_the_log(tmp_path):
    with begin(tmp_path) as run:
        node = asyncio.run(run.step())
        waiting = asyncio.run(run.write(run.ask()))
        before = tail(tmp_path)
        for wrong in (
            lambda: run.tell(node.candidate, node.evaluation),
            lambda: run.tell(replace(waiting, source="# changed"), node.evaluation),
            lambda: run.answered("b9", "guest", Answer("# other")),
            lambda: run.drop("b0", "too late"),
        ):
            with pytest.raises(UsageError):
                wrong()
        run._policy = Wrong()
        for parents in (("n7",), ("n0", "n0")):
            Wrong.parents = parents
            with pytest.raises(PluginFault, match=r"policy 'greedy' of package kernelevolve .* selected"):
                run.ask()
        assert tail(tmp_path) == before


class Wrong:
    reducers = ()
    parents = ()

    def select(self, graph, rng):
        return self.parents


@settings(max_examples=25, deadline=None)
@given(acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 9)), max_size=30))
def test_whatever_is_done_the_log_tells_the_same_graph(acts):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        run = begin(folder, settings=replace(SETTINGS, candidates=1000))
        for act, pick in acts:
            run = done(run, folder, act, pick)
        live, again = run.graph, read_run(folder)
        run.close()
        assert dict(live.nodes) == dict(again.nodes)
        assert dict(live.pending) == dict(again.pending)
        assert (live.best, live.asked, live.drafts) == (again.best, again.asked, again.drafts)
        assert len(live.nodes) + len(live.pending) <= live.asked
        with open_run(folder, fake_equip(), settings=replace(SETTINGS, candidates=len(live.nodes) + 5)) as run:
            assert drive(run) in (f"{len(live.nodes) + 5} candidates", "no moves left")
            assert not run.graph.pending


def done(run, folder, act, pick):
    """The run after one act, on the pending brief number `pick` where there is one."""
    graph = run.graph
    pending = list(graph.pending.values())
    chosen = pending[pick % len(pending)] if pending else None
    if act == "ask" and not graph.is_exhausted(run._policy.select(graph, None)):
        run.ask()
    elif act == "write" and chosen:
        with contextlib.suppress(NoMovesLeft):
            asyncio.run(run.write(chosen.brief))
    elif act == "tell" and chosen and chosen.candidate:
        run.tell(chosen.candidate, asyncio.run(run.evaluate(chosen.candidate)))
    elif act == "drop" and chosen:
        run.drop(chosen.brief.id, "not wanted")
    elif act == "submit" and chosen and not chosen.candidate:
        asyncio.run(run.submit(chosen.brief.id, f"# {pick}\n"))
    elif act == "reopen":
        run.close()
        return open_run(folder, fake_equip())
    return run


def test_the_same_source_is_not_measured_twice(tmp_path):
    class Counting(FakeEvaluator):
        seen = 0

        async def evaluate(self, candidate, **more):
            self.seen += 1
            return await super().evaluate(candidate, **more)

    evaluator = Counting(faulty=0.0)
    with begin(tmp_path, fake_equip(evaluator)) as run:
        nodes = [asyncio.run(run.submit(run.ask().id, "# same\n")) for _ in range(3)]
    assert evaluator.seen == 1
    assert [n.duplicate_of for n in nodes] == ["", "n0", "n0"]
    assert nodes[2].evaluation.labels == ("duplicate of n0 (same source)",)


@pytest.mark.parametrize("writers", [1, 4])
def test_pending_briefs_are_issued_again(tmp_path, writers):
    with begin(tmp_path, settings=replace(SETTINGS, writers=writers)) as run:
        asyncio.run(run.step())
        run.ask()
        asyncio.run(run.write(run.ask()))
    with open_run(tmp_path, fake_equip()) as run:
        assert list(run.graph.pending) == ["b1", "b2"]
        assert run.graph.pending["b2"].candidate.id == "n1"
        drive(run)
        graph = run.graph
    assert not graph.pending
    assert len(graph.nodes) == 20
    answered = [e.event.candidate.brief for e in tail(tmp_path) if isinstance(e.event, Written)]
    assert len(set(answered)) == len(answered) == 20
    assert {"b1", "b2"} <= set(answered)


def test_a_machines_fault_is_retried_and_never_scored(tmp_path):
    with begin(tmp_path, fake_equip(FakeEvaluator(lost=0.2))) as run:
        assert drive(run) == "20 candidates"
        assert len(run.graph.notes) > 2
        assert {n.topic for n in run.graph.notes} == {"seat"}
        assert len(run.graph.nodes) == 20


def test_a_machine_that_stays_broken_stops_the_run_which_can_be_resumed(tmp_path):
    with begin(tmp_path, fake_equip(FakeEvaluator(lost=1.0)), settings=replace(SETTINGS, writers=3)) as run:
        with pytest.raises(SeatLost, match="attempt 4"):
            drive(run)
        assert len(run.graph.nodes) == 0
        assert run.graph.pending
        assert not run.graph.finished
    with open_run(tmp_path, fake_equip()) as run:
        assert drive(run) == "20 candidates"


def test_infra_is_the_machines_fault(tmp_path):
    class Infra(FakeEvaluator):
        async def evaluate(self, candidate, **more):
            report = RungReport(Rung.TIME, "failed", 0.1, "the clock stood still")
            return replace(fake_evaluation(1.0, verdict=Verdict.INFRA), rungs=(report,))

    with begin(tmp_path, fake_equip(Infra())) as run, pytest.raises(MachineError, match="the clock stood still"):
        drive(run)


def test_a_writers_failure_becomes_dropped(tmp_path):
    class Failing(FakeTranslator):
        calls = 0

        async def next(self, plan, limit, tried, rng):
            self.calls += 1
            if self.calls % 3 == 0:
                raise WriterError("the pen broke")
            return await super().next(plan, limit, tried, rng)

    with begin(tmp_path, fake_equip(translator=Failing())) as run:
        assert drive(run) == "20 candidates"
        assert len(run.graph.nodes) == 20
    reasons = {e.event.reason for e in tail(tmp_path) if isinstance(e.event, Dropped)}
    assert "the pen broke" in reasons


def test_a_writer_that_only_fails_ends_the_run(tmp_path):
    class Broken(FakeTranslator):
        async def first(self, seed):
            raise WriterError("no ink")

    with begin(tmp_path, fake_equip(translator=Broken()), settings=replace(SETTINGS, writers=4)) as run:
        assert drive(run) == "the writer failed 10 times in a row; last: no ink"
        assert run.graph.asked <= 10 + 4


def test_an_op_that_nobody_can_write_ends_the_run_with_its_own_error(tmp_path):
    class Uncovered(FakeTranslator):
        async def first(self, seed):
            raise UncoveredOp("aten.sort.default", "relu.py:4")

    with begin(tmp_path, fake_equip(translator=Uncovered())) as run:
        with pytest.raises(UncoveredOp):
            drive(run)
        assert not run.graph.pending
        assert "aten.sort.default" in run.graph.last_drop


def test_the_run_ends_when_no_move_is_left(tmp_path):
    equip = fake_equip(translator=FakeTranslator(moves=2, depth=2))
    with begin(tmp_path, equip, settings=replace(SETTINGS, candidates=500, writers=3)) as run:
        assert drive(run) == "no moves left"
        graph = run.graph
        with pytest.raises(NoMovesLeft):
            run.ask()
    assert len({tuple(n.candidate.plan["path"]) for n in graph.nodes.values()}) == len(graph.nodes)
    assert len(graph.nodes) > 5
    with open_run(tmp_path, fake_equip(translator=FakeTranslator(moves=2, depth=2))) as run:
        assert drive(run) == "no moves left"
    assert kinds(tmp_path).count("finished") == 1


def test_stop_leaves_everything_resumable(tmp_path):
    async def stopped_soon(run):
        asyncio.get_running_loop().call_later(0.05, run.stop)
        return await run.drive()

    equip = fake_equip(FakeEvaluator(seconds=0.01))
    with begin(tmp_path, equip, settings=replace(SETTINGS, writers=4, seats=2)) as run:
        assert asyncio.run(stopped_soon(run)) == ""
        assert not run.graph.finished
        assert run.graph.pending
        assert run.feed.now == {}
    with open_run(tmp_path, equip) as run:
        assert drive(run) == "20 candidates"
        assert len(run.graph.nodes) == 20


def test_a_run_can_be_driven_in_one_event_loop_after_another(tmp_path):
    equip = fake_equip(FakeEvaluator(seconds=0.001), FakeTranslator(moves=20, seconds=0.001))
    with begin(tmp_path, equip, settings=replace(SETTINGS, writers=6, seats=2)) as run:
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(run.drive(), 0.03))
        assert drive(run) == "20 candidates"


def test_cancellation_leaves_everything_resumable(tmp_path):
    evaluator = FakeEvaluator(seconds=0.01)
    with begin(tmp_path, fake_equip(evaluator), settings=replace(SETTINGS, writers=4, seats=2)) as run:
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(run.drive(), 0.05))
        assert evaluator.busy == 0
    with open_run(tmp_path, fake_equip()) as run:
        assert drive(run) == "20 candidates"


def test_more_settings_continue_a_finished_run(tmp_path):
    with begin(tmp_path) as run:
        drive(run)
    with open_run(tmp_path, fake_equip(), settings=replace(SETTINGS, candidates=25)) as run:
        assert drive(run) == "25 candidates"
    graph = read_run(tmp_path)
    assert len(graph.nodes) == 25
    assert graph.settings["candidates"] == 25
    assert [e.event.reason for e in tail(tmp_path) if isinstance(e.event, Finished)] == [
        "20 candidates",
        "25 candidates",
    ]


def test_equipment_sees_the_settings_in_force(tmp_path):
    seen = []

    def equip(created, builds):
        seen.append(created.settings["candidates"])
        return fake_equip()(created, builds)

    with begin(tmp_path, equip):
        pass
    with open_run(tmp_path, equip, settings=replace(SETTINGS, candidates=25)):
        pass
    with open_run(tmp_path, equip) as run:
        assert run.settings.candidates == 25
    assert seen == [20, 25, 25]
    assert kinds(tmp_path) == ["created", "noted"]


def test_a_reader_follows_a_live_run(tmp_path):
    with begin(tmp_path) as run:
        graph = read_run(tmp_path)
        for number in range(1, 4):
            asyncio.run(run.step())
            assert read_run(tmp_path, onto=graph) is graph
            assert list(graph.nodes) == list(run.graph.nodes)
            assert len(graph.nodes) == number


def test_two_runs_cannot_own_one_folder(tmp_path):
    with begin(tmp_path) as run:
        with pytest.raises(RunBusy, match=f"process {os.getpid()} on .*close the other Run of this process"):
            open_run(tmp_path, fake_equip())
        assert len(read_run(tmp_path).nodes) == 0
        with pytest.raises(StoreError, match="holds a run already"):
            begin(tmp_path)
        run.close()
    robbed = open_run(tmp_path, fake_equip())
    with open_run(tmp_path, fake_equip(), by_force=True), pytest.raises(StaleLease, match="lost the run"):
        robbed.ask()


def test_another_process_is_told_who_owns_it(tmp_path):
    code = (
        "import sys; from pathlib import Path; from kernelevolve.runs import open_run;"
        "from kernelevolve.testing import fake_equip; open_run(Path(sys.argv[1]), fake_equip())"
    )
    with begin(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"RunBusy: {tmp_path} is owned by process {os.getpid()} on" in done.stderr


def test_what_cannot_be_built_leaves_the_folder_free(tmp_path):
    with pytest.raises(UnknownName, match="unknown policy 'mctz'; known: beam, best_of_n, greedy"):
        begin(tmp_path, policy=Component("mctz"))
    with pytest.raises(UnknownName, match="unknown parameter of policy greedy 'speed'; known: drafts, repairs"):
        begin(tmp_path, policy=Component("greedy", {"speed": 1}))
    with pytest.raises(UsageError, match=r"'greedy' cannot be built with .*'two'.*; its parameters: drafts=1"):
        begin(tmp_path, policy=Component("greedy", {"drafts": "two"}))
    with pytest.raises(UsageError, match="needs a translator"):
        begin(tmp_path, lambda created, builds: Equipment(FakeEvaluator()))
    assert not holds_run(tmp_path)
    with begin(tmp_path):
        assert holds_run(tmp_path)
    assert not holds_run(tmp_path / "nowhere")


def test_equipment_is_closed_once(tmp_path):
    closed = []

    def equip(created, builds):
        assert (created.platform, builds) == (FAKE_PLATFORM, tmp_path / "builds")
        return replace(fake_equip()(created, builds), close=lambda: closed.append(1))

    with begin(tmp_path, equip) as run:
        run.close()
    assert closed == [1]
    with pytest.raises(UsageError):
        begin(tmp_path / "other", lambda c, b: replace(equip_for(closed), translator=None))
    assert closed == [1, 1]


def equip_for(closed):
    return Equipment(FakeEvaluator(), translator=FakeTranslator(), close=lambda: closed.append(1))


def test_the_feed_tells_what_is_in_flight(tmp_path):
    with begin(tmp_path) as run:
        asyncio.run(run.step())
        stages = run.feed.read_from(0)
        assert [(s.brief, s.candidate, s.stage) for s in stages] == [
            ("b0", "", "write"),
            ("b0", "n0", "wait"),
            ("b0", "n0", "check"),
            ("b0", "n0", "correct"),
            ("b0", "n0", "done"),
        ]
        assert run.feed.read_from(4) == stages[4:]
        assert run.feed.now == {}
        run.drop(run.ask().id, "not wanted")
        assert run.feed.read_from(5)[-1].stage == "dropped"


def test_optimize_makes_sibling_runs_that_share_builds(tmp_path):
    places = []

    def equip(created, builds):
        places.append((created.platform, builds))
        return fake_equip()(created, builds)

    graphs = optimize(fake_problem(), ("h100", "mi300x"), tmp_path, equip, settings=SETTINGS)
    assert [g.created.platform for g in graphs] == ["h100", "mi300x"]
    assert places == [("h100", tmp_path / "builds"), ("mi300x", tmp_path / "builds")]
    assert holds_run(tmp_path / "mi300x")
    again = optimize(fake_problem(), ("h100", "mi300x"), tmp_path, equip, settings=SETTINGS)
    assert [dict(g.nodes) for g in again] == [dict(g.nodes) for g in graphs]
    with pytest.raises(UsageError, match="different platforms"):
        optimize(fake_problem(), ("h100", "h100"), tmp_path, equip)


def test_ask_and_tell_stay_quick_in_a_long_run(tmp_path):
    program, out = Path(__file__).parents[2] / "benchmarks" / "ask_tell.py", tmp_path / "ask_tell.json"
    subprocess.run([sys.executable, program, "--sizes", "100", "1000", "--out", out], check=True, timeout=120)
    short, long = json.loads(out.read_text())["rows"]
    # The budget of 5 ms is the benchmark's to print: what else runs on a machine is nothing that a test decides.
    assert long["median_ms"] < 4 * short["median_ms"], "the cost of an ask grows with the run"


def test_the_log_has_the_source_and_cost_before_the_evaluation(tmp_path):
    with begin(tmp_path) as run:
        drive(run)
    events = [e.event for e in tail(tmp_path)]
    written = [e.candidate.id for e in events if isinstance(e, Written)]
    evaluated = [e.candidate for e in events if isinstance(e, Evaluated)]
    assert written == evaluated
    assert not any(isinstance(e, Noted) for e in events)
