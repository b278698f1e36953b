"""The judge as the host meets it: a process, a sealed child, questions and answers over the wire."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kernelevolve import codec
from kernelevolve.evaluate.roles import Conversation, Refusal, Role
from kernelevolve.evaluation import Check
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Case, Description, Opened
from kernelevolve.suites.recsys import Recsys
from kernelevolve.tensors import call, draw, load, outputs
from kernelevolve.wire import memory_bytes

SECONDS = 60.0
SOURCE = """import torch
import torch.nn as nn
class Model(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.fc = nn.Linear(n, n)
    def forward(self, x):
        return torch.relu(self.fc(x))
rows = 65536
n = 1024
def get_inputs():
    return [torch.rand(rows, n)]
def get_init_inputs():
    return [n]
"""
PROBLEM = parse_problem(SOURCE, None, name="p", suite="s", path="p.py")


@pytest.fixture(scope="module")
def role() -> Iterator[Role]:
    role = Role("judge", seal=False)
    yield role
    role.close()


@pytest.fixture
def judge(role: Role) -> Iterator[Conversation]:
    with role.open() as conversation:
        yield conversation


def descriptions(judge: Conversation, problem: Any) -> list[Description]:
    body = judge.ask("describe", {"problem": codec.to_data(problem)}, seconds=SECONDS).body
    return [codec.from_data(Description, d) for d in body["descriptions"]]


def honest(description: Description, case: Case) -> list[tuple[str, torch.Tensor]]:
    module = load.load_module(description.variant.source)
    model = load.build_model(module, seed=0)
    draw.apply_state(model, draw.draw_state(description.state, case, "cpu"))
    return call.run(model, draw.draw_inputs(description, case, "cpu", module))


def compared(judge: Conversation, case: Case, leaves: list[tuple[str, torch.Tensor]]) -> list[Check]:
    metas, files = outputs.to_attachments(leaves)
    body = {"case": codec.to_data(case), "metas": codec.to_data(metas)}
    answer = judge.ask("compare", body, files, seconds=SECONDS).body
    for file in files.values():
        file.close()
    return [codec.from_data(Check, c) for c in answer["checks"]]


def test_a_candidate_s_bytes_are_judged_from_description_to_verdict(judge: Conversation) -> None:
    full, small, ragged = descriptions(judge, PROBLEM)
    assert [d.variant.label for d in (full, small, ragged)] == ["declared", "declared/scaled", "declared/ragged"]
    assert full.inputs[0].shape == (65536, 1024)
    for description in (small, ragged):
        opened = Opened(description, "cpu", PROBLEM.precision, PROBLEM.direction, PROBLEM.mode)
        judge.ask("oracle", {"opened": codec.to_data(opened)}, seconds=SECONDS)
        for case in (Case(1), Case(2, "D1")):
            answer = judge.ask("case", {"case": codec.to_data(case)}, seconds=SECONDS).body
            assert answer["usable"]
            assert answer["outputs"] == ["out"]
            right = honest(description, case)
            checks = compared(judge, case, right)
            assert {c.name for c in checks} == {"meta", "non-finite", "rms", "element"}
            assert all(c.passed and c.workload == description.variant.label for c in checks)
            assert not all(c.passed for c in compared(judge, case, [("out", right[0][1] * 1.001)]))
        assert not all(c.passed for c in compared(judge, Case(1), honest(description, Case(2))))


def test_bytes_that_do_not_fit_what_was_announced_are_the_candidate_s_fault(judge: Conversation) -> None:
    _, small, _ = descriptions(judge, PROBLEM)
    opened = Opened(small, "cpu", PROBLEM.precision, PROBLEM.direction, PROBLEM.mode)
    judge.ask("oracle", {"opened": codec.to_data(opened)}, seconds=SECONDS)
    right = honest(small, Case(1))
    metas, _ = outputs.to_attachments(right)
    body = {"case": codec.to_data(Case(1)), "metas": codec.to_data(metas)}
    for files, words in (({"out": memory_bytes(b"x" * 64)}, "64 bytes, but"), ({}, "neither bytes nor a handle")):
        answer = judge.ask("compare", body, files, seconds=SECONDS).body
        (wrong,) = [c for c in answer["checks"] if not c["passed"]]
        assert wrong["name"] == "meta"
        assert words in wrong["detail"]
    assert all(c.passed for c in compared(judge, Case(1), right))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (SOURCE.replace("nn.Linear(n, n)", "nn.Linear(n, m)"), "p.py:6: Model(...) raised NameError"),
        (SOURCE.replace("torch.relu(", "torch.dropout_it("), "p.py:8: forward raised AttributeError"),
        (SOURCE.replace("torch.relu(", "torch.nn.functional.dropout("), "forward is random"),
    ],
)
def test_a_problem_that_cannot_be_used_is_refused_by_name(judge: Conversation, source: str, words: str) -> None:
    problem = parse_problem(source, None, name="p", suite="s", path="p.py")
    with pytest.raises(Refusal) as caught:
        descriptions(judge, problem)
    assert caught.value.verdict == "TASK_INVALID"
    assert words in caught.value.message


def test_questions_out_of_order_are_answered_with_what_to_ask_first(judge: Conversation) -> None:
    with pytest.raises(Refusal, match="ask 'oracle' first"):
        judge.ask("case", {"case": codec.to_data(Case(1))}, seconds=SECONDS)
    with pytest.raises(Refusal, match="unknown question 'sing'"):
        judge.ask("sing", seconds=SECONDS)


@pytest.mark.parametrize("arm", ["eager"])
def test_a_baseline_is_warmed_and_timed(judge: Conversation, arm: str) -> None:
    _, small, _ = descriptions(judge, PROBLEM)
    opened = Opened(small, "cpu", PROBLEM.precision, PROBLEM.direction, PROBLEM.mode)
    judge.ask("baseline", {"opened": codec.to_data(opened), "arm": arm, "seed": 3}, seconds=SECONDS)
    warmed = judge.ask("warm", {"seed": 3, "seconds": 0.01, "slots": 4, "hold": 0}, seconds=SECONDS).body
    assert warmed["slots"] == 4
    judge.ask("renew", {"calls": [[0, 11], [2, 12], [1, 13]], "distribution": "D1"}, seconds=SECONDS)
    body = {"mode": "cold", "untimed": 0, "hold": False}
    times = judge.ask("burst", body, seconds=SECONDS).body["milliseconds"]
    assert len(times) == 3
    assert all(t > 0 for t in times)


@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU Inductor needs a C++ compiler")
def test_a_baseline_is_compiled_before_it_runs(judge: Conversation) -> None:
    _, small, _ = descriptions(judge, PROBLEM)
    opened = codec.to_data(Opened(small, "cpu", PROBLEM.precision, PROBLEM.direction, PROBLEM.mode))
    whole = {}
    for arm in ("eager", "compile"):
        judge.ask("baseline", {"opened": opened, "arm": arm, "seed": 3}, seconds=SECONDS)
        whole[arm] = judge.ask("compile", {}, seconds=SECONDS).body["whole"]
    assert whole == {"eager": False, "compile": True}
    warmed = judge.ask("warm", {"seed": 3, "seconds": 0.01, "slots": 4, "hold": 0}, seconds=SECONDS).body
    assert warmed["first"] < 1.0, "it was compiled again, which takes seconds"
    judge.ask("renew", {"calls": [[0, 11]], "distribution": "D1"}, seconds=SECONDS)
    timed = judge.ask("burst", {"mode": "cold", "untimed": 0, "hold": False}, seconds=SECONDS)
    assert timed.body["milliseconds"][0] > 0


@pytest.mark.parametrize("name", Recsys().names())
def test_shipped_problems_are_described_and_say_something(judge: Conversation, name: str) -> None:
    problem = Recsys().load(name)
    made = descriptions(judge, problem)
    assert len(made) == 3 * len(problem.workloads)
    assert all(d.labels == () for d in made)
    opened = Opened(made[1], "cpu", problem.precision, problem.direction, problem.mode)
    judge.ask("oracle", {"opened": codec.to_data(opened)}, seconds=SECONDS)
    for distribution in ("declared", "D1", "D6"):
        assert judge.ask("case", {"case": codec.to_data(Case(1, distribution))}, seconds=SECONDS).body["usable"]
