"""The scripts for a device, with the CPU in its place: real processes, small sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, *arguments: object) -> tuple[int, str]:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), "--device", "cpu", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stdout + done.stderr


def test_faults_harm_nobody(tmp_path: Path) -> None:
    kinds = ("good", "wrong", "kills itself", "killed from outside", "host memory")
    chosen = [part for kind in kinds for part in ("--only", kind)]
    out = tmp_path / "faults.json"
    code, printed = run(
        "faults", *chosen, "--each", 1, "--elements", 4096, "--rung", "correct", "--call-seconds", 30,
        "--at-once", 3, "--out", out,
    )  # fmt: skip
    kept = json.loads(out.read_text())
    rows = {row["kind"]: row for row in kept["rows"]}
    assert set(rows) == set(kinds), printed
    assert code == 0 and kept["sittings"][0]["complete"], printed
    assert rows["good"]["verdict"] == rows["killed from outside"]["verdict"] == "OK_UNTIMED"
    assert (rows["wrong"]["verdict"], rows["host memory"]["verdict"]) == ("WRONG_VALUE", "OOM")
    assert rows["killed from outside"]["ended by this script"] == "process"
    assert "nothing says by whom" in rows["killed from outside"]["notes"][0]
    assert kept["after"]["device"]["right"] and kept["after"]["left over"] == []


def test_a_kernel_beside_itself_is_kept_comparison_by_comparison(tmp_path: Path) -> None:
    out = tmp_path / "aa.json"
    code, printed = run("aa", "--tiny", "--only", "20us", "--blocks", 2, "--out", out)
    assert code == 0, printed
    found = json.loads(out.read_text())["parts"]["20us"]
    assert [row["first"] for row in found["rows"]] == ["candidate", "eager"], printed
    assert len(found["samples"]) == 2 and set(found["samples"][0]) == {"candidate", "eager"}
    code, printed = run("aa", "--tiny", "--only", "20us", "--blocks", 2, "--out", out)
    assert code == 0 and "opened first\n" not in printed, "it is complete: nothing is measured again"
