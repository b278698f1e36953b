"""Statistics against published tables and by simulation, and the timing rung with arms whose truth is known."""

from __future__ import annotations

import itertools
import math
import random
import sys

import pytest

from kernelevolve import codec
from kernelevolve.evaluate.statistics import apart, confidence_of, judge_ratio, log_interval, paired_ratio, t_quantile
from kernelevolve.evaluate.timing import (
    BURSTS,
    CANDIDATE,
    Blocks,
    Burst,
    NothingCounts,
    Timed,
    calls_per_burst,
    interleave,
    ratio_of,
    time_arms,
)
from kernelevolve.evaluation import Evidence, Samples, Verdict

# Two-sided 95 % and 99 % quantiles of Student's t, as printed in every table.
TABLE = {1: (12.706, 63.657), 2: (4.303, 9.925), 3: (3.182, 5.841), 5: (2.571, 4.032), 11: (2.201, 3.106),
         29: (2.045, 2.756), 120: (1.980, 2.617)}  # fmt: skip


@pytest.mark.parametrize("freedom", TABLE)
def test_t_quantiles_are_those_of_the_tables(freedom: int) -> None:
    for confidence, wanted in zip((0.95, 0.99), TABLE[freedom], strict=True):
        assert t_quantile(freedom, confidence) == pytest.approx(wanted, abs=6e-4)


def test_what_no_interval_can_be_made_of_is_refused() -> None:
    with pytest.raises(ValueError, match="two samples"):
        t_quantile(0)
    with pytest.raises(ValueError, match="3 and 2"):
        paired_ratio([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="above zero"):
        paired_ratio([1.0, 0.0], [1.0, 1.0])
    one = log_interval([math.log(2.0)])
    assert (one.low, one.value, one.high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize("count", [6, 12, 30])
def test_intervals_cover_the_truth_as_often_as_they_claim(count: int) -> None:
    rng = random.Random(count)
    covered = 0
    for _ in range(3000):
        found = log_interval([rng.gauss(math.log(1.3), 0.02) for _ in range(count)])
        covered += found.low <= 1.3 <= found.high
    assert 0.94 <= covered / 3000 <= 0.96


def arm(rng: random.Random, clock: list[float], milliseconds: float, noise: float = 0.01) -> Burst:
    """Calls that take `milliseconds`, on a device whose clock slows down with every call."""

    def burst(calls: int) -> list[float]:
        clock[0] += calls
        drift = 1 + clock[0] / 2000
        return [milliseconds * drift * math.exp(rng.gauss(0, noise)) for _ in range(calls)]

    return burst


def timed(seed: int, plan: Blocks = Blocks(12, 2), noise: float = 0.01, **arms: float) -> Timed:  # noqa: B008
    rng, clock = random.Random(seed), [0.0]
    made = {name: arm(rng, clock, t, noise) for name, t in arms.items()}
    return time_arms(made, workload="w", platform="h200", choice={"B": 1}, plan=plan, device="a device")


def test_two_equal_arms_differ_no_more_often_than_the_interval_claims() -> None:
    wrong = excluded = 0
    for seed in range(400):
        found = timed(seed, Blocks(12, 0), **{CANDIDATE: 1.0, "eager": 1.0})
        timing = found.timing
        wrong += found.verdict in (Verdict.OK_FASTER, Verdict.OK_SLOWER)
        low, high = timing.speedup.low, timing.speedup.high
        assert low is not None and high is not None
        excluded += not low <= 1.0 <= high
    assert excluded / 400 <= 0.08
    assert wrong == 0


@pytest.mark.parametrize(
    ("candidate", "verdict"), [(0.8, Verdict.OK_FASTER), (1.0, Verdict.OK_SAME), (1.3, Verdict.OK_SLOWER)]
)
def test_a_clock_that_slows_down_does_not_count(candidate: float, verdict: Verdict) -> None:
    found = timed(1, noise=0.001, **{CANDIDATE: candidate, "eager": 1.0, "compile": 1.1})
    timing = found.timing
    assert found.verdict is verdict and timing.against == "eager"
    assert timing.speedup.value == pytest.approx(1 / candidate, rel=0.005)
    assert timing.speedup.evidence is Evidence.MEASURED and timing.candidate.unit == "ms"
    assert set(found.samples.arms) == {CANDIDATE, "eager", "compile"} and timing.knobs == {"B": 1}


def test_the_interval_can_be_computed_again_from_the_samples() -> None:
    found = timed(3, noise=0.02, **{CANDIDATE: 1.0, "eager": 1.3, "compile": 1.2})
    kept = codec.loads(Samples, codec.dumps(found.samples))
    assert kept == found.samples and (kept.workload, kept.platform, kept.unit) == ("w", "h200", "ms")
    step = kept.per_block
    blocks = {name: [b[i : i + step] for i in range(0, len(b), step)] for name, b in kept.arms.items()}
    again, against = ratio_of(blocks, ["eager", "compile"], confidence_of(3))
    said = found.timing.speedup
    assert against == found.timing.against and f"{confidence_of(3):.4g} per look" in said.how
    assert (again.value, again.low, again.high) == (said.value, said.low, said.high)
    assert found.timing.samples == {}


def test_it_goes_on_only_while_nothing_is_decided() -> None:
    clear = timed(0, Blocks(6, 2), **{CANDIDATE: 1.0, "eager": 2.0})
    unclear = timed(0, Blocks(6, 2), noise=0.3, **{CANDIDATE: 2.0, "eager": 2.0})
    assert len(clear.samples.arms["eager"]) == 6 * BURSTS and clear.samples.per_block == BURSTS
    assert len(unclear.samples.arms["eager"]) == 24 * BURSTS
    assert {len(burst) for burst in unclear.samples.arms["eager"]} == {2, 4}
    assert unclear.verdict is Verdict.INCONCLUSIVE


def test_the_order_alternates_and_the_baseline_sets_the_calls() -> None:
    order: list[tuple[str, int]] = []

    def recorded(name: str) -> Burst:
        def burst(calls: int) -> list[float]:
            order.append((name, calls))
            return [1.0] * calls

        return burst

    for block in range(4):
        interleave({n: recorded(n) for n in "ab"}, block, 2, 4)
    assert "".join(name for name, _ in order) == 2 * ("abbaabba" + "baabbaab")
    assert [calls for _, calls in order] == 2 * (4 * [2] + 4 * [4]) + 2 * (4 * [4] + 4 * [2])
    assert [calls_per_burst(t) for t in (0.01, 5.0, 50.0)] == [4, 2, 1]
    for candidate in (0.1, 50.0):
        found = timed(0, Blocks(6, 0), **{CANDIDATE: candidate, "eager": 20.0})
        assert {len(burst) for burst in found.samples.arms[CANDIDATE]} == {1, 2}


class Disturbed:
    """Says of the first blocks that something was wrong."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks

    def why_drop(self, start: float, end: float) -> str:
        self.left -= 1
        return "clocks throttled (0x8)" if self.left >= 0 else ""

    def why_again(self) -> str:
        return ""


class Waiting:
    """Would have every block taken again."""

    def why_drop(self, start: float, end: float) -> str:
        return ""

    def why_again(self) -> str:
        return "a process waited for a processor"


def test_of_four_blocks_one_is_taken_again_and_the_others_count_as_they_are() -> None:
    arms = {n: (lambda calls: [1.0] * calls) for n in (CANDIDATE, "eager")}
    found = time_arms(
        arms, workload="w", platform="", choice={}, plan=Blocks(4, 0), device="d", watch=Waiting()
    )
    assert found.verdict is Verdict.OK_SAME and len(found.samples.arms["eager"]) == 4 * BURSTS
    assert "1 of 5 blocks dropped (a process waited" in found.timing.speedup.how


def test_disturbed_blocks_do_not_count_and_too_many_leave_nothing_to_say() -> None:
    def measure(disturbed: int) -> Timed:
        rng, clock = random.Random(1), [0.0]
        arms = {name: arm(rng, clock, t, 0.001) for name, t in ((CANDIDATE, 1.0), ("eager", 2.0))}
        kept = {"workload": "w", "platform": "h200", "choice": {}, "device": "a device"}
        return time_arms(arms, plan=Blocks(10, 0), watch=Disturbed(disturbed), **kept)  # type: ignore[arg-type]

    some, many = measure(2), measure(3)
    assert some.verdict is Verdict.OK_FASTER and len(some.samples.arms["eager"]) == 10 * BURSTS  # two taken again
    assert (
        many.verdict is Verdict.INCONCLUSIVE and "3 of 12 blocks dropped (clocks throttled" in many.timing.speedup.how
    )
    with pytest.raises(NothingCounts, match="all 12 blocks"):
        measure(12)


def test_what_a_block_gave_is_handed_on_before_the_next_one() -> None:
    seen: list[int] = []
    arms = {n: (lambda calls: [1.0] * calls) for n in (CANDIDATE, "eager")}
    time_arms(arms, workload="w", platform="", choice={}, plan=Blocks(3, 0), device="d", after=seen.append)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.02, 1.5, "OK_FASTER"), (0.5, 0.98, "OK_SLOWER"), (0.995, 1.005, "OK_SAME"), (0.9, 1.2, "INCONCLUSIVE"),
     (1.005, 1.2, "INCONCLUSIVE")],
)  # fmt: skip
def test_the_interval_alone_decides(low: float, high: float, verdict: str) -> None:
    value = math.sqrt(low * high)
    assert judge_ratio(type(log_interval([0.0]))(value, low, high)) is Verdict(verdict)


def test_the_work_of_several_calls_done_in_one_of_them_gains_nothing() -> None:
    def batched(calls: int) -> list[float]:
        return [float(calls), *[0.001] * (calls - 1)]

    def honest(calls: int) -> list[float]:
        return [1.0] * calls

    for arm, said in ((batched, "mean, because"), (honest, "median")):
        timed = time_arms(
            {CANDIDATE: arm, "eager": honest}, workload="w", platform="", choice={}, plan=Blocks(6, 0), device="d"
        )
        assert timed.timing.speedup.value == pytest.approx(1.0, abs=0.01)
        assert said in timed.timing.candidate.how
        assert timed.verdict is Verdict.OK_SAME


def test_one_hiccup_in_many_calls_is_not_taken_for_a_trick() -> None:
    calls = itertools.count()

    def hiccups(count: int) -> list[float]:
        return [1.5 if next(calls) % 40 == 0 else 1.0 for _ in range(count)]

    timed = time_arms(
        {CANDIDATE: hiccups, "eager": lambda count: [1.0] * count}, workload="w", platform="", choice={},
        plan=Blocks(6, 0), device="d",
    )  # fmt: skip
    assert timed.timing.candidate.value == 1.0
    assert "median" in timed.timing.candidate.how


def test_what_two_processes_have_apart_is_in_the_interval_whatever_the_blocks_say() -> None:
    # 0.12 us are 0.6 % of 20 us: blocks that agree to 0.1 % cannot tell a ratio of 1 % from 1 there, at 2 ms they can.
    for milliseconds, faster in ((0.02, False), (2.0, True)):
        rng = random.Random(3)
        blocks = {
            name: [[[ms * (1 + rng.gauss(0, 1e-3)) for _ in range(4)] for _ in range(4)] for _ in range(12)]
            for name, ms in ((CANDIDATE, milliseconds), ("eager", 1.01 * milliseconds))
        }
        interval, against = ratio_of(blocks, ["eager"])
        assert against == "eager" and interval.value == pytest.approx(1.01, abs=1e-3)
        assert (interval.low > 1) is faster
    assert apart(0.02, 0.02) == pytest.approx(0.006)
    assert apart(0.02, 2.0) == pytest.approx(0.006 / math.sqrt(2), rel=1e-3)


def test_an_interval_wider_than_numbers_go_still_is_one() -> None:
    found = log_interval([math.log(1e-300), math.log(1e300)])
    assert (found.value, found.low) == (pytest.approx(1.0), 0.0) and found.high == pytest.approx(sys.float_info.max)
    assert judge_ratio(found) is Verdict.INCONCLUSIVE
