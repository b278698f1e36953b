"""Races: real runs on landscapes whose best is known, files that are what they say, and the statistics of it."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from kernelevolve.cli import main
from kernelevolve.errors import StoreError, StoreTooNew, UnknownName, UsageError
from kernelevolve.evaluation import Evidence, Verdict
from kernelevolve.events import Evaluated
from kernelevolve.graph import Graph
from kernelevolve.propose.builtin import plan_key
from kernelevolve.propose.walk import random_moves
from kernelevolve.race.landscape import Landscape, Recorder, read_landscape, slim
from kernelevolve.race.laps import Lap, RacePlan, recorded_course, run_laps
from kernelevolve.race.plot import race_svg
from kernelevolve.race.race import recorded_courses, run_race
from kernelevolve.race.replay import RecordedTranslator, replaying
from kernelevolve.race.standings import area, bootstrap, heats, reached, signed_rank
from kernelevolve.race.synthetic import CHOICES, FAILING, KINDS, NOISE, OPTIONS, synthetic
from kernelevolve.runs import create_run, tail
from kernelevolve.search.fitness import fitness
from kernelevolve.search.islands import ArchipelagoReducer
from kernelevolve.search.map_elites import ArchiveReducer
from kernelevolve.testing import fake_folder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECORDED = sorted(file for folder in ("landscapes", "landscapes_h200") for file in (BENCHMARKS / folder).glob("*.gz"))


def raced(landscape: Landscape, policy: str, folder: Path, *, seed: int = 0, candidates: int = 60) -> Graph:
    plan = RacePlan((policy,), 1, candidates)
    run = create_run(
        folder, landscape.problem, landscape.platform, replaying(landscape), settings=plan.settings,
        policy=plan.component(policy), seed=seed,
    )  # fmt: skip
    with run:
        asyncio.run(run.drive())
        return run.graph


# -- made-up landscapes


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_a_made_up_landscape_is_known(kind: str) -> None:
    landscape = synthetic(kind)
    assert len(landscape.places) == OPTIONS**CHOICES == landscape.evaluated
    course = recorded_course(landscape)
    truths = [one.truth for one in landscape.candidates]
    assert course.best == max(t for t in truths if t is not None) and course.evidence == "made up, replayed"
    assert synthetic(kind) == landscape and synthetic(f"{kind}:1") != landscape
    for place in landscape.places[::100]:
        assert len({step.to for step in place.steps}) == CHOICES * (OPTIONS - 1)


def test_each_kind_has_its_difficulty() -> None:
    wrong = [c for c in synthetic("failures").candidates if c.evaluation and not c.evaluation.correct]
    assert abs(len(wrong) / OPTIONS**CHOICES - FAILING) < 0.05
    assert {c.evaluation.verdict for c in wrong if c.evaluation} == {Verdict.WRONG_VALUE, Verdict.COMPILE_ERROR}
    for number in range(3):
        deceptive = synthetic(f"deceptive:{number}")
        best = max(range(len(deceptive.places)), key=lambda i: deceptive.candidates[i].truth or 0.0)
        around = [deceptive.candidates[s.to].truth or 0.0 for s in deceptive.places[best].steps]
        assert max(around) < 0.9 * (deceptive.candidates[best].truth or 0.0), "its neighbours do not tell"
        assert uphill(deceptive) != best, "and going uphill leads away"
        plateau = synthetic(f"plateau:{number}")
        here = plateau.candidates[0].truth
        flat = sum(plateau.candidates[step.to].truth == here for step in plateau.places[0].steps)
        assert flat == CHOICES * (OPTIONS - 1), "no single move helps"
    assert synthetic("noisy").noise == NOISE


def uphill(landscape: Landscape) -> int:
    at = 0
    while True:
        to = max((s.to for s in landscape.places[at].steps), key=lambda i: landscape.candidates[i].truth or 0.0)
        if (landscape.candidates[to].truth or 0.0) <= (landscape.candidates[at].truth or 0.0):
            return at
        at = to


def test_noise_is_the_runs_own_and_the_truth_is_what_counts(tmp_path: Path) -> None:
    landscape = synthetic("noisy")
    one, same, other = (
        raced(landscape, "greedy", tmp_path / name, seed=seed, candidates=15)
        for name, seed in (("one", 4), ("same", 4), ("other", 5))
    )
    first = [next(iter(graph.nodes.values())).fitness for graph in (one, same, other)]
    assert first[0] == first[1] != first[2]
    assert first[0].low is not None and first[0].low < first[0].value < (first[0].high or 0.0)
    lap = run_laps(RacePlan(("greedy",), 1, 15), [recorded_course(landscape)])[0]
    truths = {one.truth for one in landscape.candidates}
    assert set(lap.best) <= truths


@pytest.mark.parametrize(("name", "error"), [("bogus", UnknownName), ("noisy:x", UsageError), ("", UnknownName)])
def test_a_made_up_landscape_that_is_none_is_refused(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        synthetic(name)


# -- replaying


def test_nothing_is_evaluated_and_everything_says_that_it_is_replayed(tmp_path: Path) -> None:
    landscape = synthetic("failures")
    graph = raced(landscape, "mcts", tmp_path / "run")
    known = {c.source: c for c in landscape.candidates}
    for node in graph.nodes.values():
        recorded = known[node.candidate.source].evaluation
        assert recorded is not None and node.evaluation.verdict is recorded.verdict
        assert "replayed" in node.evaluation.labels
        for timing in node.evaluation.timings:
            assert timing.candidate.how.endswith(", replayed") and timing.candidate.evidence is Evidence.MODELLED
    assert [e.event.candidate for e in tail(tmp_path / "run") if isinstance(e.event, Evaluated)] == list(graph.nodes)


def test_children_are_one_recorded_step_away_and_drafts_any_number(tmp_path: Path) -> None:
    landscape = synthetic("plateau")
    graph = raced(landscape, "islands", tmp_path / "run")
    numbers = {plan_key(place.plan): i for i, place in enumerate(landscape.places)}
    place = {node.id: numbers[plan_key(node.candidate.plan)] for node in graph.nodes.values()}
    crossed = 0
    for node in graph.nodes.values():
        led = {step.to for parent in node.parents for step in landscape.places[place[parent]].steps}
        assert not node.parents or place[node.id] in led
        crossed += len(node.parents) == 2
    assert crossed


def test_a_place_without_untried_steps_ends_the_line_and_then_the_run(tmp_path: Path) -> None:
    whole = synthetic("plateau")
    kept = {0, 1, 2, 3}
    candidates = tuple(c if i in kept else replace(c, evaluation=None) for i, c in enumerate(whole.candidates))
    graph = raced(replace(whole, candidates=candidates), "greedy", tmp_path / "run")
    assert {node.candidate.source for node in graph.nodes.values()} <= {candidates[i].source for i in kept}
    assert graph.finished == "no moves left"


def test_only_the_first_of_those_with_the_same_launches_pays_for_the_device(tmp_path: Path) -> None:
    whole = synthetic("plateau")
    known = [(c, c.evaluation) for c in whole.candidates if c.evaluation]
    costly = [replace(c, evaluation=replace(found, device_seconds=3.0)) for c, found in known]
    twins = tuple(replace(c, twin=i - i % 2 if i % 2 else None) for i, c in enumerate(costly))
    graph = raced(replace(whole, candidates=twins), "greedy", tmp_path / "run")
    numbers = {c.source: i for i, c in enumerate(twins)}
    groups = [numbers[node.candidate.source] // 2 for node in graph.nodes.values()]
    paid = [node.evaluation.device_seconds for node in graph.nodes.values()]
    assert paid == [0.0 if group in groups[:i] else 3.0 for i, group in enumerate(groups)]


def test_an_empty_landscape_is_refused() -> None:
    whole = synthetic("plateau")
    with pytest.raises(StoreError, match="no evaluated first kernel; go on recording"):
        recorded_course(unevaluated(whole))
    with pytest.raises(StoreError, match="no evaluated first kernel"):
        recorded_course(replace(whole, places=(), candidates=()))


def test_drafts_are_random_moves_of_any_number() -> None:
    translator = RecordedTranslator(synthetic("plateau"))

    def moves(seed: int) -> int:
        return asyncio.run(translator.first(seed)).note.count(", then ")

    lengths = [moves(seed) for seed in range(300)]
    assert lengths[0] == 0 and min(lengths[1:]) == 1 and max(lengths) > 4
    assert abs(sum(length == 1 for length in lengths) / 300 - 0.5) < 0.1


def test_a_step_that_cannot_be_written_is_not_made() -> None:
    for seed in range(1, 50):
        made = random_moves(seed, 0, lambda at: [at + 1, -1], lambda step: step if step > 0 else None)
        assert made == list(range(1, len(made) + 1)) and made
    assert random_moves(7, 0, lambda at: [-1], lambda step: None) == []


# -- files


def unevaluated(landscape: Landscape) -> Landscape:
    return replace(landscape, candidates=tuple(replace(c, evaluation=None) for c in landscape.candidates))


def small() -> Landscape:
    whole = synthetic("failures")
    return replace(whole, made_up=False)


@pytest.mark.parametrize("name", ["one.jsonl", "one.jsonl.gz"])
def test_a_file_gives_back_what_was_recorded(tmp_path: Path, name: str) -> None:
    landscape = small()
    file = tmp_path / name
    recorder = Recorder(file, unevaluated(landscape))
    for number in (0, 5, 3):
        evaluation = landscape.candidates[number].evaluation
        assert evaluation is not None
        recorder.add(number, evaluation, 0 if number == 3 else None)
        assert read_landscape(file) == recorder.landscape, "it is on disk as soon as it is told"
    before = file.stat().st_size
    recorder.pack()
    found = read_landscape(file)
    assert found == recorder.landscape and found.evaluated == 3 and found.candidates[3].twin == 0
    assert file.stat().st_size <= before
    assert found.candidates[0].evaluation == slim(landscape.candidates[0].evaluation)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == [name], "no draft is left behind"


@pytest.mark.parametrize("name", ["one.jsonl", "one.jsonl.gz"])
@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path, name: str, cut: int) -> None:
    file, landscape = tmp_path / name, small()
    recorder = Recorder(file, unevaluated(landscape))
    for number in (0, 1):
        recorder.add(number, landscape.candidates[number].evaluation)  # type: ignore[arg-type]
    file.write_bytes(file.read_bytes()[:-cut])
    found = read_landscape(file)
    assert found.evaluated in (1, 2) and found.candidates[0].evaluation is not None
    Recorder(file, found).add(1, landscape.candidates[1].evaluation)  # type: ignore[arg-type]
    assert read_landscape(file).evaluated == 2


def head(file: Path, **changed: object) -> None:
    data = json.loads(file.read_text().splitlines()[0])
    file.write_text(json.dumps({**data, **changed}) + "\n")


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"landscape": 99}, StoreTooNew, "version 99, this KernelEvolve knows 1; upgrade"),
        ({"landscape": 0}, StoreError, "version 0, 1 is needed; record it again"),
        ({"places": 7}, StoreError, "is no landscape"),
        ({"bogus": 7}, StoreError, "unknown field 'bogus'"),
        ({"candidates": []}, StoreError, "a step leads out of the landscape"),
    ],
)
def test_a_file_that_is_none_or_anothers_says_so(
    tmp_path: Path, changed: dict[str, object], error: type[Exception], said: str
) -> None:
    file = tmp_path / "one.jsonl"
    Recorder(file, small())
    head(file, **changed)
    with pytest.raises(error, match=said):
        read_landscape(file)


@pytest.mark.parametrize("text", [b"", b"hello\n", b"[1]\n", b"{}\n", b"\xff\xfe\n", gzip.compress(b"x", mtime=0)[:12]])
def test_anything_else_is_no_landscape(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "one.jsonl"
    file.write_bytes(text)
    with pytest.raises(StoreError, match=r"landscape"):
        read_landscape(file)
    with pytest.raises(StoreError, match="cannot be read"):
        read_landscape(tmp_path / "absent.jsonl")


def test_entries_are_files_folders_and_kinds(tmp_path: Path) -> None:
    Recorder(tmp_path / "one.jsonl.gz", small())
    assert [c.name for c in recorded_courses([str(tmp_path)])] == [small().name]
    assert len(recorded_courses(["synthetic"])) == len(KINDS)
    with pytest.raises(UsageError, match="there twice; a course counts once"):
        recorded_courses([str(tmp_path), str(tmp_path / "one.jsonl.gz")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="record some"):
        recorded_courses([str(tmp_path / "empty")])


# -- standings


def lap(course: str, policy: str, best: Sequence[float], seed: int = 0, device: float = 0.0) -> Lap:
    held = tuple(device * (i + 1) for i in range(len(best)))
    return Lap(course, policy, seed, tuple(best), held, (0.0,) * len(best), held, 0, 0, "")


def test_what_is_needed_is_told_from_the_curves() -> None:
    plan = RacePlan(("greedy", "best_of_n"), 1, 4)
    courses = [replace(recorded_course(synthetic(f"plateau:{i}")), best=2.0) for i in range(2)]
    laps = [
        lap(courses[0].name, "greedy", [1.0, 2.0, 2.0, 2.0], device=1.0),
        lap(courses[0].name, "best_of_n", [1.0, 1.0, 1.0, 1.5], device=1.0),
        lap(courses[1].name, "greedy", [1.0, 1.0, 1.0, 1.0], device=1.0),
        lap(courses[1].name, "best_of_n", [1.0, 2.0], device=1.0),
    ]
    (heat,) = heats(plan, courses, laps)
    greedy, control = heat.standings
    assert greedy.evaluations is not None and greedy.device is not None
    assert greedy.evaluations.ratio == pytest.approx((2 / 4 * 4 / 2) ** 0.5), "never reached: all that was spent"
    assert greedy.evaluations.missed == 0.5 and greedy.device.ratio == pytest.approx(1.0)
    assert heat.by_course["greedy"] == {courses[0].name: pytest.approx(0.5), courses[1].name: pytest.approx(2.0)}
    assert (greedy.area, control.area) == (pytest.approx((7 / 8 + 1 / 2) / 2), pytest.approx((4.5 / 8 + 7 / 8) / 2))
    assert heat.settled == () and greedy.climbing == greedy.evaluations
    assert heat.halved is False and greedy.found == 0.5 and greedy.rank == 1.5 and greedy.p is None


def test_the_control_is_held_against_itself_with_the_next_seed() -> None:
    plan = RacePlan(("greedy", "best_of_n"), 2, 8)
    course = replace(recorded_course(synthetic("plateau")), best=2.0)
    lucky, unlucky = [2.0] * 8, [1.0, 1.0, 1.0, 2.0]
    laps = [lap(course.name, "greedy", lucky, seed) for seed in range(2)]
    laps += [lap(course.name, "best_of_n", best, seed) for seed, best in enumerate((lucky, unlucky))]
    (heat,) = heats(plan, [course], laps)
    assert [s.evaluations and s.evaluations.ratio for s in heat.standings] == pytest.approx([0.5, 1.0])
    laps[-1] = lap(course.name, "best_of_n", [1.0] * 8, 1)
    (heat,) = heats(plan, [course], laps)
    control = heat.standings[1].evaluations
    assert control is not None and control.ratio == pytest.approx(8**0.5) and control.missed == 0.5


def test_courses_on_which_nothing_is_to_be_found_are_told() -> None:
    plan = RacePlan(("greedy", "best_of_n"), 1, 4)
    courses = [replace(recorded_course(synthetic(f"plateau:{i}")), best=2.0) for i in range(2)]
    laps = [
        lap(courses[0].name, "greedy", [1.0, 2.0]), lap(courses[0].name, "best_of_n", [1.0, 1.0, 1.0, 2.0]),
        lap(courses[1].name, "greedy", [2.0, 2.0]), lap(courses[1].name, "best_of_n", [2.0, 2.0]),
    ]  # fmt: skip
    (heat,) = heats(plan, courses, laps)
    assert heat.settled == (courses[1].name,)
    greedy = heat.standings[0]
    assert greedy.evaluations is not None and greedy.evaluations.ratio == pytest.approx(0.5**0.5)
    assert greedy.climbing is not None and greedy.climbing.ratio == pytest.approx(0.5) and heat.halved is False


def test_measured_and_modelled_are_never_averaged() -> None:
    courses = [replace(recorded_course(synthetic(f"plateau:{i}")), evidence=e) for i, e in enumerate(("a", "b", "a"))]
    laps = [lap(c.name, "greedy", [1.0, 1.2]) for c in courses]
    found = heats(RacePlan(("greedy",), 1, 2), courses, laps)
    assert [(heat.evidence, len(heat.courses), heat.halved) for heat in found] == [("a", 2, None), ("b", 1, None)]


def test_areas_and_first_times() -> None:
    assert area(lap("", "", [0.0, 1.0]), 2.0, 4) == pytest.approx((0 + 0.5 + 0.5 + 0.5) / 4)
    assert area(lap("", "", []), 2.0, 4) == 0.0
    assert reached(lap("", "", [1.0, 1.0, 3.0], device=2.0), 2.0, "device") == 6.0
    assert reached(lap("", "", [1.0]), 2.0, "evaluations") is None


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64),
        ([-1, 2, 3, 4, 5, 6], 4 / 64),
        # Wilcoxon's table: T = 8 is the two-sided 5 % point for n = 10.
        ([-8, 1, 2, 3, 4, 5, 6, 7, 9, 10], 0.048828125),
        ([1, 2, 3, 4, 5], None),
        ([0, 0, 1, 2, 3, 4, 5], None),
    ],
)
def test_the_signed_rank_test_is_that_of_the_tables(differences: list[float], p: float | None) -> None:
    assert signed_rank(differences) == (pytest.approx(p) if p is not None else None)


@bounds(deadline=None, max_examples=40)
@given(st.lists(st.integers(-4, 4).map(float), min_size=6, max_size=9))
def test_the_signed_rank_test_counts_all_signs(differences: list[float]) -> None:
    left = sorted((abs(d) for d in differences if d), key=abs)
    found = signed_rank(differences)
    if len(left) < 6:
        assert found is None
        return
    ranks = [sum(x < d for x in left) + (sum(x == d for x in left) + 1) / 2 for d in left]
    every = itertools.product((0, 1), repeat=len(left))
    sums = [sum(r for r, sign in zip(ranks, signs, strict=True) if sign) for signs in every]
    positive = sum(
        sum(x < d for x in left) + (sum(x == d for x in left) + 1) / 2 for d in differences if d > 0
    )
    low = min(positive, sum(ranks) - positive)
    assert found == pytest.approx(min(1.0, 2 * sum(s <= low + 1e-9 for s in sums) / len(sums)))


def test_the_bootstrap_covers_and_is_the_same_again() -> None:
    luck, hits = random.Random(1), 0
    for _ in range(20):
        values = [luck.gauss(1.0, 0.5) for _ in range(20)]
        low, high = bootstrap(values, lambda v: sum(v) / len(v))
        assert low is not None and high is not None
        hits += low < 1.0 < high
    assert hits >= 16
    assert bootstrap([1.0], max) == (None, None)
    assert bootstrap(values, max) == bootstrap(values, max)


# -- the race as a whole


def test_the_same_race_gives_the_same_laps_and_a_picture() -> None:
    plan = RacePlan(("greedy", "map_elites:drafts=2,crossover=1.0", "best_of_n"), 2, 12)
    courses = recorded_courses(["synthetic:plateau", "synthetic:failures"])
    one, other = run_race(plan, courses), run_race(plan, courses)
    # What writing took is wall time; nothing else may differ.
    assert one.laps == other.laps and one.facts() == other.facts()
    assert len(one.laps) == 12 and all(len(lap.best) == 12 for lap in one.laps)
    assert all(a <= b for lap in one.laps for a, b in itertools.pairwise(lap.best))
    picture = race_svg(plan, courses, one.laps)
    assert picture.count("<polyline") == 6 and "map_elites:drafts=2" in picture and picture.endswith("</svg>\n")
    curves = one.facts()["laps"]
    assert all(c["curve"][-1][0] == c["told"] == 12 for c in curves)


@pytest.mark.parametrize(
    ("policies", "seeds", "candidates", "said"),
    [
        (("greedyy",), 1, 9, "known: beam, best_of_n, greedy"),
        (("greedy:drats=2",), 1, 9, "drafts"),
        (("greedy", "greedy"), 1, 9, "different policies"),
        ((), 1, 9, "different policies"),
        (("greedy",), 0, 9, "1 seed and 2 candidates"),
        (("greedy",), 1, 1, "1 seed and 2 candidates"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(policies: tuple[str, ...], seeds: int, candidates: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RacePlan(policies, seeds, candidates)


def test_drafts_that_use_up_the_budget_are_refused() -> None:
    with pytest.raises(UsageError, match="makes 12 drafts and the race has 12 candidates"):
        run_race(RacePlan(("mcts:drafts=12",), 1, 12), recorded_courses(["synthetic:plateau"]))
    with pytest.raises(UsageError, match="nothing to race on"):
        run_race(RacePlan(("mcts",), 1, 12), [])


# -- real populations, on what was recorded


def recorded(name: str) -> Landscape:
    return read_landscape(next(file for file in RECORDED if name in file.name))


def test_the_recordings_are_whole_and_hold_no_text_of_a_problem() -> None:
    assert len(RECORDED) >= 12
    for file in RECORDED:
        landscape = read_landscape(file)
        text = landscape.problem.source
        assert landscape.evaluated >= 8 and text.startswith("# ") and len(text.splitlines()) == 1
        assert all(kernel["about"] == "" for place in landscape.places for kernel in place.plan["kernels"])
        right = [c.evaluation for c in landscape.candidates if c.evaluation and c.evaluation.correct]
        assert right and all(fitness(landscape.problem, found).value > 0 for found in right)
        assert file.stat().st_size < 100_000


def test_islands_differ_and_exchange_on_a_real_population(tmp_path: Path) -> None:
    plan = RacePlan(("islands",), 1, 30)
    landscape = recorded("level1_1_")
    run = create_run(
        tmp_path / "run", landscape.problem, landscape.platform, replaying(landscape), settings=plan.settings,
        policy="islands:islands=3,drafts=3,migration=3",
    )  # fmt: skip
    with run:
        asyncio.run(run.drive())
        islands = run.graph.reduced(ArchipelagoReducer.name).islands
    members = [frozenset(island.members) for island in islands]
    assert all(members) and len(set(members)) == 3
    assert sum(island.arrived for island in islands) >= 2


def test_the_archive_keeps_several_kinds_of_a_real_population(tmp_path: Path) -> None:
    plan = RacePlan(("map_elites",), 1, 30)
    landscape = recorded("level1_1_")
    run = create_run(
        tmp_path / "run", landscape.problem, landscape.platform, replaying(landscape), settings=plan.settings,
        policy="map_elites:drafts=3",
    )  # fmt: skip
    with run:
        asyncio.run(run.drive())
        graph, cells = run.graph, run.graph.reduced(ArchiveReducer.name).cells
        elites = {ranked.best for ranked in cells.values()}
        assert len(cells) >= 2
        parents = {parent for node in graph.nodes.values() for parent in node.parents}
        assert len(parents & elites) >= 2, "more than one kind has children"


# -- the command


def code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_the_command_says_what_it_found_and_gives_it_to_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["race", "synthetic:noisy", "--policies", "greedy,best_of_n", "--seeds", "2", "--candidates", "12"]
    assert code([*arguments, "--json", "--out", str(tmp_path / "o.json"), "--plot", str(tmp_path / "p.svg")]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out.splitlines()[-1])
    assert data["verdict"] is None and data["correct"] is False
    assert [s["policy"] for s in data["heats"][0]["standings"]] == ["greedy", "best_of_n"]
    assert "candidates that best_of_n needs" in err and "no test: it takes six courses" in err
    assert {"verdict": None, "correct": False, **json.loads((tmp_path / "o.json").read_text())} == data
    assert (tmp_path / "p.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["synthetic:bogus"], "known: deceptive, failures, noisy, plateau"),
        (["level1/1"], "to race on a problem itself: --live; to record it: kernelevolve race record"),
        (["absent.jsonl"], "cannot be read"),
        (["synthetic", "--policies", "best"], "unknown policy 'best'; known: beam"),
        (["synthetic", "--policies", "mcts:bogus=1"], "children"),
        (["synthetic", "--effort", "huge"], "known: quick, standard, deep"),
        (["synthetic", "--live"], "is a recording; leave out --live"),
        (["synthetic", "--plot", "absent/p.svg"], "there is no folder"),
        (["record", "absent.py", "--to", "x.jsonl"], "absent.py"),
        (["record", "relu.py", "--to", "x.jsonl", "--values", "some"], "unknown way to compare values"),
        (["record", "relu.py", "--to", "x.jsonl", "--platform", "z80"], "known: a100"),
    ],
)
def test_what_cannot_be_raced_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(fake_folder(tmp_path).parent)
    assert code(["race", *arguments]) != 0
    err = capsys.readouterr().err.strip()
    assert said in err and len(err.splitlines()) == 1
