"""Brief, Candidate and Knobs: what is asked for, what came back, and its named constants.

In: parents and a composed prompt; the text of a kernel file. Out: frozen values. Left to others: composing (`propose`),
checking and measuring (`evaluate`). The host reads a candidate's text; only builder and worker run it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from kernelevolve.syntax import parse

Choice = int | float | bool | str
ENTRY = "ModelNew"
CONFIG_SUFFIX = "_config"  # after a kernel's name: the knob that is the index of its autotune configuration
TABLE = "CHOICES"  # top-level name of a file's choices by workload key
WorkloadKey = tuple[tuple[tuple[int, ...], str], ...]  # shape and dtype, `torch.float32`, of each tensor input
VENDORS = ("nvidia", "amd")


class KnobsError(ValueError):
    """A `KNOBS` that is no literal of names and non-empty lists; the check rung reports it as the candidate's fault."""


@dataclass(frozen=True)
class Knobs:
    """Named constants with their allowed values, the first being the default.

    Attributes:
        values: for every platform.
        by_vendor: what a vendor's platforms add or replace, e.g. `{"amd": {"waves_per_eu": (0, 2)}}`.
    """

    values: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)
    by_vendor: Mapping[str, Mapping[str, tuple[Choice, ...]]] = field(default_factory=dict)

    def for_vendor(self, vendor: str) -> dict[str, tuple[Choice, ...]]:
        """The knobs that exist on this vendor's platforms."""
        return {**self.values, **self.by_vendor.get(vendor, {})}

    def defaults(self, vendor: str) -> dict[str, Choice]:
        """The first value of each knob."""
        return {name: allowed[0] for name, allowed in self.for_vendor(vendor).items()}

    def size(self, vendor: str) -> int:
        """Number of combinations."""
        total = 1
        for allowed in self.for_vendor(vendor).values():
            total *= len(allowed)
        return total


@dataclass(frozen=True)
class Section:
    """One part of a prompt, in the order of the prompt.

    Attributes:
        name: `task`, `hardware`, `parent n3`, `knowledge guidance/fusion.md`, ...
        tokens: how many it has, as estimated by `propose.compose`.
        kept: whether the prompt has it.
        why: of what was left out.
    """

    name: str
    tokens: int
    kept: bool = True
    why: str = ""


@dataclass(frozen=True)
class Brief:
    """Parents and a composed prompt, not yet answered.

    Attributes:
        id: unique within the run, `b0`, `b1`, ... in the order asked.
        index: the ask index; with the run's seed it determines every random choice made for this brief.
        parents: node ids; none = a fresh draft, two or more = crossover.
        prompt: what a model would see, as Markdown.
        move: what limits the parents and which family of moves to `prefer`; empty = the first kernel.
        diagnosis: what limits the parent, in one line.
        memory: what of earlier candidates and runs it tells, by `propose.memory`; empty in logs of schema 3.
        control: whether it belongs to the run's control (`search.control`); false in logs of schema 4.
        writer: name of who is to answer it; empty in logs of schema 4.
        sections: what the prompt is made of, and what was left out of it; empty in logs of schema 5.
    """

    id: str
    index: int
    parents: tuple[str, ...]
    prompt: str
    move: Mapping[str, Any] = field(default_factory=dict)
    diagnosis: str = ""
    memory: str = ""
    writer: str = ""
    control: bool = False
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What writing cost; costs add up.

    Attributes:
        seconds: wall time.
        tokens_in, tokens_out: read and written by models.
        money_usd: what those of them cost whose price is known.
        calls: of models.
        unpriced: tokens, read and written, whose price is not known; 0 in logs of schema 5.
    """

    seconds: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    money_usd: float = 0.0
    calls: int = 0
    unpriced: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.money_usd + other.money_usd,
            self.calls + other.calls,
            self.unpriced + other.unpriced,
        )


@dataclass(frozen=True)
class Candidate:
    """A kernel's source file and where it came from.

    Attributes:
        id: unique within the run, equal to its node's id: `n0`, `n1`, ...
        brief: id of the brief that it answers.
        writer: `built-in`, `guest`, or `model:PROVIDER:NAME`.
        source: the file.
        note: one sentence by the writer: what was changed and why.
        plan: the built-in writer's plan as data, from which its moves continue; empty for other writers.
        cost: of writing.
        program: what `search.program` says of the source; empty where it says nothing, and in logs of schema 3.
        control: whether its brief belongs to the run's control.
        move: the family of the move that it makes, where its writer says so; empty in logs of schema 4.
        origin: `RUN/NODE` of an earlier run from which it was taken over; empty for what this run made.
        session: reference of the blob that has every message of the model that wrote it, as JSON; empty for other
            writers, and in logs of schema 5.
    """

    id: str
    brief: str
    writer: str
    source: str
    note: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = Cost()
    program: str = ""
    move: str = ""
    origin: str = ""
    control: bool = False
    session: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()


@dataclass(frozen=True)
class Autotuned:
    """A kernel under `@triton.autotune`.

    Attributes:
        kernel: name of its function.
        configs: the expression in its decorator that lists the configurations; None where there is none to be read.
        count: how many configurations that expression lists; None where the text alone does not tell.
    """

    kernel: str
    configs: ast.expr | None = None
    count: int | None = None

    @property
    def knob(self) -> str:
        """Name of the knob whose value is the index of the configuration that runs."""
        return f"{self.kernel}{CONFIG_SUFFIX}"


def read_autotuned(source: str) -> tuple[Autotuned, ...]:
    """Every kernel of the file under `@triton.autotune`, in order.

    The configurations are told where a top-level function has one such decorator whose `configs` is a list display of
    `triton.Config(...)`, a top-level name of one that nothing else in the file uses, or a slice that leaves one.

    Raises:
        SyntaxError: the file is not Python.
    """
    tree = parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    calls = {f: [d for d in f.decorator_list if _calls(d, _named(tree, "autotune"))] for f in functions}
    lists = {id(configs): configs for found in calls.values() for d in found if (configs := _configs(d)) is not None}
    made = []
    for function in sorted((f for f, found in calls.items() if found), key=lambda f: f.lineno):
        configs = _configs(calls[function][0]) if len(calls[function]) == 1 else None
        if configs is None or function not in tree.body or names.count(function.name) > 1:
            made.append(Autotuned(function.name))
        else:
            made.append(Autotuned(function.name, configs, _count(tree, configs, list(lists.values()))))
    return tuple(made)


def _named(tree: ast.Module, name: str) -> set[str]:
    """What the file may call Triton's `name`."""
    imported = [a for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names if a.name == name]
    return {name} | {a.asname for a in imported if a.asname}


def _calls(node: ast.expr, names: set[str]) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)) in names


def _configs(decorator: ast.expr) -> ast.expr | None:
    if not isinstance(decorator, ast.Call):
        return None
    named = [k.value for k in decorator.keywords if k.arg == "configs"]
    first = [a for a in decorator.args[:1] if not isinstance(a, ast.Starred)]
    return next(iter([*named, *first]), None)


def _count(tree: ast.Module, configs: ast.expr, lists: list[ast.expr]) -> int | None:
    if isinstance(configs, ast.Subscript):
        return 1 if _leaves_one(configs) else None
    if isinstance(configs, ast.Name):
        # A name that is used elsewhere too may have been added to.
        uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == configs.id]
        read = [base for each in lists if isinstance(base := each.value if _leaves_one(each) else each, ast.Name)]
        assigned = [
            node.value
            for node in tree.body
            if (isinstance(node, ast.Assign) and len(node.targets) == 1 and node.targets[0] in uses)
            or (isinstance(node, ast.AnnAssign) and node.target in uses)
        ]
        others = [node for node in uses if node not in read]
        if len(assigned) != 1 or len(others) != 1 or assigned[0] is None:
            return None
        configs = assigned[0]
    if not isinstance(configs, ast.List) or not all(_calls(one, _named(tree, "Config")) for one in configs.elts):
        return None
    return len(configs.elts)


def _leaves_one(node: ast.expr) -> TypeGuard[ast.Subscript]:
    """Whether it is a slice such as `[2:3]`, which is how a tuned file states its configuration."""
    part = node.slice if isinstance(node, ast.Subscript) else None
    if not isinstance(part, ast.Slice) or part.step is not None:
        return False
    lower, upper = (end.value if isinstance(end, ast.Constant) else None for end in (part.lower, part.upper))
    return isinstance(lower, int) and isinstance(upper, int) and upper == lower + 1


def read_knobs(source: str) -> Knobs:
    """The literal `KNOBS` of a candidate's file, and a knob for each autotuned kernel with several configurations.

    That knob is named `KERNEL_config`; its values are the indices of `read_autotuned`, the first being the default.

    `KNOBS = {"BLOCK_M": [64, 128], "num_warps": [4, 8], "amd": {"waves_per_eu": [0, 2]}}`: names with lists of allowed
    values, and optionally a section per vendor.

    Raises:
        SyntaxError: the file is not Python.
        KnobsError: `KNOBS` is not such a literal, or it has the name that an autotuned kernel's knob has.
    """
    knobs, autotuned = _literal_knobs(source), read_autotuned(source)
    for name in (one.knob for one in autotuned):
        if any(name in section for section in (knobs.values, *knobs.by_vendor.values())):
            raise KnobsError(f"KNOBS[{name!r}]: that is the name of an autotuned kernel's configuration; use another")
    configs = {one.knob: tuple(range(one.count)) for one in autotuned if one.count is not None and one.count > 1}
    return Knobs({**knobs.values, **configs}, knobs.by_vendor) if configs else knobs


def _literal_knobs(source: str) -> Knobs:
    for node in parse(source).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(t, ast.Name) and t.id == "KNOBS" for t in targets):
            value = getattr(node, "value", None)
            try:
                data = ast.literal_eval(value) if value is not None else None
            except ValueError:
                raise KnobsError(f"line {node.lineno}: KNOBS must be a literal") from None
            return _knobs(data, node.lineno)
    return Knobs()


def keeps_table(source: str) -> bool:
    """Whether the file reads its choice from a top-level literal `CHOICES = {...}`, by workload key.

    Raises:
        SyntaxError: the file is not Python.
    """
    return literal_dict(source, TABLE) is not None


def literal_dict(source: str, name: str) -> ast.Dict | None:
    """The dict display that the file assigns to `name` at top level."""
    for node in parse(source).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id == name:
                return node.value
    return None


def _knobs(data: Any, line: int) -> Knobs:
    if not isinstance(data, dict):
        raise KnobsError(f"line {line}: KNOBS must be a dict of names and lists, got {type(data).__name__}")
    sections = {k: v for k, v in data.items() if k in VENDORS}
    common = {k: v for k, v in data.items() if k not in VENDORS}
    return Knobs(_values(common, line), {k: _values(v, line) for k, v in sections.items()})


def _values(data: Any, line: int) -> dict[str, tuple[Choice, ...]]:
    if not isinstance(data, dict):
        raise KnobsError(f"line {line}: a vendor's section of KNOBS must be a dict, got {data!r:.60}")
    for name, allowed in data.items():
        fits = isinstance(allowed, (list, tuple)) and allowed and all(isinstance(v, (int, float, str)) for v in allowed)
        if not isinstance(name, str) or not fits:
            raise KnobsError(
                f"line {line}: KNOBS[{name!r}] = {allowed!r:.60}; a knob is a name with a non-empty list of values"
            )
    return {name: tuple(allowed) for name, allowed in data.items()}
