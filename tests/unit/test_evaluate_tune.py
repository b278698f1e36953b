"""The tuner asks in a fixed order, never twice, and its best choice is written into the file as a literal."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.candidate import Choice
from kernelevolve.evaluate.correct import Failed
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.timing import Blocks
from kernelevolve.evaluate.tune import Tuner, Tuning, tuned, tuning, workload_key
from kernelevolve.evaluation import Verdict
from kernelevolve.problem import Workload
from kernelevolve.protocol import Description, InputSpec, Variant

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


TABLED = "KNOBS = {'B': [1, 2, 3]}\nCHOICE = {}\nCHOICES = {}  # by workload\n"
SPACE: Mapping[str, tuple[Choice, ...]] = {"B": (1, 2, 3)}
WORKLOADS = (Workload("short"), Workload("long", weight=3.0), Workload("long again"))


def described(*shapes: tuple[int, ...]) -> Description:
    inputs = [InputSpec(f"x{i}", "values", shape, dtype="bfloat16") for i, shape in enumerate(shapes)]
    return Description(Variant("w", "full", ""), (*inputs, InputSpec("eps", "plain", value=1e-5)), (), ())


DESCRIBED = {"short": described((8, 4)), "long": described((4, 8)), "long again": described((4, 8))}
TIMES = {"short": {1: 1.0, 2: 2.0, 3: 3.0}, "long": {1: 9.0, 2: 4.0, 3: 3.0}, "long again": {1: 1.0, 2: 1.0, 3: 1.1}}


def driven(source: str, times: Mapping[str, Mapping[int, float]] = TIMES) -> Tuning:
    """A tuning of the three workloads, told the time of each choice; a time that is missing does not build."""
    made = tuning(source, SPACE, WORKLOADS, DESCRIBED, seed=0, trials=9)
    for group in made.groups:
        while (choice := group.tuner.ask()) is not None:
            found = [times[w].get(int(choice["B"])) for w in group.workloads]
            known = [t for t in found if t is not None]
            if len(known) == len(found):
                group.tell(choice, known)
            else:
                group.tuner.tell(choice, None)
    return made


START: Mapping[str, Mapping[str, Choice]] = {w.name: {"B": 1} for w in WORKLOADS}


def test_a_file_with_a_table_gets_a_choice_for_each_workload_key() -> None:
    made = driven(TABLED)
    assert [g.workloads for g in made.groups] == [("short",), ("long", "long again")]
    # Shapes 4x8: 3 (3.0 cubed x 1.1) beats 2 (4.0 cubed x 1.0) by the weights.
    assert made.choices(START) == {"short": {"B": 1}, "long": {"B": 3}, "long again": {"B": 3}}
    assert made.table(START) == {workload_key(DESCRIBED["short"]): {"B": 1}, workload_key(DESCRIBED["long"]): {"B": 3}}
    # Logs of the times by weight: B=1 ln 9 * 3, B=2 ln 2 + ln 4 * 3, B=3 ln 3 + ln 3 * 3 + ln 1.1.
    assert made.common(START) == {"B": 3}
    assert made.summary("ruled out") == "3 + 3 of 3 choices, 0 ruled out, 1 + 1 tie, for short + long/long again"


def test_a_file_without_a_table_gets_the_best_choice_by_weight_for_all() -> None:
    made = driven("KNOBS = {'B': [1, 2, 3]}\nCHOICE = {}\n")
    assert [g.workloads for g in made.groups] == [("short", "long", "long again")]
    assert made.choices(START) == {name: {"B": 3} for name in START}
    assert made.table(START) == {} and made.common(START) == {"B": 3}
    heavy = driven("KNOBS = {}\n", {**TIMES, "long": {1: 1.0, 2: 1.01, 3: 1.1}})
    assert heavy.common(START) == {"B": 1}


def test_without_a_choice_for_all_the_heaviest_workloads_decide_for_unseen_ones() -> None:
    made = driven(TABLED, {"short": {1: 1.0}, "long": {2: 1.0}, "long again": {2: 1.0}})
    assert made.common(START) == {"B": 2}
    assert driven(TABLED, {name: {} for name in TIMES}).choices(START) == START


def test_the_tuned_file_holds_its_table_as_a_literal_that_shapes_and_dtypes_find() -> None:
    made = driven(TABLED)
    text = tuned(TABLED, made.common(START), made.table(START))
    assert text.startswith(
        "KNOBS = {'B': [1, 2, 3]}\nCHOICE = {'B': 3}\nCHOICES = {\n    (((8, 4), 'torch.bfloat16'),): "
    )
    assert text.endswith("}  # by workload\n")
    table = ast.literal_eval(next(n.value for n in ast.parse(text).body if ast.unparse(n).startswith("CHOICES")))  # type: ignore[attr-defined]
    assert table == made.table(START) and ((8, 4), "torch.bfloat16") in next(iter(table))
    assert tuned(text, {"B": 1}, {(): {"B": 2}}) == text.split("CHOICE = ")[0] + (
        "CHOICE = {'B': 1}\nCHOICES = {\n    (): {'B': 2},\n}  # by workload\n"
    )


class TimedDevice(Device):
    """A device whose times are given: the worker of a workload is its name."""

    def __init__(self) -> None:
        super().__init__("cuda:0", "given", blocks=Blocks(), full_cases=1)
        self.timed: list[tuple[str, int]] = []

    def _make_room(self, description: Any) -> None:
        pass

    def worker(
        self, bench: Any, workload: str, source: str, choice: Mapping[str, Choice], *, queues: int = 0
    ) -> Any:
        return SimpleNamespace(
            name=workload, end=lambda: None, channel=SimpleNamespace(sock=SimpleNamespace(fileno=lambda: 3))
        )

    def _quick_time(self, worker: Any, choice: Mapping[str, Choice]) -> float:
        self.timed.append((worker.name, int(choice["B"])))
        if (worker.name, choice["B"]) == ("long", 3):
            raise Failed(Verdict.CRASH, "illegal address")
        return TIMES[worker.name][int(choice["B"])]


def test_a_device_times_each_workloads_own_choices_and_spends_nothing_on_what_does_not_build() -> None:
    made = tuning(TABLED, SPACE, WORKLOADS, DESCRIBED, seed=0, trials=9)
    builder = SimpleNamespace(
        build_some=lambda source, choices, workloads: [
            Failed(Verdict.COMPILE_ERROR, "too much") if (c["B"], workloads) == (1, ("long", "long again")) else []
            for c in choices
        ]
    )
    device = TimedDevice()
    device.tune(SimpleNamespace(full=lambda name: None), builder, TABLED, made, {"B": 1})  # type: ignore[arg-type]
    assert sorted(device.timed) == [("long", 2), ("long", 3), ("long again", 2), *(("short", b) for b in (1, 2, 3))]
    assert made.choices(START) == {"short": {"B": 1}, "long": {"B": 2}, "long again": {"B": 2}}
    assert made.common(START) == {"B": 2}
    assert made.summary("ruled out") == "3 + 3 of 3 choices, 2 ruled out, 1 + 1 tie, for short + long/long again"
