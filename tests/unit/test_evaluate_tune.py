"""The tuner asks in a fixed order, never twice, and its best choice is written into the file as a literal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.candidate import Choice
from kernelevolve.evaluate.tune import Tuner, tuned

KNOBS = {"BLOCK": (64, 128, 256), "num_warps": (4, 8), "stages": (1, 2, 3)}
Cost = Callable[[Mapping[str, Choice]], float | None]


def drive(tuner: Tuner, cost: Cost) -> list[dict[str, Choice]]:
    """Every choice in the order asked, each told its cost."""
    asked = []
    while (choice := tuner.ask()) is not None:
        asked.append(choice)
        tuner.tell(choice, cost(choice))
    return asked


def cost(choice: Mapping[str, Choice]) -> float | None:
    """The least at (128, 8, 2); what has three stages and the largest block does not build."""
    if choice["BLOCK"] == 256 and choice["stages"] == 3:
        return None
    return 1 + abs(int(choice["BLOCK"]) - 128) / 64 + (choice["num_warps"] != 8) + abs(int(choice["stages"]) - 2)


def test_the_defaults_come_first_and_every_choice_once() -> None:
    tuner = Tuner(KNOBS, seed=0, trials=100)
    asked = drive(tuner, cost)
    assert asked[0] == {"BLOCK": 64, "num_warps": 4, "stages": 1}
    assert sorted(tuple(a.values()) for a in asked) == sorted(itertools.product(*KNOBS.values()))
    assert tuner.exhausted and tuner.size == 18 and tuner.ask() is None
    assert tuner.best == {"BLOCK": 128, "num_warps": 8, "stages": 2}
    assert sum(t is None for t in tuner.tried.values()) == 2


def test_equal_seeds_ask_alike_and_a_limit_is_kept() -> None:
    runs = [drive(Tuner(KNOBS, seed, trials=9), cost) for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]
    assert {len(r) for r in runs} == {9}


def test_ties_are_counted_and_the_first_tried_wins() -> None:
    tuner = Tuner({"B": (1, 2, 3, 4)}, seed=0, trials=10)
    asked = drive(tuner, lambda c: {1: 2.0, 2: 1.004, 3: 1.0, 4: 1.0}[int(c["B"])])
    exact = [a for a in asked if a["B"] in (3, 4)]
    assert tuner.best == exact[0] and tuner.ties == 3


def test_without_knobs_there_is_one_choice_and_without_a_time_no_best() -> None:
    assert drive(Tuner({}, seed=0, trials=5), lambda c: 1.0) == [{}]
    tuner = Tuner({"B": (1, 2)}, seed=0, trials=5)
    drive(tuner, lambda c: None)
    assert tuner.best is None and tuner.ties == 0 and len(tuner.tried) == 2


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    trials=st.integers(1, 30),
    seed=st.integers(0, 2**16),
    costs=st.randoms(use_true_random=False),
)
def test_any_space_is_searched_without_repeats(sizes: list[int], trials: int, seed: int, costs: object) -> None:
    knobs = {f"K{i}": tuple(range(n)) for i, n in enumerate(sizes)}
    tuner = Tuner(knobs, seed, trials)
    asked = [tuple(c.values()) for c in drive(tuner, lambda c: costs.choice([None, costs.random()]))]  # type: ignore[attr-defined]
    assert len(asked) == len(set(asked)) == min(tuner.size, trials)
    assert asked[0] == (0,) * len(sizes)


def test_the_tuned_file_holds_the_choice_as_a_literal() -> None:
    source = "KNOBS = {'B': [1, 2]}\nCHOICE = {\n    'B': 1,\n}  # now\nx = CHOICE['B']\n"
    made = tuned(source, {"B": 2})
    assert made == "KNOBS = {'B': [1, 2]}\nCHOICE = {'B': 2}  # now\nx = CHOICE['B']\n"
    space: dict[str, object] = {}
    exec(made, space)
    assert space["x"] == 2
    assert tuned("CHOICE: dict = {}\n", {"B": "ü"}) == "CHOICE: dict = {'B': 'ü'}\n"
    assert tuned("BLOCK = 3\n", {"B": 2}) == "BLOCK = 3\n"
