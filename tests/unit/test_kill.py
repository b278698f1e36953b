"""A run that is killed again and again loses nothing, doubles nothing, and tells the same story in the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from kernelevolve.events import Asked, Dropped, Evaluated, Written
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


def test_eight_writers_and_four_seats_lose_and_double_nothing(tmp_path):
    result = killed(tmp_path, 20, 8, 4, 2)
    assert result["missing"] == 0
    assert result["status"] == 0
    assert result["hit"] >= 15
    entries = tail(tmp_path)
    assert [e.sequence for e in entries] == list(range(len(entries)))
    assert [e.epoch for e in entries] == sorted(e.epoch for e in entries)
    events = [e.event for e in entries]
    asked = [e.brief.id for e in events if isinstance(e, Asked)]
    written = {e.candidate.brief: e.candidate.id for e in events if isinstance(e, Written)}
    evaluated = [e.candidate for e in events if isinstance(e, Evaluated)]
    dropped = [e.brief for e in events if isinstance(e, Dropped)]
    assert Counter(asked) == Counter([*written, *dropped])
    assert Counter(written.values()) == Counter(evaluated)
    graph = read_run(tmp_path)
    assert len(graph.nodes) == CANDIDATES
    assert not graph.pending
    assert graph.finished == f"{CANDIDATES} candidates"
    assert_everything_is_kept(tmp_path)


def assert_everything_is_kept(folder):
    """Every blob that the log names is there and whole, and nothing half written is left."""
    artefacts = read_artefacts(folder)
    for id, node in read_run(folder).nodes.items():
        assert list(artefacts.launch_plans(id).values()) == [fake_plan(node.candidate)]
        assert set(artefacts.names(id)) == {*artefacts.launch_plans(id), *artefacts.errors(id)}
    assert list((folder / "blobs").rglob("*.part")) == []
