"""A run that is killed again and again loses nothing, doubles nothing, and tells the same story in the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from kernelevolve.runs import read_artefacts, read_run, tail
from kernelevolve.testing import fake_plan, same_story

CANDIDATES = 200


def killed(folder, kills, writers, seats, seed):
    program = Path(__file__).with_name("killing.py")
    arguments = [str(n) for n in (kills, writers, seats, CANDIDATES, seed)]
    done = subprocess.run(
        [sys.executable, program, folder, *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_fifty_kills_and_still_the_graph_of_the_uninterrupted_run(tmp_path):
    assert killed(tmp_path / "whole", 0, 1, 1, 0)["status"] == 0
    assert killed(tmp_path / "killed", 50, 1, 1, 1) == {"hit": 50, "missing": 0, "status": 0}
    whole, other = tail(tmp_path / "whole"), tail(tmp_path / "killed")
    assert same_story(whole, other) == ""
    assert other[-1].epoch > 25, "too few of the kills hit a run that was open"
    one, two = read_run(tmp_path / "whole"), read_run(tmp_path / "killed")
    assert len(one.nodes) == CANDIDATES
    assert [n.evaluation for n in one.nodes.values()] == [n.evaluation for n in two.nodes.values()]
    assert one.best.id == two.best.id
    assert_everything_is_kept(tmp_path / "killed")


def test_many_writers_and_few_seats_lose_and_double_nothing(tmp_path):
    """What is looked at after each kill is in the benchmark, which does the same two hundred times."""
    program, kept = Path(__file__).parents[2] / "benchmarks" / "sigkill.py", tmp_path / "kept.json"
    command = [sys.executable, program, "--kills", "12", "--runs", "3", "--out", kept]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(kept.read_text())
    assert (found["kills"], found["wrong"]) == (12, [])
    assert found["found"]["briefs pending"] > 12, "too few of the kills hit a run at work"


def assert_everything_is_kept(folder):
    """Every blob that the log names is there and whole, and nothing half written is left."""
    artefacts = read_artefacts(folder)
    for id, node in read_run(folder).nodes.items():
        assert list(artefacts.launch_plans(id).values()) == [fake_plan(node.candidate)]
        assert set(artefacts.names(id)) == {*artefacts.launch_plans(id), *artefacts.errors(id)}
    assert list((folder / "blobs").rglob("*.part")) == []
