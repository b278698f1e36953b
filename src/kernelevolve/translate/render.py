"""From a plan to the candidate's file.

In: a program, a plan and the reference's source. Out: Python source that stands alone: kernels, ``KNOBS``, and
``ModelNew`` with the reference's own constructor.
"""

from __future__ import annotations

import re
from typing import Any

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.emit import contraction, parts, planes, pointwise, reduction, scan
from kernelevolve.translate.emit.source import KernelSource
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import text
from kernelevolve.translate.ir import Program, Ref
from kernelevolve.translate.lower import lower
from kernelevolve.translate.plan import Kernel, Plan
from kernelevolve.translate.reference import constructor

_MULTIPLY = '''@triton.jit
def multiply(a, b):
    """The product, for tl.reduce."""
    return a * b'''

_CHOSEN = '''def chosen(*inputs):
    """Reads knobs: as CHOICES has them for inputs of these shapes and dtypes, else as CHOICE, else the defaults."""
    choice = CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE) if CHOICES else CHOICE
    return lambda name: choice.get(name, KNOBS[name][0])'''

_LAUNCH_OPTIONS = ("num_warps", "num_stages", "waves_per_eu", "maxnreg", "matrix_instr_nonkdim", "num_ctas")


def render(program: Program, plan: Plan, *, reference_source: str) -> str:
    """The candidate's file.

    Raises:
        TranslateError: the plan does not fit the program.
    """
    graph = lower(program)
    return _File(program, plan, graph, reference_source).write()


def sources(graph: Graph, kernel: Kernel, stored: frozenset[str]) -> list[KernelSource]:
    """The Triton functions of one kernel of the plan."""
    match kernel.kind:
        case "pointwise":
            return [pointwise.write(graph, kernel, stored)]
        case "reduction":
            return reduction.write(graph, kernel, stored)
        case "contraction":
            if kernel.scheme == "planes":
                return planes.write(graph, kernel, stored)
            if kernel.scheme == "parts":
                return parts.write(graph, kernel, stored)
            return [contraction.write(graph, kernel, stored)]
        case "scan":
            return [scan.write(graph, kernel, stored)]
    raise TranslateError(f"no emitter for kernels of the kind {kernel.kind!r}")


class _File:
    """One file being put together."""

    def __init__(self, program: Program, plan: Plan, graph: Graph, reference_source: str) -> None:
        self.program, self.plan, self.graph, self.reference = program, plan, graph, reference_source
        self.single = len(plan.kernels) == 1
        self.host = {name: tensor.path for name, tensor in graph.tensors.items()}
        self.written: dict[str, str] = {}

    def write(self) -> str:
        stored = {n.name for n in self.graph.nodes.values() if n.kind == "input"}
        kernels = []
        for kernel in self.plan.kernels:
            stored.update(kernel.stores)
            kernels.append((kernel, sources(self.graph, kernel, frozenset(stored))))
        made = constructor(self.reference, self.program.class_name)
        body = self._forward(kernels)
        uses = frozenset().union(*(source.imports for _, group in kernels for source in group), frozenset())
        parts = [self._docstring(kernels), _imports(made.imports, uses)]
        parts.append(self._knobs())
        if made.names:
            parts.append("\n".join(made.names))
        if "multiply" in uses:
            parts.append(_MULTIPLY)
        parts += [source.text for _, group in kernels for source in group]
        init = f"\n\n{made.init}" if made.init else ""
        signature = f"    def forward({made.signature}):"
        doc = '    """The reference\'s parameters, and its result by the kernels above."""'
        parts.append(f"class ModelNew({made.bases}):\n{doc}{init}\n\n{signature}\n{body}")
        head, rest = parts[:3], parts[3:]
        return "\n\n".join(head) + "\n\n\n" + "\n\n\n".join(rest) + "\n"

    def _docstring(self, kernels: list[tuple[Kernel, list[KernelSource]]]) -> str:
        count = sum(len(group) for _, group in kernels)
        lines = [f"{'One kernel' if count == 1 else f'{count} kernels'}, written from the PyTorch graph.", ""]
        for kernel, group in kernels:
            what = kernel.about.splitlines()[0].rstrip(":")
            lines.append(f"* {', '.join(s.name for s in group)} ({kernel.kind}, {kernel.scheme}): {what}.")
        return '"""' + "\n".join(lines) + '\n"""'

    # -- knobs

    def _knob_name(self, kernel: Kernel, name: str) -> str:
        return name if self.single else f"{kernel.name.removesuffix('_kernel')}_{name}"

    def _knobs(self) -> str:
        lines = ["KNOBS = {"]
        sections: dict[str, list[str]] = {}
        for kernel in self.plan.kernels:
            for name, values in kernel.knobs:
                lines.append(f"    {self._knob_name(kernel, name)!r}: {list(values)!r},".replace("'", '"'))
            for platform, knobs in kernel.overrides:
                for name, values in knobs:
                    entry = f"{self._knob_name(kernel, name)!r}: {list(values)!r}".replace("'", '"')
                    sections.setdefault(platform, []).append(entry)
        for platform, entries in sections.items():
            lines.append(f'    "{platform}": {{{", ".join(entries)}}},')
        return "\n".join(lines) + f"\n}}\nCHOICE = {{}}\nCHOICES = {{}}\n\n\n{_CHOSEN}"

    def _with_knobs(self, kernel: Kernel, source: str) -> str:
        return re.sub(r"\{([A-Z_a-z]+)\}", lambda found: f'knob("{self._knob_name(kernel, found.group(1))}")', source)

    # -- forward

    def _forward(self, kernels: list[tuple[Kernel, list[KernelSource]]]) -> str:
        lines: list[str] = []
        launches: list[str] = []
        mutated = {value: target for target, value in self.graph.mutations}
        outputs = set(_refs(self.graph.outputs))
        for kernel, group in kernels:
            for name in kernel.stores:
                if name in mutated and name not in outputs:
                    self.host[name] = self.graph.tensors[mutated[name]].path
                    continue
                self.host[name] = self._variable(name)
                launches.append(f"{self.host[name]} = {self._empty(name)}")
            for source in group:
                launches += [self._with_knobs(kernel, line) for line in source.launch.before]
                launches += self._launch(kernel, source)
        for target, value in self.graph.mutations:
            if self.host.get(value) != self.graph.tensors[target].path:
                raise TranslateError(f"{value} is written into {target} and returned as well, which is not covered")
        joined = "\n".join(launches)
        lines += self._checks()
        inputs = ", ".join(t.path for t in self.program.tensors if t.role == "input")
        if "knob(" in joined:
            lines.append(f"knob = chosen({inputs})")
        lines += self._sizes(joined)
        if re.search(r"\bdevice\b", joined):
            lines.append(f"device = {self._device()}.device")
        result = self._structure(self.graph.outputs)
        return "\n".join(f"        {line}".rstrip() for line in [*lines, *launches, f"return {result}"])

    def _variable(self, node: str) -> str:
        name = node.strip("_").replace(".", "_")
        taken = {t.path for t in self.program.tensors} | {s.name for s in self.program.sizes} | set(self.host.values())
        while name in taken | {"device", "knob", "chosen", "self"} or not name.isidentifier():
            name = f"{name}_out" if name.isidentifier() else f"value_{name}"
        return name

    def _device(self) -> str:
        if not self.program.tensors:
            raise TranslateError("the reference has neither inputs nor parameters, so there is no device to run on")
        return self.program.tensors[0].path

    def _empty(self, name: str) -> str:
        node = self.graph.nodes[name]
        shape = ", ".join(text(size) for size in node.shape)
        shape = f"({shape},)" if len(node.shape) == 1 else f"({shape})"
        return f"torch.empty({shape}, dtype=torch.{node.dtype}, device=device)"

    def _checks(self) -> list[str]:
        used = {node for node in self.graph.nodes if any(node in n.args for n in self.graph.nodes.values())}
        names = [
            t.path for t in self.program.tensors
            if t.role == "input" and t.strides is None and t.name in used and len(t.value.shape) > 0
        ]  # fmt: skip
        if not names:
            return []
        condition = " and ".join(f"{name}.is_contiguous()" for name in names)
        which = ", ".join(names).replace('"', "'")
        what = f"these kernels read {which} as contiguous; call .contiguous() on each before"
        return [f"if not ({condition}):", f'    raise ValueError("{what}")']

    def _sizes(self, source: str) -> list[str]:
        wanted = {s.name for s in self.program.sizes if re.search(rf"\b{re.escape(s.name)}\b", source)}
        return [f"{s.name} = {s.source}" for s in self.program.sizes if s.name in wanted]

    def _launch(self, kernel: Kernel, source: KernelSource) -> list[str]:
        launch = source.launch
        grid = ", ".join(self._with_knobs(kernel, part) for part in launch.grid)
        grid = f"({grid},)" if len(launch.grid) == 1 else f"({grid})"
        arguments = [self.host[node] for _, node in source.pointers]
        arguments += [variable for _, variable in launch.extra]
        arguments += [value for _, value in source.sizes]
        arguments += [f"{name}={value}" for name, value in source.constants]
        arguments += [f"{name}={self._with_knobs(kernel, value)}" for name, value in launch.derived]
        options = [name for name, _ in kernel.knobs if name in _LAUNCH_OPTIONS]
        for name in (*launch.constants, *options):
            arguments.append(f'{name}=knob("{self._knob_name(kernel, name)}")')
        single = f"{source.name}[{grid}]({', '.join(arguments)})"
        if len(single) <= 110:
            return [single]
        return [f"{source.name}[{grid}](", *(f"    {argument}," for argument in arguments), ")"]

    def _structure(self, part: Any) -> str:
        if isinstance(part, Ref):
            return self.host[part.name]
        if isinstance(part, tuple) and part[0] == "dict":
            return "{" + ", ".join(f"{key!r}: {self._structure(value)}" for key, value in part[1:]) + "}"
        if isinstance(part, tuple):
            inner = ", ".join(self._structure(value) for value in part[1:])
            if part[0] == "list":
                return f"[{inner}]"
            return f"({inner},)" if len(part) == 2 else f"({inner})"
        return repr(part)


def _refs(part: Any) -> list[str]:
    if isinstance(part, Ref):
        return [part.name]
    return [name for inner in part for name in _refs(inner)] if isinstance(part, tuple) else []


def _imports(reference: list[str], uses: frozenset[str]) -> str:
    lines = ["import torch", "import torch.nn as nn", "import triton", "import triton.language as tl"]
    if "libdevice" in uses:
        lines.append("from triton.language.extra import libdevice")
    if "TensorDescriptor" in uses:
        lines.append("from triton.tools.tensor_descriptor import TensorDescriptor")
    return "\n".join(dict.fromkeys([*lines, *reference]))
