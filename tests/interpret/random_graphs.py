"""Random references through the whole translator, in one process under Triton's interpreter; a script for its test.

Each example is a module of random shapes, dtypes, layouts and ops. It is captured, planned, written, interpreted and
compared with PyTorch in fp64; PyTorch in fp32 gives the error that its conditioning allows.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

import numpy
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from translated import compare, load, small

from kernelevolve.translate.capture import capture_source
from kernelevolve.translate.first import first_plan
from kernelevolve.translate.render import render

UNARY = (
    "torch.relu({})", "torch.sigmoid({})", "torch.tanh({})", "torch.exp(-torch.abs({}))", "F.gelu({})", "F.silu({})",
    "-{}", "torch.sqrt(torch.abs({}) + 0.5)", "torch.log1p(torch.abs({}))", "torch.clamp({}, -0.7, 0.9)", "F.elu({})",
    "F.mish({})", "F.softplus({})", "F.hardswish({})", "F.leaky_relu({}, 0.1)", "{} ** 2", "{} * 1.7 + 0.3",
    "torch.where({} > 0.11, {}, 0.5)", "torch.erf({})", "torch.rsqrt({} * {} + 1.0)", "F.gelu({}, approximate='tanh')",
    "torch.expm1({} * 0.1)", "1.0 / (torch.abs({}) + 1.0)", "torch.sin({})",
)  # fmt: skip
BINARY = (
    "{} + {}", "{} - {}", "{} * {}", "{} / (torch.abs({}) + 1.0)", "torch.maximum({}, {})", "torch.minimum({}, {})",
    "torch.where({0} > {1} + 0.013, {0}, {1})", "torch.add({}, {}, alpha=0.5)",
)  # fmt: skip
REDUCE = (
    "torch.sum({}, dim={}, keepdim={})", "torch.mean({}, dim={}, keepdim={})", "torch.amax({}, dim={}, keepdim={})",
    "torch.amin({}, dim={}, keepdim={})", "torch.var({}, dim={}, keepdim={}, correction=0)",
    "torch.logsumexp({}, dim={}, keepdim={})", "torch.linalg.vector_norm({}, dim={}, keepdim={})",
)  # fmt: skip
ALONG = ("F.softmax({}, dim={})", "F.log_softmax({}, dim={})", "torch.cumsum({}, dim={})", "torch.flip({}, ({},))")
SIZES = (1, 2, 3, 5, 7, 8, 17)


class Made:
    """A reference being drawn: its source lines and the shapes of its values."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.inputs: list[str] = []
        self.lines: list[str] = []
        self.values: list[tuple[str, tuple[int, ...]]] = []

    def pick(self, options):  # type: ignore[no-untyped-def]
        return self.draw(st.sampled_from(list(options)))

    def bind(self, source: str, shape: tuple[int, ...]) -> None:
        name = f"v{len(self.values)}"
        self.lines.append(f"{name} = {source}")
        self.values.append((name, shape))

    def input(self) -> None:
        rank = self.pick((1, 2, 2, 3, 3, 4))
        shape = tuple(self.pick(SIZES[:6] if rank > 2 else SIZES) for _ in range(rank))
        layout = self.pick(("plain", "plain", "plain", "transposed", "expanded", "sliced"))
        half = self.pick((False, False, False, False, True))
        dtype = ", dtype=torch.float16" if half else ""
        if layout == "transposed" and rank >= 2:
            stored = (*shape[:-2], shape[-1], shape[-2])
            source = f"torch.randn({stored}{dtype}).transpose(-1, -2)"
        elif layout == "expanded" and rank >= 2:
            source = f"torch.randn({(1, *shape[1:])}{dtype}).expand({shape})"
        elif layout == "sliced":
            source = f"torch.randn({(*shape[:-1], shape[-1] + 3)}{dtype})[..., 1:{shape[-1] + 1}]"
        else:
            source = f"torch.randn({shape}{dtype})"
        name = f"x{len(self.inputs)}"
        self.inputs.append(source)
        self.values.append((name, shape))

    def step(self) -> None:
        kind = self.pick(("unary", "unary", "binary", "binary", "reduce", "along", "view", "view", "index", "product",
                          "norm", "cast", "wide"))  # fmt: skip
        name, shape = self.pick(self.values)
        getattr(self, f"_{kind}")(name, shape)

    def _unary(self, name: str, shape: tuple[int, ...]) -> None:
        self.bind(self.pick(UNARY).replace("{}", name), shape)

    def _cast(self, name: str, shape: tuple[int, ...]) -> None:
        self.bind(f"({name} * 3.0).to(torch.int32).to({name}.dtype) + {name}", shape)

    def _binary(self, name: str, shape: tuple[int, ...]) -> None:
        fits = [(n, s) for n, s in self.values if _joined(shape, s) is not None]
        other, other_shape = self.pick(fits)
        joined = _joined(shape, other_shape)
        assert joined is not None
        self.bind(self.pick(BINARY).format(name, other), joined)

    def _reduce(self, name: str, shape: tuple[int, ...]) -> None:
        if not shape:
            return
        count = self.pick(range(1, len(shape) + 1))
        dims = tuple(sorted(self.draw(st.permutations(range(len(shape))))[:count]))
        keep = self.pick((True, False))
        left = tuple(1 if a in dims else s for a, s in enumerate(shape) if keep or a not in dims)
        self.bind(self.pick(REDUCE).format(name, dims, keep), left)

    def _along(self, name: str, shape: tuple[int, ...]) -> None:
        if shape:
            self.bind(self.pick(ALONG).format(name, self.pick(range(len(shape)))), shape)

    def _norm(self, name: str, shape: tuple[int, ...]) -> None:
        if shape and shape[-1] > 1:
            self.bind(f"F.layer_norm({name}, ({shape[-1]},))", shape)

    def _wide(self, name: str, shape: tuple[int, ...]) -> None:
        if shape and math.prod(shape) < 400:
            self.bind(f"{name}.unsqueeze(0).expand(4, {', '.join(map(str, shape))}) * 0.5", (4, *shape))

    def _view(self, name: str, shape: tuple[int, ...]) -> None:
        if not shape:
            self.bind(f"{name}.unsqueeze(0)", (1,))
            return
        kind = self.pick(("permute", "flatten", "slice", "unsqueeze", "pad", "cat", "stack", "roll", "select", "chunk"))
        axis = self.pick(range(len(shape)))
        before, size, after = shape[:axis], shape[axis], shape[axis + 1 :]
        if kind == "permute":
            order = tuple(self.draw(st.permutations(range(len(shape)))))
            self.bind(f"{name}.permute({order})", tuple(shape[d] for d in order))
        elif kind == "flatten":
            self.bind(f"{name}.reshape(-1)", (math.prod(shape),))
        elif kind == "slice" and size > 2:
            self.bind(f"torch.narrow({name}, {axis}, 1, {size - 2})", (*before, size - 2, *after))
        elif kind == "pad":
            self.bind(f"F.pad({name}, (1, 2), value=0.25)", (*shape[:-1], shape[-1] + 3))
        elif kind == "cat":
            self.bind(f"torch.cat([{name}, {name} * 2.0], dim={axis})", (*before, 2 * size, *after))
        elif kind == "stack" and len(shape) < 4:
            self.bind(f"torch.stack([{name}, -{name}], dim={axis})", (*before, 2, size, *after))
        elif kind == "roll":
            self.bind(f"torch.roll({name}, 1, {axis})", shape)
        elif kind == "select":
            self.bind(f"{name}.select({axis}, {size - 1})", before + after)
        elif kind == "chunk" and size % 2 == 0 and len(shape) < 4:
            self.bind(f"{name}.reshape({(*before, 2, size // 2, *after)})", (*before, 2, size // 2, *after))
        elif len(shape) < 4:
            self.bind(f"{name}.unsqueeze({axis})", (*before, 1, size, *after))

    def _index(self, name: str, shape: tuple[int, ...]) -> None:
        if not shape:
            return
        axis = self.pick(range(len(shape)))
        kind = self.pick(("index_select", "gather", "argmax"))
        if kind == "gather":
            where = f"torch.argmax({name}, dim={axis}, keepdim=True)"
            self.bind(f"torch.gather({name}, {axis}, {where})", (*shape[:axis], 1, *shape[axis + 1 :]))
        elif kind == "index_select":
            picked = tuple(self.pick(range(shape[axis])) for _ in range(3))
            where = f"torch.arange(3, device={name}.device) % {max(picked[0], 1)}"
            self.bind(f"torch.index_select({name}, {axis}, {where})", (*shape[:axis], 3, *shape[axis + 1 :]))
        else:
            left = shape[:axis] + shape[axis + 1 :]
            self.bind(f"(torch.argmax({name}, dim={axis}) * 3 + 1).remainder(4).to({name}.dtype)", left)

    def _product(self, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) not in (2, 3) or math.prod(shape) > 600:
            return
        self.bind(f"{name} @ {name}.transpose(-1, -2)", (*shape[:-1], shape[-2]))

    def source(self) -> str:
        usable = [name for name, _ in self.values]
        body = "\n".join(f"        {line}" for line in self.lines) or "        pass"
        heads = ", ".join(f"x{k}" for k in range(len(self.inputs)))
        results = ", ".join(dict.fromkeys((usable[-1], self.pick(usable))))
        return (
            "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"
            f"class Model(nn.Module):\n    def forward(self, {heads}):\n{body}\n"
            f"        return ({results}, x0 + 0.0)\n\n\n"
            f"def get_inputs():\n    return [{', '.join(self.inputs)}]\n\n\ndef get_init_inputs():\n    return []\n"
        )


def _joined(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    rank = max(len(a), len(b))
    wide = [(1,) * (rank - len(s)) + s for s in (a, b)]
    joined = tuple(max(x, y) if 1 in (x, y) else x if x == y else -1 for x, y in zip(*wide, strict=True))
    return None if -1 in joined or math.prod(joined) > 4000 else joined


@st.composite
def references(draw: st.DrawFn) -> str:
    """The source of a random reference."""
    made = Made(draw)
    for _ in range(draw(st.integers(1, 2))):
        made.input()
    for _ in range(draw(st.integers(2, 6))):
        made.step()
    return made.source()


def main(examples: int) -> None:
    """Checks random references and prints how many."""
    checked = 0
    worst = 0.0
    torch.set_num_threads(1)
    numpy.seterr(all="ignore")
    with tempfile.TemporaryDirectory() as folder:

        @settings(
            max_examples=examples, derandomize=True, deadline=None, database=None, print_blob=False,
            suppress_health_check=list(HealthCheck), report_multiple_bugs=False, phases=(Phase.generate,),
        )  # fmt: skip
        @given(references())
        def holds(source: str) -> None:
            nonlocal checked, worst
            program = capture_source(source, variants=0)
            written = render(program, first_plan(program), reference_source=source)
            candidate = load(written, Path(folder), f"candidate_{checked}")
            reference = load(source, Path(folder), f"reference_{checked}")
            small(candidate)
            checked += 1
            if len(sys.argv) > 2:
                print(checked, flush=True)
            found = compare(reference, candidate, seed=checked)
            half = "float16" in source
            allowed = max(2e-5 if not half else 2e-2, 4 * float(found["torch"]))  # type: ignore[arg-type]
            assert found["dtypes"], source
            assert found["calls"] == [], (found["calls"], source)
            assert float(found["error"]) <= allowed, (found, source)  # type: ignore[arg-type]
            worst = max(worst, 0.0 if half else float(found["error"]))  # type: ignore[arg-type]

        holds()
    print(f"checked {checked} worst {worst:.1e}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
