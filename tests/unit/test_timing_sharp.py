"""The sharper look at the clock against a simulated device: a queue that works through what a host submits, messages
that come late. Who tells the truth is never accused; how large a lie must be to be found is a figure of the docs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from kernelevolve.evaluate.consistency import LEAST_MS, Sharp, Taken, consistency, sharpen

US = 1e-3
CHILL, HOLD, SPIN = 115 * US, 4 * US, 100 * US  # what lies between calls on the device
LONGEST = 17  # 20 slots, 3 calls before


@dataclass
class Simulated:
    """An arm on a device of its own.

    Attributes:
        takes, says: milliseconds of a call, and what is reported of it; `sharply` in bursts with a busy wait before.
        submits: milliseconds that the host needs to submit a call with what belongs to it.
        waits: in each call for the device.
        late: mean of what a message comes late; one in fifty is ten times as late.
    """

    rng: random.Random
    takes: float
    says: float
    sharply: float | None = None
    submits: float = 90 * US
    late: float = 10 * US
    waits: bool = False
    lead: float = 0.0
    ahead: bool = False
    blocks: list[list[Taken]] = field(default_factory=lambda: [[]])

    def __call__(self, calls: int) -> None:
        host, device, reported = 0.02, self.lead * (1 + self.rng.gauss(0, 5e-4)), 0.0
        begins = device
        for _ in range(calls):
            host += self.submits * (1 + abs(self.rng.gauss(0, 0.1)))
            spin = 0.0 if self.lead else SPIN
            took = self.takes * (1 + self.rng.gauss(0, 0.01))
            device = max(device, host) + spin + CHILL * (1 + self.rng.gauss(0, 0.003)) + took + HOLD
            claimed = self.sharply if self.lead and self.sharply is not None else self.says
            reported += took * claimed / self.takes
            host = max(host, device) if self.waits else host
        self.ahead = host < begins
        late = self.rng.expovariate(1 / self.late) * (10 if self.rng.random() < 0.02 else 1)
        self.blocks[-1].append(Taken(calls, 0.15 + max(host, device) + late, reported))

    def next_block(self) -> None:
        self.blocks.append([])


def counted(arm: Simulated, blocks: int = 30) -> Simulated:
    """The arm after the bursts of a lane."""
    for _ in range(blocks):
        for calls in (4, 8, 8, 4):
            arm(calls)
        arm.next_block()
    return arm


def look(seed: int, takes: float, lie: float = 0.0, **more: float) -> tuple[Sharp, Simulated]:
    """What is found of a candidate that takes `lie` longer than it says, beside an honest baseline of 30 us."""
    rng = random.Random(seed)
    shared = {key: value for key, value in more.items() if key != "sharply"}
    candidate = counted(Simulated(rng, takes, takes - lie, **more))
    baseline = counted(Simulated(rng, 30 * US, 30 * US, **shared))
    found = sharpen(candidate, baseline, LONGEST, lambda: (candidate.next_block(), baseline.next_block()))
    return found, candidate


@pytest.mark.parametrize("takes", [3 * US, 20 * US, 120 * US])
@pytest.mark.parametrize("submits", [40 * US, 90 * US, 300 * US])
def test_who_tells_the_truth_is_never_accused(takes: float, submits: float) -> None:
    for seed in range(25):
        found, _ = look(seed, takes, submits=submits, late=20 * US)
        assert found.found is not None and found.holds, str(found)
        assert found.found.blocks >= 4


def test_a_device_that_waits_for_its_host_hides_a_lie_from_slopes_and_not_from_this() -> None:
    found, candidate = look(1, 40 * US, lie=20 * US, submits=400 * US)
    rng = random.Random(2)
    baseline = counted(Simulated(rng, 30 * US, 30 * US, submits=400 * US))
    assert consistency(candidate.blocks[:30], baseline.blocks[:30]).holds, "the host hides what the device does"
    assert not found.holds and found.found is not None
    assert found.found.excess == pytest.approx(20 * US, abs=3 * US)


@pytest.mark.parametrize(("takes", "lie"), [(8 * US, 6 * US), (20 * US, 7 * US), (100 * US, 12 * US)])
def test_lies_of_a_few_microseconds_are_found(takes: float, lie: float) -> None:
    found = [look(seed, takes, lie)[0] for seed in range(40)]
    assert sum(not one.holds for one in found) >= 38
    assert "us per call" in str(found[0])


def residual(takes: float, late: float, tries: int = 40) -> float:
    """The smallest lie, in microseconds, of which 95 % are found."""
    lie = 0.0
    while lie < takes / US:
        lie += 0.25
        found = sum(not look(1000 + seed, takes, lie * US, late=late)[0].holds for seed in range(tries))
        if found >= 0.95 * tries:
            return lie
    return takes / US


@pytest.mark.parametrize("takes", [8 * US, 20 * US])
def test_the_lie_that_stays_hidden_is_what_the_docs_say(takes: float) -> None:
    assert residual(takes, late=10 * US) <= 3.5


def test_who_is_honest_only_where_he_is_looked_at_sharply_reports_two_different_times() -> None:
    found, _ = look(3, 60 * US, lie=40 * US, sharply=60 * US)
    assert found.apart and not found.holds and "in those that count" in str(found)
    assert look(3, 60 * US, lie=15 * US, sharply=60 * US)[0].holds, "below that it is not seen"


def test_who_waits_for_the_device_in_a_call_is_not_accused_of_it() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        candidate = counted(Simulated(rng, 20 * US, 20 * US, waits=True))
        baseline = counted(Simulated(rng, 30 * US, 30 * US))
        found = sharpen(candidate, baseline, LONGEST, lambda: None)
        assert found.holds and found.found is None and "candidate cannot be submitted ahead" in str(found)
        assert candidate.lead == 0.0


def test_the_arms_are_left_as_they_were_and_what_cannot_be_looked_at_is_said() -> None:
    _, candidate = look(4, 20 * US)
    assert candidate.lead == 0.0
    arms = [counted(Simulated(random.Random(5), 5.0, 5.0)) for _ in range(2)]
    slow = sharpen(arms[0], arms[1], LONGEST, lambda: None)
    assert slow.found is None and slow.holds and "may take" in str(slow)
    few = sharpen(arms[0], arms[1], 3, lambda: None)
    assert few.found is None and "room for 3 calls" in str(few)
    fresh = Simulated(random.Random(6), 0.02, 0.02)
    assert "same number" in str(sharpen(fresh, fresh, LONGEST, lambda: None))


def test_it_stops_once_noise_is_as_small_as_what_is_allowed() -> None:
    quiet, _ = look(7, 20 * US, late=1 * US)
    loud, _ = look(7, 20 * US, late=60 * US)
    assert quiet.found is not None and loud.found is not None
    assert 4 <= quiet.found.blocks <= 6 < loud.found.blocks
    assert quiet.found.noise <= max(quiet.found.limit, LEAST_MS)
