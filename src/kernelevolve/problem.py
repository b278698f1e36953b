"""Problem and Workload: what is to be computed, on which inputs, to which tolerance.

In: the text of a KernelBench-shaped file (`Model`, `get_inputs`, `get_init_inputs`) and, beside it, an optional
`NAME.toml`. Out: frozen values. Left to others: running the file (only judge and worker do), scaling it for the
CPU (`tensors.scale`), the acceptance rule (`judge`). A problem file is foreign code: the host only reads its text.
"""

from __future__ import annotations

import ast
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from kernelevolve import codec
from kernelevolve.errors import ProblemError
from kernelevolve.syntax import parse

Precision = Literal["fp32-strict", "tf32", "fp16", "bf16", "fp8-operands", "fp8-quantise"]
Direction = Literal["forward", "backward", "both"]
Mode = Literal["as-built", "train", "eval"]
RandomPolicy = Literal["refuse", "statistical"]
SpecialValues = Literal["finite", "propagate"]
Determinism = Literal["bitwise", "rounding"]
Layouts = Literal["declared", "any"]
InputKind = Literal["values", "index", "offsets", "sorted", "mask", "fixed"]

Constant = int | float | bool | str


@dataclass(frozen=True)
class Workload:
    """One concrete input set.

    Attributes:
        name: unique within its problem.
        constants: module-level constants of the problem file and their values here; empty = as written.
        weight: share in the fitness (weights need not sum to one).
    """

    name: str
    constants: Mapping[str, Constant] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True)
class Problem:
    """A PyTorch reference with its workloads and rules; `key` identifies it by content.

    Attributes:
        name: file name without suffix.
        suite: the suite it came from, e.g. `folder`, `kernelbench`, `recsys`.
        path: where it was read from, for messages only.
        source: the text of the file.
        workloads: at least one.
        precision: the arithmetic that a kernel may use and that the baselines use.
        direction: what is computed and timed.
        mode: `train` and `eval` call the module's method of that name; `as-built` calls neither.
        random: what to do with a reference that draws random numbers.
        special_values: `finite`: inputs are promised to be finite, and what NaN, infinities, -0 and denormals do to the
            results that depend on them is told in a label; `propagate`: they come out as in the reference.
        determinism: `bitwise`: two calls on the same inputs give the same bits; `rounding`: they may differ by what
            another order of summation does, as with atomics.
        layouts: `declared`: inputs in another layout than the file's may be refused by an exception; `any`: they are
            computed.
        mutates: names of inputs or buffers that the reference changes in place.
        aliases: pairs of output index and input name that may share memory.
        kinds: what each input is, by position or name; only `values` are redrawn from other distributions.
        weights: `mutable` weights may change between calls, `static` ones may be packed once.
        library_calls: whether a candidate may call vendor libraries.
        baselines: what a candidate is compared with.
        notes: for the writer.
    """

    name: str
    suite: str
    path: str
    source: str
    workloads: tuple[Workload, ...] = (Workload("declared"),)
    precision: Precision = "fp32-strict"
    direction: Direction = "forward"
    mode: Mode = "as-built"
    random: RandomPolicy = "refuse"
    special_values: SpecialValues = "finite"
    determinism: Determinism = "bitwise"
    layouts: Layouts = "declared"
    mutates: tuple[str, ...] = ()
    aliases: tuple[tuple[int, str], ...] = ()
    kinds: Mapping[str, InputKind] = field(default_factory=dict)
    weights: Literal["mutable", "static"] = "mutable"
    library_calls: Literal["allowed", "forbidden"] = "forbidden"
    baselines: tuple[str, ...] = ("eager", "compile")
    notes: str = ""

    @property
    def key(self) -> str:
        """Sixteen hex digits over everything that changes what is measured (not over path, suite, notes)."""
        ignored = {"path", "suite", "notes"}
        facts = {k: v for k, v in codec.to_data(self).items() if k not in ignored}
        return hashlib.sha256(codec.dumps(facts).encode()).hexdigest()[:16]

    def workload(self, name: str) -> Workload:
        """The workload called `name`; raises `ProblemError` naming the known ones."""
        for workload in self.workloads:
            if workload.name == name:
                return workload
        known = ", ".join(w.name for w in self.workloads)
        raise ProblemError(f"problem {self.name!r} has no workload {name!r}; known: {known}")


REQUIRED = ("Model", "get_inputs")


def parse_problem(source: str, sidecar: str | None, *, name: str, suite: str, path: str) -> Problem:
    """The problem in `source` with the rules in the TOML text `sidecar`.

    Raises:
        ProblemError: a syntax error, a missing `Model` or `get_inputs`, or a sidecar field that does not fit.
    """
    try:
        tree = parse(source)
    except SyntaxError as error:
        raise ProblemError(f"{path}:{error.lineno}: not Python: {error.msg}") from error
    defined = {n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))} | _assigned(tree)
    missing = [n for n in REQUIRED if n not in defined]
    if missing:
        raise ProblemError(
            f"{path}: no top-level {' and no '.join(missing)}; a problem file defines a class Model(nn.Module), "
            "get_inputs() -> list of forward's arguments, and get_init_inputs() where the constructor takes any"
        )
    facts = _read_sidecar(sidecar, path, _assigned(tree)) if sidecar is not None else {}
    return Problem(name=name, suite=suite, path=path, source=source, **facts)


def read_problem(path: Path, *, suite: str = "folder") -> Problem:
    """The problem in the file `path` and, where it exists, the sidecar `NAME.toml` beside it."""
    if not path.is_file():
        raise ProblemError(f"{path}: no such file; give a .py file that defines Model and get_inputs")
    sidecar = path.with_suffix(".toml")
    try:
        source = path.read_text(encoding="utf-8")
        rules = sidecar.read_text(encoding="utf-8") if sidecar.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"{path}: cannot be read as text: {error}") from error
    return parse_problem(source, rules, name=path.stem, suite=suite, path=str(path))


def workload_source(problem: Problem, workload: Workload) -> str:
    """The problem's text with the workload's constants in place of the written ones, line numbers unchanged.

    Raises:
        ProblemError: a constant that the file does not assign at top level by a plain literal.
    """
    return replace_constants(problem.source, workload.constants, problem.path)


def replace_constants(source: str, constants: Mapping[str, Constant], path: str) -> str:
    """`source` with the values of the top-level literal assignments named in `constants` replaced."""
    if not constants:
        return source
    lines = source.splitlines(keepends=True)
    found: set[str] = set()
    edits: list[tuple[int, int, int, str]] = []
    for node in parse(source).body:
        for name, value in _named_values(node):
            if name in constants and value.lineno == value.end_lineno:
                found.add(name)
                edits.append((value.lineno, value.col_offset, value.end_col_offset or 0, repr(constants[name])))
    absent = sorted(set(constants) - found)
    if absent:
        raise ProblemError(
            f"{path}: a workload sets {absent[0]!r}, which the file does not assign on one line at top level"
        )
    for line, start, end, text in sorted(edits, reverse=True):
        raw = lines[line - 1].encode()
        lines[line - 1] = (raw[:start] + text.encode() + raw[end:]).decode()
    return "".join(lines)


def _named_values(node: ast.stmt) -> list[tuple[str, ast.expr]]:
    """The pairs of an assignment: `ROWS = 512`, or those of `ROWS, WIDTH = 512, 64`."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return []
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        pairs = zip(target.elts, value.elts, strict=True)
    else:
        pairs = zip([target], [value], strict=True)
    return [(name.id, written) for name, written in pairs if isinstance(name, ast.Name)]


def _assigned(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names}
    return names


_CHOICES: dict[str, tuple[str, ...]] = {
    "precision": get_args(Precision),
    "direction": get_args(Direction),
    "mode": get_args(Mode),
    "random": get_args(RandomPolicy),
    "special_values": get_args(SpecialValues),
    "determinism": get_args(Determinism),
    "layouts": get_args(Layouts),
    "weights": ("mutable", "static"),
    "library_calls": ("allowed", "forbidden"),
}
_BASELINES = ("eager", "compile", "compile-max-autotune")


def _read_sidecar(text: str, path: str, assigned: set[str]) -> dict[str, Any]:
    where = str(Path(path).with_suffix(".toml"))
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProblemError(f"{where}: not TOML: {error}") from error
    facts: dict[str, Any] = {}
    for name, value in data.items():
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                raise ProblemError(f"{where}: {name} = {value!r}; known: {', '.join(_CHOICES[name])}")
            facts[name] = value
        elif name in ("mutates", "baselines") and _strings(value):
            facts[name] = tuple(value)
        elif name == "notes" and isinstance(value, str):
            facts[name] = value
        elif name == "aliases" and isinstance(value, list) and all(_is_alias(a) for a in value):
            facts[name] = tuple((a[0], a[1]) for a in value)
        elif name == "inputs" and isinstance(value, dict):
            facts["kinds"] = _read_kinds(value, where)
        elif name == "workload" and isinstance(value, list):
            facts["workloads"] = _read_workloads(value, where, assigned)
        else:
            known = [*_CHOICES, "mutates", "baselines", "notes", "aliases", "inputs", "workload"]
            raise ProblemError(f"{where}: {name} = {value!r:.60} does not fit; known fields: {', '.join(known)}")
    odd = [b for b in facts.get("baselines", ()) if b not in _BASELINES]
    if odd:
        raise ProblemError(f"{where}: unknown baseline {odd[0]!r}; known: {', '.join(_BASELINES)}")
    return facts


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _is_alias(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], int) and isinstance(value[1], str)


def _read_kinds(value: Mapping[str, Any], where: str) -> Mapping[str, InputKind]:
    for name, kind in value.items():
        if kind not in get_args(InputKind):
            raise ProblemError(f"{where}: inputs.{name} = {kind!r}; known: {', '.join(get_args(InputKind))}")
    return cast(Mapping[str, InputKind], dict(value))


def _read_workloads(value: list[Any], where: str, assigned: set[str]) -> tuple[Workload, ...]:
    workloads: list[Workload] = []
    for i, item in enumerate(value):
        if not isinstance(item, dict) or set(item) - {"name", "weight", "set"}:
            raise ProblemError(f"{where}: workload {i} = {item!r:.80}; a workload has name, weight and set")
        constants = item.get("set", {})
        unknown = sorted(set(constants) - assigned) if isinstance(constants, dict) else ["set"]
        if unknown:
            raise ProblemError(f"{where}: workload {i} sets {unknown[0]!r}, which the problem file does not assign")
        name, weight = item.get("name", f"workload{i}"), item.get("weight", 1.0)
        if not isinstance(weight, (int, float)) or weight <= 0:
            raise ProblemError(f"{where}: workload {name!r} has weight {weight!r}; a weight is a number above 0")
        workloads.append(Workload(str(name), dict(constants), float(weight)))
    names = [w.name for w in workloads]
    if not workloads or len(set(names)) != len(names):
        raise ProblemError(f"{where}: workloads need unique names and at least one entry; got {names}")
    return tuple(workloads)
