"""Suites: names, loading, and what is said when files are missing. No problem file is run here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kernelevolve.errors import UnknownName, UsageError
from kernelevolve.suites import by_prefix, load_problem, open_suite
from kernelevolve.suites.folder import Folder
from kernelevolve.suites.kernelbench import KernelBench
from kernelevolve.suites.recsys import Recsys

FILE = "class Model: pass\ndef get_inputs(): return []\n"


def checkout(folder: Path) -> Path:
    for name in ("level1/19_ReLU", "level1/1_Square", "level1/100_Hinge", "level2/1_Conv", "level2/19_GELU"):
        path = folder / "KernelBench" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILE)
    return folder


def test_a_folder_lists_problem_files_only(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("a.py", "deep/b.py", ".hidden/c.py"):
        (tmp_path / name).write_text(FILE)
    (tmp_path / "other.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("def (:\n")
    suite = Folder(tmp_path)
    assert suite.names() == ("a", "deep/b")
    assert suite.load("deep/b").name == "b"
    assert suite.load("b").path == str(tmp_path / "deep/b.py")
    with pytest.raises(UnknownName, match="unknown problem 'c'; known: a, deep/b"):
        suite.load("c")


def test_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        Folder(tmp_path / "none")


def test_kernelbench_names_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    suite = KernelBench(checkout(tmp_path))
    assert suite.names() == ("level1/1_Square", "level1/19_ReLU", "level1/100_Hinge", "level2/1_Conv", "level2/19_GELU")


@pytest.mark.parametrize("name", ["level1/19_ReLU", "level1/19", "19_ReLU", "level1/19_ReLU.py"])
def test_kernelbench_problems_have_short_names(tmp_path: Path, name: str) -> None:
    problem = KernelBench(checkout(tmp_path)).load(name)
    assert (problem.name, problem.suite) == ("19_ReLU", "kernelbench")


@pytest.mark.parametrize("name", ["19", "level3/19", "level1/10", "nothing"])
def test_a_name_that_is_unknown_or_not_unique_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownName, match="known: "):
        KernelBench(checkout(tmp_path)).load(name)


def test_kernelbench_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERNELBENCH_PATH", raising=False)
    with pytest.raises(UsageError, match=r"git clone .*KernelBench.*--suite-path or in KERNELBENCH_PATH"):
        KernelBench()
    with pytest.raises(UsageError, match="no checkout of KernelBench"):
        KernelBench(tmp_path)
    monkeypatch.setenv("KERNELBENCH_PATH", str(checkout(tmp_path)))
    assert len(KernelBench().names()) == 5


def test_every_shipped_problem_has_a_sidecar_and_an_explanation() -> None:
    suite = Recsys()
    assert suite.names() == (
        "bucketize_by_borders",
        "feature_hashing",
        "jagged_to_dense",
        "pairwise_dot_interaction",
        "rms_norm_residual",
        "sampled_softmax",
    )
    for name in suite.names():
        problem = suite.load(name)
        assert problem.workloads
        assert problem.notes
        assert problem.source.startswith('"""')
        assert problem.key == suite.load(name).key


def test_problems_are_found_by_suite_and_name_or_by_file(tmp_path: Path) -> None:
    assert load_problem("recsys:jagged").name == "jagged_to_dense"
    assert load_problem("kernelbench:level2/1", checkout(tmp_path)).name == "1_Conv"
    assert load_problem(str(tmp_path / "KernelBench/level1/19_ReLU.py")).suite == "folder"
    with pytest.raises(UnknownName, match="unknown suite 'nosuite'"):
        open_suite("nosuite")
    with pytest.raises(UsageError, match=r"no \.py file and no SUITE:NAME"):
        load_problem("jagged_to_dense")


def test_by_prefix_needs_exactly_one_fit() -> None:
    assert by_prefix("a", ["a_1", "a_2"]) is None
    assert by_prefix("a_1", ["a_1", "a_1_b"]) == "a_1"
    assert by_prefix("x/a", ["x/a_1", "y/a_1"]) == "x/a_1"


def test_suites_import_no_torch() -> None:
    code = "import sys, kernelevolve.suites.recsys as r; r.Recsys().load('jagged'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
