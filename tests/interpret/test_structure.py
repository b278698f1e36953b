"""Every structure test against a cheat that it alone catches, and against honest kernels that are odd; real workers."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kernelevolve import plugins
from kernelevolve.equipment import Workshop
from kernelevolve.evaluate.asking import Bounds, Failed, Trial
from kernelevolve.evaluate.behave import Behaviour
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import compare
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.structure import STRUCTURE, examine
from kernelevolve.evaluate.talk import Talk, stale
from kernelevolve.evaluation import Evidence, Guard, Verdict
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Case, Patch
from kernelevolve.settings import LANES

REFERENCE = """
import torch
import torch.nn as nn

ROWS, WIDTH = 24, 96


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x, y):
        return x * self.gain + y


def get_inputs():
    return [torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)]


def get_init_inputs():
    return [WIDTH]
"""
HEAD = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def scaled_sum(x, gain, y, out, n, width, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    v = tl.load(x + i, mask=inside) * tl.load(gain + i % width, mask=inside) + tl.load(y + i, mask=inside)
    tl.store(out + i, v, mask=inside)


class ModelNew(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(width) + 0.5)
        self.cache, self.calls = {}, 0

    def compute(self, x, y, gain=None, out=None):
        out = torch.empty_like(x) if out is None else out
        gain = self.gain if gain is None else gain
        n = x.numel()
        scaled_sum[(triton.cdiv(n, 1024),)](x, gain, y, out, n, x.shape[-1], BLOCK=1024)
        return out

    def forward(self, x, y):
"""
HONEST = HEAD + "        if not (x.is_contiguous() and y.is_contiguous()):\n" + (
    "            raise ValueError('inputs must be contiguous')\n        return self.compute(x, y)\n"
)


def forward(body: str, head: str = HEAD) -> str:
    return head + textwrap.indent(textwrap.dedent(body).strip("\n"), " " * 8) + "\n"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    problem = parse_problem(REFERENCE, None, name="scaled_sum", suite="folder", path="scaled_sum.py")
    workshop = Workshop(problem, device="none")
    yield workshop.bench(tmp_path_factory.mktemp("builds"))
    workshop.close()


def examined(bench: Bench, source: str, *names: str, warm: int = 2) -> tuple[dict[str, Guard], list[str]]:
    """What the guards `names` say about a candidate, after `warm` regular calls."""
    lane = replace(LANES["accept"], structure=names or tuple(STRUCTURE), distributions=("declared", "D4"))
    seeds, guards, labels = Seeds(bytes(16)), {}, []
    description = next(d for d in bench.small() if d.variant.size == "scaled")
    answers = plugins.load("platforms", "h100").device_answers()
    trial = Trial(source, {}, description, "cpu", answers, Bounds(memory_bytes=3 << 30))

    def report(name: str, held: str, detail: str = "") -> None:
        guards[name] = Guard(name, held, detail)  # type: ignore[arg-type]

    def then(talk: Talk) -> None:
        labels.extend(examine(talk, lane, seeds, report))

    compare(bench, trial, [seeds.case(f"{i}", "D1") for i in range(warm)], Evidence.INTERPRETED, then)
    return guards, labels


def refused(bench: Bench, source: str, *names: str, warm: int = 2) -> Failed:
    with pytest.raises(Failed) as caught:
        examined(bench, source, *names, warm=warm)
    return caught.value


def test_an_honest_kernel_holds_every_guard_that_applies(bench: Bench) -> None:
    guards, labels = examined(bench, HONEST)
    assert {n for n, g in guards.items() if g.held == "held"} == {
        "first-call", "poison", "overwrite", "single-input", "weights", "determinism", "hold", "guard-bands", "layouts",
        "size-ladder", "state", "checksums",
    }, guards  # fmt: skip
    assert {n: g.detail for n, g in guards.items() if g.held == "not run"} == {
        "scaling": "the reference is linear in no single input, to the last bit",
        "cotangents": "the problem asks for no gradients",
        "opcheck": "the candidate registers no operator",
    }
    assert labels == ["layouts: refuses transposed, offset, expanded inputs"]
    assert guards["size-ladder"].detail.startswith("right at 5 sizes from small to large, in ")
    assert guards["determinism"].detail == "10 calls gave the same bits"
    assert guards["state"].detail.startswith("nothing changed")


CHEATS = {
    "by address": ("overwrite", Verdict.REPLAY, """
        key = (x.data_ptr(), y.data_ptr())
        if key not in self.cache:
            self.cache[key] = (x, y, self.compute(x, y))
        return self.cache[key][2]
    """),
    "by object and version": ("overwrite", Verdict.REPLAY, """
        if self.cache.get("x") is x and self.cache["version"] == x._version:
            return self.cache["out"]
        self.cache = {"x": x, "version": x._version, "out": self.compute(x, y)}
        return self.cache["out"]
    """),
    "by a window of the content": ("overwrite", Verdict.REPLAY, """
        key = bytes(x.reshape(-1)[:64].numpy()) + bytes(y.reshape(-1)[:64].numpy())
        if key not in self.cache:
            self.cache[key] = self.compute(x, y)
        return self.cache[key]
    """),
    "one input by address": ("single-input", Verdict.REPLAY, """
        if x.data_ptr() not in self.cache:
            padded = torch.empty_like(x)
            padded.copy_(x)
            self.cache[x.data_ptr()] = (x, padded)
        return self.compute(self.cache[x.data_ptr()][1], y)
    """),
    "weights by address": ("weights", Verdict.REPLAY, """
        if (x.data_ptr(), y.data_ptr()) not in self.cache:
            gain = torch.empty_like(self.gain.data)
            gain.copy_(self.gain.data)
            self.cache[x.data_ptr(), y.data_ptr()] = (x, y, gain)
        return self.compute(x, y, self.cache[x.data_ptr(), y.data_ptr()][2])
    """),
    "one buffer for all results": ("hold", Verdict.REPLAY, """
        if "out" not in self.cache:
            self.cache["out"] = torch.empty_like(x)
        return self.compute(x, y, out=self.cache["out"])
    """),
    "a store before the input": ("guard-bands", Verdict.MEM_RACE, """
        torch.as_strided(x, (1,), (1,), max(0, x.storage_offset() - 5)).fill_(3.0) if x.storage_offset() else None
        return self.compute(x, y)
    """),
    "honest only where NaN was": ("poison", Verdict.WRONG_VALUE, """
        out = torch.empty_like(x)
        first = float(out.numpy().reshape(-1)[0])
        return self.compute(x, y, out=out) if first != first else out
    """),
    "one barrier less": ("determinism", Verdict.NONDETERMINISTIC, """
        self.calls += 1
        out = self.compute(x, y)
        if self.calls % 7 == 0:
            out.numpy()[3] = 0.0
        return out
    """),
    "wrong for a transposed input": ("layouts", Verdict.GENERALIZATION, """
        return self.compute(x, y, out=torch.empty(x.shape))
    """),
    "the global seed set in each call": ("state", Verdict.TAMPER, """
        torch.manual_seed(0)
        return self.compute(x, y)
    """),
    "a child that stays": ("state", Verdict.TAMPER, """
        import subprocess
        self.calls += 1
        if self.calls == 4:
            subprocess.Popen(["sleep", "60"])
        return self.compute(x, y)
    """),
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_fails_the_guard_made_for_it(bench: Bench, name: str) -> None:
    guard, verdict, body = CHEATS[name]
    others = ("overwrite",) if guard == "state" else ()  # calls during which the child is started
    found = refused(bench, forward(body), *others, guard)
    assert (found.verdict, found.artefact["guard"]) == (verdict, guard), str(found)
    assert found.artefact["workload"] == "declared" and found.artefact["seed"] >= 0


@pytest.mark.parametrize("name", [n for n, (g, _, _) in CHEATS.items() if g not in ("guard-bands", "determinism")])
def test_no_other_guard_notices_it(bench: Bench, name: str) -> None:
    """Each cheat passes where its guard is off, so that a broken guard is not covered up by another one."""
    guard, _, body = CHEATS[name]
    overlapping = {"hold": {"determinism", "overwrite"}, "poison": {"determinism"}}.get(guard, set())
    single = {"overwrite": {"single-input", "weights"}, "single-input": {"overwrite"}, "weights": {"overwrite"}}
    rest = [n for n in ("overwrite", "hold", "single-input", "weights", "determinism", "layouts", "state")
            if n != guard and n not in overlapping | single.get(guard, set())]  # fmt: skip
    if "layouts" in rest and guard != "layouts":
        rest.remove("layouts")
    guards, _ = examined(bench, forward(body), *rest)
    assert set(guards) >= set(rest)
    assert all(guards[n].held != "failed" for n in rest)


LAST_BITS = """
    self.calls += 1
    out = self.compute(x, y)
    out.numpy()[3] *= 1.0 + (self.calls % 2) * 2.0**-22
    return out
"""


@pytest.fixture
def lenient(bench: Bench) -> Bench:
    """The same problem with other policies, which only the host reads."""
    other = copy.copy(bench)
    other.problem = replace(bench.problem, determinism="rounding", layouts="any")
    return other


def test_other_bits_are_a_matter_of_the_problem(bench: Bench, lenient: Bench) -> None:
    found = refused(bench, forward(LAST_BITS), "determinism")
    assert (found.verdict, found.artefact["limit"]) == (Verdict.NONDETERMINISTIC, 0.0)
    assert 'add up in a fixed order, or declare determinism = "rounding"' in str(found)
    guards, labels = examined(lenient, forward(LAST_BITS), "determinism")
    assert guards["determinism"].held == "held" and guards["determinism"].detail.startswith("200 calls differ by")
    assert len(labels) == 1 and labels[0].startswith("not bitwise repeatable")
    _, _, race = CHEATS["one barrier less"]
    found = refused(lenient, forward(race), "determinism")
    assert (found.verdict, found.artefact["limit"]) == (Verdict.NONDETERMINISTIC, 0.25)


def test_whether_layouts_may_be_refused_is_a_matter_of_the_problem(bench: Bench, lenient: Bench) -> None:
    assert examined(bench, HONEST, "layouts")[1] == ["layouts: refuses transposed, offset, expanded inputs"]
    found = refused(lenient, HONEST, "layouts")
    assert found.verdict is Verdict.GENERALIZATION
    assert "inputs that are transposed (CRASH); the problem asks for all of them" in str(found)
    copies = "return self.compute(x.contiguous(), y.contiguous(), out=torch.empty(x.shape))"
    for one in (bench, lenient):
        guards, labels = examined(one, forward(copies), "layouts")
        assert guards["layouts"].detail.startswith("right for transposed, offset, shifted, expanded") and not labels


def test_a_size_that_takes_less_time_than_a_smaller_one_is_looked_at_more_closely(bench: Bench) -> None:
    slow = "import time\nif x.shape[0] < 8:\n    time.sleep(0.1)\n"
    guards, labels = examined(bench, forward(slow + "return self.compute(x, y)"), "size-ladder")
    assert guards["size-ladder"].held == "held" and not labels  # it is the interpreter's time
    assert "where the time falls, values were right on all inputs of the lane" in guards["size-ladder"].detail
    cheap = "out = self.compute(x, y)\nif x.shape[0] >= 8 and abs(x.numpy()).max() > 30.0:\n    out.fill_(0.0)\n"
    found = refused(bench, forward(f"{slow}{cheap}return out"), "size-ladder")
    assert found.artefact["guard"] == "size-ladder" and found.verdict in (Verdict.GENERALIZATION, Verdict.WRONG_VALUE)


def test_values_at_small_and_large_sizes_are_compared(bench: Bench) -> None:
    body = "out = self.compute(x, y)\nif x.shape[0] < 8:\n    out.fill_(0.0)\nreturn out"
    found = refused(bench, forward(body), "size-ladder")
    assert (found.verdict, found.artefact["guard"]) == (Verdict.GENERALIZATION, "size-ladder")
    assert found.artefact["sizes"] and not any(c.isdigit() for c in str(found))
    body = "if x.shape[0] < 24:\n    raise ValueError('24 rows only')\nreturn self.compute(x, y)"
    guards, labels = examined(bench, forward(body), "size-ladder")
    assert guards["size-ladder"].held == "not run" and not labels
    assert guards["size-ladder"].detail == "the candidate computes 1 of 5 sizes, 3 are needed"


def test_a_result_that_is_written_later_is_deferred(bench: Bench) -> None:
    body = """
        import threading, time
        out, right = torch.zeros_like(x), self.compute(x, y)

        def finish():
            time.sleep(0.02)
            out.numpy()[...] = right.numpy()

        threading.Thread(target=finish).start()
        return out
    """
    found = refused(bench, forward(body))
    assert found.verdict is Verdict.DEFERRED and "was right only 50 ms later" in str(found)


def test_an_instance_method_of_a_result_is_not_called(bench: Bench) -> None:
    body = """
        out, right = torch.zeros_like(x), self.compute(x, y)

        def late(*args, **kwargs):
            out.numpy()[...] = right.numpy()
            return torch.Tensor.detach(out)

        out.detach = out.clone = out.cpu = out.double = out.contiguous = late
        return out
    """
    assert refused(bench, forward(body)).verdict is Verdict.WRONG_VALUE


@pytest.mark.parametrize("body", ["x.zero_()\nreturn x", "self.gain.data.zero_()\nreturn self.compute(x, y)"])
def test_changed_inputs_and_weights_are_seen_by_the_judge(bench: Bench, body: str) -> None:
    # The worker's own fingerprints lie here: what the judge draws itself is what counts.
    lie = "import sys\nsys.modules['kernelevolve.worker.run'].digest = lambda tensor: 0\n"
    found = refused(bench, lie + forward(body))
    assert found.verdict is Verdict.MUTATED_INPUT and found.artefact["guard"] == "checksums"


ODD = {
    "workspace by shape": """
        if x.shape not in self.cache:
            self.cache[x.shape] = torch.empty_like(x)
        self.compute(x, y, out=self.cache[x.shape])
        out = torch.empty_like(x)
        out.copy_(self.cache[x.shape])
        return out
    """,
    "inputs copied into buffers of its own": """
        if "x" not in self.cache:
            self.cache["x"], self.cache["y"] = torch.empty_like(x), torch.empty_like(y)
        self.cache["x"].copy_(x)
        self.cache["y"].copy_(y)
        return self.compute(self.cache["x"], self.cache["y"])
    """,
    "weights packed by version": """
        key = (self.gain.data_ptr(), self.gain._version)
        if key not in self.cache:
            packed = torch.empty_like(self.gain.data)
            packed.copy_(self.gain.data)
            self.cache = {key: packed}
        return self.compute(x, y, self.cache[key])
    """,
    "another default dtype, and random numbers drawn": """
        torch.set_default_dtype(torch.float64)
        torch.seed()
        return self.compute(x, y, out=torch.empty_like(x))
    """,
    "a seed of its own, put back": """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return self.compute(x, y)
    """,
}


@pytest.mark.parametrize("name", ODD)
def test_honest_oddities_pass(bench: Bench, name: str) -> None:
    head = HEAD + textwrap.indent(
        "if not (x.is_contiguous() and y.is_contiguous()):\n    raise NotImplementedError('strides')\n", " " * 8
    )
    guards, labels = examined(bench, forward(ODD[name], head))
    assert all(g.held != "failed" for g in guards.values())
    if "dtype" in name:
        assert "changes its process: default dtype, random state" in labels
        assert "default dtype: torch.float32 -> torch.float64; random state: kept -> drawn" in guards["state"].detail


def test_what_a_candidate_could_remember_is_tried_part_by_part(bench: Bench) -> None:
    description = bench.small()[0]
    told = stale(description, Case(5), Case(3, "D1"))
    assert [words for _, words in told] == ["all inputs", "the weights", "input 'x'", "input 'y'"]
    assert [case for case, _ in told] == [
        Case(3, "D1"), Case(5, state=3), Case(5, patches=(Patch("x", "redrawn", 3, "D1"),)),
        Case(5, patches=(Patch("y", "redrawn", 3, "D1"),)),
    ]  # fmt: skip
    base = Case(5)
    assert stale(description, base, base) == []
    one = replace(base, patches=(Patch("x", "redrawn", 9),))
    assert [case for case, _ in stale(description, one, base)] == [base]


TWICE = """
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x) + torch.relu(x)


def get_inputs():
    return [torch.randn(24, 96)]
"""
TWICE_KERNEL = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def twice(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, 2.0 * tl.maximum(tl.load(x + i, mask=i < n), 0.0), mask=i < n)


def compute(x):
    out = torch.empty_like(x)
    twice[(triton.cdiv(x.numel(), 1024),)](x, out, x.numel(), BLOCK=1024)
    return out


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        out = compute(x)
        context.save_for_backward(out)
        return out

    @staticmethod
    def backward(context, grad):
        (out,) = context.saved_tensors
        made = torch.empty_like(out)
        made.numpy()[...] = 2.0 * GRAD * (out.numpy() > 0)
        return made


class ModelNew(nn.Module):
    def forward(self, x):
"""


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Bench]]:
    made = {}
    for direction in ("forward", "both"):
        problem = parse_problem(TWICE, f'direction = "{direction}"\n', name="twice", suite="folder", path="twice.py")
        made[direction] = Workshop(problem, device="none")
    yield {name: workshop.bench(tmp_path_factory.mktemp(name)) for name, workshop in made.items()}
    for workshop in made.values():
        workshop.close()


def test_arithmetic_that_depends_on_the_size_of_the_values_is_not_scaled_bit_by_bit(benches: dict[str, Bench]) -> None:
    honest = forward("return compute(x)", TWICE_KERNEL)
    guards, _ = examined(benches["forward"], honest, "scaling", "state")
    assert guards["scaling"].detail == "powers of two went through bit by bit for x"
    sniffs = """
        out = compute(x)
        if abs(x.numpy()).max() < 0.5:
            out.numpy()[...] *= 1.0 + 2.0**-22
        return out
    """
    assert examined(benches["forward"], forward(sniffs, TWICE_KERNEL), "overwrite", "determinism")[0]
    found = refused(benches["forward"], forward(sniffs, TWICE_KERNEL), "scaling")
    assert (found.verdict, found.artefact["guard"]) == (Verdict.WRONG_VALUE, "scaling")


def test_gradients_from_cotangents_in_other_layouts(benches: dict[str, Bench]) -> None:
    head = TWICE_KERNEL.replace("GRAD", "grad.numpy()")
    guards, _ = examined(benches["both"], forward("return Twice.apply(x)", head), "cotangents", "scaling")
    assert guards["cotangents"].held == "held" and guards["scaling"].held == "not run"
    flat = "torch.as_strided(grad, out.shape, out.stride(), grad.storage_offset()).numpy()"
    packed = TWICE_KERNEL.replace("GRAD", f"({flat} if grad.untyped_storage().nbytes() >= out.numel() * 4 else 1.0)")
    assert examined(benches["both"], forward("return Twice.apply(x)", packed), "overwrite", "hold")[0]
    found = refused(benches["both"], forward("return Twice.apply(x)", packed), "cotangents")
    assert (found.verdict, found.artefact["guard"]) == (Verdict.WRONG_VALUE, "cotangents")


def test_on_a_device_guards_and_hidden_sizes_have_a_worker_of_their_own(bench: Bench) -> None:
    """The device is the interpreter here; what is asked is the same."""
    answers = plugins.load("platforms", "h100").device_answers()
    guards: dict[str, str] = {}

    def report(name: str, held: str, detail: str = "") -> None:
        guards[name] = held

    looking = Behaviour(bench, "cpu", LANES["screen"], Seeds(bytes(16)), "D1", answers)
    assert looking.look("declared", HONEST, {}, report) == []
    assert set(guards) == {*LANES["screen"].structure, "checksums", "hidden-shapes"}
    assert set(guards.values()) == {"held"}
