"""Candidates that crash, hang, are killed and run out of memory, among good and wrong ones: nobody pays for another.

Comes in: a device, how long one sitting may take (`--seconds`), optionally kinds (`--only`). Goes out: a line for each
candidate on stdout and, in the file of `--out`, a record of each as soon as it is known, with versions, date and
command; what the file has already as it should be is not run again. Exits with 1 unless every candidate that was wanted
came out as it should, the device computes in a fresh process afterwards, and no process is left over. It leaves to
others: what each fault is called (`evaluate.asking`), when a device is quarantined (`evaluate.health`).

All candidates answer one problem in one run, lane screen, `--at-once` of them in flight in a shuffled order, so every
fault has neighbours. Those that are `killed from outside` are good: this script ends their process, the role that
forked it, or the judge, once, while they run; they are tried again and must come out right.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernelevolve import KernelEvolveError, Node, Run, Workshop, create_run, equipment, settings_for
from kernelevolve.evaluate.asking import Bounds
from kernelevolve.problem import Problem, parse_problem
from kernelevolve.seal.limits import descendants

REFERENCE = """import torch
import torch.nn as nn

COUNT = {count}


class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x) * 2.0 + x


def get_inputs():
    return [torch.randn(COUNT)]


def get_init_inputs():
    return []
"""
CANDIDATE = """# {name}
import torch
import torch.nn as nn
import triton
import triton.language as tl

calls = 0


@triton.jit
def more_than_doubled(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0.0)
    r = tl.maximum(v, 0.0) * 2.0 + v
{kernel}
    tl.store(y + i, r, mask=i < n)


class ModelNew(nn.Module):
    def forward(self, x):
        global calls
        y = torch.empty_like(x)
        n = x.numel()
        if not x.is_meta:
            calls += 1
{forward}
        more_than_doubled[(triton.cdiv(n, {block}),)](x, y, n, BLOCK={block}, num_warps={warps})
        return y
"""
GOOD = ("OK_FASTER", "OK_SAME", "OK_SLOWER", "INCONCLUSIVE", "OK_UNTIMED")
FAR = 1 << 40  # elements: 4 TiB from where the tensor lies
HOST_BYTES = 4 << 30
CPU_BYTES = 2 << 30
MARK = "ke-victim-"  # the name of a process that is about to be killed; the kernel keeps 15 characters of it
PROBE = """
import sys, torch
device = torch.device(sys.argv[1])
torch.manual_seed(0)
a, b = torch.randn(512, 512, dtype=torch.float64), torch.randn(512, 512, dtype=torch.float64)
error = (a.to(device) @ b.to(device)).cpu().sub(a @ b).abs().max().item()
print(torch.__version__, error)
sys.exit(not error < 1e-9)
"""


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to be right or to fail.

    Attributes:
        kernel, forward: lines for the kernel and for forward on real tensors; a kind with several uses them in turn.
        expected: verdicts on an accelerator; `on_cpu` where the CPU takes its place, none where it cannot be tried.
        count: how many.
        ends: whom the script ends while such a candidate runs, in turn: its own process, or a role.
    """

    kernel: tuple[str, ...] = ("",)
    forward: tuple[str, ...] = ("",)
    expected: tuple[str, ...] = GOOD
    on_cpu: tuple[str, ...] = ()
    count: int = 1
    ends: tuple[str, ...] = ()


_ENDLESS = "k = tl.load(x, volatile=True)\nwhile k > -1e30:\n    k = tl.load(x, volatile=True)\nr += k"
_ASM = 'tl.inline_asm_elementwise("{}", "=f,f", [r], dtype=tl.float32, is_pure=False, pack=1)'
_FILL = "self.kept = []\nwhile True:\n    self.kept.append(x.new_zeros(1 << 28))"
_HOG = (
    "if calls == 1:\n    self.kept = []\n    try:\n        while True:\n"
    "            self.kept.append(x.new_zeros(1 << 28))\n    except torch.OutOfMemoryError:\n        pass"
)
_VICTIM = (
    "if calls == 1:\n    import ctypes\n    import time\n"
    '    ctypes.CDLL(None).prctl(15, b"{mark}", 0, 0, 0)\n    time.sleep(1.0)\n'
    '    ctypes.CDLL(None).prctl(15, b"spared", 0, 0, 0)'
)
KINDS = {
    "good": Kind(on_cpu=GOOD, count=12),
    "wrong": Kind(kernel=("r *= 1.001",), expected=("WRONG_VALUE",), on_cpu=("WRONG_VALUE",), count=4),
    "illegal address": Kind(
        kernel=(f"tl.store(y + i + {FAR}, r, mask=i < n)", f"r += tl.load(x + i + {FAR}, mask=i < n, other=0.0)"),
        expected=("CRASH",),
        on_cpu=("MEM_RACE",),
        count=8,
    ),
    "misaligned address": Kind(
        kernel=("p = (x.to(tl.int64, bitcast=True) + 2).to(tl.pointer_type(tl.float32))\nr += tl.load(p)",),
        expected=("CRASH",),
        count=4,
    ),
    "trap": Kind(kernel=(f"r = {_ASM.format('trap; mov.b32 $0, $1;')}",), expected=("CRASH",), count=4),
    "endless kernel": Kind(kernel=(_ENDLESS,), expected=("TIMEOUT",), on_cpu=("TIMEOUT",), count=4),
    "endless Python": Kind(
        forward=("while True:\n    pass",), expected=("TIMEOUT",), on_cpu=("TIMEOUT",), count=1
    ),
    # Who has no memory left is killed in the same way: then it cannot be told from who kills itself.
    "kills itself": Kind(
        forward=("import os\nos.kill(os.getpid(), 9)", "import os\nos._exit(0)", "import os\nos.abort()"),
        expected=("CRASH", "OOM"),
        on_cpu=("CRASH", "OOM"),
        count=6,
    ),
    "killed from outside": Kind(
        forward=(_VICTIM,), on_cpu=GOOD, count=4, ends=("process", "worker", "judge", "process")
    ),
    "host memory": Kind(
        forward=("self.eaten = [bytearray(b'x') * (1 << 28) for _ in range(256)]",),
        expected=("OOM",),
        on_cpu=("OOM",),
        count=5,
    ),
    "device memory": Kind(forward=("x.new_empty(1 << 40)", _FILL), expected=("OOM",), count=3),
    "device memory kept": Kind(forward=(_HOG,), expected=(*GOOD, "OOM"), count=1),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One candidate of the sequence."""

    name: str
    kind: str
    expected: tuple[str, ...]
    source: str
    ends: str = ""


def indented(lines: str, by: int) -> str:
    """The lines of Python, `by` spaces in."""
    return "\n".join(" " * by + line for line in lines.splitlines())


def sequence(kinds: list[str], each: int, seed: int, cpu: bool) -> list[Wanted]:
    """The candidates in the order in which they begin; a good one begins."""
    found = []
    for kind in kinds:
        rule = KINDS[kind]
        expected = rule.on_cpu if cpu else rule.expected
        for number in range(min(rule.count, each) if expected else 0):
            name = f"{kind} {number}"
            forward = rule.forward[number % len(rule.forward)].replace("{mark}", f"{MARK}{number}")
            source = CANDIDATE.format(
                name=name, kernel=indented(rule.kernel[number % len(rule.kernel)], 4), forward=indented(forward, 12),
                block=(1024, 512, 2048)[number % 3], warps=(4, 8)[number % 2],
            )  # fmt: skip
            ends = rule.ends[number % len(rule.ends)] if rule.ends else ""
            found.append(Wanted(name, kind, expected, source, ends))
    random.Random(seed).shuffle(found)
    return sorted(found, key=lambda one: one.name != "good 0")


class Killer(threading.Thread):
    """Ends what a victim asks for, once, as soon as one is seen; `killed` has the name of each and what was ended."""

    def __init__(self, shop: Workshop, victims: dict[str, Wanted]) -> None:
        super().__init__(daemon=True)
        self.shop, self.waiting, self.killed = shop, dict(victims), {}
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            if self.waiting:
                for pid in descendants(self.shop.roles["worker"].process_id):
                    self.look(pid)

    def look(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            seen = Path(f"/proc/{pid}/comm").read_text().strip()
            if (victim := self.waiting.pop(seen, None)) is not None:
                target = pid if victim.ends == "process" else self.shop.roles[victim.ends].process_id
                os.kill(target, signal.SIGKILL)
                self.killed[victim.name] = victim.ends


@contextlib.contextmanager
def workshop_of(problem: Problem, device: str, call_seconds: float) -> Iterator[Workshop]:
    """The problem's workshop with little patience."""
    if device == "cpu":
        equipment.find_devices = lambda: {"cpu": "the CPU in the place of an H200"}
    bounds = Bounds(load_seconds=60.0, call_seconds=call_seconds, memory_bytes=CPU_BYTES, host_bytes=HOST_BYTES)
    shop = Workshop(problem, device=device, interpret=False, bounds=bounds)
    try:
        yield shop
    finally:
        shop.close()


class Record:
    """The file of `--out`, written anew after each candidate."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self.data: dict[str, Any] = {"sittings": [], "rows": [], "after": {}}
        if out is not None and out.exists():
            self.data = json.loads(out.read_text())
        self.sitting = {
            "command": shlex.join(["python", "benchmarks/faults.py", *sys.argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": platform.platform(),
            "cores": os.cpu_count(),
            "complete": False,
        }
        self.data["sittings"].append(self.sitting)

    def done(self) -> set[str]:
        """Names of what is there already, as it should be."""
        return {row["name"] for row in self.data["rows"] if row["right"]}

    def add(self, row: dict[str, Any]) -> None:
        self.data["rows"] = [r for r in self.data["rows"] if r["name"] != row["name"]] + [row]
        self.write()

    def write(self) -> None:
        if self.out is not None:
            fresh = self.out.with_name(f".{self.out.name}.new")
            fresh.write_text(json.dumps(self.data, indent=1) + "\n")
            fresh.replace(self.out)


def row_of(one: Wanted, node: Node | None, error: str, seconds: float, notes: list[str], ended: str) -> dict[str, Any]:
    """What is kept of a candidate."""
    found = node.evaluation if node is not None else None
    verdict = str(found.verdict) if found is not None else ""
    last = found.rungs[-1] if found is not None else None
    right = verdict in one.expected and (not one.ends or bool(ended))
    message = last.message if last is not None else error
    return {
        "name": one.name, "kind": one.kind, "expected": list(one.expected), "verdict": verdict, "right": right,
        "seconds": round(seconds, 3), "rung": str(last.rung) if last else "", "message": message,
        "rungs": {str(r.rung): round(r.seconds, 3) for r in found.rungs} if found else {},
        "milliseconds": {t.against: t.baselines[t.against].value for t in found.timings}
        | {"candidate": found.timings[0].candidate.value}
        if found and found.timings
        else {},
        "isolation": found.isolation if found else "", "ended by this script": ended, "notes": notes,
    }  # fmt: skip


class Sitting:
    """One run with many candidates in flight."""

    def __init__(self, run: Run, killer: Killer, record: Record, at_once: int, deadline: float) -> None:
        self.run, self.killer, self.record, self.deadline = run, killer, record, deadline
        self.room = asyncio.Semaphore(at_once)
        self.left: list[str] = []

    async def all(self, wanted: list[Wanted]) -> None:
        """Every candidate that begins in time, in order; SIGTERM ends them all."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await asyncio.gather(*(self.one(candidate) for candidate in wanted))

    async def one(self, one: Wanted) -> None:
        async with self.room:
            if time.monotonic() > self.deadline:
                self.left.append(one.name)
                return
            start, node, error = time.monotonic(), None, ""
            brief = self.run.ask().id
            try:
                node = await self.run.submit(brief, one.source, one.name)
            except KernelEvolveError as failed:
                error = f"{type(failed).__name__}: {failed}"
            seconds = time.monotonic() - start
            name = node.id if node is not None else self.run.graph.pending[brief].candidate.id
            notes = [n.text for n in self.run.graph.notes if n.topic == "seat" and n.text.startswith(f"{name},")]
            row = row_of(one, node, error, seconds, notes, self.killer.killed.get(one.name, ""))
            self.record.add(row)
            flag = "      " if row["right"] else "WRONG "
            print(f"{flag}{one.name}: {row['verdict'] or 'none'} {seconds:.1f} s  {row['message'][:140]}", flush=True)
            for note in notes:
                print(f"          {note[:200]}", flush=True)


def computes(device: str) -> dict[str, Any]:
    """Whether a product on the device is right in a process that knows nothing of all this."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, device], capture_output=True, text=True, timeout=90, check=False
        )
        said, code = (done.stdout or done.stderr[-300:]).strip(), done.returncode
    except subprocess.TimeoutExpired:
        said, code = "no answer within 90 s", -1
    return {"right": code == 0, "said": said, "seconds": round(time.monotonic() - start, 3)}


def memory_used() -> str:
    """What `nvidia-smi` says of the devices' memory, for people."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    return done.stdout.strip()


def left_over(shop: Workshop) -> list[str]:
    """Processes below the worker two seconds after its last conversation ended."""
    time.sleep(2.0)
    found = descendants(shop.roles["worker"].process_id)
    return [f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}" for pid in found if Path(f"/proc/{pid}").exists()]


def sit(asked: argparse.Namespace, record: Record, wanted: list[Wanted]) -> list[str]:
    """Runs the candidates; the names of those that did not begin in time."""
    start = time.monotonic()
    text = REFERENCE.format(count=asked.elements)
    problem = dataclasses.replace(
        parse_problem(text, None, name="faults", suite="benchmark", path="faults.py"), baselines=("eager",)
    )
    settings = dataclasses.replace(
        settings_for("quick"), candidates=10**6, seats=asked.at_once, distributions=("declared", "D1"),
        last_rung="" if asked.rung == "time" else asked.rung,
    )  # fmt: skip
    record.sitting["memory before"] = memory_used()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shop = stack.enter_context(workshop_of(problem, asked.device, asked.call_seconds))
        run = stack.enter_context(create_run(folder / "run", problem, "h200", shop, settings=settings))
        record.sitting |= {
            "seconds to begin": round(time.monotonic() - start, 1),
            "versions": dict(shop.roles["builder"].known_versions()),
            "device": next((seat.name for seat in shop._seats), ""),
        }
        record.write()
        killer = Killer(shop, {mark_of(one): one for one in wanted if one.ends})
        killer.start()
        stack.callback(killer.over.set)
        sitting = Sitting(run, killer, record, asked.at_once, start + asked.seconds)
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(sitting.all(wanted))
        killer.over.set()
        quarantined = [seat.health.quarantined for seat in shop._seats if seat.health.quarantined]
        record.data["after"] = {
            "device": computes(asked.device), "quarantined": quarantined, "left over": left_over(shop),
        }  # fmt: skip
    record.data["after"]["memory"] = memory_used()
    record.sitting["seconds"] = round(time.monotonic() - start, 1)
    return sitting.left


def mark_of(one: Wanted) -> str:
    """The name that the process of a victim gives itself."""
    return f"{MARK}{one.name.rpartition(' ')[2]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="`cpu` for what can be tried under the interpreter")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=420.0, help="after which no further candidate begins")
    parser.add_argument("--only", action="append", choices=list(KINDS), help="these kinds; default: all")
    parser.add_argument("--each", type=int, default=99, help="at most so many of a kind")
    parser.add_argument("--at-once", type=int, default=6, help="candidates in flight")
    parser.add_argument("--call-seconds", type=float, default=8.0, help="how long one call may take")
    parser.add_argument("--elements", type=int, default=1 << 22)
    parser.add_argument("--rung", default="time", choices=("correct", "time"), help="the last one to climb")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    asked = parser.parse_args()
    record = Record(asked.out)
    cpu = asked.device == "cpu"
    everything = sequence(asked.only or list(KINDS), asked.each, asked.seed, cpu)
    wanted = [one for one in everything if one.name not in record.done()]
    print(f"{len(wanted)} candidates, {asked.at_once} in flight", flush=True)
    left = sit(asked, record, wanted)
    rows = {row["name"]: row for row in record.data["rows"]}
    wrong = [one.name for one in everything if one.name in rows and not rows[one.name]["right"]]
    absent = [one.name for one in everything if one.name not in rows]
    after = record.data["after"]
    well = after["device"]["right"] and not after["quarantined"] and not after["left over"]
    record.sitting["complete"] = not (wrong or absent) and well
    record.write()
    for kind in dict.fromkeys(one.kind for one in everything):
        of_kind = [row for row in rows.values() if row["kind"] == kind]
        verdicts = [row["verdict"] or "none" for row in of_kind]
        said = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
        print(f"{kind}: {said or 'none tried'}")
    print(f"wrong: {', '.join(wrong) or 'none'}; not tried: {', '.join(absent) or 'none'} ({len(left)} out of time)")
    print(f"after: {json.dumps(after)}; {record.sitting['seconds']} s")
    return int(not record.sitting["complete"])


if __name__ == "__main__":
    sys.exit(main())
