"""What a user can get wrong, typed into a terminal: one clear message with what to do, the documented exit code, one
JSON object as the last line of stdout, and nothing lost. Then a run that goes right, is interrupted and goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kernelevolve import holds_run
from kernelevolve.equipment import find_devices

HEAD = "import torch\nimport torch.nn as nn\n\n\nclass Model(nn.Module):\n    def forward(self, x):\n"
TAIL = "\n\ndef get_inputs():\n    return [torch.rand(64, 256)]\n\n\ndef get_init_inputs():\n    return []\n"
FUSED = HEAD + "        return torch.relu(x * 2.0 + 1.0).sum(dim=1)\n" + TAIL


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "kernelevolve", *map(str, arguments)]


def run(*arguments: str | Path, seconds: float = 120) -> tuple[int, dict[str, Any], str]:
    """Exit code, result object, and what people read."""
    done = subprocess.run(command(*arguments, "--json"), capture_output=True, text=True, timeout=seconds, check=False)
    return done.returncode, json.loads(done.stdout.strip().splitlines()[-1]), done.stderr


def optimize(problem: str | Path, out: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    return run("optimize", problem, "--out", out, "--effort", "quick", "--device", "none", "--candidates", "1", *more)


BAD_FILES = {
    "no Model": ("def get_inputs():\n    return []\n", 3, ["no top-level Model", "a problem file defines"]),
    "no get_inputs": ("class Model:\n    pass\n", 3, ["no top-level get_inputs"]),
    "not Python": ("class Model(\n", 3, ["bad.py:1: not Python"]),
    "raises": (HEAD + "        return x @ x\n" + TAIL, 3, ["bad.py:7: forward raised", "mat1 and mat2"]),
    "draws": (
        HEAD + "        return nn.functional.dropout(x)\n" + TAIL,
        3,
        ["forward is random", "draw the numbers in get_inputs"],
    ),
    "gives no tensors": (
        HEAD + "        return {'shape': 'wide'}\n" + TAIL,
        3,
        ["forward's output must be a pytree of tensors", "out['shape'] is a str"],
    ),
    "uncovered": (
        HEAD + "        y = x * 2.0\n        return torch.fft.fft(y).real\n" + TAIL,
        4,
        ["fft", "bad.py", "torch.fft.fft(y)", "write the first kernel yourself or configure a model"],
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    source, code, words = BAD_FILES[name]
    file = tmp_path / "bad.py"
    file.write_text(source)
    found, result, message = optimize(file, tmp_path / "run")
    assert found == code, message
    assert not result["correct"] and result["verdict"] in (None, "TASK_INVALID")
    for word in words:
        assert word in message
    assert "Traceback" not in message and message.count("error:") == 1
    assert result["error"] in re.sub(r"\s+", " ", message).replace("error: ", "") or result["error"][:40] in message


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--platform", "gtx480"], 2, ["gtx480", "h100", "mi300x"]),
        (["--effort", "utmost"], 2, ["utmost", "quick, standard, deep"]),
        (["--device", "cuda:63"], 7, ["device 'cuda:63' is not here", "leave --device out"]),
    ],
    ids=["platform", "effort", "device"],
)
def test_a_bad_option_is_named_and_an_earlier_run_is_left_alone(
    tmp_path: Path, options: list[str], code: int, words: list[str]
) -> None:
    file, earlier = tmp_path / "fused.py", tmp_path / "run" / "events.db"
    file.write_text(FUSED)
    earlier.parent.mkdir()
    earlier.write_bytes(b"an earlier run")
    found, result, message = run("optimize", file, "--out", earlier.parent / "new", *options)
    assert found == code, message
    assert not result["correct"] and "Traceback" not in message
    for word in words:
        assert word in message
    assert earlier.read_bytes() == b"an earlier run"


@pytest.mark.skipif(bool(find_devices()), reason="this machine has an accelerator")
def test_a_device_asked_for_where_there_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "fused.py"
    file.write_text(FUSED)
    code, result, message = run("optimize", file, "--out", tmp_path / "run", "--device", "cuda:0")
    assert (code, result["kind"]) == (7, "MissingDevice"), message
    assert "device 'cuda:0' is not here; devices here: none; leave --device out" in message
    assert not (tmp_path / "run").exists()


# The command line with bounds that a test can wait for, in a process of its own.
BOUNDED = """
import sys
from dataclasses import replace
from kernelevolve.evaluate import correct
correct.BOUNDS = replace(correct.BOUNDS, build_seconds=float(sys.argv[1]), memory_bytes=2 << 30)
from kernelevolve.cli import main
main(sys.argv[2:])
"""
GREEDY = {
    "never ends": ("while True: pass", 5.0, "TIMEOUT", "no answer to 'plan' within 5 s"),
    "eats memory": ("self.eaten = [bytearray(1 << 28) for _ in range(64)]", 100.0, "OOM", "MemoryError"),
}


@pytest.mark.parametrize("name", GREEDY)
def test_a_candidate_that_takes_too_much_is_ended_and_named(tmp_path: Path, name: str) -> None:
    body, seconds, verdict, words = GREEDY[name]
    reference, kernel = tmp_path / "fused.py", tmp_path / "mine.py"
    reference.write_text(FUSED)
    kernel.write_text(KERNEL.replace("BODY", body))
    more = ("--effort", "quick", "--device", "none", "--out", str(tmp_path / "run"), "--json")
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(seconds), "evaluate", kernel, "--problem", reference, *more],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, result["verdict"], result["correct"]) == (5, verdict, False), done.stderr
    # The candidate's own traceback is shown; one of ours would be a bug.
    assert words in done.stderr and "error: unexpected" not in done.stderr
    assert f"kernelevolve show {tmp_path / 'run'} n0" in done.stderr
    assert run("show", tmp_path / "run")[1]["verdict"] == verdict


KERNEL = """
import torch
import torch.nn as nn
import triton
import triton.language as tl

@triton.jit
def double(x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    tl.store(y + i, tl.load(x + i) * 2.0)


class ModelNew(nn.Module):
    def forward(self, x):
        BODY
        y = torch.empty(64, device=x.device)
        double[(1,)](x, y, 64)
        return y
"""


def test_a_run_goes_right_to_the_end_and_on(tmp_path: Path) -> None:
    file, out = tmp_path / "fused.py", tmp_path / "run"
    file.write_text(FUSED)
    code, result, message = run(
        "optimize", file, "--platform", "h100", "--platform", "mi300x", "--effort", "quick", "--device", "none",
        "--candidates", "3", "--out", out, seconds=240,
    )  # fmt: skip
    assert code == 0, message
    assert result["correct"] and set(result["platforms"]) == {"h100", "mi300x"}
    for one in result["platforms"].values():
        assert one["verdict"] == "OK_UNTIMED"
        check_alone(Path(one["kernel"]), file, tmp_path)
    code, shown, _ = run("show", out)
    assert code == 0 and shown["platforms"].keys() == result["platforms"].keys()
    # The same file, another seed, into the same folder: refused, and nothing is lost.
    code, _, message = optimize(file, out, "--platform", "h100", "--platform", "mi300x", "--seed", "5")
    assert code != 0 and "resume" in message
    assert run("show", out)[1] == shown
    code, resumed, message = run("resume", out, "--candidates", "4", "--device", "none", seconds=240)
    assert code == 0, message
    assert resumed["candidates"] >= result["candidates"]


ALONE = """
import importlib.util, sys
import torch
from kernelevolve.worker.interpret import interpreting
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
reference, answers = load("reference", sys.argv[2]), {"major": 9, "minor": 0, "multi_processor_count": 132}
torch.manual_seed(0)
x = reference.get_inputs()
wanted = reference.Model(*reference.get_init_inputs())(*x)
with interpreting(device_answers=answers):
    best = load("best", sys.argv[1])
    found = best.ModelNew(*reference.get_init_inputs())(*x)
torch.testing.assert_close(found, wanted)
"""


def check_alone(kernel: Path, reference: Path, folder: Path) -> None:
    """The best kernel's file needs nothing of ours and gives what the reference gives."""
    assert "kernelevolve" not in "\n".join(re.findall(r"^\s*(?:import|from) .*$", kernel.read_text(), re.MULTILINE))
    script = folder / "alone.py"
    script.write_text(ALONE)
    done = subprocess.run(
        [sys.executable, script, kernel, reference], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_interrupt_ends_soon_and_the_run_goes_on(tmp_path: Path) -> None:
    file, out = tmp_path / "fused.py", tmp_path / "run"
    file.write_text(FUSED)
    process = subprocess.Popen(
        command("optimize", file, "--out", out, "--effort", "quick", "--device", "none", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not holds_run(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)  # the search itself has begun
    start = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    stdout, message = process.communicate(timeout=60)
    assert time.monotonic() - start < 15, message
    assert process.returncode == 130, message
    assert "resume" in message and "Traceback" not in message
    json.loads(stdout.strip().splitlines()[-1])
    code, result, message = run("resume", out, "--candidates", "2", "--device", "none", seconds=240)
    assert code == 0, message
    assert result["correct"] and result["candidates"] >= 1
