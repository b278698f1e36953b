"""From a reference file to a `Program`.

In: a KernelBench-shaped source. Out: the captured program with its sizes named. Running the reference is
`capture_reference`'s, and foreign code, so the caller runs both in a sandbox.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from kernelevolve.translate.capture_reference import Reference, Rules, captured, path_of, trial, variant_of
from kernelevolve.translate.coordinates import substitute
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import Expr, const, symbol
from kernelevolve.translate.ir import COORDINATES, Dtype, Number, Op, Program, Ref, Size, Tensor, Value
from kernelevolve.translate.symbols import Fitter, from_attribute, perturb

#: What a graph may hold besides ATen calls.
_IGNORED = ("_assert_tensor_metadata.default", "_assert_scalar.default", "sym_constrain_range.default")
_PLAIN = Rules()


def capture(module_source_path: str | Path, *, variants: int = 2) -> Program:
    """Captures the reference in a file.

    Args:
        module_source_path: a KernelBench-shaped file (``Model``, ``get_inputs``, ``get_init_inputs``).
        variants: at how many other sizes the graph is compared, to know which integers follow the sizes.

    Raises:
        TranslateError: the file does not export under fake tensors.
    """
    path = Path(module_source_path)
    return capture_source(path.read_text(), path=str(path), variants=variants)


def capture_source(source: str, *, path: str = "reference.py", variants: int = 2, rules: Rules = _PLAIN) -> Program:
    """Captures a reference given as source; see `capture`."""
    base, exported = captured(source, path, rules)
    references, graphs, notes = [base], [exported], []
    for variant in range(variants):
        for strict in (False, True):
            changed = perturb(source, variant, lambda text: trial(text, path, rules), strict=strict)
            found = None if changed is None else variant_of(changed, path, rules, exported)
            if isinstance(found, tuple):
                references.append(found[0])
                graphs.append(found[1])
                break
            if found is not None and strict:
                notes.append(f"variant {variant} {found}")
    return _Reader(references, graphs, notes).program()


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _Reader:
    """Reads exported graphs of one structure in step, so that each integer is a vector over the sizes."""

    def __init__(self, references: Sequence[Reference], exported: Sequence[Any], notes: list[str]) -> None:
        self.references, self.exported, self.notes = references, exported, notes
        self.graphs = [list(e.graph.nodes) for e in exported]
        self.fitter = Fitter()
        self.attributes = _moving([reference.numbers() for reference in references])
        self.sizes: list[Size] = []
        self.tensors: list[Tensor] = []
        self.renamed: dict[str, str] = {}
        self.paths: set[str] = set()

    def program(self) -> Program:
        """The program, all sizes named."""
        self._placeholders()
        ops: list[Op] = []
        outputs: Any = None
        for nodes in zip(*self.graphs, strict=True):
            node = nodes[0]
            if node.op == "output":
                outputs = self._outputs([n.args[0] for n in nodes])
            elif node.op == "call_function":
                op = self._op(nodes)
                if op is not None:
                    ops.append(op)
            elif node.op != "placeholder":
                raise TranslateError(f"cannot read the graph node {node.format_node()}: expected only ATen calls")
        results, mutations = outputs
        return Program(
            class_name="Model", sizes=tuple(self.sizes), tensors=tuple(self.tensors), ops=tuple(ops), outputs=results,
            mutations=mutations, notes=tuple(self.notes),
        )  # fmt: skip

    # -- tensors and sizes

    def _placeholders(self) -> None:
        specs = {s.arg.name: s for s in self.exported[0].graph_signature.input_specs if hasattr(s.arg, "name")}
        paths = self._input_paths()
        self.paths = set(paths)
        found: list[tuple[str, str, str, list[Any]]] = []
        user = 0
        for nodes in zip(*self.graphs, strict=True):
            node = nodes[0]
            if node.op != "placeholder":
                continue
            kind = specs[node.name].kind.name
            if kind == "USER_INPUT":
                found.append((node.name, paths[user], "input", list(nodes)))
                user += 1
            elif kind in ("PARAMETER", "BUFFER"):
                found.append((node.name, path_of(str(specs[node.name].target)), kind.lower(), list(nodes)))
            elif kind == "CONSTANT_TENSOR":
                found.append((node.name, self._constant_path(str(specs[node.name].target)), "buffer", list(nodes)))
        found.sort(key=lambda entry: entry[2] != "input")
        self._name_sizes(found)
        for name, path, role, places in found:
            values = [n.meta.get("val") for n in places]
            if not isinstance(values[0], torch.Tensor) or not (places[0].users or role == "input"):
                continue
            self.tensors.append(Tensor(name, path, role, self._value(values), self._strides(path, values)))

    def _constant_path(self, target: str) -> str:
        owner: Any = self.references[0].model
        for part in target.split("."):
            if not hasattr(owner, part):
                raise TranslateError(
                    f"the reference makes the tensor {target!r} inside forward: make it in __init__ as a buffer"
                )
            owner = getattr(owner, part)
        return path_of(target)

    def _input_paths(self) -> list[str]:
        signature = inspect.signature(self.references[0].model.forward)
        parameters = list(signature.parameters.values())
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
        rest = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
        paths: list[str] = []
        for position, value in enumerate(self.references[0].inputs):
            root = names[position] if position < len(names) else f"{rest[0]}[{position - len(names)}]"
            paths.extend(_leaf_paths(value, root))
        return paths

    def _name_sizes(self, found: list[tuple[str, str, str, list[Any]]]) -> None:
        variables = self._integer_variables()
        for name, path, role, nodes in found:
            values = [n.meta.get("val") for n in nodes]
            if not isinstance(values[0], torch.Tensor) or not (nodes[0].users or role == "input"):
                continue
            for axis in range(values[0].dim()):
                vector = tuple(int(v.shape[axis]) for v in values)
                if self.fitter.fit(vector, simple=True) is None:
                    wanted = variables.get(vector, f"{_identifier(name)}_{axis}")
                    self._add_size(wanted, f"{path}.shape[{axis}]", vector)

    def _add_size(self, name: str, source: str, vector: tuple[int, ...]) -> str:
        taken = {size.name for size in self.sizes} | COORDINATES | {"self", "device", "knob", "chosen"} | self.paths
        while name in taken or re.fullmatch(r"[ijd]\d+", name) or not name.isidentifier():
            name = f"{_identifier(name)}_size"
        self.sizes.append(Size(name, source, vector))
        self.fitter.name(name, vector)
        return name

    def _integer_variables(self) -> dict[tuple[int, ...], str]:
        names: dict[tuple[int, ...], str] = {}
        for name, value in vars(self.references[0].module).items():
            if type(value) is int:
                names.setdefault(tuple(getattr(r.module, name) for r in self.references), name.lower())
        return names

    def _strides(self, path: str, values: list[torch.Tensor]) -> tuple[Expr, ...] | None:
        if all(v.is_contiguous() for v in values):
            return None
        strides: list[Expr] = []
        for axis in range(values[0].dim()):
            vector = tuple(int(v.stride(axis)) for v in values)
            expr = self.fitter.fit(vector, simple=True)
            if expr is None:
                name = self._add_size(f"{_identifier(path)}_stride_{axis}", f"{path}.stride({axis})", vector)
                expr = self.fitter.fit(vector)
                assert expr is not None, name
            strides.append(expr)
        return tuple(strides)

    def _value(self, values: Sequence[torch.Tensor]) -> Value:
        if any(isinstance(size, torch.SymInt) for size in values[0].shape):
            raise TranslateError(
                f"the reference makes a tensor of shape {tuple(map(str, values[0].shape))}, whose size depends on "
                "values: use a mask in place of a selection, or a model or guest writer for this problem"
            )
        shape = tuple(
            self._integer([int(v.shape[axis]) for v in values], f"a dimension of {tuple(values[0].shape)}")
            for axis in range(values[0].dim())
        )
        return Value(shape, _dtype(values[0].dtype))

    def _integer(self, vector: Sequence[int], what: str) -> Expr:
        found = self.fitter.fit(vector, simple=True) or self._attribute(tuple(vector)) or self.fitter.fit(vector)
        expr = found or self._with_attributes(vector)
        if expr is None:
            self.notes.append(
                f"{what} stays fixed at {vector[0]}: it follows no dimension and no attribute ({list(vector)})"
            )
            return const(int(vector[0]))
        return expr

    def _attribute(self, vector: tuple[int, ...]) -> Expr | None:
        """The attribute with exactly these values, as a named size."""
        for path, held in self.attributes.items():
            if held == vector and all(type(v) is int for v in held):
                return symbol(self._add_size(_identifier(path.rpartition(".")[2]), path, vector))
        return None

    def _with_attributes(self, vector: Sequence[int]) -> Expr | None:
        """An expression over sizes and attributes; the attributes in it become named sizes."""
        whole = {path: held for path, held in self.attributes.items() if all(type(v) is int for v in held)}
        wider = Fitter()
        for size in self.sizes:
            wider.name(size.name, size.values)
        aliases = {f"attribute_{position}": path for position, path in enumerate(whole)}
        for alias, path in aliases.items():
            wider.name(alias, tuple(int(v) for v in whole[path]))
        found = wider.fit(vector)
        if found is None:
            return None
        named = {alias: self._attribute(tuple(int(v) for v in whole[aliases[alias]]))
                 for alias in sorted(found.names() & set(aliases))}  # fmt: skip
        return substitute(found, {alias: expr for alias, expr in named.items() if expr is not None}, {})

    # -- ops

    def _op(self, nodes: Sequence[Any]) -> Op | None:
        node = nodes[0]
        if node.target is operator.getitem:
            self.renamed[node.name] = f"{self.renamed.get(node.args[0].name, node.args[0].name)}.{node.args[1]}"
            return None
        name = str(node.target)
        if name.removeprefix("aten.") in _IGNORED:
            return None
        args = tuple(self._argument(list(given), name) for given in zip(*(n.args for n in nodes), strict=True))
        kwargs = tuple((k, self._argument([n.kwargs[k] for n in nodes], name)) for k in node.kwargs)
        metas = [n.meta.get("val") for n in nodes]
        if isinstance(metas[0], tuple | list):
            values = tuple(
                self._value(list(parts)) if isinstance(parts[0], torch.Tensor) else None
                for parts in zip(*metas, strict=True)
            )
        else:
            values = (self._value(metas) if isinstance(metas[0], torch.Tensor) else None,)
        return Op(node.name, name, args, kwargs, values, _source_line(node))

    def _argument(self, parts: list[Any], op: str) -> Any:
        first = parts[0]
        if isinstance(first, torch.fx.Node):
            return Ref(self.renamed.get(first.name, first.name))
        if isinstance(first, list | tuple):
            return tuple(self._argument(list(inner), op) for inner in zip(*parts, strict=True))
        if isinstance(first, bool) or first is None or isinstance(first, str):
            return first
        if isinstance(first, int):
            if all(part == first for part in parts):
                return first
            return self._integer(parts, f"an integer of {op}")
        if isinstance(first, float):
            return self._float(parts, op)
        if isinstance(first, torch.dtype):
            return Dtype(_dtype(first))
        if isinstance(first, torch.device | torch.layout | torch.memory_format):
            return str(first)
        raise TranslateError(f"cannot read the argument {first!r} of {op}")

    def _float(self, parts: list[float], op: str) -> Any:
        first = parts[0]
        if all(part == first or (part != part and first != first) for part in parts):
            return first
        source = self.fitter.fit_float(parts) or from_attribute(parts, self.attributes)
        if source is None:
            self.notes.append(f"a number of {op} stays fixed at {first}: it follows no size and no attribute ({parts})")
            return first
        return Number(source, first)

    def _outputs(self, results: list[Any]) -> tuple[Any, tuple[tuple[str, str], ...]]:
        signature = self.exported[0].graph_signature
        user: list[Any] = []
        mutations: list[tuple[str, str]] = []
        targets = {t.path: t.name for t in self.tensors}
        by_name = {t.name for t in self.tensors}
        for spec, result in zip(signature.output_specs, results[0], strict=True):
            if spec.kind.name == "USER_OUTPUT":
                user.append(self._argument([result], "output") if result is not None else None)
            elif spec.kind.name == "BUFFER_MUTATION":
                mutations.append((targets[path_of(str(spec.target))], self._argument([result], "output").name))
            elif spec.kind.name == "USER_INPUT_MUTATION" and str(spec.target) in by_name:
                mutations.append((str(spec.target), self._argument([result], "output").name))
            else:
                raise TranslateError(f"the reference has an effect that is not covered: {spec.kind.name} {spec.target}")
        spec = self.exported[0].call_spec.out_spec
        return _structured(torch.utils._pytree.tree_unflatten(list(range(len(user))), spec), user), tuple(mutations)


def _moving(found: Sequence[dict[str, int | float]]) -> dict[str, tuple[int | float, ...]]:
    """The attributes that differ between the sizes, with their values at each."""
    vectors = {path: tuple(numbers.get(path, math.nan) for numbers in found) for path in found[0]}
    return {path: held for path, held in vectors.items() if len(set(held)) > 1 and not any(v != v for v in held)}


def _structured(tree: Any, leaves: list[Any]) -> Any:
    if isinstance(tree, dict):
        return ("dict", *((key, _structured(part, leaves)) for key, part in tree.items()))
    if isinstance(tree, list | tuple):
        return ("list" if isinstance(tree, list) else "tuple", *(_structured(part, leaves) for part in tree))
    if tree is None:
        return None
    return leaves[tree]


def _leaf_paths(value: Any, root: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaf_paths(part, f"{root}[{key!r}]")
    elif isinstance(value, list | tuple):
        for position, part in enumerate(value):
            yield from _leaf_paths(part, f"{root}[{position}]")
    else:
        yield root


def _identifier(name: str) -> str:
    cleaned = re.sub(r"\W+", "_", name.removeprefix("self.")).strip("_").lower()
    return cleaned if cleaned and not cleaned[0].isdigit() else f"t_{cleaned}"


def _source_line(node: Any) -> str:
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").strip().splitlines()]
    ours = [i for i, line in enumerate(lines) if line.startswith("File") and "site-packages" not in line]
    if not ours:
        return ""
    where = re.search(r'File "([^"]*)", line (\d+)', lines[ours[-1]])
    text = lines[ours[-1] + 1] if ours[-1] + 1 < len(lines) else ""
    return f"line {where.group(2)}: {text}" if where else text
