"""Which program a source is, whatever its comments, docstrings and local names.

In: the text of a kernel file. Out: a digest that equal programs share. Left to others: what follows from it
(`search.novelty`).

Only what no reader of the file can see by name is renamed: functions and their parameters and local variables. A name
is kept where it might mean something to somebody else: classes and what is in their bodies, imports, names assigned at
the top level (`KNOBS`), built-ins, every name that also occurs as a keyword argument or as text in a string
(`key=["M"]`, `Config({"BLOCK": 64})`). What is renamed is renamed in the whole file by order of first occurrence, so
equal digests mean that each file is the other under a one-to-one renaming: duplicates are missed, none is invented.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import re
import warnings

from kernelevolve.syntax import parse

# A file that looks at itself by name, text or line may notice a renaming.
_LOOKS_AT_ITSELF = frozenset(
    ("eval", "exec", "compile", "globals", "locals", "vars", "dir", "getattr", "setattr", "inspect", "__import__")
)
_DUNDERS = frozenset(("__doc__", "__name__", "__qualname__", "__code__", "__globals__", "__annotations__", "__file__"))
_WORD = re.compile(r"\w+")


def program_digest(source: str) -> str:
    """SHA-256 of the program in `source` without names; empty where it cannot be told: no Python, no
    statement, or a file that looks at itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a candidate's odd escapes are its own
            tree = parse(source)
        names = _Names()
        names.visit(tree)
        if not tree.body or names.used & _LOOKS_AT_ITSELF or (names.attributes | names.used) & _DUNDERS:
            return ""
        renamed = names.bound - names.kept - frozenset(dir(builtins))
        text = ast.dump(_Renamed(renamed).visit(tree))
    except (SyntaxError, ValueError, RecursionError):
        return ""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class _Names(ast.NodeVisitor):
    """Which names are bound in functions, and which have to stay."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.kept: set[str] = set()
        self.used: set[str] = set()
        self.attributes: set[str] = set()
        self._inside: list[type[ast.AST]] = []

    def visit_Module(self, node: ast.Module) -> None:
        self._docstring(node)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.kept.add(node.name)
        self._docstring(node)
        self._within(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if self._inside[-1:] == [ast.ClassDef]:
            # A method may be called by name, with arguments by name.
            self.kept.update([node.name], (a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)))
        self.bound.add(node.name)
        self._docstring(node)
        self._within(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._within(node)

    def visit_arg(self, node: ast.arg) -> None:
        self.bound.add(node.arg)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.used.add(node.id)
        if not isinstance(node.ctx, ast.Load):
            (self.bound if self._inside[-1:] not in ([], [ast.ClassDef]) else self.kept).add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.attributes.add(node.attr)
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg is not None:
            self.kept.add(node.arg)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        words = _WORD.findall(f"{node.name} {node.asname or ''}")
        self.kept.update(words)
        self.used.update(words)

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        self.kept.update(node.names)

    visit_Nonlocal = visit_Global  # noqa: N815

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.kept.update([node.name] if node.name else [])
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self.kept.update([node.name] if node.name else [])
        self.generic_visit(node)

    visit_MatchStar = visit_MatchAs  # noqa: N815

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.kept.update([node.rest] if node.rest else [])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.kept.update(_WORD.findall(node.value))

    def _within(self, node: ast.AST) -> None:
        self._inside.append(type(node))
        self.generic_visit(node)
        self._inside.pop()

    @staticmethod
    def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Takes the docstring out: it is no part of what is computed, and its words keep no name."""
        if ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.copy_location(ast.Pass(), node.body[0])


class _Renamed(ast.NodeTransformer):
    """Gives names numbers, in the order in which they occur."""

    def __init__(self, names: frozenset[str] | set[str]) -> None:
        self._numbers: dict[str, str] = {}
        self._names = names

    def _new(self, name: str) -> str:
        # Not a name that any file could have.
        return self._numbers.setdefault(name, f"#{len(self._numbers)}") if name in self._names else name

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self._new(node.name)
        return self._bodied(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.name = self._new(node.name)
        return self._bodied(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._bodied(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._bodied(node)

    def _bodied(self, node: ast.AST) -> ast.AST:
        body = getattr(node, "body", [])
        # The statement that was a docstring; elsewhere `pass` does nothing either, but a body must not be empty.
        body[:] = [s for s in body if not isinstance(s, ast.Pass)] or [ast.Pass()]
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._new(node.arg)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._new(node.id)
        return node
