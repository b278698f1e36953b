"""Many at once: writers and seats as two limits, guests beside them, late answers, cancellation, back-pressure."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kernelevolve import plugins
from kernelevolve.candidate import Cost
from kernelevolve.errors import LateAnswer, SeatLost, UsageError
from kernelevolve.events import LATE, Asked, Component, Dropped, Entry, Evaluated, Noted, Written
from kernelevolve.propose import Answer
from kernelevolve.runs import create_run, open_run, read_run, tail
from kernelevolve.settings import settings_for
from kernelevolve.testing import FAKE_PLATFORM, FakeEvaluator, fake_equip, fake_problem
from kernelevolve.testing.load import LOADED, LoadedEvaluator, LoadedWriter, disorder, other_choice, registered

SETTINGS = replace(settings_for("quick"), candidates=20, plateau=1000, drops=100)
QUICK = {"seconds": [0.001, 0.02]}


@pytest.fixture(autouse=True)
def _writer_is_registered():
    with registered("writers", LOADED, "kernelevolve.testing.load:LoadedWriter"):
        yield


def begin(folder, evaluator=None, *, writer=None, policy="greedy", **limits):
    return create_run(
        folder, fake_problem(), FAKE_PLATFORM, fake_equip(evaluator or FakeEvaluator()),
        settings=replace(SETTINGS, **limits), policy=policy, writer=Component(LOADED, writer or QUICK),
    )  # fmt: skip


def of(folder, kind):
    return [entry.event for entry in tail(folder) if isinstance(entry.event, kind)]


def in_order(folder):
    assert disorder(tail(folder), folder) == []
    assert other_choice(tail(folder)) == ""


# Policies


@pytest.mark.parametrize("name", plugins.names("policies"))
def test_a_parallel_run_replayed_selects_the_same_parents_at_every_brief(tmp_path, name):
    evaluator = LoadedEvaluator(seconds=[0.001, 0.02], faulty=0.3, lost=0.1)
    with begin(
        tmp_path, evaluator, policy=name, writer={**QUICK, "failing": 0.1}, writers=12, seats=4, candidates=60
    ) as run:

        async def stopped_in_between():
            asyncio.get_running_loop().call_later(0.1, run.stop)
            return await run.drive()

        asyncio.run(stopped_in_between())
    with open_run(tmp_path, fake_equip(evaluator)) as run:
        assert asyncio.run(run.drive()) == "60 candidates"
    assert len(of(tmp_path, Asked)) >= 60
    in_order(tmp_path)


def test_a_log_that_was_tampered_with_does_not_pass(tmp_path):
    with begin(tmp_path, writers=3, seats=2) as run:
        asyncio.run(run.drive())
    entries = tail(tmp_path)
    at = next(i for i, e in enumerate(entries) if isinstance(e.event, Asked) and e.event.brief.parents)
    asked = entries[at].event
    other = replace(asked, brief=replace(asked.brief, parents=()))
    assert "b" in other_choice((*entries[:at], replace(entries[at], event=other), *entries[at + 1 :]))
    assert disorder(entries, tmp_path) == []
    last = len(entries)
    more = Entry(last, 1, 0.0, Asked(replace(asked.brief, id="b20", index=20, parents=())))
    assert disorder((*entries, more)) == ["b20 was asked although the run ends: 20 candidates"]
    kept = next((tmp_path / "blobs").rglob("*/*"))
    kept.write_bytes(b"damaged")
    assert any("is damaged" in text for text in disorder(entries, tmp_path))


# Writers


def test_writers_that_fail_raise_or_never_answer_cost_a_brief_each_and_starve_nobody(tmp_path):
    writer = {**QUICK, "failing": 0.1, "raising": 0.1, "silent": 0.1, "tokens": 100}
    with begin(tmp_path, writer=writer, writers=4, seats=2, candidates=40, answer_seconds=0.2) as run:
        assert asyncio.run(run.drive()) == "40 candidates"
        assert len(run.graph.nodes) == 40
    reasons = [dropped.reason for dropped in of(tmp_path, Dropped)]
    for said in ("the writer fails at b", "writer 'loaded' raised ZeroDivisionError: ", "no answer within 0.2 s"):
        assert any(said in reason for reason in reasons), said
    failed = [d for d in of(tmp_path, Dropped) if "fails at" in d.reason]
    assert all(d.cost.tokens_in > 0 for d in failed)
    in_order(tmp_path)


@pytest.mark.parametrize("fate", ["failing", "raising", "silent"])
def test_writers_that_only_fail_end_the_run(tmp_path, fate):
    with begin(tmp_path, writer={fate: 1.0}, writers=4, drops=10, answer_seconds=0.05) as run:
        assert asyncio.run(run.drive()).startswith("the writer failed 10 times in a row; last: ")
        assert run.graph.asked <= 10 + 4


class Stubborn(LoadedWriter):
    """Does not heed that nobody waits for it any more."""

    async def write(self, brief, graph):
        if brief.index == 1:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            await asyncio.sleep(0.05)
            return Answer("# too late\n", cost=Cost(tokens_in=7, money_usd=0.5))
        return await super().write(brief, graph)


def test_an_answer_after_its_time_is_kept_and_paid_for_and_not_evaluated(tmp_path):
    with registered("writers", "stubborn", f"{__name__}:Stubborn"):
        writer = Component("stubborn", {"seconds": [0.02, 0.03]})
        settings = replace(SETTINGS, writers=2, answer_seconds=0.1)
        with create_run(
            tmp_path, fake_problem(), FAKE_PLATFORM, fake_equip(), settings=settings, writer=writer
        ) as run:
            assert asyncio.run(run.drive()) == "20 candidates"
            assert (run.graph.tokens, run.graph.money_usd) == (7, 0.5)
    (late,) = of(tmp_path, Noted)
    assert (late.topic, late.data["brief"], late.data["source"]) == (LATE, "b1", "# too late\n")
    assert [d.brief for d in of(tmp_path, Dropped)] == ["b1"]
    assert read_run(tmp_path).tokens == 7
    in_order(tmp_path)


# Cancellation


def test_a_brief_that_the_user_cancels_frees_its_writer(tmp_path):
    with begin(tmp_path, writer={"silent": 1.0}, candidates=1, drops=1) as run:
        threading.Timer(0.2, run.cancel, ("b0",)).start()
        assert asyncio.run(run.drive()) == "the writer failed 1 times in a row; last: cancelled by the user"
        run.cancel("b0")
    assert [d.brief for d in of(tmp_path, Dropped)] == ["b0"]


def test_a_candidate_that_the_user_drops_frees_its_seat(tmp_path):
    evaluator = FakeEvaluator(seconds=60.0)
    with begin(tmp_path, evaluator, candidates=1, drops=1) as run:

        async def dropped():
            driving = asyncio.create_task(run.drive())
            while not evaluator.busy:
                await asyncio.sleep(0.005)
            run.drop("b0", "not wanted")
            return await driving

        assert asyncio.run(dropped()) == "the writer failed 1 times in a row; last: not wanted"
        assert evaluator.busy == 0
        assert run.feed.now == {}
    assert of(tmp_path, Evaluated) == []


# Guests


def beside(run, guest):
    """Drives the run while `guest` is at work; the reason for its end."""

    async def both():
        driving = asyncio.create_task(run.drive())
        await asyncio.sleep(0.01)
        await guest()
        return await driving

    return asyncio.run(both())


def test_a_guest_who_answers_first_takes_the_brief_from_the_writer(tmp_path):
    with begin(tmp_path, writer={"silent": 1.0}, candidates=1) as run:

        async def guest():
            node = await run.submit("b0", "# mine\n", cost=Cost(tokens_in=5))
            assert node.candidate.writer == "guest"

        assert beside(run, guest) == "1 candidates"
        assert run.graph.tokens == 5
    in_order(tmp_path)


def test_a_guest_who_answers_second_is_late(tmp_path):
    with begin(tmp_path) as run:
        waiting = asyncio.run(run.write(run.ask()))
        with pytest.raises(LateAnswer, match=r"answered already; .* kept in the log and not evaluated"):
            run.answered(waiting.brief, "guest", Answer("# other\n", cost=Cost(tokens_in=3)))
        run.tell(waiting, asyncio.run(run.evaluate(waiting)))
        with pytest.raises(LateAnswer, match="'b0' waits for no answer"):
            asyncio.run(run.submit("b0", "# another\n"))
        assert run.graph.tokens == 3
        assert len(run.graph.nodes) == 1
        with pytest.raises(UsageError, match="'b7' waits for no answer"):
            asyncio.run(run.submit("b7", "# never asked\n"))
    assert [note.data["source"] for note in of(tmp_path, Noted)] == ["# other\n", "# another\n"]


def test_an_answer_is_accepted_until_the_run_ends_and_late_after_that(tmp_path):
    with begin(tmp_path, candidates=5) as run:

        async def guest():
            brief = run.ask()
            while len(run.graph.nodes) < 4:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            assert not run.graph.finished
            await run.submit(brief.id, "# slow\n")

        assert beside(run, guest) == "5 candidates"
        assert "# slow\n" in [node.candidate.source for node in run.graph.nodes.values()]
        with pytest.raises(LateAnswer):
            asyncio.run(run.submit("b0", "# after the end\n"))
        assert run.graph.finished == "5 candidates"
    in_order(tmp_path)


def test_a_guest_who_never_answers_holds_the_run_up_for_so_long_and_no_longer(tmp_path):
    with begin(tmp_path, candidates=5, answer_seconds=0.3) as run:

        async def guest():
            run.ask()

        assert beside(run, guest) == "5 candidates"
        assert len(run.graph.nodes) == 5
    assert "no guest answered within 0.3 s" in [dropped.reason for dropped in of(tmp_path, Dropped)]
    in_order(tmp_path)


def test_a_guests_answer_whose_evaluation_failed_is_evaluated_by_the_driver(tmp_path):
    class Flaky(FakeEvaluator):
        broken = True

        async def evaluate(self, candidate, **more):
            if self.broken and candidate.writer == "guest":
                raise SeatLost("no seat for guests")
            return await super().evaluate(candidate, **more)

    evaluator = Flaky()
    with begin(tmp_path, evaluator, candidates=5, answer_seconds=0.3) as run:

        async def guest():
            with pytest.raises(SeatLost):
                await run.submit(run.ask().id, "# mine\n")
            evaluator.broken = False

        assert beside(run, guest) == "5 candidates"
        assert "guest" in [node.candidate.writer for node in run.graph.nodes.values()]
    in_order(tmp_path)


def test_guests_and_the_driver_share_the_seats(tmp_path):
    evaluator = FakeEvaluator(seconds=0.01)
    with begin(tmp_path, evaluator, candidates=30, writers=4, seats=2) as run:

        async def guest():
            briefs = [run.ask() for _ in range(6)]
            await asyncio.gather(*(run.submit(b.id, f"# {b.id}\n") for b in briefs))

        assert beside(run, guest) == "30 candidates"
    assert evaluator.most_busy == 2
    in_order(tmp_path)


# The load of the benchmark, its waits a tenth as long


@pytest.fixture
def stress():
    place = Path(__file__).parents[2] / "benchmarks" / "drive_stress.py"
    spec = importlib.util.spec_from_file_location("script_drive_stress", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_seats_are_kept_busy_while_candidates_wait(stress):
    """The figure itself is the benchmark's: with waits this short the host's own time weighs ten times as much."""
    row = stress.loaded("mcts", "writers", stress.EVALUATE, 150, 0.1)
    assert row["candidates"] == 150
    assert row["most_waiting"] <= row["most_waiting_allowed"] == 70
    assert row["busy_while_waiting"] > 0.6


@pytest.mark.parametrize("field", ["candidates", "seconds", "tokens", "money_usd", "device_seconds"])
def test_nothing_is_asked_once_a_limit_is_reached(stress, field):
    row = stress.limited(field, 100, 0.05)
    assert row["asked_after"] == 0
    assert row["spent"] >= row["at"]
    assert row["in_flight_when_reached"] <= stress.WRITERS + stress.SEATS + row["most_waiting_allowed"]
    if field == "candidates":
        assert row["overshoot"] == 0


# Back-pressure


def most_waiting(entries, seats):
    """Most candidates that were written and not told, less those that can be on a seat."""
    open_, most = 0, 0
    for entry in entries:
        open_ += isinstance(entry.event, Written) - isinstance(entry.event, Evaluated)
        most = max(most, open_ - seats)
    return most


@pytest.mark.parametrize(("waiting", "bound"), [(None, 16), (3, 3), (0, 0)])
def test_no_more_candidates_wait_for_a_seat_than_the_bound(tmp_path, waiting, bound):
    evaluator = FakeEvaluator(seconds=0.01)
    writer = {"seconds": [0.0, 0.001]}
    with begin(tmp_path, evaluator, writer=writer, writers=16, seats=2, candidates=60, waiting=waiting) as run:
        assert asyncio.run(run.drive()) == "60 candidates"
    assert evaluator.most_busy == 2
    entries = tail(tmp_path)
    assert most_waiting(entries, 2) <= bound
    # Once writers are known to be the quick side, hardly more than the next ones for each seat are at hand.
    assert most_waiting(entries[len(entries) // 2 :], 2) <= min(bound, 3)
    in_order(tmp_path)


def test_one_writer_and_one_seat_are_a_sequence_of_steps(tmp_path):
    with begin(tmp_path, LoadedEvaluator(seconds=[0.0, 0.002])) as run:
        asyncio.run(run.drive())
    kinds = [e.kind for e in tail(tmp_path)]
    assert kinds == ["created", *["asked", "written", "evaluated"] * 20, "finished"]


# Seats


def test_a_candidate_that_loses_seat_after_seat_is_dropped_where_others_get_through(tmp_path):
    class Poisoned(FakeEvaluator):
        async def evaluate(self, candidate, **more):
            await asyncio.sleep(0.002)
            if candidate.id == "n3":
                raise SeatLost(f"{candidate.id} took its seat along")
            return await super().evaluate(candidate, **more)

    with begin(tmp_path, Poisoned(seconds=0.001), writers=8, seats=4) as run:
        assert asyncio.run(run.drive()) == "20 candidates"
        assert "n3" not in run.graph.nodes
    (dropped,) = of(tmp_path, Dropped)
    assert "the machine failed it again and again, and no other: n3 took its seat along" in dropped.reason
    in_order(tmp_path)


def test_seats_that_crash_now_and_then_are_only_a_delay(tmp_path):
    with begin(tmp_path, LoadedEvaluator(seconds=[0.0, 0.005], lost=0.2), writers=8, seats=4, candidates=60) as run:
        start = time.monotonic()
        assert asyncio.run(run.drive()) == "60 candidates"
        assert time.monotonic() - start < 60
    assert {note.topic for note in of(tmp_path, Noted)} == {"seat"}
    in_order(tmp_path)
