"""Built-ins and strangers enter by the same door."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from kernelevolve import plugins
from kernelevolve.errors import UnknownName
from kernelevolve.propose.builtin import BuiltinWriter
from kernelevolve.search.greedy import Greedy
from kernelevolve.store.sqlite import SqliteStore


def test_built_ins_are_plugins():
    assert plugins.load("policies", "greedy") is Greedy
    assert plugins.load("writers", "built-in") is BuiltinWriter
    assert plugins.load("stores", "sqlite") is SqliteStore
    assert {"h100", "mi300x"} <= set(plugins.names("platforms"))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownName, match="unknown policy 'gredy'; known: beam, best_of_n, greedy"):
        plugins.load("policies", "gredy")
    with pytest.raises(UnknownName, match="unknown plugin kind 'policy'; known: platforms, policies, stores"):
        plugins.names("policy")


STRANGER = """
import random
from kernelevolve.graph import Graph
from kernelevolve.search.greedy import Greedy


class AnyParent:
    reducers = Greedy().reducers

    def __init__(self, drafts: int = 1):
        self.drafts = drafts

    def select(self, graph: Graph, rng: random.Random) -> tuple[str, ...]:
        fresh = graph.drafts < self.drafts or not graph.nodes
        return () if fresh else (f"n{rng.randrange(len(graph.nodes))}",)


class Typist:
    name = "typist"
    reducers = ()

    def __init__(self, workbench, *, word: str):
        self.word = word

    async def write(self, brief, graph):
        from kernelevolve import Answer
        return Answer(f"# {self.word} {brief.index}\\n", "typed")
"""

USER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from kernelevolve import Component, create_run, open_run, plugins, settings_for
from kernelevolve.testing import check_policy, fake_equip, fake_problem

check_policy(plugins.load("policies", "any-parent"))
settings = replace(settings_for("quick"), candidates=15, plateau=99)
place, equip = Path(sys.argv[1]), fake_equip()
policy, writer = Component("any-parent", {"drafts": 2}), Component("typist", {"word": "hello"})
with create_run(place, fake_problem(), "h100", equip, settings=settings, policy=policy, writer=writer) as run:
    for _ in range(5):
        asyncio.run(run.step())
with open_run(place, equip) as run:
    asyncio.run(run.drive())
    nodes = run.graph.nodes
print(len(nodes), {n.candidate.writer for n in nodes.values()}, nodes["n3"].candidate.source.strip())
"""


def installed(folder, name, code, entry_points):
    """What `pip install` leaves behind: a module and a folder of metadata."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
    return folder


def python(path, code, *arguments):
    setup = f"import sys; sys.path.insert(0, {str(path)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", setup + code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_strangers_policy_and_writer_drive_a_run(tmp_path):
    place = tmp_path / "site"
    place.mkdir()
    installed(
        place,
        "kernelevolve-stranger",
        STRANGER,
        """
        [kernelevolve.policies]
        any-parent = kernelevolve_stranger:AnyParent
        [kernelevolve.writers]
        typist = kernelevolve_stranger:Typist
        """,
    )
    done = python(place, USER, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "15 {'typist'} # hello 3\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import a_module_that_is_not_there", "No module named 'a_module_that_is_not_there'"),
        ("def broken(:", "invalid syntax"),
        ("x = 1", "has no attribute 'Policy'"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_its_package(tmp_path, code, said):
    installed(tmp_path, "kernelevolve-broken", code, "[kernelevolve.policies]\nbroken = kernelevolve_broken:Policy\n")
    done = python(tmp_path, "from kernelevolve import plugins; plugins.load('policies', 'broken')")
    last = done.stderr.strip().splitlines()[-1]
    assert "UsageError: policy 'broken' of package kernelevolve-broken 1.2 cannot be imported" in last
    assert said in last


def test_one_name_in_two_packages_is_refused(tmp_path):
    entry_points = "[kernelevolve.policies]\ngreedy = kernelevolve_twin:Policy\n"
    installed(tmp_path, "kernelevolve-twin", "Policy = 1", entry_points)
    done = python(tmp_path, "from kernelevolve import plugins; plugins.load('policies', 'greedy')")
    assert "policy 'greedy' is registered by kernelevolve" in done.stderr
    assert "and kernelevolve-twin 1.2; uninstall one of them" in done.stderr
