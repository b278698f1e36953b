"""Brief, Candidate and Knobs: what is asked for, what came back, and its named constants.

In: parents and a composed prompt; the text of a kernel file. Out: frozen values. Left to others: composing (`propose`),
checking and measuring (`evaluate`). The host reads a candidate's text; only builder and worker run it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Choice = int | float | bool | str
ENTRY = "ModelNew"
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
class Brief:
    """Parents and a composed prompt, not yet answered.

    Attributes:
        id: unique within the run, `b0`, `b1`, ... in the order asked.
        index: the ask index; with the run's seed it determines every random choice made for this brief.
        parents: node ids; none = a fresh draft, two or more = crossover.
        prompt: what a model would see, as Markdown.
        move: for the built-in writer, the move to make, as its own data; empty = the first kernel.
        diagnosis: what limits the parent, in one line.
    """

    id: str
    index: int
    parents: tuple[str, ...]
    prompt: str
    move: Mapping[str, Any] = field(default_factory=dict)
    diagnosis: str = ""


@dataclass(frozen=True)
class Cost:
    """What writing cost."""

    seconds: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    money_usd: float = 0.0


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
    """

    id: str
    brief: str
    writer: str
    source: str
    note: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = Cost()

    @property
    def digest(self) -> str:
        """SHA-256 of the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def read_knobs(source: str) -> Knobs:
    """The literal `KNOBS` of a candidate's file; no `KNOBS` means none.

    `KNOBS = {"BLOCK_M": [64, 128], "num_warps": [4, 8], "amd": {"waves_per_eu": [0, 2]}}`: names with lists of allowed
    values, and optionally a section per vendor.

    Raises:
        SyntaxError: the file is not Python.
        KnobsError: `KNOBS` is not such a literal.
    """
    for node in ast.parse(source).body:
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
    for node in ast.parse(source).body:
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
