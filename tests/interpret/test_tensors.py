"""Problem files run, described and drawn from: the same case gives the same tensors, faults name the file's line."""

from __future__ import annotations

import inspect

import pytest
import torch

from kernelevolve.errors import ProblemError
from kernelevolve.evaluate import room
from kernelevolve.problem import Problem, parse_problem
from kernelevolve.protocol import Case, Description, Variant
from kernelevolve.tensors import call, clock, draw, load, outputs, ring
from kernelevolve.tensors import ring as slots
from kernelevolve.tensors.describe import check_random, describe

HEAD = "import torch\nimport torch.nn as nn\n"
LAYERS = (
    HEAD
    + """class Model(nn.Module):
    def __init__(self, n, p=0.0):
        super().__init__()
        self.fc = nn.Linear(n, n)
        self.norm = nn.BatchNorm1d(n)
        self.drop = nn.Dropout(p)
        self.register_buffer("table", torch.arange(n).float())
    def forward(self, x, y, rows, flags):
        return {"a": self.drop(self.norm(self.fc(x @ y)))[rows] + self.table, "b": (x.sum(), None)}
n = 8
def get_inputs():
    return [torch.triu(torch.rand(n, n)), torch.randn(n, n).t(), torch.randint(0, n, (5,)), {"k": [1, True]}]
def get_init_inputs():
    return [n]
"""
)


def problem_of(source: str, sidecar: str | None = None) -> Problem:
    return parse_problem(source, sidecar, name="p", suite="s", path="folder/p.py")


def described(source: str, sidecar: str | None = None) -> Description:
    problem = problem_of(source, sidecar)
    return describe(problem, Variant("declared", "full", source))


def test_a_description_names_inputs_state_and_outputs() -> None:
    found = described(LAYERS)
    assert [(s.name, s.kind, s.shape, s.dtype) for s in found.inputs] == [
        ("x", "values", (8, 8), "float32"),
        ("y", "values", (8, 8), "float32"),
        ("rows", "index", (5,), "int64"),
        ("flags['k'][0]", "plain", (), ""),
        ("flags['k'][1]", "plain", (), ""),
    ]
    assert found.inputs[1].stride == (1, 8)
    redraw = {s.name: s.redraw for s in found.state}
    assert redraw["table"] == redraw["norm.num_batches_tracked"] == "keep"
    assert redraw["norm.running_var"] == "positive"
    assert redraw["fc.weight"] == "normal"
    weight = next(s for s in found.state if s.name == "norm.weight")
    assert (weight.mean, weight.std) == (1.0, 0.1)  # all ones as built: noise shows whether a kernel reads it
    assert [(o.path, o.shape, o.dtype) for o in found.outputs] == [
        ("out['a']", (5, 8), "float32"),
        ("out['b'][0]", (), "float32"),
    ]


def test_bf16_and_backward_are_described_as_they_are_run() -> None:
    found = described(LAYERS, 'precision = "bf16"\ndirection = "both"\n')
    assert {s.dtype for s in found.inputs if s.kind == "values"} == {"bfloat16"}
    assert {s.dtype for s in found.state if s.redraw != "keep"} == {"bfloat16"}
    paths = [o.path for o in found.outputs]
    assert paths[2:] == ["grad:x", "grad:y", "grad:fc.weight", "grad:fc.bias", "grad:norm.weight", "grad:norm.bias"]


def test_a_full_size_description_needs_no_memory() -> None:
    source = HEAD + (
        "class Model(nn.Module):\n    def forward(self, x):\n        return torch.relu(x)\n"
        "def get_inputs():\n    return [torch.rand(1 << 20, 1 << 20)]\n"
    )
    assert described(source).outputs[0].shape == (1 << 20, 1 << 20)


def test_tied_weights_are_kept() -> None:
    source = HEAD + (
        "class Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = nn.Linear(4, 4)\n        self.b = nn.Linear(4, 4)\n        self.b.weight = self.a.weight\n"
        "    def forward(self, x):\n        return self.b(self.a(x))\n"
        "def get_inputs():\n    return [torch.rand(2, 4)]\n"
    )
    redraw = {s.name: s.redraw for s in described(source).state}
    assert redraw["a.weight"] == redraw["b.weight"] == "keep"
    assert redraw["a.bias"] == "normal"


@pytest.mark.parametrize("distribution", sorted(draw.DISTRIBUTIONS))
def test_a_case_always_draws_the_same_tensors(distribution: str) -> None:
    description, module = described(LAYERS), load.load_module(LAYERS)
    first = draw.draw_inputs(description, Case(3, distribution), "cpu", module)
    torch.manual_seed(99)
    torch.rand(7)
    again = draw.draw_inputs(description, Case(3, distribution), "cpu", module)
    other = draw.draw_inputs(description, Case(4, distribution), "cpu", module)
    assert all(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in zip(first[:3], again[:3], strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[0], first[0].triu())  # what the file makes of its random numbers still holds
    assert first[1].stride() == (1, 8)
    assert first[3] == {"k": [1, True]}
    assert first[2].min() >= 0
    assert first[2].max() < 8


def test_distributions_are_what_they_say() -> None:
    source = HEAD + (
        "class Model(nn.Module):\n    def forward(self, x):\n        return x\n"
        "def get_inputs():\n    return [torch.rand(200, 1000)]\n"
    )
    description, module = described(source), load.load_module(source)

    def values(distribution: str) -> torch.Tensor:
        return draw.draw_inputs(description, Case(1, distribution), "cpu", module)[0]

    assert values("D1").std().item() == pytest.approx(1.0, rel=0.02)
    assert values("D2").mean().item() == pytest.approx(0.5, rel=0.02)
    assert values("D3").std().item() == pytest.approx(1e-3, rel=0.02)
    assert values("D4").std().item() == pytest.approx(64.0, rel=0.02)
    assert values("D5").abs().median().item() == pytest.approx(0.7649, rel=0.05)  # quartile of Student's t with 3 df
    assert values("D5p").min().item() >= 0.01
    assert values("D5p").median().item() == pytest.approx(0.01 * 2 ** (1 / 1.5), rel=0.05)
    assert set(values("D8").unique().tolist()) == {-2, -1, 0, 1, 2}
    assert set(values("D8b").unique().tolist()) == {0, 1}
    rows = values("D7")
    assert rows.std(dim=1).min().item() < 2 < 6 < rows.std(dim=1).max().item()
    flat = values("D6").reshape(-1)
    parts = flat.reshape(200, -1).std(dim=1)
    assert parts[0].item() == pytest.approx(1, rel=0.15)
    assert parts[-1].item() == pytest.approx(8, rel=0.15)


def test_inputs_that_a_sidecar_names_keep_their_own_values() -> None:
    source = HEAD + (
        "class Model(nn.Module):\n    def forward(self, x, edges):\n        return torch.bucketize(x, edges)\n"
        "def get_inputs():\n    return [torch.rand(50), torch.linspace(0, 1, 5) + torch.rand(1)]\n"
    )
    description, module = described(source, '[inputs]\nedges = "sorted"\n'), load.load_module(source)
    x, edges = draw.draw_inputs(description, Case(5, "D4"), "cpu", module)
    _, declared = draw.draw_inputs(description, Case(5), "cpu", module)
    assert x.abs().max() > 5
    assert torch.equal(edges, declared)


def test_state_is_drawn_by_name_and_applied_in_place() -> None:
    description, module = described(LAYERS), load.load_module(LAYERS)
    model = load.build_model(module, seed=0)
    drawn = draw.draw_state(description.state, Case(2), "cpu")
    weight = model.fc.weight
    assert draw.apply_state(model, drawn) == []
    assert torch.equal(weight, drawn["fc.weight"])
    assert (drawn["norm.running_var"] > 0).all()
    assert draw.draw_state(description.state, Case(2, redraw_state=False), "cpu") == {}
    assert draw.apply_state(torch.nn.Linear(2, 2), drawn)[0] == "fc.weight"
    single = draw.draw_state([s for s in description.state if s.name == "norm.bias"], Case(2), "cpu")
    assert torch.equal(single["norm.bias"], drawn["norm.bias"])  # each name has its own stream


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("x = 1 / 0", "folder/p.py:3: the file raised ZeroDivisionError"),
        ("class Model(nn.Module):\n  pass\nget_inputs = 3", "defines no get_inputs"),
        ("class Model:\n  pass\ndef get_inputs():\n  return []", "not a torch.nn.Module"),
        (
            "class Model(nn.Module):\n  def __init__(self):\n    raise KeyError('w')\ndef get_inputs():\n  return []",
            r"folder/p.py:5: Model\(...\) raised KeyError",
        ),
        (
            "class Model(nn.Module):\n  def forward(self, x):\n    return x @ x\ndef get_inputs():\n"
            "  return [torch.rand(2, 3)]",
            "folder/p.py:5: forward raised RuntimeError",
        ),
        (
            "class Model(nn.Module):\n  def forward(self, x):\n    return x\ndef get_inputs():\n  return torch.rand(3)",
            r"get_inputs\(\) gave Tensor",
        ),
        (
            "class Model(nn.Module):\n  def forward(self, x):\n    return 3.0\ndef get_inputs():\n"
            "  return [torch.rand(3)]",
            "out is a float",
        ),
        (
            "class Model(nn.Module):\n  def forward(self, x):\n    raise SystemExit(0)\ndef get_inputs():\n"
            "  return [torch.rand(3)]",
            "forward raised SystemExit",
        ),
    ],
)
def test_faults_of_a_problem_file_name_the_line(body: str, words: str) -> None:
    source = HEAD + body + "\n"
    with pytest.raises(ProblemError, match=words):
        describe(Problem("p", "s", "folder/p.py", source), Variant("declared", "full", source))


def test_a_random_reference_is_refused_with_the_fix() -> None:
    source = LAYERS.replace("p=0.0", "p=0.5")
    with pytest.raises(ProblemError, match=r'aten\.bernoulli_.*line 11: .*write mode = "eval"'):
        check_random(problem_of(source), described(source))
    check_random(problem_of(source, 'mode = "eval"'), described(source, 'mode = "eval"'))
    noisy = LAYERS.replace("x.sum()", "torch.rand_like(x).sum()")
    with pytest.raises(ProblemError, match="draw the numbers in get_inputs"):
        check_random(problem_of(noisy), described(noisy))
    line = 1 + next(i for i, text in enumerate(noisy.splitlines()) if "torch.rand_like(" in text)
    with pytest.raises(ProblemError, match=rf'aten\.rand_like\.default \(line {line}: .*write random = "statistical"'):
        check_random(problem_of(noisy), described(noisy))
    check_random(problem_of(noisy, 'random = "statistical"'), described(noisy))
    quiet = 'mode = "eval"\nrandom = "statistical"'
    with pytest.raises(ProblemError, match="draws no random numbers; leave the field out"):
        check_random(problem_of(source, quiet), described(source, quiet))


def test_a_loaded_module_can_be_inspected_and_sizes_live_side_by_side() -> None:
    other = LAYERS.replace("n = 8", "n = 16")
    small, large = load.load_module(LAYERS), load.load_module(other)
    assert small.n == 8
    assert large.n == 16
    assert "self.fc = nn.Linear" in inspect.getsource(large.Model)


def test_a_value_read_in_forward_is_run_for_real_when_small() -> None:
    source = HEAD + (
        "class Model(nn.Module):\n    def forward(self, x):\n        return x * 2 if x.sum().item() > 0 else -x\n"
        "def get_inputs():\n    return [torch.rand(4, 4)]\n"
    )
    assert described(source).outputs[0].shape == (4, 4)


TYPES = ("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "int64", "bool", "uint8")


@pytest.mark.parametrize("dtype", TYPES)
def test_bytes_of_every_type_travel_unchanged(dtype: str) -> None:
    leaf = (torch.arange(24).reshape(4, 6).t() % 2).to(outputs.dtype_of(dtype))
    metas, files = outputs.to_attachments([("out", leaf), ("none", leaf[:0]), ("scalar", leaf[0, 0])])
    back = outputs.from_attachments(metas, files)
    for (path, value), meta in zip([("out", leaf), ("none", leaf[:0]), ("scalar", leaf[0, 0])], metas, strict=True):
        assert meta.shape == tuple(value.shape)
        assert back[path].dtype is value.dtype
        assert torch.equal(back[path].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))
    assert metas[0].stride == (1, 6)
    for file in files.values():
        file.close()


def test_what_is_no_plain_tensor_is_marked() -> None:
    class Odd(torch.Tensor):
        pass

    assert outputs.meta_of("out", torch.zeros(2).as_subclass(Odd)).kind.startswith("Odd")
    assert outputs.meta_of("out", 3.0).kind == "float"
    assert outputs.meta_of("out", torch.eye(2).to_sparse()).kind.startswith("Tensor (sparse")
    with pytest.raises(ValueError, match="unknown dtype 'float33'"):
        outputs.dtype_of("float33")


def test_gradients_come_with_the_drawn_cotangents() -> None:
    source = HEAD + (
        "class Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.w = nn.Parameter(torch.ones(3))\n    def forward(self, x):\n        return x * self.w\n"
        "def get_inputs():\n    return [torch.rand(4, 3)]\n"
    )
    description, module = described(source, 'direction = "both"'), load.load_module(source)
    model = load.build_model(module, seed=0)
    arguments = draw.draw_inputs(description, Case(1), "cpu", module, requires_grad=True)
    cotangents = draw.draw_cotangents(Case(1), "cpu")
    found = dict(call.run(model, arguments, "both", cotangents))
    given = cotangents("out", found["out"])
    assert torch.allclose(found["grad:x"], given * model.w)
    assert torch.allclose(found["grad:w"], (given * arguments[0]).sum(0))


def test_a_ring_is_warmed_slot_by_slot_and_a_burst_times_the_slots_that_are_asked_for() -> None:
    seen: list[int] = []
    ring = clock.Ring([torch.full((1 << 20,), 5.0)], lambda i: [torch.full((1 << 20,), 5.0 + i)], "cpu")
    assert len(ring.slots) == slots.SLOTS_USUAL
    warmed, result = clock.warm(lambda x: seen.append(int(x[0].item())) or x, ring, 0.0)
    assert sorted(seen) == list(range(5, 5 + len(ring.slots)))
    assert warmed.calls == len(seen) == len(ring.slots)
    assert (warmed.flush, warmed.output) == (0, 4 << 20)
    assert result.shape == (1 << 20,)
    for mode in ("cold", "hot", "burst"):
        seen.clear()
        held: list[torch.Tensor] = []
        times = clock.burst(lambda x: seen.append(int(x[0].item())) or x + 1, ring, [0], [3, 1, 2], mode, held.append)
        assert seen == [5, 8, 6, 7]
        assert [int(x[0].item()) for x in held] == [9, 7, 8]
        assert len(times) == 3
        assert all(t > 0 for t in times)


def test_a_slot_gets_new_bytes_at_its_old_address_and_version() -> None:
    x = torch.zeros(16)
    ring = clock.Ring([x], lambda i: [torch.zeros(16)], "cpu", 2)
    before = x.data_ptr(), x._version
    ring.renew(0, [torch.arange(16.0)])
    assert (x.data_ptr(), x._version) == before
    assert x.tolist() == list(range(16))
    assert ring.slots[1][0].abs().sum() == 0


def test_a_small_footprint_needs_a_flush() -> None:
    ring = clock.Ring([torch.zeros(16)], lambda i: [torch.zeros(16)], "cpu")
    assert len(ring.slots) == slots.SLOTS_USUAL
    assert ring.flush_bytes > slots.CPU_CACHE


def test_what_is_timed_includes_the_gradients_that_are_asked_for() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.w

    model, x, drawn = Model(), torch.ones(3, requires_grad=True), []

    def cotangents(path: str, leaf: torch.Tensor) -> torch.Tensor:
        drawn.append(path)
        return torch.full_like(leaf, 2.0)

    both = call.timed(model, "both", cotangents)
    with torch.set_grad_enabled(True):
        found = [dict(both(x)) for _ in range(3)][-1]
    assert list(found) == ["out", "grad:x", "grad:w"]
    assert found["grad:x"].tolist() == [2.0, 2.0, 2.0]
    assert drawn == ["out"]
    assert call.timed(model, "forward", cotangents) is model


def test_the_host_counts_with_rings_as_large_as_the_clock_makes_them() -> None:
    assert (room.RING_BYTES, room.SLOTS) == (ring.RING_BYTES, ring.SLOTS_USUAL)
