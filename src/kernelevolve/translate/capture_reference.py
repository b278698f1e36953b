"""Runs a reference under fake tensors: builds its model, exports or traces it, and runs variants of it.

In: a KernelBench-shaped source and what of the problem's rules changes the graph. Out: the executed reference and its
exported program. Nothing is read from the graph here; that is `capture`'s. It runs foreign code, so the caller runs it
in a sandbox.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import logging
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from kernelevolve.tensors.load import CAST, prepare
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.symbols import Trial, attributes

#: Ops that have a better lowering whole than decomposed.
WHOLE = (
    "scaled_dot_product_attention.default", "logsumexp.default", "linear.default", "lstm.input", "gru.input",
    "rnn_tanh.input", "rnn_relu.input", "gelu.default", "log_sigmoid_forward.default", "softplus.default",
    "hardswish.default", "hardsigmoid.default", "silu.default", "mish.default", "var_mean.correction",
    "adaptive_avg_pool2d.default", "adaptive_avg_pool1d.default", "adaptive_avg_pool3d.default",
)  # fmt: skip


def _construct(module: types.ModuleType) -> Any:
    """`Model(*get_init_inputs())`, which a file may leave out, or give as `[args, kwargs]`."""
    arguments: Any = getattr(module, "get_init_inputs", list)()
    if len(arguments) == 2 and isinstance(arguments[0], (list, tuple)) and isinstance(arguments[1], dict):
        return module.Model(*arguments[0], **arguments[1])
    return module.Model(*arguments)


@dataclass(frozen=True)
class Rules:
    """What of a problem's rules changes the graph: float32 becomes `precision`, `mode` as in `problem.Problem`."""

    precision: str = "fp32-strict"
    mode: str = "as-built"


def _cast(inputs: list[Any], rules: Rules) -> list[Any]:
    target = CAST.get(rules.precision)

    def one(leaf: Any) -> Any:
        wide = isinstance(leaf, torch.Tensor) and leaf.dtype is torch.float32
        return leaf.to(target) if wide and target is not None else leaf

    return list(torch.utils._pytree.tree_map(one, inputs))


class Reference:
    """One executed source: its model, inputs and integer variables, under one fake mode."""

    def __init__(self, source: str, path: str, rules: Rules) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.module = types.ModuleType("reference")
        self.module.__file__ = path
        with self.mode:
            # Lines of the reference are quoted from its text: the file itself may lie outside of this sandbox.
            linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
            exec(compile(source, path, "exec"), self.module.__dict__)
            self.model = prepare(_construct(self.module), device="cpu", precision=rules.precision, mode=rules.mode)
            self.inputs = _cast(list(self.module.get_inputs()), rules)

    def trial(self) -> Trial:
        """What is seen while the model runs once."""
        with self.mode, torch.no_grad(), _Census() as census:
            self.model(*self.inputs)
        leaves = torch.utils._pytree.tree_leaves(self.inputs)
        tensors = [*leaves, *self.model.parameters(), *self.model.buffers()]
        shapes = tuple(tuple(t.shape) if isinstance(t, torch.Tensor) else t for t in tensors)
        return Trial(shapes, self.numbers(), tuple(census.structure))

    def numbers(self) -> dict[str, int | float]:
        """Host expression → value of the modules' attributes that are plain numbers, outer modules first."""
        found: dict[str, int | float] = {}
        for name, module in self.model.named_modules():
            found |= dict(attributes(module, path_of(name) if name else "self", self._own))
        return found

    def _own(self, thing: object) -> bool:
        """Whether the source itself made the object's class, or it is a plain namespace; modules are seen elsewhere."""
        foreign = isinstance(thing, torch.nn.Module | torch.Tensor | type | types.FunctionType)
        return not foreign and (type(thing).__module__ == "reference" or isinstance(thing, types.SimpleNamespace))

    def export(self) -> Any:
        """The exported program after decomposition."""
        with self.mode, torch.no_grad():
            exported = torch.export.export(self.model, tuple(self.inputs), strict=False)
            return exported.run_decompositions(_table())

    def trace(self) -> Any:
        """The ops that one run makes, gradients that it takes included, in the form of an exported program.

        Raises:
            TranslateError: the run writes into its inputs, parameters or buffers, which a trace does not tell.
        """
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        leaves, spec = torch.utils._pytree.tree_flatten(tuple(self.inputs))
        specs: list[Any] = []

        def call(*flat: Any) -> list[Any]:
            arguments = torch.utils._pytree.tree_unflatten(list(flat[len(state) :]), spec)
            result = torch.func.functional_call(self.model, dict(zip(state, flat, strict=False)), arguments)
            made, out = torch.utils._pytree.tree_flatten(result)
            specs.append(out)
            return list(made)

        with self.mode:
            graph = make_fx(call, decomposition_table=dict(_table().items()))(*state.values(), *leaves).graph
        graph.eliminate_dead_code()
        places = [node for node in graph.nodes if node.op == "placeholder"]
        for node in graph.nodes:
            written = getattr(getattr(node.target, "_schema", None), "is_mutable", False)
            if written:
                raise TranslateError(f"the reference writes in place ({node.target}) where it takes gradients")
        return _traced(graph, places, state, {id(p) for p in self.model.parameters()}, specs[-1])


#: Ops whose lowering needs its numbers as they are.
_FIXED = ("pow", "linalg_vector_norm", "norm", "native_dropout", "elu", "convolution", "_convolution", "diagonal")

#: Arguments that may follow an attribute although the op's schema has them fixed, and the other way round.
_FREE = frozenset(("group",))

_BOUND = frozenset(("p", "dropout_p", "dropout", "momentum", "ord", "value"))


def _fixed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The numbers among an op's arguments that an expression cannot stand for, such as dimensions and flags."""
    schema = func._schema
    follows = set() if schema.name.removeprefix("aten::") in _FIXED else _following(str(schema))
    given = [*zip((a.name for a in schema.arguments), args, strict=False), *kwargs.items()]
    return tuple((name, value) for name, value in given if name not in follows and _plain(value))


@functools.cache
def _following(schema: str) -> frozenset[str]:
    """The arguments of an op that a lowering takes as an expression or a number of any kind."""
    return frozenset(re.findall(r"(?:SymInt|Scalar|float|Tensor)\S* (\w+)", schema)) - _BOUND | _FREE


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(part) for part in value)
    return isinstance(value, bool | int | float | str)


class _Census(TorchDispatchMode):  # type: ignore[misc]
    """Notes every op that runs, with its fixed numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.structure: list[str] = []

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.structure.append(f"{func} {_fixed(func, args, kwargs or {})}")
        return func(*args, **(kwargs or {}))


def _table() -> Any:
    """Into which ops the graph is decomposed."""
    table = torch.export.default_decompositions()
    for name in WHOLE:
        base, _, overload = name.partition(".")
        table.pop(getattr(getattr(torch.ops.aten, base), overload), None)
    return table


def _traced(graph: Any, places: list[Any], state: dict[str, Any], parameters: set[int], out_spec: Any) -> Any:
    """A traced graph with the signature of an exported program: the state's tensors first, then the inputs."""
    inputs: list[Any] = []
    for node, (name, tensor) in zip(places, state.items(), strict=False):
        kind = "PARAMETER" if id(tensor) in parameters else "BUFFER"
        inputs.append(_spec(kind, node.name, name))
    inputs += [_spec("USER_INPUT", node.name, None) for node in places[len(state) :]]
    (output,) = (node for node in graph.nodes if node.op == "output")
    outputs = [_spec("USER_OUTPUT", str(part), None) for part in output.args[0]]
    signature = types.SimpleNamespace(input_specs=inputs, output_specs=outputs)
    return types.SimpleNamespace(
        graph=graph, graph_signature=signature, call_spec=types.SimpleNamespace(out_spec=out_spec)
    )


def _spec(kind: str, name: str, target: str | None) -> Any:
    return types.SimpleNamespace(
        kind=types.SimpleNamespace(name=kind), arg=types.SimpleNamespace(name=name), target=target
    )


def captured(source: str, path: str, rules: Rules) -> tuple[Reference, Any]:
    """The reference as it is and its graph: exported, or traced where export cannot follow it."""
    try:
        base = Reference(source, path, rules)
    except _CAPTURE_FAULTS as fault:
        raise TranslateError(f"{path} does not run under fake tensors: {_described(fault)}") from fault
    try:
        return base, base.export()
    except _CAPTURE_FAULTS as fault:
        reason = fault
    try:
        return base, base.trace()
    except _CAPTURE_FAULTS as fault:
        raise TranslateError(
            f"{path} neither exports under fake tensors ({_described(reason)}) nor can be traced "
            f"({_described(fault)}); use a model or guest writer for this problem"
        ) from fault


def _described(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {_first_line(fault)}"


def variant_of(source: str, path: str, rules: Rules, base: Any) -> tuple[Reference, Any] | str:
    """The reference with other numbers, exported; or why it tells nothing."""
    try:
        other = Reference(source, path, rules)
        graph = other.trace() if isinstance(base, types.SimpleNamespace) else other.export()
    except _CAPTURE_FAULTS as fault:
        return f"did not export: {_first_line(fault)}"
    if _structure(graph) != _structure(base):
        return "has another graph, so sizes are fixed where only it tells them apart"
    return other, graph


#: What foreign model code and torch.export raise; anything else is ours.
_CAPTURE_FAULTS = (
    RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError, KeyError, NotImplementedError,
    ImportError, ZeroDivisionError, NameError, torch.export.graph_signature.SpecViolationError
    if hasattr(torch.export.graph_signature, "SpecViolationError") else RuntimeError,
)  # fmt: skip


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [""])[0][:200]


def trial(source: str, path: str, rules: Rules) -> Trial | None:
    """What is seen while the model runs once; None where these sizes do not fit."""
    with _quiet():
        try:
            return Reference(source, path, rules).trial()
        except _CAPTURE_FAULTS:
            return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Sizes that do not fit are expected here; torch would log each with its stack."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _structure(exported: Any) -> list[str]:
    return [
        f"{node.op}:{node.name}:{node.target}"
        + (f":{_fixed(node.target, node.args, node.kwargs)}" if hasattr(node.target, "_schema") else "")
        for node in exported.graph.nodes
    ]


def path_of(target: str, root: str = "self") -> str:
    """The host expression of a submodule, parameter or buffer: `layers.0.weight` is `self.layers[0].weight`."""
    return root + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in target.split("."))
