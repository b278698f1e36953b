"""The prompt tells every rule that the code holds a candidate to: a rule that is added without its words fails here.

Rules are read from the code itself: the verdicts, the refusals and hints of the check rung, the refusals of `KNOBS`.
"""

from __future__ import annotations

import ast
import inspect

import pytest

from kernelevolve import candidate
from kernelevolve.evaluate import check
from kernelevolve.evaluate.check import check_source
from kernelevolve.evaluation import Verdict
from kernelevolve.propose.prose import template

#: What the prompt says, on one line.
TOLD = " ".join(template("constraints").split())
VERDICTS = [verdict for verdict in Verdict if verdict.family in ("fault", "breach")]
#: How each refusal and hint of the code begins, and the words of the prompt that tell its rule.
RULES = {
    "the file has ": "At most 256 KiB of Python",
    "KNOBS": "All three are literals at top level",
    "line ": "256 KiB of Python",
    "the file defines no class ": "Top level defines `class ModelNew(torch.nn.Module)`",
    "the file defines no @triton.jit function": "at least one `@triton.jit` function",
    "imports ": "Imports: `torch`, `triton`, ",
    "names ": "in the file are looked at twice",
    "catches exceptions": "and `try` in the file are looked at twice",
    "autotune of ": "only where its configs are a literal list",
}
KNOBS = {
    "]: that is the name of an autotuned kernel's configuration": "read as one more knob, `KERNEL_config`",
    ": KNOBS must be a literal": "All three are literals at top level",
    ": KNOBS must be a dict of names and lists": "`KNOBS` is a dict of names",
    ": a vendor's section of KNOBS must be a dict": 'sections `"nvidia"` and `"amd"` have the knobs of one vendor',
    "; a knob is a name with a non-empty list of values": "non-empty lists of numbers or strings",
}
KERNEL = """
import torch, triton

@triton.jit
def kernel(x): ...

class ModelNew(torch.nn.Module): ...
"""


def texts(tree: ast.AST) -> list[str]:
    """The beginning of every message in a tree that is told to a candidate's writer: of f-strings their first words."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            first = node.values[0]
            found.append(str(first.value) if isinstance(first, ast.Constant) else "")
    return found


def messages(module: object) -> list[str]:
    """Of every `Finding(...)` with a verdict, and every hint."""
    tree = ast.parse(inspect.getsource(module))
    said: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
            verdict, message = node.args[:2]
            if not (isinstance(verdict, ast.Constant) and verdict.value is None):
                said += [message.value] if isinstance(message, ast.Constant) else texts(message)
        elif isinstance(node, ast.FunctionDef) and node.name in ("_hints", "_unread"):
            said += texts(node)
            said += [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value == "catches exceptions"]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "kind":
            said += ["KNOBS", *texts(node)]
    return [text for text in said if text]


def refusals(module: object) -> list[str]:
    """Of every `KnobsError(...)`, all of its literal parts."""
    calls = [n for n in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(n, ast.Call)]
    raised = [n for n in calls if getattr(n.func, "id", "") == "KnobsError"]
    return ["".join(str(c.value) for c in ast.walk(n.args[0]) if isinstance(c, ast.Constant)) for n in raised]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_against_a_candidate_is_told(verdict: Verdict) -> None:
    assert f"`{verdict.value}`" in TOLD


def test_every_rule_of_the_check_is_told() -> None:
    said = messages(check)
    assert len(said) >= len(RULES)
    for text in said:
        assert any(text.startswith(beginning) for beginning in RULES), f"{text!r}: tell it in prompts/constraints.md"
    for beginning, words in RULES.items():
        assert any(text.startswith(beginning) for text in said), f"no rule begins with {beginning!r} any more"
        assert words in TOLD


def test_every_rule_of_knobs_is_told() -> None:
    said = refusals(candidate)
    assert said
    for text in said:
        assert any(part in text for part in KNOBS), f"{text!r}: tell it in prompts/constraints.md"
    for part, words in KNOBS.items():
        assert any(part in text for text in said), f"no rule says {part!r} any more"
        assert words in TOLD


def names_of(variable: str) -> set[str]:
    """The strings of a set that the check assigns at top level."""
    for node in ast.parse(inspect.getsource(check)).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == variable:
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"evaluate/check.py has no {variable} any more: where does it keep these names?")


@pytest.mark.parametrize("name", sorted(names_of("_WATCHED")))
def test_every_watched_name_is_told(name: str) -> None:
    assert check_source(f"{KERNEL}\n{name}(1)\n").hints == (f"names {name}",)
    assert f"`{name}`" in TOLD


@pytest.mark.parametrize("name", sorted(names_of("_USUAL") - {"__future__"}))
def test_every_import_without_question_is_told(name: str) -> None:
    assert check_source(f"import {name}\n{KERNEL}").hints == ()
    imports = TOLD[TOLD.index("Imports: ") :].partition(". ")[0]
    assert f"`{name}`" in imports and check_source(f"import os\n{KERNEL}").hints == ("imports os",)
