"""References of the kinds that the translator must get right: candidates against PyTorch in fp64, at two sizes.

The candidate is written once, from the first sizes, and must hold at the others.
"""

from __future__ import annotations

import json

import pytest
from translated import run

from kernelevolve.translate.errors import TranslateError, UncoveredOp
from kernelevolve.translate.first import first_plan
from kernelevolve.translate.ir import Program
from kernelevolve.translate.moves import moves
from kernelevolve.translate.plan import Plan
from kernelevolve.translate.render import render

torch = pytest.importorskip("torch")

from kernelevolve.translate.capture import capture_source  # noqa: E402 - needs torch

HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"
NO_INIT = "def get_init_inputs():\n    return []\n"


def simple(body: str, **sizes: int) -> str:
    """A reference with one input `x` of shape (rows, columns)."""
    lines = "\n".join(f"{name} = {value}" for name, value in sizes.items())
    inputs = "def get_inputs():\n    return [torch.randn(" + ", ".join(sizes) + ")]\n"
    return f"{HEAD}class Model(nn.Module):\n    def forward(self, x):\n        {body}\n\n\n{lines}\n{inputs}\n{NO_INIT}"


BODIES = {
    "relu": "return torch.relu(x)",
    "softmax": "return F.softmax(x, dim=1)",
    "log softmax along columns": "return F.log_softmax(x, dim=0)",
    "layer norm": "return F.layer_norm(x, x.shape[1:])",
    "argmax": "return torch.argmax(x, dim=0), torch.argmax(x, dim=1), torch.argmin(x)",
    "max with index": "return x.max(dim=1)",
    "moments": "return x.var(dim=0), x.std(), x.mean(dim=1)",
    "norms": "return x / x.norm(p='fro'), x.norm(p=1, dim=1)",
    "scan": "return torch.cumsum(x, dim=1), torch.cumprod(x, dim=0)",
    "self product": "return F.gelu(x @ x.T) - x.mean()",
    "attention": "q = x.view(2, -1, x.shape[1] // 2)\n        return F.scaled_dot_product_attention(q, q, q)",
    "loss": "return F.mse_loss(x, x.flip(0)) + F.smooth_l1_loss(x, x * 0.5)",
    "cross entropy": "return F.cross_entropy(x, torch.argmin(x, dim=1))",
    "transpose and pad": "return F.pad(x.T, (1, 2)) * 2.0, torch.cat([x, -x], dim=1)",
    "triangle": "return torch.tril(x), torch.triu(x, 1)",
    "half": "return F.softmax(x.half(), dim=1) + 1, x.bfloat16().sum(dim=0)",
}
SIZES = ({"rows": 10, "columns": 34}, {"rows": 14, "columns": 58})


def translated(source: str) -> str:
    """The first candidate, by way of JSON."""
    program = Program.from_json(capture_source(source).to_json())
    plan = Plan.from_json(first_plan(program).to_json())
    return render(program, plan, reference_source=source)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[dict[str, object]]]:
    """Every body and problem at both sizes, in one process."""
    cases, names = [], []
    for name, body in BODIES.items():
        candidate = translated(simple(body, **SIZES[0]))
        for sizes in SIZES:
            names.append(name)
            cases.append({"reference": simple(body, **sizes), "candidate": candidate})
    for name, (source, changes) in PROBLEMS.items():
        other = source
        for old, new in changes:
            assert old in other, old
            other = other.replace(old, new)
        candidate = translated(source)
        for each in (source, other):
            names.append(name)
            cases.append({"reference": each, "candidate": candidate})
    found: dict[str, list[dict[str, object]]] = {}
    for name, outcome in zip(names, run(cases), strict=True):
        found.setdefault(name, []).append(outcome)
    return found


PROBLEMS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "jagged values to padded rows": (
        """import torch
import torch.nn as nn
class Model(nn.Module):
    def __init__(self, max_len):
        super().__init__()
        self.max_len = max_len
    def forward(self, values, offsets):
        starts = offsets[:-1]
        lengths = offsets[1:] - starts
        position = torch.arange(self.max_len, device=values.device)
        inside = position[None, :] < lengths[:, None]
        index = torch.where(inside, starts[:, None] + position[None, :], 0)
        dense = values[index]
        return torch.where(inside[:, :, None], dense, 0.0)
rows = 40
width = 24
batch = 9
max_len = 12
def get_inputs():
    cuts = torch.sort(torch.randint(0, rows + 1, (batch - 1,))).values
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), cuts, torch.full((1,), rows, dtype=torch.int64)])
    return [torch.rand(rows, width), offsets]
def get_init_inputs():
    return [max_len]
""",
        [("rows = 40", "rows = 53"), ("width = 24", "width = 31"), ("max_len = 12", "max_len = 7")],
    ),
    "bucketize by borders": (
        """import torch
import torch.nn as nn
class Model(nn.Module):
    def __init__(self, borders):
        super().__init__()
        self.register_buffer("borders", torch.linspace(0.0, 1.0, borders))
    def forward(self, x):
        return torch.bucketize(x, self.borders)
rows = 30
columns = 17
borders = 21
def get_inputs():
    return [torch.rand(rows, columns)]
def get_init_inputs():
    return [borders]
""",
        [("rows = 30", "rows = 19"), ("borders = 21", "borders = 33")],
    ),
    "borders of several rows": (
        """import torch
import torch.nn as nn
class Model(nn.Module):
    def forward(self, x, borders):
        right = torch.searchsorted(borders, x, right=True)
        near = torch.gather(borders, 1, torch.searchsorted(borders, x).clamp(max=borders.shape[1] - 1))
        return right, near, torch.searchsorted(borders.half(), x.half(), side="right", out_int32=True)
rows = 6
columns = 17
edges = 21
def get_inputs():
    x, borders = torch.randn(rows, columns), torch.sort(torch.randn(rows, edges), dim=1).values
    x[0, 0], x[1, 1], x[2, :9] = float("nan"), float("inf"), borders[2, :9]
    return [x, borders]
def get_init_inputs():
    return []
""",
        [("rows = 6", "rows = 4"), ("edges = 21", "edges = 32")],
    ),
    "numbers of a configuration": (
        """import torch
import torch.nn as nn
import torch.nn.functional as F
class Config:
    def __init__(self, window):
        self.window = window
class Model(nn.Module):
    LEAST = 2.0
    def __init__(self, window, heads, slope, eps, width):
        super().__init__()
        self.config = Config(window)
        self.heads = heads
        self.act = nn.LeakyReLU(slope)
        self.norm = nn.GroupNorm(heads, width, eps=eps)
        self.scale = self.half(self.LEAST)
    def half(self, number):
        return number / 2
    def forward(self, x):
        window = self.config.window
        q = x.view(x.shape[0], self.heads, x.shape[1] // self.heads)
        y = self.norm(x.unsqueeze(2)).squeeze(2)
        return self.act(y) * self.scale, x[:, -window:], F.pad(x, (window, 1)), F.softmax(q, dim=2)
rows = 7
width = 24
window = 5
heads = 4
slope = 0.1
eps = 0.25
def get_inputs():
    return [torch.randn(rows, width)]
def get_init_inputs():
    return [window, heads, slope, eps, width]
""",
        [
            ("window = 5", "window = 9"),
            ("heads = 4", "heads = 6"),
            ("slope = 0.1", "slope = 0.3"),
            ("eps = 0", "eps = 1"),
        ],
    ),
    "feature hashing": (
        """import torch
import torch.nn as nn
class Model(nn.Module):
    def __init__(self, slots):
        super().__init__()
        self.slots = slots
    def forward(self, ids):
        h = ids * 0x9E3779B97F4A7C1
        h = h ^ (h >> 29)
        h = h * 0x1B873593
        h = h ^ (h >> 32)
        return torch.remainder(h, self.slots)
rows = 33
columns = 7
slots = 1009
def get_inputs():
    return [torch.randint(0, 1 << 40, (rows, columns))]
def get_init_inputs():
    return [slots]
""",
        [("rows = 33", "rows = 20"), ("slots = 1009", "slots = 512")],
    ),
    "pairwise dot interaction": (
        """import torch
import torch.nn as nn
class Model(nn.Module):
    def __init__(self, fields):
        super().__init__()
        rows, columns = torch.triu_indices(fields, fields, offset=1)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
    def forward(self, dense, sparse):
        x = torch.cat([dense[:, None, :], sparse], dim=1)
        products = torch.bmm(x, x.transpose(1, 2))
        return torch.cat([dense, products[:, self.rows, self.columns]], dim=1)
batch = 11
fields = 7
width = 20
def get_inputs():
    return [torch.rand(batch, width), torch.rand(batch, fields - 1, width)]
def get_init_inputs():
    return [fields]
""",
        [("batch = 11", "batch = 6"), ("fields = 7", "fields = 9")],
    ),
    "RMSNorm with residual": (
        """import torch
import torch.nn as nn
class Model(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))
        self.eps = eps
    def forward(self, x, residual):
        h = x + residual
        scale = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return h * scale * self.weight, h
rows = 50
width = 72
def get_inputs():
    return [torch.randn(rows, width), torch.randn(rows, width)]
def get_init_inputs():
    return [width]
""",
        [("rows = 50", "rows = 21"), ("width = 72", "width = 101")],
    ),
    "gradient inside forward": (
        """import torch
import torch.nn as nn
class Model(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.linear = nn.Linear(width, hidden)
    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            y = torch.tanh(self.linear(x)).pow(2).sum()
            (slope,) = torch.autograd.grad(y, x)
        return slope, (slope.detach().norm(dim=1) - 1).pow(2).mean()
rows = 6
width = 12
hidden = 20
def get_inputs():
    return [torch.randn(rows, width)]
def get_init_inputs():
    return [width, hidden]
""",
        [("rows = 6", "rows = 9"), ("hidden = 20", "hidden = 17")],
    ),
    "train-mode batch norm and nested outputs": (
        """import torch
import torch.nn as nn
class Model(nn.Module):
    def __init__(self, a, b, c):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.BatchNorm1d(b), nn.Linear(b, c), nn.Sigmoid())
    def forward(self, x):
        return {"y": self.net(x), "m": x.max(dim=1)}
rows = 34
a = 20
b = 40
c = 18
def get_inputs():
    return [torch.randn(rows, a)]
def get_init_inputs():
    return [a, b, c]
""",
        [("rows = 34", "rows = 47"), ("b = 40", "b = 27")],
    ),
    "causal attention": (
        """import torch
import torch.nn as nn
import torch.nn.functional as F
class Model(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("mask", torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64))
    def forward(self, x):
        b, t, c = x.shape
        y = self.norm(x)
        q, k, v = self.qkv(y).split(c, dim=2)
        q = q.view(b, t, self.heads, c // self.heads).transpose(1, 2)
        k = k.view(b, t, self.heads, c // self.heads).transpose(1, 2)
        v = v.view(b, t, self.heads, c // self.heads).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / (k.size(-1) ** 0.5))
        att = att.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
        att = F.softmax(att, dim=-1)
        y = (att @ v).transpose(1, 2).contiguous().view(b, t, c)
        return x + self.out(y)
batch = 2
steps = 18
width = 48
heads = 4
def get_inputs():
    return [torch.randn(batch, steps, width)]
def get_init_inputs():
    return [width, heads]
""",
        [("steps = 18", "steps = 21"), ("width = 48", "width = 40")],
    ),
}


@pytest.mark.parametrize("name", [*BODIES, *PROBLEMS])
def test_candidate_holds_at_both_sizes(name: str, outcomes: dict[str, list[dict[str, object]]]) -> None:
    limit = 1e-2 if name == "half" else 5e-6
    for outcome in outcomes[name]:
        assert float(outcome["error"]) <= limit, outcome  # type: ignore[arg-type]
        assert outcome["dtypes"], outcome


def test_forward_only_allocates_and_launches(outcomes: dict[str, list[dict[str, object]]]) -> None:
    assert {name: found[0]["calls"] for name, found in outcomes.items() if found[0]["calls"]} == {}


def test_moves_keep_the_result() -> None:
    source = simple("y = F.softmax(x @ x.T, dim=1)\n        return y * y.mean(dim=0)", rows=20, columns=33)
    program = capture_source(source)
    plan = first_plan(program)
    offered = moves(program, plan, "latency", {plan.key()})
    assert len(offered) >= 3
    assert len({move.plan.key() for move in offered}) == len(offered)
    cases = [
        {"reference": source, "candidate": render(program, move.plan, reference_source=source)} for move in offered[:8]
    ]
    for move, outcome in zip(offered, run(cases), strict=False):
        assert float(outcome["error"]) <= 5e-6, (move.name, outcome)  # type: ignore[arg-type]


def test_knobs_are_a_literal_with_defaults_first() -> None:
    source = translated(simple("return F.gelu(x @ x.T)", rows=20, columns=33))
    literal = source.split("KNOBS = ")[1].split("\nCHOICE")[0]
    knobs = json.loads(literal.replace(",\n}", "\n}"))
    assert all(values for values in knobs.values())
    assert "import kernelevolve" not in source


def test_numbers_that_change_the_graph_stay_fixed() -> None:
    body = "return torch.cumsum(x, dim=self.dim), x.abs() ** self.power"
    source = simple(body, rows=20, columns=33).replace(
        "    def forward",
        "    def __init__(self, dim, power):\n        super().__init__()\n"
        "        self.dim, self.power = dim, power\n\n    def forward",
    )
    source = source.replace("torch.randn(rows, columns)", "torch.randn(rows, columns, 5)").replace(
        "return []", "return [2, 3.0]"
    )
    program = capture_source(source)
    assert [size.source for size in program.sizes] == ["x.shape[0]", "x.shape[1]", "x.shape[2]"]
    assert program.ops[0].args[1] == 2
    assert program.ops[-1].args[1] == 3.0


def test_what_cannot_be_captured_says_why() -> None:
    with pytest.raises(TranslateError, match=r"neither exports.*nor can be traced.*use a model or guest writer"):
        capture_source(simple("return x * float(x.sum())", rows=20, columns=33))
    with pytest.raises(TranslateError, match="size depends on values: use a mask"):
        capture_source(simple("return x[x > 0]", rows=20, columns=33))


def test_an_uncovered_op_is_named_with_its_line() -> None:
    with pytest.raises(UncoveredOp, match=r"aten\.sort.*line 8: return torch.sort\(x\)"):
        first_plan(capture_source(simple("return torch.sort(x)", rows=20, columns=33)))
