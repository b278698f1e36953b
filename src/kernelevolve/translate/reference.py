"""What a candidate takes over from the reference's source: the constructor, and the names that it needs.

In: the source of a KernelBench-shaped file. Out: text for ``ModelNew``. Parameters then have the reference's names, and
the same seed gives the same weights.
"""

from __future__ import annotations

import ast
import builtins
import textwrap
from dataclasses import dataclass

from kernelevolve.syntax import parse
from kernelevolve.translate.errors import TranslateError


@dataclass(frozen=True)
class Constructor:
    """Parts of the candidate's class.

    Attributes:
        bases: the class's base, as source.
        init: the ``__init__`` method, with the class's own constants and the methods it calls, as indented source;
            "" where there is none.
        signature: the parameters of ``forward`` as source.
        imports: import statements that ``init`` needs.
        names: other top-level statements that ``init`` needs.
    """

    bases: str
    init: str
    signature: str
    imports: list[str]
    names: list[str]


def constructor(source: str, class_name: str = "Model") -> Constructor:
    """Reads the constructor of a class.

    Raises:
        TranslateError: the source has no such class with a ``forward``.
    """
    tree = parse(source)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if class_name not in classes:
        raise TranslateError(f"the reference has no class {class_name!r}")
    found = classes[class_name]
    methods = {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}
    if "forward" not in methods:
        raise TranslateError(f"the class {class_name!r} has no method forward")
    forward = _strip(methods["forward"])
    parts: list[ast.stmt] = []
    if "__init__" in methods:
        kept = _called({"__init__"}, methods)
        parts = [_strip(node) for name, node in methods.items() if name in kept]
        read = {part.attr for node in parts for part in ast.walk(node) if isinstance(part, ast.Attribute)}
        constants = [node for node in found.body if isinstance(node, ast.Assign | ast.AnnAssign)]
        parts = [node for node in constants if _binds(node) & read] + parts
    own = {name for node in parts for name in _binds(node)}
    parts = [_Renamed(class_name).visit(node) for node in parts]
    text = "\n\n".join(textwrap.indent(ast.unparse(node), "    ") for node in parts)
    needed = {name for node in parts for name in _free(node)} - own
    defaults = _names(forward.args)
    bases = ", ".join(ast.unparse(base) for base in found.bases) or "nn.Module"
    needed |= defaults | {name for base in found.bases for name in _names(base)}
    for argument in ast.walk(forward.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    imports, names = _dependencies(tree, needed, class_name)
    return Constructor(bases, text, ast.unparse(forward.args), imports, names)


class _Renamed(ast.NodeTransformer):
    def __init__(self, name: str) -> None:
        self.name = name

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name("ModelNew", node.ctx) if node.id == self.name else node


def _strip(function: ast.FunctionDef) -> ast.FunctionDef:
    """The function without docstring and annotations."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:] or [ast.Pass()]
    function.body = body
    function.returns = None
    for node in ast.walk(function.args):
        if isinstance(node, ast.arg):
            node.annotation = None
    return function


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - set(dir(builtins))


def _free(node: ast.stmt) -> set[str]:
    """The names that a statement takes from outside: a function's parameters are its own."""
    if not isinstance(node, ast.FunctionDef):
        return _names(node)
    given = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
    body = {name for part in node.body for name in _names(part)}
    outside = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None), *node.decorator_list]
    return (body - given) | {name for part in outside for name in _names(part)}


def _called(start: set[str], methods: dict[str, ast.FunctionDef]) -> set[str]:
    """These methods and those that they call on ``self``, ``forward`` apart."""
    kept, pending = set(start), list(start)
    while pending:
        new = (_own_methods(methods[pending.pop()]) & set(methods)) - {"forward"} - kept
        kept |= new
        pending += sorted(new)
    return kept


def _own_methods(node: ast.AST) -> set[str]:
    return {
        part.func.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute)
        and isinstance(part.func.value, ast.Name) and part.func.value.id == "self"
    }  # fmt: skip


def _dependencies(tree: ast.Module, needed: set[str], class_name: str) -> tuple[list[str], list[str]]:
    imports: list[str] = []
    chosen: dict[int, ast.stmt] = {}
    pending = set(needed)
    done: set[str] = set()
    while pending:
        name = pending.pop()
        done.add(name)
        for position, node in enumerate(tree.body):
            if position in chosen or name not in _binds(node) or getattr(node, "name", "") == class_name:
                continue
            chosen[position] = node
            if not isinstance(node, ast.Import | ast.ImportFrom):
                pending |= _names(node) - done
    names: list[str] = []
    for position in sorted(chosen):
        node = chosen[position]
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(ast.unparse(node))
        else:
            names.append(ast.unparse(node))
    return imports, names


def _binds(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()
