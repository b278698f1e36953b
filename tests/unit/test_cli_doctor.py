"""Doctor: each missing thing is named with its remedy, and only what is needed fails."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from kernelevolve import Layer
from kernelevolve.cli import doctor
from kernelevolve.cli.doctor import Finding
from kernelevolve.hardware import Target

TARGETS = {"h100": Target("cuda", 90, 32), "mi300x": Target("hip", "gfx942", 64)}
PROBED = (
    '{"torch": "2.13.0", "triton": "3.9.0", "devices": [{"name": "NVIDIA H200", "memory_bytes": 150000000000, '
    '"arch": "", "capability": [9, 0]}], "targets": {"h100": {"seconds": 0.5}, "mi300x": {"error": "no lld"}}}'
)

NAMES = ("bwrap", "namespaces", "landlock", "seccomp")
LAYERS = tuple(Layer(name, True, "there") for name in NAMES)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What subprocesses answer: by a word of their command line."""
    said: dict[str, Any] = {"probe": (0, PROBED, "")}

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        word = next(w for w in said if any(w in part for part in command))
        if isinstance(said[word], Exception):
            raise said[word]
        return subprocess.CompletedProcess(command, *said[word])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(doctor, "seal_layers", lambda: said.get("layers", LAYERS))
    return said


def examine(folder: Path) -> dict[str, Finding]:
    return {f.name: f for f in doctor.examine(TARGETS, folder)}


def test_a_sound_machine(answers: dict[str, Any], tmp_path: Path) -> None:
    found = examine(tmp_path)
    assert doctor.sound(found.values())
    assert found["device"].found == "NVIDIA H200, 139.7 GiB, compute capability 9.0"
    assert (found["builds for h100"].state, found["builds for mi300x"].state) == ("ok", "note")
    assert found["builds for mi300x"].found == "no lld"
    assert found["seal: namespaces"].state == "ok" and found["isolation"].found == "namespaces+landlock+seccomp"


def test_the_system_comes_first_and_must_be_linux(
    answers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    first = doctor.examine(TARGETS, tmp_path)[0]
    assert (first.name, first.state) == ("system", "missing")
    assert "WSL2" in first.remedy
    assert not doctor.sound([first])


@pytest.mark.parametrize(
    "answer",
    [
        (1, "", "Traceback ...\nModuleNotFoundError: No module named 'torch'"),
        subprocess.TimeoutExpired("probe", 300),
    ],
    ids=["absent", "silent"],
)
def test_without_torch_nothing_works(answers: dict[str, Any], tmp_path: Path, answer: Any) -> None:
    answers["probe"] = answer
    found = examine(tmp_path)["torch and triton"]
    assert found.state == "missing"
    assert found.remedy


def test_a_machine_without_a_device_is_sound_and_says_what_that_means(answers: dict[str, Any], tmp_path: Path) -> None:
    answers["probe"] = (0, '{"torch": "2", "triton": "3", "devices": [], "targets": {}}', "")
    found = examine(tmp_path)
    assert doctor.sound(found.values())
    assert found["device"].state == "note"
    assert "modelled" in found["device"].found


@pytest.mark.parametrize(
    ("absent", "isolation"),
    [
        (["bwrap"], "namespaces+landlock+seccomp"),
        (["bwrap", "namespaces"], "landlock+seccomp"),
        (["bwrap", "namespaces", "landlock"], "seccomp"),
        (["landlock"], "namespaces+seccomp"),
    ],
)
def test_a_layer_that_is_missing_is_named_with_what_remains_and_its_remedy(
    answers: dict[str, Any], tmp_path: Path, absent: list[str], isolation: str
) -> None:
    answers["layers"] = [Layer(n, n not in absent, "refused" if n in absent else "there", f"allow {n}") for n in NAMES]
    found = examine(tmp_path)
    assert doctor.sound(found.values())
    assert found["isolation"].found == isolation
    for name in absent:
        lost = found[f"seal: {name}"]
        assert (lost.state, lost.remedy) == ("note", f"allow {name}") and "refused; without it" in lost.found


def test_without_any_layer_nothing_foreign_runs_and_doctor_says_so(answers: dict[str, Any], tmp_path: Path) -> None:
    answers["layers"] = [Layer(n, False, "refused", f"allow {n}") for n in NAMES]
    found = examine(tmp_path)
    assert not doctor.sound(found.values())
    assert found["isolation"].state == "missing" and "--unsealed" in found["isolation"].remedy


def test_a_folder_that_does_not_exist_yet_is_judged_by_its_parent(answers: dict[str, Any], tmp_path: Path) -> None:
    found = examine(tmp_path / "a" / "b")["room for runs"]
    assert found.state == "ok"
    assert str(tmp_path) in found.found
