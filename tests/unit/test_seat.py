"""A device's seat: candidates share it, one is timed alone, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
import time

import pytest

from kernelevolve.evaluate.seat import Seat

PATIENCE = 20.0
Lock = type(threading.RLock())


class Floor:
    """What is under way on a device, as those on it say."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.working = 0
        self.most = 0
        self.timed: list[str] = []
        self.wrong: list[str] = []

    def work(self, seconds: float) -> None:
        with self.lock:
            self.working += 1
            self.most = max(self.most, self.working)
        time.sleep(seconds)
        with self.lock:
            self.working -= 1

    def time(self, name: str, seconds: float) -> None:
        with self.lock:
            if self.working:
                self.wrong.append(f"{name} was timed beside {self.working}")
            self.working += 1
            self.timed.append(name)
        time.sleep(seconds)
        with self.lock:
            if self.working != 1:
                self.wrong.append(f"{self.working} worked while {name} was timed")
            self.working -= 1


def candidate(seat: Seat, floor: Floor, name: str, weight: float, pieces: int, times: int, judge: Lock) -> None:
    """Works, asks a judge that answers one at a time, is timed, and needs the judge while it is timed, too."""
    with seat.shared(weight) as share:
        for _ in range(times):
            for _ in range(pieces):
                share.give_way()
                floor.work(random.Random(name).random() / 500)
                with share.holding(judge):
                    floor.work(0.001)
            with share.alone(), share.holding(judge):
                floor.time(name, 0.001)
        with share.holding(judge):
            floor.work(0.001)


def run(*jobs: threading.Thread) -> None:
    for job in jobs:
        job.start()
    end = time.monotonic() + PATIENCE
    for job in jobs:
        job.join(max(0.0, end - time.monotonic()))
        assert not job.is_alive(), "somebody waits for ever"


def job(*arguments: object, judge: Lock | None = None) -> threading.Thread:
    return threading.Thread(target=candidate, args=(*arguments, judge or threading.RLock()), daemon=True)


@pytest.mark.parametrize(("most", "ready", "count"), [(1, 1, 5), (2, 4, 9), (8, 4, 40), (8, 1, 20), (3, 3, 12)])
def test_nobody_works_while_one_is_timed(most: int, ready: int, count: int) -> None:
    seat, floor = Seat(most, ready), Floor()
    weights, judge = random.Random(count), threading.RLock()
    run(
        *(
            job(seat, floor, f"c{i}", weights.choice([0.05, 0.3, 0.6, 1.0, 3.0]), i % 4, 1 + i % 2, judge=judge)
            for i in range(count)
        )
    )
    assert floor.wrong == []
    assert len(floor.timed) == sum(1 + i % 2 for i in range(count))
    assert floor.most <= most


def test_candidates_share_the_device_until_one_is_timed() -> None:
    seat, floor = Seat(4, 2), Floor()
    run(*(job(seat, floor, f"c{i}", 0.2, 5, 1) for i in range(8)))
    assert floor.most > 1
    assert floor.wrong == []


def test_those_who_are_ready_are_timed_one_after_the_other() -> None:
    seat, floor = Seat(8, 3), Floor()
    several = [job(seat, floor, f"quick {i}", 0.1, 0, 1) for i in range(3)]
    entered = threading.Event()

    def slow() -> None:
        with seat.shared(0.1) as share:
            entered.set()
            for _ in range(50):
                share.give_way()
                floor.work(0.01)
            floor.timed.append("the others go on")

    first = threading.Thread(target=slow, daemon=True)
    first.start()
    assert entered.wait(PATIENCE)
    run(*several)
    first.join(PATIENCE)
    assert floor.timed[-1] == "the others go on"
    assert floor.wrong == []


def test_few_who_are_ready_are_timed_after_some_patience_and_not_when_all_others_are_done() -> None:
    seat, floor = Seat(8, 8, patience=0.1), Floor()
    entered, done = threading.Event(), threading.Event()

    def slow() -> None:
        with seat.shared(0.1) as share:
            entered.set()
            while not done.is_set():
                share.give_way()
                floor.work(0.005)

    first = threading.Thread(target=slow, daemon=True)
    first.start()
    assert entered.wait(PATIENCE)
    try:
        run(job(seat, floor, "alone", 0.1, 0, 1))
    finally:
        done.set()
    first.join(PATIENCE)
    assert floor.timed == ["alone"] and floor.wrong == []


def test_who_waits_for_a_judge_keeps_nobody_from_being_timed() -> None:
    seat, floor, judge = Seat(8, 1), Floor(), threading.RLock()
    held, timed = threading.Event(), threading.Event()

    def holder() -> None:  # no share: it submits nothing
        with judge:
            held.set()
            assert timed.wait(PATIENCE)

    def waiting() -> None:
        with seat.shared(0.1) as share, share.holding(judge):
            floor.work(0.001)

    def ready() -> None:
        with seat.shared(0.1) as share, share.alone():
            floor.time("ready", 0.001)
        timed.set()

    first = threading.Thread(target=holder, daemon=True)
    first.start()
    assert held.wait(PATIENCE)
    run(threading.Thread(target=waiting, daemon=True), threading.Thread(target=ready, daemon=True))
    first.join(PATIENCE)
    assert floor.timed == ["ready"]
    assert floor.wrong == []


def test_those_with_a_place_may_wait_for_a_judge_that_has_none() -> None:
    seat, floor, done = Seat(2, 2), Floor(), threading.Event()

    def waiting() -> None:
        with seat.shared(0.5) as share, share.aside():
            assert done.wait(PATIENCE)

    def judge() -> None:
        with seat.unplaced() as share:
            floor.work(0.001)
            with share.alone():
                floor.time("judge", 0.001)
        done.set()

    run(*(threading.Thread(target=work, daemon=True) for work in (waiting, waiting, judge)))
    assert floor.timed == ["judge"]
    assert floor.wrong == []


def test_a_judge_without_a_place_waits_for_one_who_has_the_device_to_itself() -> None:
    seat, order, entered, leave = Seat(), [], threading.Event(), threading.Event()

    def alone() -> None:
        with seat.alone():
            entered.set()
            assert leave.wait(PATIENCE)
            order.append("alone")

    def judge() -> None:
        with seat.unplaced():
            order.append("judge")

    first = threading.Thread(target=alone, daemon=True)
    first.start()
    assert entered.wait(PATIENCE)
    second = threading.Thread(target=judge, daemon=True)
    second.start()
    time.sleep(0.02)
    leave.set()
    for one in (first, second):
        one.join(PATIENCE)
    assert order == ["alone", "judge"]


def test_one_that_needs_all_of_it_has_its_turn_among_many_small_ones() -> None:
    seat, order = Seat(4, 4), []
    stop = threading.Event()

    def small() -> None:
        while not stop.is_set():
            with seat.shared(0.25):
                time.sleep(0.002)

    crowd = [threading.Thread(target=small, daemon=True) for _ in range(8)]
    for one in crowd:
        one.start()

    def large() -> None:
        with seat.alone():
            order.append("large")

    waiting = threading.Thread(target=large, daemon=True)
    waiting.start()
    waiting.join(PATIENCE)
    stop.set()
    for one in crowd:
        one.join(PATIENCE)
    assert order == ["large"]


def test_a_place_is_free_again_after_a_fault() -> None:
    seat = Seat(1, 1)
    with pytest.raises(ZeroDivisionError), seat.shared(1.0) as share, share.alone():
        raise ZeroDivisionError
    with seat.alone():
        pass


def test_nobody_gets_ready_beside_one_who_has_the_device_to_itself() -> None:
    seat, floor = Seat(4, 2), Floor()

    def whole() -> None:
        with seat.alone():
            floor.time("whole", 0.01)

    def small() -> None:
        with seat.doorstep():
            floor.work(0.005)
        with seat.shared(0.2) as share:
            share.give_way()

    for _ in range(5):
        run(*(threading.Thread(target=work, daemon=True) for work in (whole, small, small, whole, small)))
    assert floor.timed == ["whole"] * 10
    assert floor.wrong == []


def test_who_has_a_place_may_wait_for_somebody_who_gets_ready_while_another_wants_all_of_the_device() -> None:
    seat, order = Seat(4, 2), []
    placed, asked = threading.Event(), threading.Event()

    def baselines() -> None:
        with seat.doorstep():
            order.append("ready")
        with seat.unplaced() as share, share.alone():
            order.append("looked at")

    def candidate() -> None:
        with seat.shared(0.2) as share:
            placed.set()
            assert asked.wait(PATIENCE)
            time.sleep(0.05)  # the other stands in line now
            ahead = threading.Thread(target=baselines, daemon=True)
            with share.aside():
                ahead.start()
                ahead.join(PATIENCE)
            order.append("candidate")

    def whole() -> None:
        assert placed.wait(PATIENCE)
        asked.set()
        with seat.alone():
            order.append("whole")

    run(*(threading.Thread(target=work, daemon=True) for work in (candidate, whole)))
    assert order == ["ready", "looked at", "candidate", "whole"]


def test_others_get_ready_while_one_is_timed() -> None:
    seat, inside = Seat(4, 2), threading.Event()

    def outside() -> None:
        with seat.doorstep():
            inside.set()

    with seat.shared(0.5) as share, share.alone():
        other = threading.Thread(target=outside, daemon=True)
        other.start()
        assert inside.wait(PATIENCE)
    other.join(PATIENCE)
