"""The docs say what is there: files, commands, exit codes, platforms, and no machine's own paths."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from kernelevolve.cli import reference
from kernelevolve.evaluation import Evidence
from kernelevolve.problem import parse_problem

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "kernelevolve"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_command_line_page_is_what_the_commands_say() -> None:
    assert read("docs/cli.md") == reference.page(), "run `make docs`"


def test_the_tree_in_the_readme_is_the_package() -> None:
    tree = re.search(r"```\nsrc/kernelevolve/\n(.*?)```", read("README.md"), re.DOTALL)
    assert tree
    rows = [line.split(maxsplit=1) for line in tree[1].splitlines()]
    assert all(len(row) == 2 for row in rows), "every file and folder has a comment"
    actual = {
        p.name + ("/" if p.is_dir() else "")
        for p in PACKAGE.iterdir()
        if (p.suffix == ".py" or p.is_dir()) and p.name != "__pycache__"
    }
    assert {row[0] for row in rows} == actual


def test_the_files_that_the_architecture_names_exist() -> None:
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", read("ARCHITECTURE.md")))
    named |= set(re.findall(r"`([a-z_]+/[a-z_]+)`", read("ARCHITECTURE.md")))
    named -= {"src/kernelevolve/"}
    assert len(named) > 40
    absent = sorted(n for n in named if not ((ROOT if n.startswith("tests/") else PACKAGE) / n).exists())
    assert not absent


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_of_the_package_exist(page: Path) -> None:
    for path in re.findall(r"`(src/kernelevolve/[\w/.]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_page_has_a_path_of_somebodys_machine(page: Path) -> None:
    assert not re.findall(r"(?:/home/|/root/|/Users/|/opt/|/work/|/tmp/)\S*", page.read_text(encoding="utf-8"))


def test_every_registered_platform_is_in_the_docs() -> None:
    text = read("docs/platforms.md")
    for point in entry_points(group="kernelevolve.platforms"):
        platform = point.load()
        assert f"| `{platform.name}` | {platform.figures.name} | `{platform.target.name}` |" in text


def test_the_readme_explains_every_kind_of_evidence() -> None:
    assert all(f"| `{evidence}` |" in read("README.md") for evidence in Evidence)


def test_the_example_problem_in_the_docs_is_a_problem() -> None:
    python = re.search(r"```python\n(.*?)```", read("docs/problems.md"), re.DOTALL)
    toml = re.search(r"```toml\n(.*?)```", read("docs/problems.md"), re.DOTALL)
    assert python
    assert toml
    problem = parse_problem(python[1], toml[1], name="example", suite="folder", path="example.py")
    assert [w.name for w in problem.workloads] == ["small", "large"]
    assert problem.precision == "bf16"


def test_the_licence_is_the_whole_apache_text() -> None:
    text = read("LICENSE")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("goal", "command"), [("demo", "kernelevolve optimize recsys:"), ("test", "pytest")])
def test_the_two_commands_of_the_readme_do_what_it_says(goal: str, command: str) -> None:
    assert f"make {goal}" in read("README.md")
    done = subprocess.run(["make", "-n", "-C", ROOT, goal], capture_output=True, text=True, check=True)
    assert command in done.stdout
