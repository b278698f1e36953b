"""Bursts that a busy machine made longer: what counts as explained, and the system's own count of a real process."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernelevolve.evaluate.consistency import Taken
from kernelevolve.evaluate.stalls import Queue, Stalls, stalled
from kernelevolve.evaluate.timing import Undisturbed

EVEN = [Taken(2, 3.0, 2.0), Taken(2, 3.0, 2.02), Taken(4, 5.0, 4.0)]


@pytest.mark.parametrize(
    ("burst", "lost"),
    [
        (Taken(4, 8.0, 7.0, waited=2.9), 3.0),
        (Taken(4, 8.0, 7.0, waited=1.6), 3.0),
        (Taken(4, 8.0, 7.0, waited=1.4), 0.0),  # waiting explains less than half of it: the kernel was slow
        (Taken(4, 8.0, 4.1, waited=9.0), 0.0),  # waited while nothing was timed
        (Taken(4, 8.0, 2.0, waited=9.0), 0.0),  # shorter is never a stall
    ],
)
def test_a_burst_is_a_stall_where_waiting_for_a_processor_explains_it(burst: Taken, lost: float) -> None:
    assert stalled([*EVEN, burst]) == pytest.approx(lost, abs=0.05)
    assert stalled([burst, *EVEN]) == stalled([*EVEN, burst])


class One:
    def __init__(self, *bursts: Taken) -> None:
        self.blocks = [list(bursts)]


class Throttled:
    def why_drop(self, start: float, end: float) -> str:
        return "clocks throttled (0x8)"

    def why_again(self) -> str:
        return ""


def test_a_block_is_taken_again_for_a_stall_of_any_arm_and_dropped_for_what_others_say() -> None:
    late = One(*EVEN, Taken(4, 9.0, 8.0, waited=4.0))
    arms = {"candidate": One(*EVEN, Taken(4, 5.0, 4.0)), "eager": late}
    assert Stalls(arms, Undisturbed()).why_again() == (
        "the eager's process waited for a processor, which made a burst 4 ms longer"
    )
    assert Stalls(arms, Undisturbed()).why_drop(0, 1) == ""
    assert Stalls(arms, Throttled()).why_drop(0, 1) == "clocks throttled (0x8)"
    late.blocks.append([])
    assert Stalls(arms, Undisturbed()).why_again() == ""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this system does not count who waits")
def test_the_system_counts_what_a_process_waits_for_a_processor() -> None:
    cpu = min(os.sched_getaffinity(0))
    pin = f"import os; os.sched_setaffinity(0, {{{cpu}}})\n"
    busy = [subprocess.Popen([sys.executable, "-c", pin + "while True: pass"]) for _ in range(2)]
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(0.3)
        queues = [Queue(busy[0].pid), Queue(idle.pid)]
        before = [queue() for queue in queues]
        time.sleep(0.5)
        waited = [queue() - was for queue, was in zip(queues, before, strict=True)]
    finally:
        for process in (*busy, idle):
            process.kill()
            process.wait()
    assert waited[0] > 50  # two share one processor: about half of 500 ms
    assert waited[1] < 20
    assert Queue(busy[0].pid)() == 0.0  # it has ended
