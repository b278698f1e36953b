"""One problem, real judge, builder and worker processes, and a candidate for each way to fail: every fault ends with
its own verdict and a message that helps, and the next candidate does not notice."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernelevolve import codec, plugins
from kernelevolve.candidate import Candidate
from kernelevolve.engineer import Engineer
from kernelevolve.equipment import Workshop
from kernelevolve.errors import SeatLost
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import Bounds
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.on_device import OnDevice
from kernelevolve.evaluate.session import Measured
from kernelevolve.evaluate.timing import CANDIDATE, Blocks, time_arms
from kernelevolve.evaluation import Correctness, Evaluation, Evidence, LaunchPlan, Rung, Samples, Verdict
from kernelevolve.problem import parse_problem
from kernelevolve.settings import settings_for

REFERENCE = """
import torch
import torch.nn as nn

ROWS, WIDTH = 64, 4096


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return torch.nn.functional.gelu(x + self.bias)


def get_inputs():
    return [torch.rand(ROWS, WIDTH)]


def get_init_inputs():
    return [WIDTH]
"""
HONEST = """
import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK": [512, 2048], "num_warps": [4]}
CHOICE = {"BLOCK": 512, "num_warps": 4}


@triton.jit
def bias_gelu(x, bias, y, n, width, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    v = tl.load(x + i, mask=inside) + tl.load(bias + i % width, mask=inside)
    tl.store(y + i, 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476)), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x):
        y = torch.empty_like(x)
        n = x.numel()
        grid = (triton.cdiv(n, CHOICE["BLOCK"]),)
        bias_gelu[grid](x, self.bias, y, n, x.shape[-1], BLOCK=CHOICE["BLOCK"], num_warps=CHOICE["num_warps"])
        return y
"""
SECRET = "planted-6f1d"


class Shelf(dict[str, bytes]):
    """Keeps artefacts as a run's blobs do."""

    def __call__(self, data: bytes) -> str:
        reference = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self[reference] = data
        return reference


KEPT = Shelf()
MEMORY = 3 << 30


def edited(*edits: tuple[str, str], source: str = HONEST) -> str:
    """`source` with each `old` replaced by `new`; `old` must be there."""
    for old, new in edits:
        assert old in source, old
        source = source.replace(old, new)
    return source


def at_import(lines: str) -> str:
    return edited(("\nKNOBS", f"\n{lines}\n\nKNOBS"))


def in_forward(*lines: str) -> str:
    return edited(("        n = x.numel()\n", "".join(f"        {line}\n" for line in ("n = x.numel()", *lines))))


def in_kernel(*lines: str) -> str:
    return edited(("    inside = i < n\n", "".join(f"    {line}\n" for line in ("inside = i < n", *lines))))


Climb = Callable[..., Evaluation]


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    problem = parse_problem(REFERENCE, None, name="bias_gelu", suite="folder", path="bias_gelu.py")
    with pytest.MonkeyPatch.context() as patch:
        # Before the roles start: what the host's environment holds must not reach a candidate.
        patch.setenv("KERNELEVOLVE_TEST_TOKEN", SECRET)
        made = Workshop(problem, device="none")
        yield made
        made.close()


@pytest.fixture(scope="module")
def bench(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return workshop.bench(tmp_path_factory.mktemp("builds"))


@pytest.fixture(scope="module")
def climb(workshop: Workshop, bench: Bench) -> Iterator[Climb]:
    """Evaluates a source for a platform, under the given bounds."""
    ladders: list[Ladder] = []

    def evaluate(source: str, platform: str = "h100", **bounds: float) -> Evaluation:
        found = plugins.load("platforms", platform)
        costs = Engineer(workshop.problem, found, workshop.program)
        allowed = replace(Bounds(memory_bytes=MEMORY), **bounds)
        ladders.append(Ladder(bench, found, settings_for("quick"), costs, seed=0, bounds=allowed))
        return ladders[-1].climb(Candidate("n0", "b0", "guest", source), lambda rung: None, KEPT)

    yield evaluate
    for ladder in ladders:
        ladder.builder.close()


@pytest.fixture
def unharmed(climb: Climb) -> Iterator[None]:
    """After the test: the next candidate is evaluated as if nothing had been."""
    yield
    assert climb(HONEST).verdict is Verdict.OK_UNTIMED


def last(evaluation: Evaluation) -> str:
    return evaluation.rungs[-1].message


@pytest.mark.parametrize(("platform", "target"), [("h100", "sm_90"), ("mi300x", "gfx942")])
def test_an_honest_candidate_gets_to_the_top(climb: Climb, platform: str, target: str) -> None:
    found = climb(HONEST, platform)
    assert found.verdict is Verdict.OK_UNTIMED, last(found)
    (resources,) = found.resources[platform]
    assert resources.target == target and resources.registers > 0 and resources.instructions["store"] > 0
    (timing,) = found.timings
    assert timing.candidate.unit == "ms" and timing.candidate.value > 0
    assert {timing.candidate.evidence, timing.speedup.evidence} == {Evidence.MODELLED}
    assert set(timing.baselines) == {"eager", "compile"}
    assert timing.floor is not None and 0 < timing.floor.value <= timing.candidate.value
    assert all(c.passed and c.scaled and c.evidence is Evidence.INTERPRETED for c in found.correctness)
    assert {c.distribution for one in found.correctness for c in one.checks} >= {"declared", "D1", "D3"}
    partly = any("compared in full at the default knobs" in label for label in found.labels)
    assert partly == (dict(timing.knobs) != {"BLOCK": 512, "num_warps": 4})
    # The tuned file needs no knobs to be what was judged.
    assert found.tuned_source
    choice = next(n.value for n in ast.parse(found.tuned_source).body if "CHOICE" in ast.unparse(n).split(" = ")[0])
    assert ast.literal_eval(choice) == dict(timing.knobs)
    alone = climb(
        edited(('KNOBS = {"BLOCK": [512, 2048], "num_warps": [4]}\n', ""), source=found.tuned_source), platform
    )
    assert alone.verdict is Verdict.OK_UNTIMED, last(alone)
    assert alone.resources[platform][0].binary == resources.binary


FAULTS: dict[str, tuple[str, Verdict, Rung, str]] = {
    "no Python": (edited(("def forward(self, x):", "def forward(self, x:")), Verdict.LOAD_ERROR, Rung.CHECK, "line 24"),
    "unknown module": (
        at_import("import nowhere_to_be_found"),
        Verdict.LOAD_ERROR,
        Rung.PLAN,
        "ModuleNotFoundError: No module named 'nowhere_to_be_found' (candidate line 7: import nowhere_to_be_found)",
    ),
    "constructor raises": (
        edited(("self.bias = nn.Parameter(torch.randn(width))", "self.bias = width / 0")),
        Verdict.LOAD_ERROR,
        Rung.PLAN,
        "ZeroDivisionError: division by zero (candidate line 22",
    ),
    "parameter left out": (
        edited(("self.bias = nn.Parameter(torch.randn(width))", "self.width = width"), ("x, self.bias, y", "x, x, y")),
        Verdict.WRONG_META,
        Rung.INTERPRET,
        "no parameter or buffer 'bias'",
    ),
    "calls torch": (in_forward("x = torch.mm(x, x.t()).mm(x)"), Verdict.POLICY, Rung.PLAN, "aten.mm.default x2"),
    "store without a mask": (
        edited((", mask=inside)\n\n\nclass", ")\n\n\nclass")),
        Verdict.MEM_RACE,
        Rung.INTERPRET,
        "argument 'y'",
    ),
    "another function": (
        edited(("0.7071067811865476", "0.7")),
        Verdict.WRONG_VALUE,
        Rung.INTERPRET,
        "exceeds",
    ),
    "tail left out": (
        edited(("inside = i < n", "inside = i < n - 3")),
        Verdict.WRONG_VALUE,
        Rung.INTERPRET,
        "nan instead of",
    ),
    "dtype": (
        edited(("torch.empty_like(x)", "torch.empty_like(x, dtype=torch.float16)")),
        Verdict.WRONG_META,
        Rung.INTERPRET,
        "float16",
    ),
    "shape": (edited(("return y", "return y.view(-1)")), Verdict.WRONG_META, Rung.INTERPRET, "the reference gives"),
    "changes its input": (
        in_kernel("tl.store(x + i, 0.0, mask=inside)")
        .replace("tl.store(x", "u = tl.load(x + i, mask=inside); tl.store(x")
        .replace("v = tl.load(x + i, mask=inside)", "v = u"),
        Verdict.MUTATED_INPUT,
        Rung.INTERPRET,
        "'x'",
    ),
    "does not compile": (
        in_kernel("odd = tl.arange(0, 1000)"),
        Verdict.COMPILE_ERROR,
        Rung.BUILD,
        "power of 2",
    ),
    "too much shared memory": (
        in_kernel(
            "rows = tl.arange(0, 256)",
            "acc = tl.zeros((256, 256), tl.float32)",
            "for k in range(0, n, 128):",
            "    cols = k + tl.arange(0, 128)",
            "    a = tl.load(x + rows[:, None] * n + cols[None, :])",
            "    acc = tl.dot(a, tl.load(x + cols[:, None] + rows[None, :]), acc)",
            "tl.store(y + rows[:, None] * 256 + rows[None, :], acc)",
        ),
        Verdict.COMPILE_ERROR,
        Rung.BUILD,
        "232448",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_gets_its_verdict(climb: Climb, name: str) -> None:
    source, verdict, rung, message = FAULTS[name]
    found = climb(source)
    assert (found.verdict, found.rungs[-1].rung) == (verdict, rung), last(found)
    assert message in last(found)
    assert not found.correct and not found.timings and not found.tuned_source


def test_what_was_judged_is_kept_as_data(climb: Climb) -> None:
    found = climb(HONEST)
    (timing,) = found.timings
    assert set(found.artefacts) == {"launch plan h100 declared", "circumstances"}
    plan = codec.loads(LaunchPlan, KEPT[found.artefacts["launch plan h100 declared"]].decode())
    (launch,) = plan.launches
    block = int(timing.knobs["BLOCK"])
    assert (plan.workload, plan.platform, launch.kernel) == ("declared", "h100", "bias_gelu")
    assert (launch.constants["BLOCK"], launch.grid) == (block, (64 * 4096 // block, 1, 1))
    assert {b.name: (b.role, b.shape) for b in plan.buffers} == {
        "input0": ("input", (64, 4096)), "bias": ("parameter", (4096,)), "output0": ("output", (64, 4096)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "artefact", "words"),
    [
        ("does not compile", "error h100 build", ["CompilationError", "tl.arange(0, 1000)", "power of 2"]),
        ("constructor raises", "error h100 plan", ['File "candidate.py", line 22', "ZeroDivisionError"]),
        ("calls torch", "", []),
    ],
)
def test_the_whole_text_of_an_error_is_kept(climb: Climb, name: str, artefact: str, words: list[str]) -> None:
    found = climb(FAULTS[name][0])
    errors = {n: KEPT[r].decode() for n, r in found.artefacts.items() if n.startswith("error")}
    assert list(errors) == ([artefact] if artefact else []), "one line says it all where nothing was cut"
    for text in errors.values():
        assert text.startswith("Traceback (most recent call last)")
        assert len(text) > len(last(found)) and all(word in text for word in words), text
        assert "/candidate.py" not in text, "the folder of a candidate is another one each time"
    again = climb(FAULTS[name][0])
    assert {n: again.artefacts[n] for n in errors} == {n: found.artefacts[n] for n in errors}


class Clock(Device):
    """A device whose answers are made up: every call takes what its arm says."""

    def __init__(self) -> None:
        super().__init__("cuda:0", "a made-up device", blocks=Blocks(6, 0), full_cases=1)

    def correct(
        self, bench: Bench, source: str, choices: Any, cases: Any, *_: Any, enough: int = 0
    ) -> tuple[list[Correctness], str]:
        return [Correctness(Evidence.MEASURED, True, ())], "none"

    def prepare(self, bench: Bench, memory: int, cases: Any = ()) -> Future[None]:
        """There are no baselines to compile."""
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def tune(self, *_: Any) -> None:
        """Nothing is tried: the default is what is judged."""

    def time(self, bench: Bench, workload: str, source: str, choice: Any, **_: Any) -> Measured:
        arms = {name: lambda calls, t=t: [t] * calls for name, t in ((CANDIDATE, 1.0), ("eager", 2.0))}
        timed = time_arms(arms, workload=workload, platform="", choice=choice, plan=Blocks(6, 0), device=self.name)
        return Measured((timed,), ())


def test_what_was_timed_is_kept_call_by_call(workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = plugins.load("platforms", "h100")
    costs = Engineer(workshop.problem, platform, workshop.program)
    ladder = Ladder(bench, platform, settings_for("quick"), costs, seed=0, device=Clock(), interpret=False)
    monkeypatch.setattr(OnDevice, "_behave", lambda *_: None)  # a made-up device holds no worker to look at
    try:
        found = ladder.climb(Candidate("n0", "b0", "guest", HONEST), lambda rung: None, KEPT)
    finally:
        ladder.builder.close()
    assert found.verdict is Verdict.OK_FASTER, last(found)
    (timing,) = found.timings
    assert (timing.platform, timing.samples, timing.speedup.value) == ("h100", {}, pytest.approx(2.0))
    assert set(found.artefacts) == {"launch plan h100 declared", "samples h100 declared", "circumstances"}
    samples = codec.loads(Samples, KEPT[found.artefacts["samples h100 declared"]].decode())
    assert (samples.workload, samples.platform, samples.unit) == ("declared", "h100", "ms")
    taken = {name: {t for burst in bursts for t in burst} for name, bursts in samples.arms.items()}
    assert taken == {CANDIDATE: {1.0}, "eager": {2.0}}
    assert [len(bursts) / samples.per_block for bursts in samples.arms.values()] == [6, 6]
    plan = codec.loads(LaunchPlan, KEPT[found.artefacts["launch plan h100 declared"]].decode())
    assert plan.launches[0].constants["BLOCK"] == timing.knobs["BLOCK"] == 512


def test_text_that_is_no_unicode_is_a_fault_like_any_other(climb: Climb) -> None:
    found = climb(at_import("raise ValueError(chr(0xD800) + ' is half a pair')"))
    assert found.verdict is Verdict.LOAD_ERROR
    assert b"? is half a pair" in KEPT[found.artefacts["error h100 plan"]]
    assert codec.loads(Evaluation, codec.dumps(found).encode().decode()) == found


FORGED = """
import json, os, stat, struct

def say(kind, body):
    text = json.dumps({"kind": kind, "body": body, "attachments": []}).encode()
    for fd in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, struct.pack("<4sIH", b"KEw1", len(text), 0) + text)
        except OSError:
            continue

say(%s)
"""


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ('"fault", {"verdict": "OK_FASTER", "message": "trust me"}', "'OK_FASTER'"),
        ('"fault", {"verdict": "NICE", "message": "trust me"}', "'NICE'"),
        ('"fault", {"verdict": "INFRA", "message": "not my fault"}', "'INFRA'"),
        ('"planned", {}', "no answer"),
        ('"prepared", {}); say("planned", {"forbidden": [], "resources": [], "plan": {}}', "no answer"),
    ],
)
def test_what_a_candidate_says_in_the_harness_name_is_no_finding(climb: Climb, claim: str, message: str) -> None:
    found = climb(at_import(FORGED % claim))
    assert found.verdict is Verdict.TAMPER, last(found)
    assert message in last(found)
    assert not found.correct


def test_what_was_planned_must_be_what_runs(climb: Climb) -> None:
    library = "return torch.nn.functional.gelu(x + self.bias)"
    found = climb(in_forward(f"if not self.bias.is_meta: {library}"))
    assert (found.verdict, found.rungs[-1].rung) == (Verdict.POLICY, Rung.INTERPRET), last(found)
    assert "aten.add" in last(found)
    # That its device is the one asked for is no way to tell.
    found = climb(in_forward(f"if self.bias.device.type != 'meta': {library}"))
    assert (found.verdict, found.rungs[-1].rung) == (Verdict.POLICY, Rung.PLAN), last(found)


CRASHES: dict[str, tuple[str, Verdict, str]] = {
    "leaves at import": (at_import("import os; os._exit(0)"), Verdict.CRASH, "exit code 0"),
    "leaves in forward": (in_forward("import os; os._exit(0)"), Verdict.CRASH, "exit code 0"),
    "SIGSEGV": (in_forward("import ctypes; ctypes.string_at(8)"), Verdict.CRASH, "SIGSEGV"),
    "kills all it can": (
        in_forward("import os, signal; os.kill(-1, signal.SIGKILL); os.kill(os.getpid(), signal.SIGTERM)"),
        Verdict.CRASH,
        "SIGTERM",
    ),
    "raises SystemExit": (in_forward("raise SystemExit('bye')"), Verdict.CRASH, "SystemExit: bye (candidate line"),
    "eats memory": (
        in_forward("self.eaten = [bytearray(b'x') * (1 << 28) for _ in range(64)]"),
        Verdict.OOM,
        "MemoryError",
    ),
}


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_harms_nobody_else(climb: Climb, name: str) -> None:
    source, verdict, message = CRASHES[name]
    found = climb(source)
    assert found.verdict is verdict, last(found)
    assert message in last(found)


@pytest.mark.usefixtures("unharmed")
def test_who_is_killed_twice_has_done_it_itself(climb: Climb) -> None:
    kills_itself = in_forward("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(SeatLost, match="nothing says by whom"):
        climb(kills_itself)
    found = climb(kills_itself)
    assert found.verdict is Verdict.OOM, last(found)
    assert "SIGKILL" in last(found)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    ("source", "bounds", "question"),
    [
        (at_import("while True: pass"), {"build_seconds": 2.0}, "'prepare'"),
        (in_forward("while True: pass"), {"build_seconds": 4.0}, "'plan'"),
        (
            in_kernel("k = tl.load(x) * 0.0", "while k < 1.0:", "    k = k * 1.0"),
            {"call_seconds": 3.0},
            "'call'",
        ),
    ],
    ids=["import", "forward", "kernel"],
)
def test_what_never_ends_is_ended(climb: Climb, source: str, bounds: dict[str, float], question: str) -> None:
    start = time.monotonic()
    found = climb(source, **bounds)
    assert found.verdict is Verdict.TIMEOUT, last(found)
    assert question in last(found)
    assert time.monotonic() - start < 60


def test_what_it_prints_is_no_answer(climb: Climb) -> None:
    found = climb(at_import("import sys\nfor _ in range(100): sys.stdout.write('OK_FASTER ' * (1 << 17))"))
    assert found.verdict is Verdict.OK_UNTIMED, last(found)


def test_the_hosts_environment_stays_with_the_host(climb: Climb) -> None:
    assert os.environ["KERNELEVOLVE_TEST_TOKEN"] == SECRET
    found = climb(
        at_import(
            "import glob, os\n"
            f"secret = {SECRET[:8]!r} + {SECRET[8:]!r}\n"
            "assert secret not in ' '.join(os.environ.values()), 'own environment'\n"
            "for path in glob.glob('/proc/[0-9]*/environ'):\n"
            "    try:\n"
            "        held = open(path, 'rb').read()\n"
            "    except OSError:\n"
            "        continue\n"
            "    assert secret.encode() not in held, path"
        )
    )
    if found.isolation == "none":
        pytest.skip("namespaces are not to be had here")
    assert found.verdict is Verdict.OK_UNTIMED, last(found)


def test_what_it_writes_is_gone(climb: Climb) -> None:
    places = [Path.home(), Path(__file__).parent, Path("/tmp"), Path("/dev/shm"), Path.cwd()]
    name = f"kernelevolve-left-{os.getpid()}-{int(time.time())}"
    found = climb(
        at_import(
            f"for folder in {[str(p) for p in places]!r} + ['.', '/']:\n"
            "    try:\n"
            f"        open(folder + '/{name}', 'w').write('x')\n"
            "    except OSError:\n"
            "        pass"
        )
    )
    left = [str(p) for p in [*places, Path("/")] if (p / name).exists()]
    for folder in left:
        (Path(folder) / name).unlink()
    if found.isolation == "none":
        pytest.skip("namespaces are not to be had here")
    assert found.verdict is Verdict.OK_UNTIMED, last(found)
    assert not left


def test_autotune_runs_its_first_configuration_and_never_benchmarks(climb: Climb) -> None:
    found = climb(
        edited(
            ("@triton.jit", "CONFIGS = [triton.Config({'BLOCK': b}, num_warps=4) for b in (1024, 1000)]\n\n\n"
             "@triton.autotune(configs=CONFIGS, key=['n'])\n@triton.jit"),
            ('CHOICE["BLOCK"]),)', "1024),)"),
            (', BLOCK=CHOICE["BLOCK"], num_warps=CHOICE["num_warps"])', ")"),
            ('KNOBS = {"BLOCK": [512, 2048], "num_warps": [4]}\nCHOICE = {"BLOCK": 512, "num_warps": 4}\n', ""),
        )
    )  # fmt: skip
    assert found.verdict is Verdict.OK_UNTIMED, last(found)


PRODUCT = """
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, a, b):
        return a @ b

def get_inputs():
    return [torch.rand(64, 128), torch.rand(128, 64)]
"""
MATMUL = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def product(a, b, c, M, N, K, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    s = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, K, BLOCK):
        q = k + tl.arange(0, BLOCK)
        x = tl.load(a + r[:, None] * K + q[None, :], mask=(r[:, None] < M) & (q[None, :] < K), other=0.0)
        y = tl.load(b + q[:, None] * N + s[None, :], mask=(q[:, None] < K) & (s[None, :] < N), other=0.0)
        acc = tl.dot(x, y, acc, input_precision="ieee")
    tl.store(c + r[:, None] * N + s[None, :], acc, mask=(r[:, None] < M) & (s[None, :] < N))


class ModelNew(nn.Module):
    def forward(self, a, b):
        M, K = a.shape
        N = b.shape[1]
        c = torch.empty((M, N), device=a.device, dtype=a.dtype)
        product[(triton.cdiv(M, 32), triton.cdiv(N, 32))](a, b, c, M, N, K, BLOCK=32)
        return c
"""


def test_strict_precision_is_strict(workshop: Workshop, tmp_path: Path) -> None:
    problem = parse_problem(PRODUCT, None, name="product", suite="folder", path="product.py")
    platform = plugins.load("platforms", "h100")
    bench = Bench(problem, workshop.roles, tmp_path)
    makers = Workshop(problem, device="none")
    costs = Engineer(problem, platform, makers.program)
    ladder = Ladder(bench, platform, settings_for("quick"), costs, seed=0)

    def climb(source: str) -> Evaluation:
        return ladder.climb(Candidate("n0", "b0", "guest", source), lambda rung: None, KEPT)

    try:
        found = climb(MATMUL)
        assert found.verdict is Verdict.OK_UNTIMED, last(found)
        rounded = edited(("dot(x, y", "dot(x.to(tl.bfloat16), y.to(tl.bfloat16)"), source=MATMUL)
        for wrong in (rounded, edited(('"ieee"', '"tf32"'), source=MATMUL)):
            found = climb(wrong)
            assert found.verdict is Verdict.WRONG_VALUE, last(found)
            assert "rms" in last(found)
    finally:
        ladder.builder.close()
        bench.close()
        makers.close()


@pytest.mark.parametrize("name", ["worker", "builder", "judge"])
def test_a_lost_process_is_the_machines_fault_and_a_new_one_starts(workshop: Workshop, climb: Climb, name: str) -> None:
    assert climb(HONEST).verdict is Verdict.OK_UNTIMED
    os.kill(workshop.roles[name].process_id, signal.SIGKILL)
    fresh = HONEST + f"# {name}\n"  # no build of it is kept
    # Those conversations that were open end with the machine's fault; whoever tries again gets a new process.
    with contextlib.suppress(SeatLost):
        climb(fresh)
    found = climb(fresh)
    assert found.verdict is Verdict.OK_UNTIMED, last(found)


def test_as_many_candidates_are_under_way_as_were_asked_for() -> None:
    count = 3 * (os.cpu_count() or 1) + 40  # more than asyncio's own pool has threads
    together = threading.Barrier(count, timeout=20.0)
    ladder = SimpleNamespace(climb=lambda *_: together.wait(), bench=None)

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(Ladder.evaluate(ladder, None, progress=None, keep=None) for _ in range(count)))

    assert sorted(asyncio.run(all_at_once())) == list(range(count))
