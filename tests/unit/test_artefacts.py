"""What is too large for the log: gathered by a climb, kept beside the log, read back by name, and missed clearly."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sqlite3
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelevolve import codec
from kernelevolve.errors import StoreError, StoreFull, UnknownName
from kernelevolve.evaluate.artefacts import LONGEST, Gathered
from kernelevolve.evaluation import Buffer, Launch, LaunchPlan, Rung, Samples
from kernelevolve.events import from_line
from kernelevolve.graph import fold_all
from kernelevolve.runs import create_run, open_run, read_artefacts, read_run, tail
from kernelevolve.settings import settings_for
from kernelevolve.store.artefacts import Artefacts
from kernelevolve.store.blobs import Blobs
from kernelevolve.testing import FakeEvaluator, fake_equip, fake_plan, fake_problem

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


SETTINGS = replace(settings_for("quick"), candidates=6, plateau=1000)
PLAN = "launch plan h100 declared"


def drive(folder, evaluator=None, **more):
    equip = fake_equip(evaluator or FakeEvaluator(faulty=0.5))
    with create_run(folder, fake_problem(), "h100", equip, settings=SETTINGS, **more) as run:
        asyncio.run(run.drive())


def blob_of(folder, node="n0", name=PLAN):
    digest = read_run(folder).nodes[node].evaluation.artefacts[name].removeprefix("sha256:")
    return folder / "blobs" / digest[:2] / digest


def test_a_moved_run_has_everything_that_its_log_speaks_of(tmp_path):
    drive(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    graph = read_run(tmp_path / "there")
    artefacts = read_artefacts(tmp_path / "there", graph)
    assert any(not node.evaluation.correct for node in graph.nodes.values())
    for id, node in graph.nodes.items():
        assert artefacts.launch_plans(id) == {PLAN: fake_plan(node.candidate)}
        assert codec.loads(LaunchPlan, artefacts.read(id, PLAN).decode()) == fake_plan(node.candidate)
        said = {} if node.evaluation.correct else {"error h100 correct": f"what is wrong with\n{node.candidate.source}"}
        assert (artefacts.errors(id), artefacts.samples(id)) == (said, {})
        assert artefacts.names(id) == (*said, PLAN)


def test_the_owner_reads_its_artefacts_too(tmp_path):
    with create_run(tmp_path, fake_problem(), "h100", fake_equip(), settings=SETTINGS) as run:
        node = asyncio.run(run.step())
        assert run.artefacts.launch_plans(node.id) == {PLAN: fake_plan(node.candidate)}


def test_artefacts_may_be_kept_elsewhere_and_the_log_says_where(tmp_path):
    elsewhere = f"memory://{uuid.uuid4().hex}"
    drive(tmp_path / "run", blobs=elsewhere)
    assert not (tmp_path / "run" / "blobs").exists()
    assert read_run(tmp_path / "run").created.blobs == elsewhere
    assert list(read_artefacts(tmp_path / "run").launch_plans("n0")) == [PLAN]


def test_what_is_missing_or_damaged_is_named_with_its_remedy(tmp_path):
    drive(tmp_path)
    artefacts, blob = read_artefacts(tmp_path), blob_of(tmp_path)
    blob.write_bytes(b"{}")
    with pytest.raises(StoreError, match=f"'{PLAN}' of n0: blob sha256:{blob.name} is damaged .*put it back"):
        artefacts.launch_plans("n0")
    blob.unlink()
    with pytest.raises(StoreError, match=f"'{PLAN}' of n0: blob sha256:{blob.name} is missing .*copy of the run"):
        artefacts.read("n0", PLAN)
    assert artefacts.launch_plans("n1")
    with pytest.raises(UnknownName, match="unknown node 'n77'; known: n0"):
        artefacts.names("n77")
    with pytest.raises(UnknownName, match=f"unknown artefact of n0 'plan'; known: .*{PLAN}"):
        artefacts.read("n0", "plan")


def test_what_a_newer_version_wrote_is_told_apart_from_damage(tmp_path):
    blobs = Blobs(tmp_path)
    newer = blobs.put(b'{"workload": "declared", "colour": "blue"}')
    *before, evaluated = (from_line(line) for line in FIRST_SCHEMA)
    found = replace(evaluated.event, evaluation=replace(evaluated.event.evaluation, artefacts={PLAN: newer}))
    graph = fold_all([*before, replace(evaluated, event=found)])
    with pytest.raises(StoreError, match=r"unknown field 'colour'.*needs a newer KernelEvolve"):
        Artefacts(graph, blobs).launch_plans("n0")


def test_no_event_names_a_blob_that_is_not_there(tmp_path, monkeypatch):
    """At the moment of each append, whatever it names can be read."""
    drive(tmp_path / "run")
    with open_run(tmp_path / "run", fake_equip(), settings=replace(SETTINGS, candidates=9)) as run:
        append = run._store.append

        def watched(event, lease):
            for reference in getattr(getattr(event, "evaluation", None), "artefacts", {}).values():
                assert Blobs(tmp_path / "run" / "blobs").get(reference)
            return append(event, lease)

        monkeypatch.setattr(run._store, "append", watched)
        assert asyncio.run(run.drive()) == "9 candidates"


def test_a_full_disk_leaves_the_candidate_pending_and_the_run_goes_on_later(tmp_path, monkeypatch):
    with create_run(tmp_path, fake_problem(), "h100", fake_equip(), settings=SETTINGS) as run:
        asyncio.run(run.step())
        monkeypatch.setattr(run._blobs, "put", full)
        with pytest.raises(StoreFull, match="free some space, then resume the run") as raised:
            asyncio.run(run.drive())
        assert raised.value.exit_code == 6
        assert len(run.graph.nodes) == 1
        assert [pending.candidate.id for pending in run.graph.pending.values()] == ["n1"]
    with open_run(tmp_path, fake_equip()) as run:
        assert asyncio.run(run.drive()) == "6 candidates"
        assert all(run.artefacts.launch_plans(id) for id in run.graph.nodes)


def full(data):
    raise StoreFull(f"no room for a blob of {len(data)} bytes; free some space, then resume the run")


def test_opening_a_run_sweeps_what_a_killed_process_had_begun(tmp_path):
    drive(tmp_path)
    begun = blob_of(tmp_path).with_suffix(".0.part")
    begun.write_bytes(b"beg")
    with open_run(tmp_path, fake_equip()):
        assert not begun.exists()
    assert read_artefacts(tmp_path).launch_plans("n0")


FIRST_SCHEMA = (
    '{"schema":1,"sequence":0,"epoch":1,"wall":1.0,"kind":"created","event":{"run":"r","problem":'
    '{"name":"relu","suite":"folder","path":"relu.py","source":"class Model: ...\\n"},"platform":"h100","seed":0,'
    '"policy":{"name":"greedy","args":{}},"writer":{"name":"built-in","args":{}},"settings":{},"version":"0.1"}}',
    '{"schema":1,"sequence":1,"epoch":1,"wall":2.0,"kind":"asked","event":{"brief":{"id":"b0","index":0,'
    '"parents":[],"prompt":"write it"}}}',
    '{"schema":1,"sequence":2,"epoch":1,"wall":3.0,"kind":"written","event":{"candidate":{"id":"n0","brief":"b0",'
    '"writer":"built-in","source":"x = 1\\n"}}}',
    '{"schema":1,"sequence":3,"epoch":1,"wall":4.0,"kind":"evaluated","event":{"candidate":"n0","evaluation":'
    '{"verdict":"OK_FASTER","platform":"h100","rungs":[],"timings":[{"workload":"declared","platform":"",'
    '"candidate":{"value":1.0,"unit":"ms","evidence":"measured","how":"clock","low":0.9,"high":1.1},'
    '"baselines":{"eager":{"value":2.0,"unit":"ms","evidence":"measured","how":"clock"}},"against":"eager",'
    '"speedup":{"value":2.0,"unit":"x","evidence":"measured","how":"clock"},"knobs":{"BLOCK":64},'
    '"samples":{"candidate":[1.0,1.1],"eager":[2.0,2.1]}}],"tuned_source":"x = 1\\n"},'
    '"fitness":{"value":2.0,"unit":"x","evidence":"measured","how":"clock"},"duplicate_of":""}}',
)


def test_a_log_from_before_artefacts_is_read_as_it_was(tmp_path):
    entries = [from_line(line) for line in FIRST_SCHEMA]
    graph = fold_all(entries)
    evaluation = graph.nodes["n0"].evaluation
    assert (graph.best.id, evaluation.artefacts, graph.created.blobs) == ("n0", {}, "")
    assert evaluation.timings[0].samples == {"candidate": (1.0, 1.1), "eager": (2.0, 2.1)}
    artefacts = Artefacts(graph, Blobs(tmp_path / "blobs"))
    assert (artefacts.names("n0"), artefacts.launch_plans("n0"), artefacts.errors("n0")) == ((), {}, {})


def test_a_run_from_before_artefacts_goes_on(tmp_path):
    """A database as schema 1 left it: opened, driven on, and told apart only by what its old entries lack."""
    drive(tmp_path)
    downgrade(tmp_path / "log.sqlite")
    assert {entry.schema for entry in tail(tmp_path)} == {1}
    assert read_run(tmp_path).nodes["n0"].evaluation.artefacts == {}
    with open_run(tmp_path, fake_equip(), settings=replace(SETTINGS, candidates=8)) as run:
        assert asyncio.run(run.drive()) == "8 candidates"
        assert run.artefacts.names("n0") == ()
        assert PLAN in run.artefacts.names("n7")


def downgrade(database):
    with sqlite3.connect(database) as connection:
        for sequence, body in connection.execute("SELECT sequence, body FROM log").fetchall():
            data = json.loads(body)
            data.pop("blobs", None)
            data.get("evaluation", {}).pop("artefacts", None)
            connection.execute("UPDATE log SET schema = 1, body = ? WHERE sequence = ?", (json.dumps(data), sequence))
    connection.close()
