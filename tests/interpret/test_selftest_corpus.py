"""A part of the corpus on the interpreter: each cheat gets the verdict that names its fault, and guards are what stops
them. `kernelevolve selftest` runs all of it."""

from __future__ import annotations

import json

import pytest

from kernelevolve.cli import main
from kernelevolve.selftest.matrix import Shown, rows_for, run_matrix

# `make corpus` runs all specimens and shows all guards; here few, for what the command and the report say of them.
SHOWN = ("timed-outputs", "frames", "D8")
FAST = ("A21", "A65", "A71", "A78")  # all on one problem, so that processes and oracles are started once


def test_each_cheat_is_rejected_for_the_right_reason(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [part for name in FAST for part in ("--only", name)]
    main_ended_with(0, ["selftest", *arguments, "--json"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["correct"] is True
    assert {o["id"] for o in result["outcomes"]} == set(FAST)
    assert all(o["right"] for o in (*result["outcomes"], *result["controls"]))
    assert len(result["controls"]) == 1, "a known-good candidate follows the cheats"


def test_without_a_guard_its_cheat_passes() -> None:
    """So it is the guard that stops it, and nothing by accident."""
    as_it_came: list[Shown] = []
    report = run_matrix(rows_for(SHOWN), told=as_it_came.append)
    assert {shown.line for shown in as_it_came} == {shown.line for shown in report.shown}
    for shown in report.shown:
        assert shown.holds, f"{shown.line}: {shown.then.message}"
    assert {name for shown in report.shown for name in shown.row.guards} == set(SHOWN)
    assert report.ok and not report.left


def test_the_command_prints_the_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    main_ended_with(0, ["selftest", "--matrix", "--weaken", "census", "--jobs", "1", "--json"])
    (shown,) = json.loads(capsys.readouterr().out.splitlines()[-1])["shown"]
    assert (shown["found"]["verdict"], shown["row"]["guards"]) == ("POLICY", ["census"])
    main_ended_with(2, ["selftest", "--matrix", "--only", "A21"])


def main_ended_with(code: int, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code
