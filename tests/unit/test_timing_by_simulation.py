"""What the design of the timing promises, by simulation of whole measurements: equal arms are told apart in at most 5 %
of them, repeated looks included, and a real difference of 2 % is found.

The simulation uses the orders, the burst statistic and the levels of `evaluate.timing` and `evaluate.statistics`, with
numpy in place of a device: each call takes 1 ms times exp of (a slow drift of autoregressive steps, a thermal ramp,
noise of its own); drift goes on over all arms in the order in which their bursts run.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from kernelevolve.evaluate.statistics import FASTER, SLOWER, confidence_of, t_quantile
from kernelevolve.evaluate.timing import BURSTS, CANDIDATE, Blocks, order_of
from kernelevolve.settings import LANES

RUNS = 10_000
BLOCKS, LOOKS = 30, 3
CALLS = 4
PLAN = Blocks(BLOCKS, LOOKS - 1)
SCREEN = Blocks(LANES["screen"].blocks, LANES["screen"].doublings, LANES["screen"].most)
ARMS = (CANDIDATE, "baseline")


def differences(rng: np.random.Generator, runs: int, blocks: int, *, noise: float, ramp: float, real: float) -> object:
    """log t(baseline) - log t(candidate) of each block: an array of runs x blocks.

    The drift is a stationary autoregression over bursts with standard deviation 1 % and a correlation of 0.98 from one
    burst to the next; the ramp goes up by `ramp` from the first burst to the last of the longest measurement.
    """
    order = [entry for block in range(blocks) for entry in order_of(block, ARMS, CALLS, 2 * CALLS)]
    level = rng.normal(0.0, 0.01, runs).astype(np.float32)
    total = np.zeros((runs, blocks), np.float32)
    steps = math.sqrt(1 - 0.98**2) * 0.01
    for turn, (arm, calls) in enumerate(order):
        level = 0.98 * level + rng.normal(0.0, steps, runs).astype(np.float32)
        # The median of n normal numbers has a standard error of about sqrt(pi / 2n).
        own = rng.standard_normal(runs, dtype=np.float32) * (noise * math.sqrt(math.pi / (2 * calls)))
        drift = ramp * turn / len(order)
        sign = 1.0 if arm == "baseline" else -1.0
        total[:, turn // (2 * BURSTS)] += sign * (level + own + drift + (real if arm == "baseline" else 0.0)) / BURSTS
    return total


def looks(values: object, plan: Blocks = PLAN) -> dict[str, float]:
    """Shares of the runs that end as different, faster, slower, same; a run ends at the first look that decides."""
    runs = len(values)  # type: ignore[arg-type]
    undecided = np.ones(runs, bool)
    count = dict.fromkeys(("different", "faster", "slower", "same"), 0)
    for look in range(plan.doublings + 1):
        blocks = plan.by(look)
        some = values[:, :blocks].astype(np.float64)  # type: ignore[index]
        confidence = confidence_of(plan.doublings + 1)
        half = t_quantile(blocks - 1, confidence) * some.std(axis=1, ddof=1) / math.sqrt(blocks)
        low, high = some.mean(axis=1) - half, some.mean(axis=1) + half
        ended = {
            "faster": low > math.log(FASTER),
            "slower": high < math.log(SLOWER),
            "same": (low >= math.log(SLOWER)) & (high <= math.log(FASTER)),
        }
        decided = undecided & (ended["faster"] | ended["slower"] | ended["same"] | (look == plan.doublings))
        for name, which in ended.items():
            count[name] += int((decided & which).sum())
        count["different"] += int((decided & ((low > 0) | (high < 0))).sum())
        undecided &= ~decided
    return {name: n / runs for name, n in count.items()}


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_equal_arms_are_told_apart_in_at_most_5_percent_of_measurements_looked_at_three_times(noise: float) -> None:
    rng = np.random.default_rng(5)
    found = looks(differences(rng, RUNS, BLOCKS * 2 ** (LOOKS - 1), noise=noise, ramp=0.02, real=0.0))
    assert found["different"] <= 0.05
    assert found["faster"] + found["slower"] <= 0.001


def test_an_interval_read_at_every_look_is_wrong_in_at_most_5_percent() -> None:
    # The worst case for the levels: nobody stops at "same", so each interval is read three times.
    rng = np.random.default_rng(6)
    runs = 3 * RUNS
    values = differences(rng, runs, BLOCKS * 4, noise=0.02, ramp=0.02, real=0.0)
    ever, nominal = np.zeros(runs, bool), np.zeros(runs, bool)
    for look in range(LOOKS):
        blocks = BLOCKS * 2**look
        some = values[:, :blocks].astype(np.float64)  # type: ignore[index]
        reach = np.abs(some.mean(axis=1)) / (some.std(axis=1, ddof=1) / math.sqrt(blocks))
        ever |= reach > t_quantile(blocks - 1, confidence_of(LOOKS))
        nominal |= reach > t_quantile(blocks - 1, 0.95)
    assert 0.04 < ever.mean() <= 0.05
    assert nominal.mean() > 0.09, "what the correction is for"


@pytest.mark.parametrize("noise", [0.003, 0.01, 0.03])
def test_a_screen_ends_early_where_that_decides_and_still_claims_at_most_5_percent(noise: float) -> None:
    assert SCREEN.by(0) < SCREEN.all == SCREEN.most
    rng = np.random.default_rng(10)
    found = looks(differences(rng, RUNS, SCREEN.all, noise=noise, ramp=0.02, real=0.0), SCREEN)
    assert found["different"] <= 0.05
    assert found["faster"] + found["slower"] <= 0.001
    clear = looks(differences(rng, RUNS // 10, SCREEN.all, noise=noise, ramp=0.02, real=math.log(1.2)), SCREEN)
    assert clear["faster"] >= 0.99


def test_a_real_difference_of_2_percent_is_found() -> None:
    rng = np.random.default_rng(7)
    values = differences(rng, RUNS // 2, BLOCKS * 4, noise=0.01, ramp=0.02, real=math.log(1.02))
    assert looks(values)["faster"] >= 0.95


def test_one_arm_after_the_other_would_claim_differences_that_are_none() -> None:
    rng = np.random.default_rng(8)
    runs, calls, bursts = 1000, 8, 60
    level = rng.normal(0.0, 0.01, runs)
    means = np.zeros((runs, 2, bursts))
    for turn in range(2 * bursts):
        level = 0.98 * level + rng.normal(0.0, math.sqrt(1 - 0.98**2) * 0.01, runs)
        means[:, turn // bursts, turn % bursts] = level + rng.normal(0, 0.01 / math.sqrt(calls), runs) + 1e-4 * turn
    gap = means[:, 0].mean(axis=1) - means[:, 1].mean(axis=1)
    error = np.sqrt((means.var(axis=2, ddof=1) / bursts).sum(axis=1))
    assert (np.abs(gap) > 1.98 * error).mean() > 0.4


def test_the_best_of_several_needs_a_stricter_level() -> None:
    assert confidence_of(1, 5) == pytest.approx(0.99)
    assert confidence_of(3, 5) > confidence_of(3) > confidence_of(2) > confidence_of(1) == 0.95
    rng = np.random.default_rng(9)
    best = rng.normal(0.0, 1.0, (RUNS, 5, BLOCKS))
    reach = best.mean(axis=2) / (best.std(axis=2, ddof=1) / math.sqrt(BLOCKS))
    assert (reach.max(axis=1) > t_quantile(BLOCKS - 1, confidence_of(1, 5))).mean() <= 0.03  # one side of 5 %
    with pytest.raises(ValueError, match="5 looks"):
        confidence_of(5)
