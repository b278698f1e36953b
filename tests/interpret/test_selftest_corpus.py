"""A part of the corpus on the interpreter: each cheat gets the verdict that names its fault, and guards are what stops
them. `kernelevolve selftest` runs all of it."""

from __future__ import annotations

import json

import pytest

from kernelevolve.cli import main
from kernelevolve.selftest.runner import chosen_specimens, run_selftest

# One of each way to be caught, all on one problem, so that processes and oracles are started once.
FAST = ("A21", "A26b", "A65", "A71", "A72b", "A75", "A78", "A82a", "A88c", "A3")


def test_each_cheat_is_rejected_for_the_right_reason(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [part for name in FAST for part in ("--only", name)]
    main_ended_with(0, ["selftest", *arguments, "--json"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["correct"] is True
    assert {o["id"] for o in result["outcomes"]} == set(FAST)
    assert all(o["right"] for o in (*result["outcomes"], *result["controls"]))
    assert len(result["controls"]) == 2, "a known-good candidate follows the cheats"


@pytest.mark.parametrize(
    ("guards", "names"), [(("hold", "timed-outputs"), ("A27", "A28c")), (("clock",), ("A6c",))]
)
def test_without_its_guards_a_cheat_passes(guards: tuple[str, ...], names: tuple[str, ...]) -> None:
    """So it is they that stop it, and nothing by accident."""
    report = run_selftest(chosen_specimens(names), weaken=guards)
    for found in report.outcomes:
        assert found.passed, f"{found.id}: {found.verdict} at {found.rung}: {found.message}"
    assert {o.id for o in report.through} == set(names) and not report.ok


def main_ended_with(code: int, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code
