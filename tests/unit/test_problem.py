"""Problem files and sidecars as text: what is read, what is refused, and with which words."""

from __future__ import annotations

import ast
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelevolve import codec
from kernelevolve.errors import ProblemError
from kernelevolve.problem import Problem, Workload, parse_problem, read_problem, replace_constants, workload_source

SOURCE = """import torch
class Model(torch.nn.Module):
    def forward(self, x):
        return x
batch, dim = 4, 8
rows = 16; columns = 32  # both on one line
def get_inputs():
    return [torch.rand(rows, columns)]
"""


def parse(sidecar: str | None = None, source: str = SOURCE) -> Problem:
    return parse_problem(source, sidecar, name="p", suite="s", path="folder/p.py")


def test_a_plain_file_gets_the_defaults() -> None:
    problem = parse()
    assert problem.workloads == (Workload("declared"),)
    assert (problem.precision, problem.direction, problem.mode) == ("fp32-strict", "forward", "as-built")
    assert workload_source(problem, problem.workloads[0]) == SOURCE


def test_a_sidecar_sets_rules_and_workloads() -> None:
    problem = parse(
        'precision = "bf16"\nmutates = ["x"]\naliases = [[0, "x"]]\n[inputs]\nx = "sorted"\n'
        '[[workload]]\nname = "small"\nweight = 2\nset = { rows = 3, columns = 5 }\n[[workload]]\n'
    )
    assert problem.precision == "bf16"
    assert problem.kinds == {"x": "sorted"}
    assert problem.aliases == ((0, "x"),)
    assert problem.workloads == (Workload("small", {"rows": 3, "columns": 5}, 2.0), Workload("workload1"))
    text = workload_source(problem, problem.workload("small"))
    assert "rows = 3; columns = 5  # both on one line" in text
    assert text.count("\n") == SOURCE.count("\n")


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        ("precision = 'fp31'", "precision = 'fp31'; known: fp32-strict"),
        ("flavour = 1", "flavour = 1 does not fit; known fields"),
        ("= 1", "not TOML"),
        ("[inputs]\nx = 'odd'", "inputs.x = 'odd'; known: values"),
        ("baselines = ['eager', 'magic']", "unknown baseline 'magic'"),
        ("[[workload]]\nset = { height = 1 }", "sets 'height', which the problem file does not assign"),
        ("[[workload]]\nweight = 0", "weight 0; a weight is a number above 0"),
        ("[[workload]]\nname = 'a'\n[[workload]]\nname = 'a'", "unique names"),
        ("[[workload]]\nsize = 1", "a workload has name, weight and set"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused_with_the_value(sidecar: str, words: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse(sidecar)
    assert words in str(caught.value)
    assert str(caught.value).startswith("folder/p.toml")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def Model(:", "folder/p.py:1: not Python"),
        ("x = 1", "no top-level Model and no get_inputs"),
        ("class Model: pass", "no top-level get_inputs"),
    ],
)
def test_a_file_that_is_no_problem_is_refused(source: str, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        parse(source=source)


def test_constants_are_replaced_where_several_are_assigned_at_once() -> None:
    source = "import torch\nclass Model: pass\nROWS, WIDTH = 64, 4096  # sizes\ndef get_inputs(): pass\n"
    problem = parse("[[workload]]\nset = { WIDTH = 8 }\n[[workload]]\nset = { ROWS = 1, WIDTH = 2 }", source)
    made = [workload_source(problem, w).splitlines()[2] for w in problem.workloads]
    assert made == ["ROWS, WIDTH = 64, 8  # sizes", "ROWS, WIDTH = 1, 2  # sizes"]


def test_a_constant_that_cannot_be_replaced_is_refused() -> None:
    source = "class Model: pass\nROWS, WIDTH = (64, 4096)[::-1]\ndef get_inputs(): pass\n"
    problem = parse("[[workload]]\nset = { ROWS = 1 }", source)
    with pytest.raises(ProblemError, match="sets 'ROWS'"):
        workload_source(problem, problem.workloads[0])


def test_an_unknown_workload_names_the_known_ones() -> None:
    with pytest.raises(ProblemError, match="no workload 'x'; known: declared"):
        parse().workload("x")


def test_the_key_follows_what_is_measured_and_nothing_else() -> None:
    problem = parse()
    assert dataclasses.replace(problem, path="elsewhere.py", suite="t", notes="n").key == problem.key
    changed = [
        dataclasses.replace(problem, source=SOURCE + "#"),
        dataclasses.replace(problem, precision="bf16"),
        dataclasses.replace(problem, workloads=(Workload("declared", {"rows": 2}),)),
        dataclasses.replace(problem, kinds={"x": "mask"}),
    ]
    assert len({p.key for p in [problem, *changed]}) == 5


def test_a_problem_survives_the_wire() -> None:
    problem = parse("[[workload]]\nname = 'a'\nset = { rows = 2 }")
    assert codec.loads(Problem, codec.dumps(problem)) == problem


def test_a_missing_file_says_what_to_give(tmp_path) -> None:
    with pytest.raises(ProblemError, match=r"give a \.py file"):
        read_problem(tmp_path / "none.py")


values = st.one_of(st.integers(-(10**12), 10**12), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))


@given(values, st.one_of(values, st.text(max_size=8)))
def test_replaced_constants_parse_to_exactly_the_given_values(rows: object, columns: object) -> None:
    text = replace_constants("é = 'ü'; rows = 1; columns = 'ß'  # ä\n", {"rows": rows, "columns": columns}, "p.py")
    found = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(text).body}  # type: ignore[attr-defined]
    assert found == {"é": "ü", "rows": rows, "columns": columns}
