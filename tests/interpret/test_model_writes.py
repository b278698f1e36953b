"""A search whose writer is a scripted model with the real tools: a broken kernel, its error, the repair, the result."""

from __future__ import annotations

import json

import pytest

import kernelevolve as ke
from kernelevolve import cli

pytest.importorskip("pydantic_ai")

PROBLEM = '''
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x) + 1.0

def get_inputs():
    return [torch.randn(64, 512)]

def get_init_inputs():
    return []
'''
KERNEL = '''import torch
import triton
import triton.language as tl

KNOBS = {"BLOCK": [256, 512]}
CHOICE = {}


@triton.jit
def relu_kernel(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < count)
    tl.store(out_ptr + at, tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + 1.0, mask=at < count)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        block = CHOICE.get("BLOCK", KNOBS["BLOCK"][0])
        relu_kernel[(triton.cdiv(x.numel(), block),)](x, out, x.numel(), BLOCK=block)
        return out
'''
NOTE = "One pass over memory: relu and the addition share a kernel."


def main(arguments):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    return left.value.code or 0


def script(folder):
    """The model's answers: broken, compiled, repaired, wrong values, repaired, submitted; then a second draft."""
    broken = KERNEL.replace("tl.load(", "tl.lode(").replace("+ 1.0, mask", "+ 1.1, mask")
    answers = [
        {"tools": [{"name": "write", "args": {"source": broken}}]},
        {"tools": [{"name": "compile", "args": {}}]},
        {"tools": [{"name": "replace", "args": {"old": "tl.lode(", "new": "tl.load("}}]},
        {"tools": [{"name": "compile", "args": {}}, {"name": "interpret", "args": {}}]},
        {"tools": [{"name": "replace", "args": {"old": "+ 1.1, mask", "new": "+ 1.0, mask"}}]},
        {"tools": [{"name": "interpret", "args": {}}]},
        {"text": NOTE},
    ]
    file = folder / "script.json"
    file.write_text(json.dumps({"answers": answers, "tokens": {"in": 1000, "out": 100}}))
    return f"scripted:{file}"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "relu.py").write_text(PROBLEM)
    code = main(
        ["optimize", str(folder / "relu.py"), "--model", script(folder), "--effort", "quick", "--candidates", "1",
         "--device", "none", "--out", str(folder / "run"), "--json"]
    )  # fmt: skip
    return folder / "run", code


def test_a_draft_brief_is_the_one_that_was_asked(searched):
    folder, _ = searched
    asked = ke.read_brief(folder, "b0")
    assert "as a user" not in asked.prompt and ke.draft_brief(folder).prompt.startswith(asked.prompt[:2000])


def test_the_model_repairs_its_kernel_by_what_the_tools_say(searched):
    folder, code = searched
    graph = ke.read_run(folder)
    assert code == 0 and graph.best is not None
    made = graph.best.candidate
    assert made.source == KERNEL and made.note == NOTE
    assert made.writer.startswith("model:scripted:")
    assert (made.cost.tokens_in, made.cost.tokens_out, made.cost.calls) == (7000, 700, 7)
    said = ke.read_artefacts(folder).session(made.session)
    results = [p["content"] for m in said["messages"] for p in m["parts"] if p["part_kind"] == "tool-return"]
    assert "has no attribute 'lode'" in results[1] and "Repair the file" in results[1]
    assert "registers a thread" in results[3]
    assert "WRONG_VALUE" in results[4]
    assert "comparisons with the reference passed" in results[6] and "The file is clean" in results[6]


def test_show_prints_the_session(searched, capsys):
    folder, _ = searched
    capsys.readouterr()
    assert main(["show", str(folder), "n0", "--session"]) == 0
    shown = capsys.readouterr().out
    assert "step 1: write" in shown and "tl.lode" in shown and "has no attribute 'lode'" in shown
    assert "7,000 tokens read and 700 written in 7 calls" in shown and NOTE in shown
    assert main(["show", str(folder), "n0", "--session", "--json"]) == 0
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(data["session"]["messages"]) == 14


def test_header_and_summary_say_who_wrote(searched, capsys):
    folder, _ = searched
    capsys.readouterr()
    assert main(["show", str(folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "written by model:scripted:" in shown and "1 candidate, 1 correct, the best n0" in shown
    assert "cost 7,700 tokens, 0 US dollars; no percent is verified: the best's time is modelled" in shown
    assert main(["resume", str(folder), "--device", "none"]) == 0
    assert "writer scripted:" in capsys.readouterr().out


def test_show_says_what_there_is_no_session_of(searched, capsys):
    folder, _ = searched
    assert main(["show", str(folder), "--session"]) == 2
    assert main(["show", str(folder), "n7", "--session"]) == 2
    assert "unknown node or dropped brief 'n7'" in capsys.readouterr().err
