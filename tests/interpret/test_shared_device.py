"""Candidates that share a device in a search: right verdicts for all, times taken alone, neighbours not to blame."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernelevolve import plugins
from kernelevolve.candidate import Candidate
from kernelevolve.evaluate import measure, seat
from kernelevolve.evaluate.arms import Arm
from kernelevolve.evaluate.asking import Killed
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import Failed
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.roles import Conversation, Roles
from kernelevolve.evaluate.timing import Blocks
from kernelevolve.evaluate.twins import Twins
from kernelevolve.evaluation import Evaluation, Verdict
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Description
from kernelevolve.settings import LANES, LaneName, settings_for

REFERENCE = """
import torch
import torch.nn as nn

COUNT = 4096


class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x)


def get_inputs():
    return [torch.randn(COUNT)]


def get_init_inputs():
    return []
"""
HONEST = """
import torch
import torch.nn as nn
import triton
import triton.language as tl

{before}


@triton.jit
def relu(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, i < n)
    tl.store(y + i, {value}, i < n)


class ModelNew(nn.Module):
    def forward(self, x):
{body}
        y = torch.empty_like(x)
        relu[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), BLOCK=1024)
        return y
"""


def text(value: str = "tl.where(v < 0, 0.0, v)", before: str = "", body: str = "") -> str:
    return HONEST.format(value=value, before=before, body=body)


# Only where forward has data: the builder's recording must not see it.
DIES = text(body="        import os, sys\n        if 'worker' in sys.argv:\n            os.kill(os.getpid(), 9)")
KINDS = {
    "honest": (text(), {Verdict.OK_FASTER, Verdict.OK_SAME, Verdict.OK_SLOWER, Verdict.INCONCLUSIVE}),
    "wrong": (text("tl.where(v < 0, 0.0, v * 1.01)"), {Verdict.WRONG_VALUE}),
    "dies": (DIES, {Verdict.OOM, Verdict.CRASH}),
}


def ladder_for(reference: str, roles: Roles, builds: Path) -> Ladder:
    problem = parse_problem(reference, None, name="relu", suite="folder", path="relu.py")
    problem = dataclasses.replace(problem, baselines=("eager",))
    bench = Bench(problem, roles, builds)
    platform = plugins.load("platforms", "h100")
    device = Device("cpu", "this CPU", full_cases=2, blocks=Blocks(2, 0), answers=platform.device_answers())
    costs = SimpleNamespace(candidate=lambda *_: (), baselines=lambda *_: {}, least=lambda *_: ())
    made = Ladder(bench, platform, settings_for("quick"), costs, seed=0, device=device, interpret=False)
    # On a CPU there is nothing that a second process could disturb but time.
    made.lane = dataclasses.replace(LANES["screen"], structure=(), hidden=0, defences=("timed-outputs", "census"))
    made.modelling.limit = lambda climb, built: ""  # type: ignore[method-assign]
    return made


def close(made: Ladder) -> None:
    assert made.device is not None
    made.device.close(made.bench)
    made.builder.close()
    made.bench.close()


@pytest.fixture
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ladder]:
    roles = Roles()
    made = ladder_for(REFERENCE, roles, tmp_path_factory.mktemp("builds"))
    yield made
    close(made)
    roles.close()


def climb_all(ladder: Ladder, names: list[str]) -> dict[int, Evaluation | BaseException]:
    found: dict[int, Evaluation | BaseException] = {}

    def one(number: int, name: str) -> None:
        candidate = Candidate(f"n{number}", "b0", "guest", f"{KINDS[name][0]}\n# {number}\n")
        try:
            try:
                found[number] = ladder.climb(candidate, lambda rung: None, lambda data: "kept")
            except Killed:  # by whom is not known the first time; as in a run it is tried once more
                found[number] = ladder.climb(candidate, lambda rung: None, lambda data: "kept")
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_each_gets_its_own_verdict_and_is_timed_alone(ladder: Ladder, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["honest", "wrong", "dies", "honest"]
    spans: list[tuple[float, float]] = []
    entered = seat.Share.alone

    class Spanned:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def __enter__(self) -> None:
            self.inner.__enter__()  # type: ignore[attr-defined]
            self.start = time.monotonic()

        def __exit__(self, *error: object) -> None:
            spans.append((self.start, time.monotonic()))
            self.inner.__exit__(*error)  # type: ignore[attr-defined]

    monkeypatch.setattr(seat.Share, "alone", lambda self, *how: Spanned(entered(self, *how)))
    found = climb_all(ladder, names)
    for number, name in enumerate(names):
        got = found[number]
        assert isinstance(got, Evaluation), got
        assert got.verdict in KINDS[name][1], (name, got.rungs[-1].message)
        assert got.device_seconds > 0 or name == "dies"
    ordered = sorted(spans)
    assert len(ordered) >= 3, "two candidates and the first look at the baseline"
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered)), "two were timed at once"
    timed = [g for n in (0, 3) for g in found[n].guards if g.name == "timed-outputs"]  # type: ignore[union-attr]
    assert all(g.held == "held" and "timed calls compared" in g.detail for g in timed)


def test_both_arms_of_a_screen_get_the_same_calls(ladder: Ladder, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[Arm, dict[int, object]] = {}
    burst = Arm.__call__

    def noted(self: Arm, calls: int) -> Sequence[float]:
        due = self.turns(self.number, self.shape.untimed + calls)
        called.setdefault(self, {})[self.number] = self.shape.untimed, [(c.slot, c.case.seed) for c in due]
        return burst(self, calls)

    monkeypatch.setattr(Arm, "__call__", noted)
    assert isinstance(found := climb_all(ladder, ["honest"])[0], Evaluation), found
    timed = [bursts for bursts in called.values() if 0 not in bursts]  # number 0 is the first look at the baseline
    assert len(timed) == 2, "the candidate and the baseline"
    both = sorted(timed[0].keys() & timed[1].keys())
    assert len(both) >= 8
    assert [timed[0][number] for number in both] == [timed[1][number] for number in both]


def test_a_failure_beside_others_is_looked_at_again_alone(ladder: Ladder, monkeypatch: pytest.MonkeyPatch) -> None:
    rungs, tried = ladder._on(ladder.device)._rungs.__func__, []  # type: ignore[arg-type,attr-defined]

    def crowded_out(self: object, climb: object, visit: seat.Share, *rest: object) -> Verdict:
        tried.append(visit.crowded)
        if len(tried) == 1:
            visit._share.crowded = True
            raise Failed(Verdict.OOM, "a neighbour has the memory")
        return rungs(self, climb, visit, *rest)  # type: ignore[no-any-return]

    monkeypatch.setattr("kernelevolve.evaluate.on_device.OnDevice._rungs", crowded_out)
    (found,) = climb_all(ladder, ["honest"]).values()
    assert isinstance(found, Evaluation), found
    assert found.verdict.ok, found.rungs[-1].message
    assert tried == [False, False]
    assert any("tried again alone" in label for label in found.labels)
    assert [r.rung.value for r in found.rungs].count("time") == 1, "what the first try reported is gone"


def test_who_is_built_to_the_same_launches_as_a_measured_one_holds_no_device(ladder: Ladder) -> None:
    ladder.twins = Twins()
    source = KINDS["honest"][0]
    first = ladder.climb(Candidate("n0", "b0", "guest", source), lambda rung: None, lambda data: "kept")
    assert first.correct and first.device_seconds > 0
    rungs: list[str] = []
    # Another text of the kernel, and yet the same code.
    other = text("tl.where(0.0 > v, 0.0, v)")
    assert other != source
    again = ladder.climb(Candidate("n1", "b1", "guest", other), rungs.append, lambda data: "kept")
    assert rungs == ["check", "plan", "build"] and again.device_seconds == 0.0
    assert (again.verdict, again.timings) == (first.verdict, first.timings)
    assert again.rungs[-1].status == "skipped" and "its launches are those of n0" in again.rungs[-1].message
    assert {guard.held for guard in again.guards} <= {"not run"}
    # What else a file does may show on a device alone.
    host = ladder.climb(Candidate("n3", "b3", "guest", f"SPARE = 1\n{source}"), rungs.append, lambda data: "kept")
    assert host.correct and host.device_seconds > 0
    wrong = ladder.climb(Candidate("n2", "b2", "guest", KINDS["wrong"][0]), rungs.append, lambda data: "kept")
    assert not wrong.correct and wrong.device_seconds > 0


def test_baselines_with_rings_of_different_lengths_are_timed_on_the_slots_that_all_have(
    ladder: Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = ladder.bench
    bench.problem = dataclasses.replace(bench.problem, baselines=("one", "other"))
    place, *others = (Device("cpu", "this CPU", full_cases=1) for _ in range(3))
    made = dict(zip(bench.problem.baselines, others, strict=True))
    monkeypatch.setattr(place, "baseline", lambda of, workload, arm: made[arm].baseline(of, workload, "eager"))
    ahead = {"seed": 5, "distribution": "declared", "seconds": 0.0, "hold": 0}
    # Each takes what memory leaves it: here the first one less.
    for arm, most in (("one", 4), ("other", 6)):
        bench.judged(place.baseline(bench, "declared", arm), "warm", {**ahead, "slots": 0, "most": most})
    try:
        judges, facts = place.warm_baselines(bench, "declared", {**ahead, "slots": 0, "most": 6})
        assert list(judges) == ["one", "other"] and facts["slots"] == 4
        for judge in judges.values():
            calls = [[slot, slot] for slot in range(facts["slots"])]
            bench.judged(judge, "renew", {"calls": calls, "distribution": "declared"})
            assert len(bench.judged(judge, "burst", {"mode": "cold", "untimed": 1}).body["milliseconds"]) == 3
    finally:
        for one in others:
            one.free()


def test_a_screen_keeps_the_one_baseline_beside_which_candidates_are_timed(
    ladder: Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, place = ladder.bench, ladder.device
    assert place is not None
    bench.problem = dataclasses.replace(bench.problem, baselines=("eager", "another"))
    opened: list[Conversation] = []
    asked = Bench.judged

    def judged(self: Bench, judge: Conversation, kind: str, body: Mapping[str, Any], *given: Any, **rules: Any) -> Any:
        if kind == "baseline":
            opened.append(judge)
            body = {**body, "arm": "eager"}
        return asked(self, judge, kind, body, *given, **rules)

    monkeypatch.setattr(Bench, "judged", judged)
    first, second = (
        ladder.climb(Candidate(f"n{i}", f"b{i}", "guest", text(before=f"# {i}")), print, lambda data: "kept")
        for i in range(2)
    )
    ((timing,), (again,)) = first.timings, second.timings
    (known,) = place.pilots.values()
    assert set(known) == {"eager", "another"} and timing.against == min(known, key=known.__getitem__)
    assert list(timing.baselines) == [timing.against] == list(again.baselines), "one is timed beside candidates"
    assert list(timing.aside) == [arm for arm in known if arm != timing.against]
    assert len(opened) == 2 and [place.arms(bench, "declared")] == [[timing.against]]
    assert [judge.role.gone or judge.channel.sock.fileno() < 0 for judge in opened].count(True) == 1


@pytest.mark.parametrize(("lane", "queues"), [("screen", "2"), ("accept", None)])
def test_who_shares_a_device_makes_a_context_with_few_queues(
    ladder: Ladder, lane: LaneName, queues: str | None
) -> None:
    asks = f"        import os, sys\n        assert 'worker' not in sys.argv or os.environ.get(QUEUES) == {queues!r}"
    source = text(before="QUEUES = 'CUDA_DEVICE_MAX_CONNECTIONS'", body=asks)
    rules = {"structure": (), "hidden": 0, "defences": ("timed-outputs", "census"), "processes": 1, "modes": ("cold",)}
    ladder.lane = dataclasses.replace(LANES[lane], **rules)
    found = ladder.climb(Candidate("n0", "b0", "guest", source), print, lambda data: "kept")
    assert found.correct, found.rungs


def test_problems_take_turns_where_the_memory_does_not_hold_the_judges_of_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measure, "judges_share", lambda *_, **__: 0.6)
    there: set[int] = set()
    most: list[int] = []
    opened, ended = Bench.oracle, Bench.forget

    def oracle(self: Bench, description: Description, device: str) -> object:
        if description.variant.size == "full":
            there.add(id(self))
            most.append(len(there))
        return opened(self, description, device)

    def forget(self: Bench, description: Description, device: str) -> None:
        there.discard(id(self))
        ended(self, description, device)

    monkeypatch.setattr(Bench, "oracle", oracle)
    monkeypatch.setattr(Bench, "forget", forget)
    roles = Roles()
    sizes = (4096, 2048, 1024)
    ladders = [ladder_for(REFERENCE.replace("4096", str(n)), roles, tmp_path / str(n)) for n in sizes]
    found: dict[int, dict[int, Evaluation | BaseException]] = {}

    def one(number: int) -> None:
        found[number] = climb_all(ladders[number], ["honest", "wrong", "honest"])
        close(ladders[number])

    jobs = [threading.Thread(target=one, args=(number,)) for number in range(len(ladders))]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(240)
        assert not job.is_alive(), "a problem waits for ever"
    roles.close()
    for verdicts in found.values():
        for number, name in enumerate(["honest", "wrong", "honest"]):
            got = verdicts[number]
            assert isinstance(got, Evaluation), got
            assert got.verdict in KINDS[name][1]
    assert most and max(most) == 1, "two problems' judges were on the device"
