"""Counts evaluated candidates per minute: the `screen` lane beside KernelBench's own evaluation, on one device.

Comes in: `--write FOLDER` (no device needed) writes ten candidates for each of ten problems; `--run FOLDER` evaluates
them. Goes out: a table on stdout and a JSON file with every candidate's verdict and seconds on both sides. It leaves to
others: whether a verdict is right (`kernelevolve selftest`).

The candidates are the built-in engineer's plans and knob choices, one choice each; one of ten is wrong and one does not
compile. KernelBench's side is `eval_kernel_against_ref` as its `eval_from_generations.py` calls it: 5 correctness and
100 timing trials, a fresh process for each candidate. It takes the first `--theirs` candidates, two per problem, and
imports its package with stand-ins for the modules that only write prompts (litellm, openai, ...). A process for each is
dear where torch's bytecode is not on disk: the record says whether it is, and `python -m compileall` mends it.
"""

import argparse
import asyncio
import contextlib
import datetime
import importlib.machinery
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path

PROBLEMS = (
    "level1/1", "level1/40", "level1/88", "level1/95", "level2/12", "level2/29", "level2/63", "level2/76", "level2/86",
    "level2/99",
)  # fmt: skip
EACH = 10
OPENED_AT_ONCE = 3  # described and admitted, on the CPU
STAND_INS = ("litellm", "openai", "dotenv", "datasets", "requests", "tqdm", "tomli")


# ---------------------------------------------------------------------------------------------------- candidates


def variants(source: str) -> list[str]:
    """Ten files with one choice each: eight honest, then one that is wrong and one that does not compile."""
    from kernelevolve.candidate import read_knobs
    from kernelevolve.evaluate.tune import tuned
    from kernelevolve.translate.capture import capture_source
    from kernelevolve.translate.first import first_plan
    from kernelevolve.translate.moves import moves
    from kernelevolve.translate.render import render

    with contextlib.redirect_stderr(io.StringIO()):
        program = capture_source(source)
    plan = first_plan(program, "h200")
    plans = [plan, *(move.plan for move in moves(program, plan, "compute", ()))]
    files: list[str] = []
    for found in plans:
        text = render(program, found, reference_source=source)
        knobs = read_knobs(text).for_vendor("nvidia")
        default = {name: values[0] for name, values in knobs.items()}
        choices = [default, *({**default, n: v} for n, values in knobs.items() for v in values[1:2])]
        files += [single(tuned(text, choice), choice) for choice in choices[: 1 + (EACH - 2) // 2]]
    honest = list(dict.fromkeys(files))[: EACH - 2]
    honest += honest[: EACH - 2 - len(honest)]
    return [*honest, wrong(honest[0]), honest[0].replace("@triton.jit\ndef ", "@triton.jit\ndef broken(:\n\ndef ", 1)]


def single(source: str, choice: dict) -> str:
    """The file with each knob's list cut to the chosen value."""
    start = source.index("KNOBS = {")
    end = source.index("\n}\n", start) + 3
    return source[:start] + f"KNOBS = { ({name: [value] for name, value in choice.items()})!r}\n" + source[end:]


def wrong(source: str) -> str:
    """The same kernel with its last stored values off by 0.1 %."""
    last = list(re.finditer(r"tl\.store\(.+, ([a-z]\w*)(?=[,)])", source))
    last = [m for m in last if m.group(1) not in ("mask", "other")][-1]
    return f"{source[: last.start(1)]}{last.group(1)} * 1.001{source[last.end(1) :]}"


def write(folder: Path, checkout: Path) -> None:
    from kernelevolve import load_problem

    for name in PROBLEMS:
        source = load_problem(f"kernelbench:{name}", checkout).source
        place = folder / name.replace("/", "_")
        place.mkdir(parents=True, exist_ok=True)
        (place / "reference.py").write_text(source)
        for i, text in enumerate(variants(source)):
            (place / f"{i}.py").write_text(text)
        print(name, "written", flush=True)


# ---------------------------------------------------------------------------------------------------- ours


async def evaluate_all(
    folder: Path, checkout: Path, most: int, device: str, at_once: int, told: Callable[[list[dict]], None]
) -> list[dict]:
    """Every candidate through the screen lane; CPU work of the next ones overlaps with the device's."""
    import dataclasses

    from kernelevolve import Workshop, create_run, load_problem, settings_for
    from kernelevolve.evaluate.roles import Roles

    rows: list[dict] = []
    slots = asyncio.Semaphore(at_once)
    opening = asyncio.Semaphore(OPENED_AT_ONCE)
    settings = dataclasses.replace(settings_for("quick"), writers=at_once, seats=at_once, candidates=10**6)
    where = "h200" if device != "none" else "h100"

    async def one(run, name: str, i: int, text: str) -> None:
        async with slots:
            start = time.monotonic()
            node = await run.submit(run.ask().id, text, f"variant {i}")
            found = node.evaluation
            rows.append({"problem": name, "candidate": i, "verdict": str(found.verdict),
                         "seconds": time.monotonic() - start,
                         "rungs": {str(r.rung): r.seconds for r in found.rungs},
                         "last": found.rungs[-1].message[:300]})  # fmt: skip
            said = "" if found.verdict.ok else rows[-1]["last"][:120]
            print(f"  {name} {i} {found.verdict} {rows[-1]['seconds']:.1f} s {said}", flush=True)
            told(rows)

    with tempfile.TemporaryDirectory() as runs, contextlib.closing(Roles()) as roles:

        async def problem(name: str) -> None:
            def open_run():
                wanted = load_problem(f"kernelbench:{name}", checkout)
                shop = Workshop(wanted, device=device, roles=roles)
                place = Path(runs) / name.replace("/", "_")
                return shop, create_run(place, wanted, where, shop, settings=settings)

            async with opening:
                shop, run = await asyncio.to_thread(open_run)
            texts = [(folder / name.replace("/", "_") / f"{i}.py").read_text() for i in range(EACH)]
            await asyncio.gather(*(one(run, name, i, text) for i, text in enumerate(texts)))
            await asyncio.to_thread(run.close)
            await asyncio.to_thread(shop.close)

        await asyncio.gather(*(problem(name) for name in PROBLEMS[: max(1, most // EACH)]))
    return rows


# ---------------------------------------------------------------------------------------------------- theirs


def _nothing(attribute: str):
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    return lambda *a, **k: None


def stand_in() -> None:
    """Empty modules for what is not installed and only serves prompts."""
    for name in STAND_INS:
        if importlib.machinery.PathFinder.find_spec(name) is None:
            module = types.ModuleType(name)
            module.__getattr__ = _nothing
            sys.modules[name] = module


def their_evaluation(job: tuple[str, str, str]) -> dict:
    reference, candidate, package = job
    import torch

    stand_in()
    sys.path.insert(0, package)
    from kernelbench.eval import eval_kernel_against_ref

    with contextlib.redirect_stdout(io.StringIO()):
        found = eval_kernel_against_ref(
            reference, candidate, measure_performance=True, num_correct_trials=5, num_perf_trials=100,
            backend="triton", device=torch.device("cuda:0"), precision=torch.float32,
        )  # fmt: skip
    return {"compiled": found.compiled, "correct": found.correctness, "runtime": found.runtime}


def evaluate_theirs(
    folder: Path, package: Path, most: int, seconds: float, told: Callable[[list[dict]], None]
) -> list[dict]:
    rows = []
    context = multiprocessing.get_context("spawn")
    begin = time.monotonic()
    for i, name in itertools.islice(itertools.product(range(EACH), PROBLEMS), most):
        if time.monotonic() - begin > seconds:
            break
        place = folder / name.replace("/", "_")
        start = time.monotonic()
        try:
            with context.Pool(1) as pool:
                job = ((place / "reference.py").read_text(), (place / f"{i}.py").read_text(), str(package))
                found = pool.apply_async(their_evaluation, (job,)).get(timeout=180)
        except (multiprocessing.TimeoutError, RuntimeError, AttributeError, ImportError) as error:
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        rows.append({"problem": name, "candidate": i, "seconds": time.monotonic() - start, **found})
        print(f"  theirs {name} {i} {found} {rows[-1]['seconds']:.1f} s", flush=True)
        told(rows)
    return rows


# ---------------------------------------------------------------------------------------------------- main


def bytecode() -> str:
    """Whether a fresh process finds torch compiled, or compiles its sources again."""
    found = importlib.util.find_spec("torch")
    cached = found and found.origin and importlib.util.cache_from_source(found.origin)
    return "on disk" if cached and Path(cached).exists() else "none: each process compiles the sources of its libraries"


class Busy(threading.Thread):
    """Samples the share of time in which the device ran a kernel, as `nvidia-smi` reports it, ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[float] = []
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        except OSError:
            self.process = None

    def run(self) -> None:
        if self.process is not None:
            for line in self.process.stdout:
                with contextlib.suppress(ValueError):
                    self.samples.append(float(line))

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.join(5)

    def share(self) -> float | None:
        return sum(self.samples) / len(self.samples) / 100 if self.samples else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True, help="a checkout of KernelBench")
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    parser.add_argument("--run", type=Path, metavar="FOLDER")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--ours", type=int, default=100)
    parser.add_argument("--theirs", type=int, default=20)
    parser.add_argument("--theirs-seconds", type=float, default=240)
    parser.add_argument("--at-once", type=int, default=100, help="evaluations under way, mostly waiting")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.write:
        write(asked.write, asked.path)
    if not asked.run:
        return
    record = {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
    }
    # Whoever is first would otherwise read gigabytes of libraries from a cold disk for the other.
    subprocess.run(
        [sys.executable, "-c", "import torch._inductor.compile_fx, triton; torch.cuda.is_available()"], check=True
    )
    record["bytecode"] = bytecode()
    for side, work in (
        (
            "ours",
            lambda told: asyncio.run(
                evaluate_all(asked.run, asked.path, asked.ours, asked.device, asked.at_once, told)
            ),
        ),
        (
            "theirs",
            lambda told: evaluate_theirs(asked.run, asked.path / "src", asked.theirs, asked.theirs_seconds, told),
        ),
    ):
        if not getattr(asked, side):
            continue
        busy = Busy()
        busy.start()
        start = time.monotonic()

        def told(rows: list[dict], side: str = side, start: float = start, busy: Busy = busy) -> None:
            wall = time.monotonic() - start
            share = busy.share()
            record[side] = {"seconds": wall, "per_minute": 60 * len(rows) / wall, "busy": share, "rows": rows}
            if asked.out:
                asked.out.write_text(json.dumps(record, indent=1) + "\n")

        rows = work(told)
        told(rows)
        busy.end()
        wall, rate = record[side]["seconds"], record[side]["per_minute"]
        print(f"{side}: {len(rows)} candidates in {wall:.0f} s, {rate:.1f} a minute", flush=True)
    if asked.ours and asked.theirs:
        print(f"ratio {record['ours']['per_minute'] / record['theirs']['per_minute']:.2f}")


if __name__ == "__main__":
    main()
