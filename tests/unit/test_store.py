"""The store keeps what was appended, has one owner, and fails without losing anything."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.errors import RunBusy, StoreError, StoreTooNew
from kernelevolve.events import Noted
from kernelevolve.store.blobs import Blobs
from kernelevolve.store.owner import this_process
from kernelevolve.store.sqlite import SqliteStore
from kernelevolve.testing import check_store


def note(text="x"):
    return Noted("test", text)


def owned(folder):
    store = SqliteStore(folder, create=True)
    return store, store.take(this_process())


def test_sqlite_keeps_the_rules(tmp_path):
    check_store(lambda create: SqliteStore(tmp_path / "run", create=create))


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(StoreError, match=r"holds no run \(log.sqlite is missing\)"):
        SqliteStore(tmp_path)


def test_a_creation_that_was_cut_short_is_taken_up(tmp_path):
    SqliteStore(tmp_path, create=True)
    store, lease = owned(tmp_path)
    store.append(note(), lease)
    with pytest.raises(StoreError, match="holds a run already"):
        SqliteStore(tmp_path, create=True)


def test_what_is_no_database_is_refused(tmp_path):
    (tmp_path / "log.sqlite").write_text("not a database " * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        SqliteStore(tmp_path)


def test_a_newer_database_is_refused(tmp_path):
    owned(tmp_path)[1].release()
    with sqlite3.connect(tmp_path / "log.sqlite") as connection:
        connection.execute("UPDATE layout SET version = 99")
    connection.close()
    with pytest.raises(StoreTooNew, match="layout 99"):
        SqliteStore(tmp_path)


def test_a_newer_event_is_refused(tmp_path):
    store, lease = owned(tmp_path)
    store.append(note(), lease)
    with sqlite3.connect(tmp_path / "log.sqlite") as connection:
        connection.execute("UPDATE log SET schema = 99")
    connection.close()
    with pytest.raises(StoreTooNew, match="schema 99"):
        store.read_from(0)


def test_a_run_can_be_moved(tmp_path):
    store, lease = owned(tmp_path / "here")
    entries = [store.append(note(str(i)), lease) for i in range(3)]
    lease.release()
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert SqliteStore(tmp_path / "there").read_from(0) == tuple(entries)


OWNER = """
import sys, time
from pathlib import Path
from kernelevolve.store.sqlite import SqliteStore
from kernelevolve.store.owner import this_process
store = SqliteStore(Path(sys.argv[1]), create=True)
lease = store.take(this_process())
print("owned", flush=True)
time.sleep(60)
"""


def test_a_live_process_keeps_it_and_a_dead_one_loses_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", OWNER, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "owned\n"
        store = SqliteStore(tmp_path)
        with pytest.raises(RunBusy, match=f"process {process.pid} on {this_process().host}"):
            store.take(this_process())
        assert store.read_from(0) == ()
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # The dead process is still a zombie here, as under a parent that never waits for it.
        assert store.take(this_process()).epoch == 2


RACER = """
import sys, time
from pathlib import Path
from kernelevolve.errors import RunBusy
from kernelevolve.events import Noted
from kernelevolve.store.sqlite import SqliteStore
from kernelevolve.store.owner import this_process
store = SqliteStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    lease = store.take(this_process())
    for i in range(20):
        store.append(Noted("race", str(i)), lease)
    print("owned", flush=True)
except RunBusy:
    print("busy", flush=True)
sys.stdin.readline()
"""


def test_of_several_processes_at_once_one_wins(tmp_path):
    SqliteStore(tmp_path, create=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([sys.executable, "-c", RACER, tmp_path], **pipes) for _ in range(4)]
    assert [r.stdout.readline() for r in racers] == ["ready\n"] * 4
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert sorted(r.stdout.readline() for r in racers) == ["busy\n"] * 3 + ["owned\n"]
    for racer in racers:
        racer.communicate("end\n", timeout=30)
    assert [e.event.text for e in SqliteStore(tmp_path).read_from(0)] == [str(i) for i in range(20)]


def test_owners_are_told_apart():
    here = this_process()
    assert here.alive is True
    assert dataclasses.replace(here, started=here.started + 1).alive is False
    assert dataclasses.replace(here, boot="an earlier boot").alive is False
    assert dataclasses.replace(here, namespace="pid:[1]").alive is None
    assert dataclasses.replace(here, host="elsewhere").alive is None


def test_an_owner_on_another_machine_keeps_it_until_forced(tmp_path):
    store = SqliteStore(tmp_path, create=True)
    store.take(dataclasses.replace(this_process(), host="elsewhere"))
    with pytest.raises(RunBusy, match="elsewhere; whether it lives cannot be seen"):
        store.take(this_process())
    assert store.take(this_process(), by_force=True).epoch == 2


FULL = """
import sys
from pathlib import Path
from kernelevolve.errors import RunBusy, StoreFull
from kernelevolve.events import Noted
from kernelevolve.store.sqlite import SqliteStore
from kernelevolve.store.blobs import Blobs
from kernelevolve.store.owner import this_process
place = Path(sys.argv[1])
ballast = place / "ballast"
ballast.write_bytes(b"x" * 6_000_000)
store = SqliteStore(place / "run", create=True)
lease = store.take(this_process())
written = []
try:
    while True:
        written.append(store.append(Noted("fill", "x" * 20_000), lease))
except StoreFull as error:
    assert "free some space" in str(error), error
assert len(written) > 3
assert store.read_from(0) == tuple(written), "entries were lost or half written"
try:
    Blobs(place / "run" / "blobs").put(b"y" * 2_500_000)
except StoreFull:
    pass
else:
    raise AssertionError("a blob went onto a full disk")
assert not list((place / "run").rglob("*.part"))
ballast.unlink()
written.append(store.append(Noted("fill", "after"), lease))
lease.release()
assert SqliteStore(place / "run").read_from(0) == tuple(written)

import asyncio, shutil
from dataclasses import replace
from kernelevolve.runs import create_run, open_run, read_run, tail
from kernelevolve.settings import settings_for
from kernelevolve.testing import fake_equip, fake_problem, same_story
settings = replace(settings_for("quick"), candidates=60, plateau=1000)
def driven(folder, resumed=False):
    with (open_run(folder, fake_equip()) if resumed
          else create_run(folder, fake_problem(), "h100", fake_equip(), settings=settings)) as run:
        asyncio.run(run.drive())
driven(place.parent / "elsewhere")
shutil.rmtree(place / "run")
ballast.write_bytes(b"x" * 7_400_000)
try:
    driven(place / "second")
except StoreFull:
    before = tail(place / "second")
else:
    raise AssertionError("sixty candidates fitted on the disk")
assert 10 < len(before) < 180, len(before)
ballast.unlink()
try:
    driven(place / "second", resumed=True)
except RunBusy:
    # Not even the lease could be given back; this process is still alive, so only force helps here.
    open_run(place / "second", fake_equip(), by_force=True).close()
    driven(place / "second", resumed=True)
after = tail(place / "second")
assert after[: len(before)] == before
assert same_story(after, tail(place.parent / "elsewhere")) == "", same_story(after, tail(place.parent / "elsewhere"))

import random
from kernelevolve.runs import read_artefacts
from kernelevolve.testing import FakeEvaluator
class Large(FakeEvaluator):
    # It keeps so much of each candidate that it is a blob for which there is no room.
    async def evaluate(self, candidate, *, progress, keep):
        found = await super().evaluate(candidate, progress=progress, keep=keep)
        reference = keep(random.Random(candidate.digest).randbytes(400_000))
        return replace(found, artefacts={**found.artefacts, "error h100 plan": reference})
few = replace(settings, candidates=12)
def large(folder, resumed=False):
    with (open_run(folder, fake_equip(Large())) if resumed
          else create_run(folder, fake_problem(), "h100", fake_equip(Large()), settings=few)) as run:
        asyncio.run(run.drive())
large(place.parent / "large")
shutil.rmtree(place / "second")
ballast.write_bytes(b"x" * 5_200_000)  # seven blobs fit, with room for twice their log
try:
    large(place / "third")
except StoreFull as error:
    assert "no room for a blob of 400000 bytes" in str(error) and "then resume the run" in str(error), error
    assert error.exit_code == 6
    before = tail(place / "third")
else:
    raise AssertionError("twelve large blobs fitted on the disk")
graph = read_run(place / "third")
assert 1 < len(graph.nodes) < 10 and len(graph.pending) == 1, (len(graph.nodes), len(graph.pending))
assert not list((place / "third").rglob("*.part"))
ballast.unlink()
large(place / "third", resumed=True)
after = tail(place / "third")
assert after[: len(before)] == before
assert same_story(after, tail(place.parent / "large")) == "", same_story(after, tail(place.parent / "large"))
kept = read_artefacts(place / "third")
assert all(kept.read(node, name) for node in read_run(place / "third").nodes for name in kept.names(node))
print("fine", len(written), len(before))
"""


def in_a_namespace_of_its_own(place, script):
    """Runs `script` where a tmpfs of 8 MiB is mounted at `place`, without needing to be root."""
    mount = f"mount -t tmpfs -o size=8m tmpfs '{place}' || exit 77; exec '{sys.executable}' -c \"$SCRIPT\" '{place}'"
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount],
        env={**os.environ, "SCRIPT": script}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_full_disk_loses_nothing(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: a small file system cannot be mounted")
    done = in_a_namespace_of_its_own(place, FULL)
    if done.returncode in (1, 77) and ("unshare:" in done.stderr or "mount:" in done.stderr):
        done = on_a_mount(place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fine")


def on_a_mount(place):
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    try:
        return subprocess.run(
            [sys.executable, "-c", FULL, place], capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_blobs_are_named_by_content_and_verified(tmp_path):
    blobs = Blobs(tmp_path / "blobs")
    reference = blobs.put(b"machine code")
    digest = reference.removeprefix("sha256:")
    assert blobs.put(b"machine code") == reference
    assert blobs.get(reference) == b"machine code"
    assert [p.name for p in Path(tmp_path).rglob("*") if p.is_file()] == [digest]
    (tmp_path / "blobs" / digest[:2] / digest).write_bytes(b"tampered")
    with pytest.raises(StoreError, match=f"blob {reference} is damaged .*put it back from a copy of the run's folder"):
        blobs.get(reference)
    assert blobs.put(b"machine code") == reference
    assert blobs.get(reference) == b"machine code"
    with pytest.raises(StoreError, match=r"blob sha256:0+ is missing from .*put it back"):
        blobs.get("sha256:" + "0" * 64)


@pytest.mark.parametrize("reference", ["", "sha256:", "sha256:../../../etc/passwd", "md5:" + "0" * 64, "0" * 64])
def test_what_is_no_reference_reads_nothing(tmp_path, reference):
    with pytest.raises(StoreError, match="names no blob"):
        Blobs(tmp_path).get(reference)


def test_blobs_cannot_go_where_a_file_is_in_the_way(tmp_path):
    (tmp_path / "blobs").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        Blobs(tmp_path / "blobs").put(b"x")


def test_blobs_live_at_any_address_that_fsspec_knows():
    blobs = Blobs(f"memory://{uuid.uuid4().hex}/blobs")
    assert blobs.get(blobs.put(b"far away")) == b"far away"
    with pytest.raises(StoreError, match="is no place for blobs"):
        Blobs("nowhere://blobs").put(b"x")


def test_a_sweep_takes_what_was_begun_and_leaves_what_is_whole(tmp_path):
    blobs = Blobs(tmp_path)
    blobs.sweep()
    reference = blobs.put(b"whole")
    begun = tmp_path / "ab" / "abc.0.part"
    begun.parent.mkdir()
    begun.write_bytes(b"beg")
    blobs.sweep()
    assert not begun.exists()
    assert blobs.get(reference) == b"whole"


@settings(max_examples=30, deadline=None)
@given(contents=st.lists(st.binary(max_size=200), max_size=8))
def test_blobs_give_back_what_was_put(contents):
    with tempfile.TemporaryDirectory() as place:
        references = [Blobs(place).put(data) for data in contents]
        assert [Blobs(place).get(reference) for reference in references] == contents
        assert len(set(references)) == len(set(contents))
