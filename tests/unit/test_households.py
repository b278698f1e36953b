"""Problems share a device's memory for judges: what fits is there together, the rest waits, and nobody for ever."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.errors import SeatLost
from kernelevolve.evaluate.households import Households

PATIENCE = 20.0


class Floor:
    """Who has judges on the device, as those inside say, and who was ended."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights, self.lock = weights, threading.Lock()
        self.inside: Counter[str] = Counter()
        self.there: set[str] = set()
        self.ended: Counter[str] = Counter()
        self.wrong: list[str] = []

    def leave(self, key: str) -> None:
        with self.lock:
            if self.inside[key]:
                self.wrong.append(f"{key} was ended while {self.inside[key]} were inside")
            self.there.discard(key)
            self.ended[key] += 1

    def come(self, key: str) -> None:
        with self.lock:
            self.inside[key] += 1
            self.there.add(key)
            if len(self.there) > 1 and sum(self.weights[k] for k in self.there) > 1:
                self.wrong.append(f"{sorted(self.there)} do not fit")

    def go(self, key: str) -> None:
        with self.lock:
            self.inside[key] -= 1


def visit(homes: Households, floor: Floor, key: str, seconds: float, yields: bool = True) -> None:
    with homes.of(key, floor.weights[key], lambda: floor.leave(key), yields=yields):
        floor.come(key)
        time.sleep(seconds)
        floor.go(key)


def run(*jobs: threading.Thread) -> None:
    for job in jobs:
        job.start()
    end = time.monotonic() + PATIENCE
    for job in jobs:
        job.join(max(0.0, end - time.monotonic()))
        assert not job.is_alive(), "somebody waits for ever"


def job(*arguments: object) -> threading.Thread:
    return threading.Thread(target=visit, args=arguments, daemon=True)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(0.05, 1.6), min_size=1, max_size=6), st.integers(0, 2**32))
def test_what_is_there_together_fits_and_everybody_gets_there(sizes: list[float], seed: int) -> None:
    luck, weights = random.Random(seed), {str(i): w for i, w in enumerate(sizes)}
    homes, floor = Households(idle=0.0, fair=0.05), Floor(weights)
    keys = luck.choices(sorted(weights), k=12)
    run(*(job(homes, floor, key, luck.random() / 100, luck.random() < 0.7) for key in keys))
    assert not floor.wrong


def test_a_problem_that_was_left_stays_until_its_room_is_needed() -> None:
    homes, floor = Households(idle=0.2), Floor({"a": 0.6, "b": 0.3, "c": 0.6})
    visit(homes, floor, "a", 0.0)
    visit(homes, floor, "b", 0.0)
    assert not floor.ended
    start = time.monotonic()
    visit(homes, floor, "c", 0.0)
    assert floor.ended == {"a": 1} and time.monotonic() - start >= 0.1
    visit(homes, floor, "b", 0.0)
    assert floor.ended == {"a": 1}


def test_who_needs_less_than_at_first_makes_room_for_another_while_he_is_there() -> None:
    homes, floor = Households(idle=60.0), Floor({"a": 0.7, "b": 0.6})
    with homes.of("a", 0.7, lambda: floor.leave("a")):
        other = job(homes, floor, "b", 0.0)
        other.start()
        other.join(0.3)
        assert other.is_alive(), "there is no room for both"
        homes.lighter("nobody", 0.1)
        homes.lighter("a", 0.9)
        other.join(0.3)
        assert other.is_alive(), "nobody becomes heavier or lighter than he said"
        homes.lighter("a", 0.3)
        other.join(PATIENCE)
        assert not other.is_alive() and not floor.ended


def test_a_small_one_passes_by_for_a_while_and_further_candidates_wait_in_the_end() -> None:
    homes, floor = Households(idle=0.0, fair=1.0), Floor({"a": 0.6, "large": 0.9, "small": 0.2})
    order: list[str] = []

    def enter(key: str, seconds: float) -> None:
        with homes.of(key, floor.weights[key], lambda: floor.leave(key)):
            order.append(key)
            time.sleep(seconds)

    jobs = [threading.Thread(target=enter, args=a, daemon=True) for a in (("a", 1.6), ("large", 0.0), ("small", 0.1))]
    for one in jobs:
        one.start()
        time.sleep(0.1)
    time.sleep(1.1)  # now the large one has waited for long
    later = threading.Thread(target=enter, args=("a", 0.0), daemon=True)
    inside = threading.Thread(target=visit, args=(homes, floor, "a", 0.0, False), daemon=True)
    inside.start()
    inside.join(PATIENCE)
    assert floor.inside["a"] == 0 and not inside.is_alive(), "others inside may wait for who does not yield"
    run(later)
    for one in jobs:
        one.join(PATIENCE)
    assert order == ["a", "small", "large", "a"]


def test_a_problem_that_is_done_with_makes_room_at_once() -> None:
    homes, floor = Households(), Floor({"a": 1.0, "b": 1.0})
    visit(homes, floor, "a", 0.0)
    homes.gone("a")
    start = time.monotonic()
    visit(homes, floor, "b", 0.0)
    assert time.monotonic() - start < 5 and not floor.ended


def test_whoever_fails_inside_leaves_and_a_failed_ending_is_told_to_who_needs_the_room() -> None:
    homes = Households(idle=0.0)

    def refuse() -> None:
        raise OSError("its process is gone")

    with pytest.raises(KeyError, match="mine"), homes.of("a", 1.0, refuse):
        raise KeyError("mine")
    with pytest.raises(OSError, match="gone"), homes.of("b", 1.0, refuse):
        pass
    with homes.of("b", 1.0, refuse):
        pass


def test_who_is_stopped_waits_no_longer() -> None:
    homes = Households()
    stopped = threading.Event()

    def go_on() -> None:
        if stopped.is_set():
            raise SeatLost("stopped")

    threading.Timer(0.3, stopped.set).start()
    start = time.monotonic()
    with homes.of("a", 1.0, lambda: None):
        with pytest.raises(SeatLost, match="stopped"), homes.of("b", 1.0, lambda: None, go_on=go_on):
            pass
        assert time.monotonic() - start < 5
        with homes.of("a", 1.0, lambda: None, go_on=go_on):
            pass
