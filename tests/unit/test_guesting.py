"""ask and submit as commands, with briefs and answers as files, on fakes in place of seats."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from kernelevolve.cli import main, public
from kernelevolve.runs import read_run
from kernelevolve.testing import FakeEvaluator, fake_equip, fake_folder


class Door:
    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: object) -> tuple[int, dict[str, Any], str]:
        """Exit code, result object, and what people read."""
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json"])
        out, err = self._capfd.readouterr()
        return int(ended.value.code or 0), json.loads(out.splitlines()[-1]), err


@pytest.fixture
def door(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Door:
    monkeypatch.chdir(tmp_path)
    fake_folder(tmp_path)
    equip = fake_equip(FakeEvaluator(faulty=0.0))
    monkeypatch.setattr(public, "workshop", lambda problem, device, **more: contextlib.nullcontext(equip))
    return Door(capfd)


def test_briefs_as_files_and_answers_from_a_folder(door: Door, tmp_path: Path) -> None:
    code, data, _ = door("ask", "r", "--problem", "relu.py", "--count", 3, "--to", "briefs")
    assert code == 0 and [brief["brief"] for brief in data["briefs"]] == ["b0", "b1", "b2"]
    briefs = tmp_path / "briefs"
    assert "What the file must be" in (briefs / "b1.md").read_text()
    for name in ("b0", "b1"):
        (briefs / f"{name}.py").write_text(f'"""Answer to {name}."""\n')
    code, data, err = door("submit", "r", "--from", "briefs", "--tokens", 100, "--cost-usd", 0.5)
    assert code == 0 and [one["node"] for one in data["submitted"]] == ["n0", "n1"], err
    assert "b0 n0: " in err
    nodes = list(read_run(tmp_path / "r").nodes.values())
    assert [node.candidate.note for node in nodes] == ["Answer to b0.", "Answer to b1."]
    assert sum(node.candidate.cost.money_usd for node in nodes) == 0.5
    assert door("ask", "r", "--again")[1]["briefs"][0]["brief"] == "b2"
    assert door("submit", "r", "--from", "briefs")[0] == 0 and len(read_run(tmp_path / "r").nodes) == 2


def test_what_a_guest_gets_wrong_has_an_exit_code_and_a_remedy(door: Door, tmp_path: Path) -> None:
    code, _, err = door("ask", "r")
    assert code == 2 and "--problem PROBLEM" in err
    assert "ask for a brief first" in door("submit", "r", "b0", "x.py")[2]
    door("ask", "r", "--problem", "relu.py", "--to", "briefs", "--candidates", 2)
    door("ask", "other", "--problem", "relu.py")
    file = tmp_path / "x.py"
    assert "cannot be read" in door("submit", "r", "b0", file)[2]
    file.write_text("x = 1\n")
    assert "unknown brief 'b7'" in door("submit", "r", "b7", file)[2]
    assert "has no answer" in door("submit", "r", "--from", "briefs")[2]
    (tmp_path / "briefs" / "b0.py").write_text("x = 1\n")
    code, _, err = door("submit", "other", "--from", "briefs")
    assert code == 2 and "are of run" in err
    assert door("submit", "r", "b0", file, "--note", "mine")[0] == 0
    file.write_text("x = 2\n")
    code, data, err = door("submit", "r", "b0", file)
    assert code == 2 and "it became n0" in err and data["submitted"][0]["state"] == "refused"
    door("ask", "r")
    code, _, err = door("ask", "r")
    assert code == 2 and "2 candidates" in err and "--candidates N" in err
    assert door("ask", "r", "--candidates", 5)[0] == 0


def test_the_skill_file_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["mcp", "--skill"])
    assert capfd.readouterr().out.startswith("---\nname: kernelevolve\n")
