"""One public door: its names are listed, sorted, and all there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kernelevolve


def test_the_names_are_sorted_and_all_there():
    assert kernelevolve.__all__ == sorted(set(kernelevolve.__all__))
    for name in kernelevolve.__all__:
        assert getattr(kernelevolve, name) is not None
    assert dir(kernelevolve) == kernelevolve.__all__


def test_what_type_checkers_see_is_what_is_there():
    tree = ast.parse(Path(kernelevolve.__file__).read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in checked.body for alias in node.names}
    assert sorted(seen) == kernelevolve.__all__
    for name, module in seen.items():
        place = getattr(kernelevolve, name)
        assert module == "kernelevolve" or getattr(place, "__module__", module) == module


def test_the_usual_ones_are_public():
    usual = {"Run", "create_run", "open_run", "read_run", "optimize", "Problem", "Candidate", "Evaluation", "Graph"}
    assert usual <= set(kernelevolve.__all__)


def test_an_unknown_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Solution'; public names: .*Candidate"):
        _ = kernelevolve.Solution
