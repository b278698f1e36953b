"""What is claimed on a device, run again there: evaluate, verify, replay, and the publish lane in bubblewrap.

Comes in: a device, steps (`--only`). Goes out: a line for each step on stdout and, in the file of `--out`, what each
command printed, its seconds and whether that is as it should be, with versions, date and command; written after every
step. Exits with 1 unless all of them are. It leaves to others: the doors themselves, which are the ones of the command
line.

Steps: `good` evaluates an honest kernel in lane screen and writes its receipt; `verify` runs the receipt again and must
say `confirmed`, or `different` in nothing but the time; `wrong` evaluates a kernel that is off by 0.1 % at full size;
`replay` runs its failure again, which must be reproduced; `publish` judges the honest kernel in that lane up to
`--publish-rung`, and its isolation must begin with `bwrap` where `kernelevolve doctor` finds bubblewrap usable.
`verify` needs `good`, `replay` needs `wrong`; with `--folder` they may come from an earlier call.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REFERENCE = """import torch
import torch.nn as nn

ROWS, COLUMNS = {rows}, 4096


class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x) * 2.0 + x


def get_inputs():
    return [torch.randn(ROWS, COLUMNS)]


def get_init_inputs():
    return []
"""
KERNEL = """import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK": [1024, 2048], "num_warps": [4]}
CHOICE = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def more_than_doubled(x, y, n, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n)
    tl.store(y + i, tl.maximum(v, 0.0) * factor + v, mask=i < n)


class ModelNew(nn.Module):
    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        n = x.numel()
        more_than_doubled[(triton.cdiv(n, CHOICE["BLOCK"]),)](x, y, n, 2.0, **CHOICE)
        return y
"""
SECONDS = {"doctor": 90, "good": 180, "verify": 180, "wrong": 120, "replay": 120, "publish": 300}
# What of a receipt may differ because a device is never as fast twice.
TIMES = re.compile(r"^[^:]*: speedup |^verdict (OK_\w+|INCONCLUSIVE) claimed, (OK_\w+|INCONCLUSIVE) found$")
ON_CPU = (
    "from kernelevolve import equipment; equipment.find_devices = lambda: {'cpu': 'the CPU in the place of an H200'}; "
    "from kernelevolve.cli import main; main()"
)
Judge = Callable[[int, dict[str, Any]], str]


def command(device: str, *arguments: str) -> list[str]:
    """One invocation of the command line."""
    door = ["-c", ON_CPU] if device == "cpu" else ["-m", "kernelevolve"]
    return [sys.executable, *door, *arguments]


def ran(asked: list[str], seconds: float) -> dict[str, Any]:
    """Exit code, result object and what people see; after `seconds` its whole process group is ended."""
    start = time.monotonic()
    with subprocess.Popen(
        asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            printed, told = process.communicate(timeout=seconds)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(2.0)
            os.killpg(process.pid, signal.SIGKILL)
            printed, told = process.communicate()
            code = None
    try:
        data = json.loads(printed.strip().splitlines()[-1])
    except (IndexError, ValueError):
        data = {}
    return {"code": code, "data": data, "told": told[-4000:], "seconds": round(time.monotonic() - start, 1)}


def files(rows: int, device: str) -> dict[str, str]:
    """What is judged. Where there is a device, the wrong kernel is wrong at full size only, so that it is the device's
    comparison that says no."""
    wrong = "2.002" if device == "none" else f"2.002 if n == {rows * 4096} else 2.0"
    return {
        "reference.py": REFERENCE.format(rows=rows),
        "reference.toml": 'baselines = ["eager"]\n',
        "good.py": KERNEL,
        "wrong.py": KERNEL.replace("n, 2.0,", f"n, {wrong},"),
    }


def evaluated(code: int, data: dict[str, Any]) -> str:
    """Why an evaluation of the honest kernel is not as it should be; empty where it is."""
    if code != 0 or not data.get("correct"):
        failed = next((r["message"] for r in data.get("rungs", ()) if r["status"] == "failed"), data.get("error", ""))
        return f"exit {code}, verdict {data.get('verdict')}: {failed}"
    return ""


def confirmed(code: int, data: dict[str, Any]) -> str:
    """The same of verifying its receipt."""
    odd = [line for line in data.get("how", ["it said nothing"]) if not TIMES.match(line)]
    if code == 0 and data.get("status") == "confirmed":
        return ""
    return "" if code == 8 and data.get("status") == "different" and not odd else f"exit {code}: {'; '.join(odd)}"


def refused(code: int, data: dict[str, Any]) -> str:
    """The same of evaluating the wrong kernel."""
    right = code == 5 and data.get("verdict") == "WRONG_VALUE" and data.get("failure")
    return "" if right else f"exit {code}, verdict {data.get('verdict')}, failure {data.get('failure')}"


def reproduced(code: int, data: dict[str, Any]) -> str:
    """The same of replaying it."""
    right = code == 0 and data.get("status") == "reproduced"
    return "" if right else f"exit {code}, {data.get('status')}: {'; '.join(data.get('how', ()))}"


def published(bubblewrap: bool) -> Judge:
    """The same of the publish lane."""

    def judge(code: int, data: dict[str, Any]) -> str:
        isolation = str(data.get("isolation", ""))
        if bubblewrap and not isolation.startswith("bwrap"):
            return f"bubblewrap is usable here, and the isolation is {isolation!r}"
        return evaluated(code, data)

    return judge


def shown(step: str, data: dict[str, Any]) -> str:
    """What matters of a step's result object, in a line."""
    if step == "doctor":
        return next((r["found"] for r in data.get("findings", ()) if r["name"] == "seal: bwrap"), "")
    facts = {name: data[name] for name in ("verdict", "status", "isolation", "how") if data.get(name)}
    return json.dumps(facts)[:400]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="`cpu` or `none` to try the script")
    parser.add_argument("--platform", default="h200")
    parser.add_argument("--only", action="append", choices=list(SECONDS)[1:], help="these steps; default: all")
    parser.add_argument("--publish-rung", default="correct", help="the last rung of `publish`; `time` takes minutes")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--folder", type=Path, help="where files and runs lie; default: a new one that is removed")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        return sit(asked, asked.folder or Path(made))


def sit(asked: argparse.Namespace, folder: Path) -> int:
    """All steps in order; the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files(asked.rows, asked.device).items():
        (folder / name).write_text(text)
    record: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/recheck_gpu.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "steps": {},
    }
    here = ("--device", asked.device, "--json")
    judging = ("--problem", f"{folder / 'reference.py'}", "--platform", asked.platform, "--effort", "quick", *here)
    good = ("evaluate", f"{folder / 'good.py'}", *judging)
    doctor = ran(command(asked.device, "doctor", "--json"), SECONDS["doctor"])
    bubblewrap = any(r["name"] == "seal: bwrap" and r["state"] == "ok" for r in doctor["data"].get("findings", ()))
    record["doctor"] = doctor["data"]
    print(
        f"doctor: bubblewrap {'is' if bubblewrap else 'is NOT'} usable: {shown('doctor', doctor['data'])}", flush=True
    )
    steps: dict[str, tuple[list[str], Judge]] = {
        "good": (
            [*good, "--out", f"{folder / 'run-good'}", "--receipt", f"{folder / 'good.json'}"],
            evaluated,
        ),
        "verify": (["verify", f"{folder / 'good.json'}", *here], confirmed),
        "wrong": (["evaluate", f"{folder / 'wrong.py'}", *judging, "--out", f"{folder / 'run-wrong'}"], refused),
        "replay": (["replay", f"{folder / 'run-wrong'}:n0", *here], reproduced),
        "publish": (
            [*good, "--out", f"{folder / 'run-publish'}", "--lane", "publish", "--rung", asked.publish_rung],
            published(bubblewrap),
        ),
    }
    for name in asked.only or steps:
        arguments, judge = steps[name]
        found = ran(command(asked.device, *arguments), SECONDS[name])
        why = f"no end within {SECONDS[name]} s" if found["code"] is None else judge(found["code"], found["data"])
        record["steps"][name] = {**found, "arguments": arguments, "right": not why, "why": why}
        if "versions" in found["data"]:
            record["versions"] = found["data"]["versions"]
        if asked.out is not None:
            asked.out.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{name}: {why or 'as it should be'}, {found['seconds']} s, {shown(name, found['data'])}", flush=True)
        if why:
            print("    " + "\n    ".join(found["told"].strip().splitlines()[-12:]), flush=True)
    return int(not all(step["right"] for step in record["steps"].values()))


if __name__ == "__main__":
    sys.exit(main())
