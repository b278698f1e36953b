"""Times the built-in engineer's own kernels for strict fp32 products against PyTorch with TF32 off.

Comes in: `--cases` (names below). Goes out: a table on stdout and, with `--out`, JSON with raw times, errors and
versions. Each case's reference is captured, planned and rendered here, once per scheme (`planes`, `tiles`), and run
with a few knob choices. `--write-only FOLDER` needs no GPU: it writes the candidates. Errors are of the whole model
against fp64, over the first rows, as rms over rms of the centred oracle. It leaves to others: searching for the best
knobs.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.util
import io
import json
import multiprocessing
import platform
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import triton

REFERENCE = '''import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    def __init__(self{init}):
        super().__init__()
        {layers}

    def forward(self, {names}):
        return {expression}


B, M, N, K = {sizes}


def get_inputs():
    return [{inputs}]


def get_init_inputs():
    return [{arguments}]
'''


@dataclasses.dataclass(frozen=True)
class Case:
    """A reference: an expression of inputs with these shapes, over B, M, N, K; `linear` adds `self.linear`, K to N."""

    expression: str
    sizes: tuple[int, int, int, int]
    inputs: tuple[str, ...]
    linear: bool = False

    @property
    def flop(self) -> float:
        b, m, n, k = self.sizes
        return 2.0 * b * m * n * k

    def source(self, sizes: tuple[int, int, int, int] | None = None) -> str:
        """The reference's file, at other sizes if given."""
        return REFERENCE.format(
            init=", width, out" if self.linear else "",
            layers="self.linear = nn.Linear(width, out)" if self.linear else "pass",
            names=", ".join("abc"[: len(self.inputs)]),
            expression=self.expression,
            sizes=sizes or self.sizes,
            inputs=", ".join(f"torch.rand({shape})" for shape in self.inputs),
            arguments="K, N" if self.linear else "",
        )

    def small(self) -> tuple[int, int, int, int]:
        """Sizes that Triton specialises alike."""
        b, m, n, k = self.sizes
        return min(b, 2), min(m, 256), min(n, 256), min(k, 4096 if k > 2**16 else 256)


LINEAR = (1, 1024, 8192, 8192)
CASES = {
    "square": Case("torch.matmul(a, b)", (1, 4096, 4096, 4096), ("M, K", "K, N")),
    "batched": Case("torch.bmm(a, b)", (128, 512, 2048, 1024), ("B, M, K", "B, K, N")),
    "skinny": Case("torch.matmul(a, b)", (1, 32768, 32768, 32), ("M, K", "K, N")),
    "linear-leaky": Case("F.leaky_relu(self.linear(a) * 2.0, 0.1)", LINEAR, ("M, K",), True),
    "linear-mish": Case("F.mish(F.mish(self.linear(a)))", LINEAR, ("M, K",), True),
    "linear-relu": Case("torch.relu(self.linear(a))", LINEAR, ("M, K",), True),
    "linear-gelu": Case("F.gelu(self.linear(a) / 10.0)", LINEAR, ("M, K",), True),
    "deep": Case("torch.matmul(a, b)", (1, 256, 256, 524288), ("M, K", "K, N")),
    "scores": Case("torch.matmul(a, b.transpose(1, 2))", (1024, 512, 512, 1024), ("B, M, K", "B, N, K")),
    "weighted": Case("torch.matmul(a, b)", (1024, 512, 1024, 512), ("B, M, K", "B, K, N")),
}

PLANES = (
    {},
    {"num_stages": 2},
    {"BLOCK_K": 32, "num_stages": 4},
    {"BLOCK_N": 64},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4},
    {"SPLIT_LINES": 32},
    {"SPLIT_LINES": 128},
)
SHALLOW_PLANES = (
    {},
    {"num_stages": 1},
    {"BLOCK_N": 128, "num_warps": 8, "num_stages": 1},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 1},
)
TILES = ({}, {"PRECISION": "tf32x3"}, {"PRECISION": "ieee", "BLOCK_N": 64}, {"BLOCK_N": 64, "num_warps": 8})
SHALLOW_TILES = (
    {},
    {"num_stages": 1},
    {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4},
    {"PRECISION": "tf32x3"},
    {"PRECISION": "ieee", "BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4},
)


def choices(case: Case, scheme: str) -> tuple[dict, ...]:
    shallow = case.sizes[3] <= 64
    if scheme == "planes":
        return SHALLOW_PLANES if shallow else PLANES
    return SHALLOW_TILES if shallow else TILES


def candidates(case: Case) -> dict[str, str]:
    """A candidate's source by scheme."""
    from kernelevolve.translate.capture import capture_source
    from kernelevolve.translate.first import first_plan
    from kernelevolve.translate.moves import moves
    from kernelevolve.translate.render import render

    source = case.source()
    with contextlib.redirect_stderr(io.StringIO()):
        program = capture_source(source)
    plan = first_plan(program, "nvidia")
    plans = {kernel.scheme: plan for kernel in plan.kernels if kernel.kind == "contraction"}
    for move in moves(program, plan, "compute", ()):
        schemes = [k.scheme for k in move.plan.kernels if k.kind == "contraction"]
        plans.setdefault(schemes[0], move.plan)
    return {scheme: render(program, found, reference_source=source) for scheme, found in plans.items()}


def load(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(re.sub(r"\W", "_", path.stem), path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def choose(module: object, choice: dict) -> None:
    """Sets knobs; with several kernels their names start with the kernel's, which is `mm` for the product."""
    module.CHOICE.clear()
    module.CHOICE.update({name: v for k, v in choice.items() for name in module.KNOBS if name in (k, f"mm_{k}")})


def write_case(job: tuple[str, Path]) -> list[str]:
    """Writes `CASE.reference.py` and `CASE.SCHEME.py`; returns the schemes."""
    name, folder = job
    case = CASES[name]
    (folder / f"{name}.reference.py").write_text(case.source())
    (folder / f"{name}.small.py").write_text(case.source(case.small()))
    found = candidates(case)
    for scheme, source in found.items():
        (folder / f"{name}.{scheme}.py").write_text(source)
    return list(found)


def compile_one(job: tuple[str, str, dict, Path]) -> str:
    """Runs one choice on small inputs; returns what failed."""
    name, scheme, choice, folder = job
    reference = load(folder / f"{name}.small.py")
    module = load(folder / f"{name}.{scheme}.py")
    choose(module, choice)
    try:
        with torch.no_grad():
            model = module.ModelNew(*reference.get_init_inputs()).cuda()
            model(*(x.cuda() for x in reference.get_inputs()))
            torch.cuda.synchronize()
    except Exception as failure:  # any compiler error is a result of this benchmark, to be reported per choice
        return f"{type(failure).__name__}: {failure}"[:300]
    return ""


def label(scheme: str, choice: dict) -> str:
    return " ".join([scheme, *(f"{k}={v}" for k, v in choice.items())])


def rms(out: torch.Tensor, oracle: torch.Tensor) -> float:
    spread = (oracle - oracle.mean()).square().mean().sqrt()
    return ((out.double() - oracle).square().mean().sqrt() / spread).item()


def run_case(name: str, variants: list[tuple[str, dict]], folder: Path, repetitions: int) -> dict:
    """Times in ms, interleaved and with cold caches, and errors for N(0, 1) inputs."""
    case = CASES[name]
    reference = load(folder / f"{name}.reference.py")
    torch.manual_seed(3)
    with torch.device("cuda"):
        model = reference.Model(*reference.get_init_inputs())
        inputs = reference.get_inputs()
    calls = {"pytorch": model}
    for scheme, choice in variants:
        module = load(folder / f"{name}.{scheme}.py")
        made = module.ModelNew(*reference.get_init_inputs()).cuda()
        made.load_state_dict(model.state_dict())

        def call(*args, module=module, made=made, choice=choice):
            choose(module, choice)
            return made(*args)

        calls[label(scheme, choice)] = call
    flush = torch.empty(64 * 1024 * 1024, dtype=torch.int32, device="cuda")
    events = {key: [] for key in calls}
    for repetition in range(repetitions + 2):
        for key in list(calls) if repetition % 2 else list(reversed(calls)):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            # The host must be ahead of the device when the clock starts.
            torch.cuda._sleep(400_000)
            begin.record()
            calls[key](*inputs)
            end.record()
            if repetition >= 2:
                events[key].append((begin, end))
        torch.cuda.synchronize()
    times = {key: [b.elapsed_time(e) for b, e in pairs] for key, pairs in events.items()}
    for x in inputs:
        x.normal_()
    batches = case.sizes[0] > 1
    rows = 2 if batches else min(512, case.sizes[1])
    part = [x[:rows] if batches or i == 0 else x for i, x in enumerate(inputs)]
    own = model(*inputs)[:rows].clone()
    oracle = model.double()(*(x.double() for x in part))
    model.float()
    errors = {"pytorch": rms(own, oracle)}
    errors |= {key: rms(call(*inputs)[:rows], oracle) for key, call in calls.items() if key != "pytorch"}
    return {"case": dataclasses.asdict(case), "times_ms": times, "rms": errors}


def report(name: str, found: dict) -> None:
    base = statistics.median(found["times_ms"]["pytorch"])
    flop = CASES[name].flop
    print(f"\n{name} {CASES[name].sizes}\n{'kernel':58s} {'ms':>8s} {'TFLOP/s':>8s} {'x':>6s} {'rms':>9s}")
    for key, raw in found["times_ms"].items():
        ms, wrong = statistics.median(raw), found["rms"][key]
        verdict = "" if wrong <= max(2 * found["rms"]["pytorch"], 5e-6) else "OVER BUDGET"
        print(f"{key:58s} {ms:8.3f} {flop / ms / 1e9:8.1f} {base / ms:6.2f} {wrong:9.1e} {verdict}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--processes", type=int, default=12, help="for capturing and compiling")
    parser.add_argument("--write-only", help="folder to write the candidates to; needs no GPU and runs nothing")
    parser.add_argument("--out", help="JSON file to write")
    arguments = parser.parse_args()
    names = arguments.cases.split(",")
    if arguments.write_only:
        Path(arguments.write_only).mkdir(parents=True, exist_ok=True)
        for name in names:
            print(name, write_case((name, Path(arguments.write_only))))
        return 0
    if not torch.cuda.is_available():
        parser.error("no CUDA device: run with --write-only FOLDER, or on a machine with a GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    begin = time.monotonic()
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
        "python": platform.python_version(), "failed": {}, "cases": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as made, torch.no_grad():
        folder = Path(made)
        with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
            schemes = dict(zip(names, pool.map(write_case, [(n, folder) for n in names], chunksize=1), strict=True))
            print(f"written after {time.monotonic() - begin:.0f} s: {schemes}", flush=True)
            jobs = [(n, s, c, folder) for n in names for s in schemes[n] for c in choices(CASES[n], s)]
            found = pool.map(compile_one, jobs, chunksize=1)
        record["failed"] = {f"{n} {label(s, c)}": why for (n, s, c, _), why in zip(jobs, found, strict=True) if why}
        print(f"compiled {len(jobs)} after {time.monotonic() - begin:.0f} s", flush=True)
        for what, why in record["failed"].items():
            print(f"left out {what}: {why}")
        for name in names:
            good = [(s, c) for (n, s, c, _), why in zip(jobs, found, strict=True) if n == name and not why]
            record["cases"][name] = run_case(name, good, folder, arguments.repetitions)
            report(name, record["cases"][name])
            print(f"[{time.monotonic() - begin:.0f} s]", flush=True)
            torch.cuda.empty_cache()
            if arguments.out:
                Path(arguments.out).write_text(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
