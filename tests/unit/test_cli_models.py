"""`--model`, `show --session` and what is said of writers, through the command line on fakes in place of seats."""

from __future__ import annotations

import contextlib
import json

import pytest

from kernelevolve.cli import main, public
from kernelevolve.runs import read_run
from kernelevolve.testing import FakeEvaluator, fake_equip, fake_folder

pytest.importorskip("pydantic_ai")

KERNEL = '''import triton


@triton.jit
def k(x):
    pass


class ModelNew:
    pass
'''


@pytest.fixture
def door(capfd, monkeypatch, tmp_path):
    """Runs a command: its exit code and all that it printed."""
    monkeypatch.chdir(tmp_path)
    fake_folder(tmp_path)
    equip = fake_equip(FakeEvaluator())
    monkeypatch.setattr(public, "workshop", lambda problem, device, **more: contextlib.nullcontext(equip))
    monkeypatch.setattr(public, "absent", lambda names: ())

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return ended.value.code or 0, out + err

    return run


def script(folder, *answers, **more):
    file = folder / f"script{len(list(folder.glob('script*')))}.json"
    file.write_text(json.dumps({"answers": answers, "tokens": {"in": 1000, "out": 100}, **more}))
    return f"scripted:{file.name}"


def answer(number, note="It saves a launch of the kernel."):
    return f"```python\n# plan {number}\n{KERNEL}```\n{note}"


def test_a_model_alone_writes_everything(door, tmp_path):
    model = script(tmp_path, answer(1), answer(2, "The second saves another."))
    code, said = door("optimize", "relu.py", "--candidates", 2, "--model", f"{model},mode=single", "--out", "r")
    graph = read_run(tmp_path / "r")
    assert code in (0, 5), said
    assert f"writer {model}, by first" in said
    assert [node.candidate.writer for node in graph.nodes.values()] == [f"model:{model}"] * 2
    assert [node.candidate.note for node in graph.nodes.values()] == [
        "It saves a launch of the kernel.", "The second saves another."
    ]  # fmt: skip
    assert f"written by   model:{model}: 2 candidates" in said
    assert "2,000 tokens read and 200 written in 2 calls" in said
    assert f"writer {model}" in door("resume", "r", "--candidates", 2)[1]


def test_a_model_beside_the_built_in_engineer_is_another_arm(door, tmp_path):
    model = script(tmp_path, *(answer(i, f"Change number {i} of the model.") for i in range(9)))
    both = ("--writer", "built-in", "--model", f"{model},mode=single")
    code, said = door("optimize", "relu.py", "--candidates", 6, *both, "--out", "r")
    assert code == 0, said
    assert f"writers built-in, {model}, by bandit" in said
    writers = {node.candidate.writer for node in read_run(tmp_path / "r").nodes.values()}
    assert writers == {"built-in", f"model:{model}"}
    assert "built-in: " in said and f"model:{model}: " in said


def test_a_session_is_shown_of_a_node_and_of_a_dropped_brief(door, tmp_path):
    model = script(tmp_path, "I would rather not.", "No.", answer(1))
    door("optimize", "relu.py", "--candidates", 1, "--model", f"{model},mode=single,useless=2", "--out", "r")
    code, said = door("show", "r", "b0", "--session")
    assert code == 0 and "I would rather not." in said and "nothing useful 2 times in a row" in said
    code, said = door("show", "r", "n0", "--session")
    assert code == 0 and "saves a launch" in said and "(1,000 tokens read, 100 written)" in said
    code, said = door("show", "r", "n7", "--session")
    assert code == 2 and "unknown node or dropped brief 'n7'; known: b0, n0" in said
    assert door("show", "r", "--session")[0] == 2
    code, said = door("show", "r", "n0")
    assert "kept; show it with --session" in said


def test_a_model_that_gives_nothing_ends_a_run_that_can_go_on(door, tmp_path):
    model = script(tmp_path, "I would rather not.", repeat=True)
    code, said = door(
        "optimize", "relu.py", "--candidates", 3, "--model", f"{model},mode=single,useless=2", "--out", "r"
    )
    assert code == 5 and "the writer failed 10 times in a row" in said
    assert "nothing useful 2 times in a row" in said and "kernelevolve resume r" in said


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("gpt-5", "is no name of a model"),
        ("nobody:gpt-5", "unknown provider of models 'nobody'"),
        ("openai:gpt-5,step=3", "unknown option of a model 'step'"),
        ("openai:gpt-5,steps=0", "steps=0"),
        ("openai:gpt-5,mode=both", "unknown mode"),
        ("openai:gpt-5", "OPENAI_API_KEY"),
        ("scripted:nowhere.json", "nowhere.json"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_before_anything_is_made(door, tmp_path, monkeypatch, model, says):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, said = door("optimize", "relu.py", "--model", model, "--out", "r")
    assert code == 2 and says in said and not (tmp_path / "r").exists()


def test_one_model_twice_is_refused(door, tmp_path):
    model = script(tmp_path, answer(1))
    code, said = door("optimize", "relu.py", "--model", model, "--model", model, "--out", "r")
    assert code == 2 and "different names" in said
