"""What is too large for the log: gathered by a climb, kept beside the log, read back by name, and missed clearly."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from kernelevolve import codec
from kernelevolve.evaluate.artefacts import LONGEST, Gathered
from kernelevolve.evaluation import Buffer, Launch, LaunchPlan, Rung, Samples

X, Y = Buffer("x", (64, 32), (32, 1), "float32", "input"), Buffer("y", (64, 32), (32, 1), "float32", "output")
RELU = Launch(
    "relu", {"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": "constexpr"}, {"BLOCK": 128}, {"x": 16, "n": 16},
    {"x": "buffer x+0", "y": "buffer y+0", "n": 2048}, (16, 1, 1), {"num_warps": 4},
)  # fmt: skip


def plan(workload="declared", *launches):
    return LaunchPlan(workload, "h100", (X, Y), launches or (RELU,))


class Shelf(dict):
    """Keeps bytes as a blob store does."""

    def __call__(self, data):
        reference = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self[reference] = data
        return reference


def test_what_a_climb_gathers_is_kept_by_name():
    shelf, gathered = Shelf(), Gathered("h100")
    assert gathered.hand_over(shelf) == {}
    taken = Samples("declared", "h100", "ms", {"candidate": ((1.0, 1.1), (1.2,)), "eager": ((2.0,), (2.1,))})
    gathered.planned([plan("declared"), plan("wide")])
    gathered.planned([plan("declared", RELU, RELU)])
    gathered.timed(taken)
    gathered.failed(Rung.BUILD, "the whole story\nin two lines")
    gathered.failed(Rung.PLAN, "")
    kept = gathered.hand_over(shelf)
    assert list(kept) == ["launch plan h100 declared", "launch plan h100 wide", "samples h100 declared",
                          "error h100 build"]  # fmt: skip
    assert codec.loads(LaunchPlan, shelf[kept["launch plan h100 declared"]].decode()) == plan("declared", RELU, RELU)
    assert codec.loads(Samples, shelf[kept["samples h100 declared"]].decode()) == taken
    assert shelf[kept["error h100 build"]] == b"the whole story\nin two lines"


@given(text=st.text(st.characters(), max_size=50), times=st.integers(1, 3))
def test_any_text_of_a_candidate_can_be_kept(text, times):
    shelf, gathered = Shelf(), Gathered("h100")
    gathered.failed(Rung.BUILD, (text + "\ud800x") * times)
    (kept,) = (shelf[reference].decode() for reference in gathered.hand_over(shelf).values())
    assert kept.count("\\ud800x") >= times


def test_of_a_very_long_error_the_end_is_kept():
    shelf, gathered = Shelf(), Gathered("h100")
    gathered.failed(Rung.BUILD, "a" * 7 + "b" * (LONGEST - 1) + "c")
    (kept,) = (shelf[reference].decode() for reference in gathered.hand_over(shelf).values())
    first, last = kept.split("\n")
    assert first == "(7 characters before this were left out)"
    assert last == "b" * (LONGEST - 1) + "c"
