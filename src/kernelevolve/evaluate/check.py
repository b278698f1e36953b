"""The check rung: is this file a kernel of the language asked for, by its text alone.

In: a candidate's source. Out: a `Finding`: the fault if its interface is broken, and hints for the later rungs. Left to
others: everything that needs the file to run. A hint is never a conviction: words are not behaviour.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from kernelevolve.candidate import ENTRY, Knobs, KnobsError, read_autotuned, read_knobs
from kernelevolve.evaluation import Verdict
from kernelevolve.syntax import parse

_MAX_BYTES = 256 << 10
_USUAL = {
    "torch",
    "triton",
    "math",
    "typing",
    "__future__",
    "collections",
    "dataclasses",
    "functools",
    "itertools",
    "operator",
}
_WATCHED = {
    "allclose",
    "elapsed_time",
    "synchronize",
    "_getframe",
    "get_objects",
    "setattr",
    "exec",
    "eval",
    "Stream",
    "Thread",
}


@dataclass(frozen=True)
class Finding:
    """What the text says.

    Attributes:
        verdict: the fault, or None.
        message: one line.
        knobs: of the file.
        kernels: names of its jitted functions.
        hints: words worth a second look by behaviour.
    """

    verdict: Verdict | None
    message: str
    knobs: Knobs = field(default_factory=Knobs)
    kernels: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def check_source(source: str) -> Finding:
    """Reads the file's text; never imports it."""
    size = len(source.encode())
    if size > _MAX_BYTES:
        return Finding(Verdict.LOAD_ERROR, f"the file has {size} bytes; at most {_MAX_BYTES}")
    try:
        tree = parse(source)
        knobs = read_knobs(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        kind = "KNOBS" if isinstance(error, KnobsError) else f"line {line}: not Python"
        return Finding(Verdict.LOAD_ERROR, f"{kind}: {getattr(error, 'msg', None) or error}")
    if not any(isinstance(n, ast.ClassDef) and n.name == ENTRY for n in tree.body):
        return Finding(Verdict.LOAD_ERROR, f"the file defines no class {ENTRY}(nn.Module)")
    kernels = tuple(
        n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and any(map(_is_jit, n.decorator_list))
    )
    if not kernels:
        return Finding(Verdict.POLICY, "the file defines no @triton.jit function: it is no Triton kernel", knobs)
    return Finding(
        None,
        f"{len(kernels)} kernel{'s' * (len(kernels) > 1)}: {', '.join(kernels)}",
        knobs,
        kernels,
        (*_hints(tree), *_unread(source)),
    )


def _unread(source: str) -> tuple[str, ...]:
    return tuple(
        f"autotune of {one.kernel}: its configs are no literal list, so none but the first was tried"
        for one in read_autotuned(source)
        if one.count is None
    )


def _is_jit(decorator: ast.expr) -> bool:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (isinstance(node, ast.Attribute) and node.attr == "jit") or (isinstance(node, ast.Name) and node.id == "jit")


def _hints(tree: ast.Module) -> tuple[str, ...]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {f"imports {a.name}" for a in node.names if a.name.split(".")[0] not in _USUAL}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in _USUAL:
            found.add(f"imports {node.module}")
        elif (isinstance(node, ast.Attribute) and node.attr in _WATCHED) or (
            isinstance(node, ast.Name) and node.id in _WATCHED
        ):
            found.add(f"names {node.attr if isinstance(node, ast.Attribute) else node.id}")
        elif isinstance(node, ast.Try):
            found.add("catches exceptions")
    return tuple(sorted(found))
