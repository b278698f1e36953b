"""What can go wrong around a run, at the command line: one clear message, the documented exit code, one result object.

Writers and seats are fakes here; bad problems and bad candidates on the real ones are in `interpret/test_bad_input`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernelevolve import equipment
from kernelevolve.cli import main, public
from kernelevolve.errors import MissingDevice, StoreError
from kernelevolve.problem import Problem
from kernelevolve.runs import optimize, read_run
from kernelevolve.settings import settings_for
from kernelevolve.store.owner import this_process
from kernelevolve.testing import FakeEvaluator, fake_equip, fake_folder, fake_problem

TWO = ("--platform", "h100", "--platform", "mi300x")
# A command on fakes in a process of its own: argv has the evaluator's arguments as JSON, then the command's.
SCRIPT = """
import contextlib, json, sys
from kernelevolve.cli import main, public
from kernelevolve.testing import FakeEvaluator, fake_equip
evaluator = FakeEvaluator(**json.loads(sys.argv[1]))
public.workshop = lambda problem, device: contextlib.nullcontext(fake_equip(evaluator))
main(sys.argv[2:])
"""
BUGGY = """
import contextlib, sys
from kernelevolve.cli import main, public
from kernelevolve.testing import FakeEvaluator, fake_equip
class Buggy(FakeEvaluator):
    async def evaluate(self, candidate, **rest):
        if candidate.id == "n2":
            return {}["no such rung"]
        return await super().evaluate(candidate, **rest)
public.workshop = lambda problem, device: contextlib.nullcontext(fake_equip(Buggy()))
main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    fake_folder(tmp_path)
    equip_with(monkeypatch, fake_equip(FakeEvaluator()))
    return tmp_path


def equip_with(monkeypatch: pytest.MonkeyPatch, equip: Any) -> None:
    monkeypatch.setattr(public, "workshop", lambda problem, device, **more: contextlib.nullcontext(equip))


class Said(tuple[int, dict[str, Any], str]):
    """Exit code, result object, what people read."""


def said(code: int | None, out: str, err: str) -> Said:
    data = json.loads(out.splitlines()[-1])
    assert {"verdict", "correct"} <= data.keys()
    return Said((code or 0, data, err))


@pytest.fixture
def door(capfd: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json"])
        return said(ended.value.code, *capfd.readouterr())  # type: ignore[arg-type]

    return call


def process(script: str, *arguments: object) -> Said:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments), "--json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return said(done.returncode, done.stdout, done.stderr)


def contents(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.name == "log.sqlite" or p.suffix == ".py"}


@pytest.mark.parametrize(("before", "after"), [(TWO, ()), ((), TWO)], ids=["siblings first", "one run first"])
def test_one_run_and_sibling_runs_never_share_a_folder(
    door: Any, before: tuple[str, ...], after: tuple[str, ...], place: Path
) -> None:
    assert door("optimize", "relu.py", "--candidates", 2, "--out", "r", *before)[0] == 0
    earlier = contents(place / "r")
    code, data, err = door("optimize", "relu.py", "--candidates", 2, "--out", "r", *after)
    assert (code, data["kind"], data["correct"]) == (6, "StoreError", False)
    assert "kernelevolve resume r" in err and "or give another folder" in err
    assert "h100, mi300x" in err or not before
    assert contents(place / "r") == earlier
    assert door("resume", "r", "--candidates", 3)[0] == 0


def test_the_library_keeps_one_run_and_siblings_apart_too(place: Path) -> None:
    equip = fake_equip(FakeEvaluator())
    few = replace(settings_for("quick"), candidates=1)
    optimize(fake_problem(), ("h100", "mi300x"), place / "two", equip, settings=few)
    with pytest.raises(StoreError, match=r"sibling runs already \(h100, mi300x\)"):
        optimize(fake_problem(), ("h100",), place / "two", equip, settings=few)
    optimize(fake_problem(), ("h100",), place / "one", equip, settings=few)
    with pytest.raises(StoreError, match="holds a run already"):
        optimize(fake_problem(), ("h100", "mi300x"), place / "one", equip, settings=few)


@pytest.mark.parametrize("command", ["optimize", "evaluate"])
@pytest.mark.parametrize("out", ["file", "file/r"])
def test_a_folder_that_cannot_be_made_is_named(door: Any, place: Path, command: str, out: str) -> None:
    (place / "file").write_text("a file")
    (place / "mine.py").write_text("class ModelNew: ...\n")
    what = ["mine.py", "--problem", "relu.py"] if command == "evaluate" else ["relu.py"]
    code, data, err = door(command, *what, "--out", out)
    assert (code, data["kind"]) == (6, "StoreError"), err
    assert out in data["error"] and "Traceback" not in err


@pytest.mark.parametrize("platforms", [(), TWO], ids=["one", "two"])
@pytest.mark.parametrize("there", [False, True], ids=["new folder", "folder of the user's"])
def test_a_run_that_never_began_leaves_nothing_behind(
    door: Any, monkeypatch: pytest.MonkeyPatch, place: Path, platforms: tuple[str, ...], there: bool
) -> None:
    working = fake_equip(FakeEvaluator())

    def equip(created: Any, builds: Path) -> Any:
        builds.mkdir(parents=True, exist_ok=True)
        if created.platform == (platforms or ("h100",))[-1]:
            raise MissingDevice("device 'cuda:9' is not here")
        return working(created, builds)

    folder = place / "r"
    if there:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    equip_with(monkeypatch, equip)
    assert door("optimize", "relu.py", "--out", "r", *platforms)[0] == 7
    assert folder.exists() == there
    equip_with(monkeypatch, working)
    if there:
        assert (folder / "notes.txt").read_text() == "mine"
        assert not (folder / "h100").exists()
        code, _, err = door("resume", "r")
        assert ("kernelevolve optimize PROBLEM --out r" if code == 6 else "r holds no run") in err
    assert door("optimize", "relu.py", "--out", "r", "--candidates", 1, *platforms)[0] == 0


def test_a_creation_that_was_killed_does_not_hide_the_other_runs(door: Any, place: Path) -> None:
    assert door("optimize", "relu.py", "--candidates", 1, "--out", "runs/good")[0] == 0
    shutil.copytree("runs/good", "runs/killed")
    with contextlib.closing(sqlite3.connect("runs/killed/log.sqlite")) as log, log:
        log.execute("delete from log")
    code, data, _ = door("list")
    assert (code, [r["folder"] for r in data["runs"]]) == (0, ["runs/good"])
    for command in ("resume", "show"):
        code, _, err = door(command, "runs/killed")
        assert (code, "start it again: kernelevolve optimize PROBLEM --out runs/killed" in err) == (6, True)


def test_a_bug_is_told_with_its_traceback_and_scripts_get_their_object(place: Path) -> None:
    code, data, err = process(BUGGY, "optimize", "relu.py", "--out", "r", "--candidates", "5")
    assert code == 70
    assert (data["verdict"], data["correct"], data["kind"]) == (None, False, "KeyError")
    assert "no such rung" in data["error"]
    kept = Path(data["traceback"])
    assert kept.parent == Path("r") and "KeyError: 'no such rung'" in kept.read_text()
    assert "Traceback" in err and "report it" in err and "kernelevolve resume r" in err
    assert len(read_run(place / "r").nodes) == 2
    assert process(SCRIPT, "{}", "resume", "r", "--candidates", "4")[0] == 0


def test_a_bug_before_there_is_a_folder_keeps_its_traceback_on_stderr(
    door: Any, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    def broken(problem: Problem, device: str) -> Any:
        raise RuntimeError("a plugin's\nown words")

    monkeypatch.setattr(public, "workshop", broken)
    code, data, err = door("optimize", "relu.py", "--out", "r")
    assert (code, data["kind"], data["traceback"]) == (70, "RuntimeError", "stderr")
    assert data["error"] == "RuntimeError: a plugin's own words"
    assert "in broken" in err and not (place / "r").exists()
    assert door("--debug", "optimize", "relu.py", "--effort", "no")[0] == 2


@pytest.mark.parametrize(
    ("device", "here", "words"),
    [
        ("cuda:0", {}, "'cuda:0' is not here; devices here: none; leave --device out"),
        ("cuda:9", {"cuda:0": "NVIDIA H100 80GB HBM3"}, "'cuda:9' is not here; devices here: cuda:0 (NVIDIA H100"),
        ("cuda:0", {"cuda:0": "NVIDIA A100-SXM4-80GB"}, "'cuda:0' is no h100; devices here: cuda:0 (NVIDIA A100"),
    ],
    ids=["none at all", "another number", "another product"],
)
def test_a_missing_device_is_said_before_anything_starts(
    door: Any, monkeypatch: pytest.MonkeyPatch, place: Path, device: str, here: dict[str, str], words: str
) -> None:
    monkeypatch.setattr(public, "workshop", WORKSHOP)
    monkeypatch.setattr(equipment, "find_devices", lambda: here)
    code, data, err = door("optimize", "relu.py", "--out", "r", "--device", device)
    assert (code, data["kind"], data["verdict"]) == (7, "MissingDevice", "INFRA")
    assert words in data["error"] and words in err
    assert not (place / "r").exists()


WORKSHOP = public.workshop


def test_a_database_of_a_newer_version_is_left_alone(door: Any, place: Path) -> None:
    assert door("optimize", "relu.py", "--candidates", 2, "--out", "r")[0] == 0
    with contextlib.closing(sqlite3.connect("r/log.sqlite")) as log, log:
        log.execute("update layout set version = 99")
    before = (place / "r" / "log.sqlite").read_bytes()
    for command in (("resume", "r"), ("show", "r")):
        code, data, err = door(*command)
        assert (code, data["kind"]) == (6, "StoreTooNew")
        assert "layout 99" in err and "upgrade KernelEvolve" in err and "Traceback" not in err
    assert door("optimize", "relu.py", "--out", "r")[0] == 6
    assert (place / "r" / "log.sqlite").read_bytes() == before


def test_the_second_process_on_a_run_learns_who_has_it_and_how_to_read_it(place: Path) -> None:
    slow, quick = json.dumps({"seconds": 0.2}), "{}"
    command = [sys.executable, "-c", SCRIPT, slow, "optimize", "relu.py", "--out", "r", "--candidates", "500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as owner:
        try:
            deadline = time.monotonic() + 40
            while owner.poll() is None and time.monotonic() < deadline and not evaluated(place / "r"):
                time.sleep(0.1)
            code, data, err = process(SCRIPT, quick, "resume", "r")
            assert (code, data["kind"]) == (6, "RunBusy"), err
            assert f"process {owner.pid} on {this_process().host}" in data["error"]
            advised = re.search(r"kernelevolve (show \S+)", data["error"])
            assert advised is not None
            code, shown, _ = process(SCRIPT, quick, *advised[1].split())
            assert (code, shown["finished"]) == (0, None)
            assert owner.poll() is None
        finally:
            owner.kill()
    # Who was killed owns nothing any more.
    assert process(SCRIPT, quick, "resume", "r", "--candidates", str(len(read_run(place / "r").nodes) + 1))[0] == 0


def evaluated(run: Path) -> bool:
    """Whether a node is in the log; looked at from outside, without a word of our own code."""
    if not (run / "log.sqlite").is_file():
        return False
    with contextlib.closing(sqlite3.connect(f"file:{run}/log.sqlite?mode=ro", uri=True)) as log:
        try:
            return bool(log.execute("select count(*) from log where kind = 'evaluated'").fetchone()[0])
        except sqlite3.OperationalError:
            return False


def test_a_full_disk_is_said_and_the_run_goes_on_later(place: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: a small file system cannot be mounted")
    (place / "disk").mkdir()
    mount = "mount -t tmpfs -o size=1m tmpfs disk || exit 77; " + " ".join([
        f"'{sys.executable}' -c \"$SCRIPT\" '{{}}' optimize relu.py --out disk/r --candidates 500 --effort deep --json",
        "; code=$?; echo; cp -r disk/r kept; exit $code",
    ])  # fmt: skip
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount],
        env={**os.environ, "SCRIPT": SCRIPT}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    code, data, err = said(done.returncode, done.stdout.strip(), done.stderr)
    assert (code, data["kind"]) == (6, "StoreFull"), err
    assert "go on with: kernelevolve resume disk/r" in err and "Traceback" not in err
    nodes = len(read_run(place / "kept").nodes)
    assert nodes > 0
    code, resumed, err = process(SCRIPT, "{}", "resume", "kept", "--candidates", str(nodes + 2), "--by-force")
    assert (code, resumed["candidates"]) == (0, nodes + 2), err
