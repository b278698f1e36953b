"""A kernel's Python source rewritten so that running it computes what the compiler would build.

Comes in: a kernel function. Goes out: a plain Python function with the compiler's rules for assignments (Python scalars
become tensors), conditions, boolean operators and loops, and with the language's names bound to ours. What those names
do is left to `language`.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

from .compat import KERNELS, tl
from .language import Language
from .semantic import plain

_VALUE, _TRUTH, _BOTH, _EITHER, _NOT, _TURNS = (
    "__ke_value", "__ke_truth", "__ke_both", "__ke_either", "__ke_not", "__ke_turns",
)  # fmt: skip


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(func=ast.Name(id=name, ctx=ast.Load()), args=list(arguments), keywords=[])


def _thunk(body: ast.expr) -> ast.Lambda:
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    return ast.Lambda(args=nothing, body=body)


def _is_constexpr(annotation: ast.expr | None) -> bool:
    return annotation is not None and "constexpr" in ast.unparse(annotation)


class _Rewriter(ast.NodeTransformer):
    """Applies the compiler's rules to one function; collects the names that must be bound."""

    def __init__(self, scope: dict[str, Any], local: set[str]) -> None:
        self.scope = scope
        self.local = local
        self.bound: dict[str, Any] = {}

    def _known(self, node: ast.expr) -> Any:
        """The module member that an attribute chain names, or None."""
        if isinstance(node, ast.Name):
            value = None if node.id in self.local else self.scope.get(node.id)
            return value if isinstance(value, types.ModuleType) else None
        if isinstance(node, ast.Attribute):
            owner = self._known(node.value)
            if isinstance(owner, types.ModuleType):
                return getattr(owner, node.attr, None)
        return None

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        member = self._known(node)
        if member is None or isinstance(member, types.ModuleType) or not isinstance(node.ctx, ast.Load):
            return self.generic_visit(node)
        name = "__ke_m_" + ast.unparse(node).replace(".", "_")
        self.bound[name] = member
        return ast.copy_location(ast.Name(id=name, ctx=ast.Load()), node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        node.value = _call(_VALUE, node.value)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        value = self.visit(node.value)
        if not _is_constexpr(node.annotation):
            value = _call(_VALUE, value)
        return ast.copy_location(ast.Assign(targets=[node.target], value=value), node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        read = ast.parse(ast.unparse(node.target), mode="eval").body
        value = self.visit(ast.BinOp(left=read, op=node.op, right=node.value))
        return ast.copy_location(ast.Assign(targets=[node.target], value=_call(_VALUE, value)), node)

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if node.value is not None:
            node.value = _call(_VALUE, node.value)
        return node

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.AST:
        self.generic_visit(node)
        node.value = _call(_VALUE, node.value)
        return node

    def _visit_test(self, node: Any) -> ast.AST:
        self.generic_visit(node)
        node.test = _call(_TRUTH, node.test)
        return node  # type: ignore[no-any-return]

    def visit_While(self, node: ast.While) -> list[ast.stmt]:
        """The condition goes through a counter, so that a wait for another program ends."""
        self.generic_visit(node)
        name = f"__ke_turns_{node.lineno}_{node.col_offset}"
        start = ast.Assign(targets=[ast.Name(id=name, ctx=ast.Store())], value=_call(_TURNS))
        node.test = _call(name, node.test)
        return [ast.copy_location(start, node), node]

    visit_If = visit_IfExp = _visit_test  # noqa: N815

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Device assertions are compiled only in debug mode."""
        return ast.copy_location(ast.Pass(), node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        name = _BOTH if isinstance(node.op, ast.And) else _EITHER
        return ast.copy_location(_call(name, *(_thunk(v) for v in node.values)), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(_call(_NOT, node.operand), node) if isinstance(node.op, ast.Not) else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) == 1:
            return node
        operands = [node.left, *node.comparators]
        pairs = [
            ast.Compare(left=left, ops=[op], comparators=[right])
            for left, op, right in zip(operands, node.ops, operands[1:], strict=False)
        ]
        return ast.copy_location(_call(_BOTH, *(_thunk(p) for p in pairs)), node)


def _definition(fn: Any) -> tuple[ast.FunctionDef, int]:
    lines, first = inspect.getsourcelines(fn)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise TypeError(f"kernel {fn.__qualname__} is not defined by a def statement")
    return definition, first


def _strip(definition: ast.FunctionDef) -> None:
    definition.decorator_list = []
    definition.returns = None
    definition.body = [s for s in definition.body if not _is_docstring(s)] or [ast.Pass()]
    everything = definition.args
    for argument in [*everything.posonlyargs, *everything.args, *everything.kwonlyargs]:
        argument.annotation = None


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


class Rewritten:
    """One kernel function ready to run; `refresh` rebinds its free names, which may change between launches."""

    def __init__(self, kernel: Any, language: Language) -> None:
        fn = kernel.fn
        while isinstance(fn, KERNELS):
            fn = fn.fn
        self.kernel = kernel
        self.fn = fn
        self.language = language
        self.signature = inspect.signature(fn)
        self.constexprs = {
            p.name for p in self.signature.parameters.values() if "constexpr" in _annotation_text(p.annotation)
        }
        self.run = self._compile()

    def _scope(self) -> dict[str, Any]:
        return {**vars(builtins), **self.fn.__globals__, **inspect.getclosurevars(self.fn).nonlocals}

    def _compile(self) -> Callable[..., Any]:
        definition, first = _definition(self.fn)
        defaults = self.fn.__defaults__, self.fn.__kwdefaults__
        _strip(definition)
        stored = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        arguments = {a.arg for a in ast.walk(definition) if isinstance(a, ast.arg)}
        definition.args.defaults = [ast.Constant(value=None) for _ in definition.args.defaults]
        definition.args.kw_defaults = [d and ast.Constant(value=None) for d in definition.args.kw_defaults]
        rewriter = _Rewriter(self._scope(), stored | arguments)
        rewriter.generic_visit(definition)
        module = ast.Module(body=[definition], type_ignores=[])
        ast.fix_missing_locations(module)
        ast.increment_lineno(module, first - 1)
        language = self.language
        self.namespace: dict[str, Any] = {
            "__builtins__": builtins,
            "__name__": self.fn.__module__,
            _VALUE: language.value,
            _TRUTH: language.truth,
            _BOTH: language.both,
            _EITHER: language.either,
            _NOT: language.negate,
            _TURNS: language.turns,
        } | {name: language.resolve(member) for name, member in rewriter.bound.items()}
        read = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        self.free = {n for n in read - stored - arguments if not n.startswith("__ke_")}
        self.refresh()
        code = compile(module, self.fn.__code__.co_filename, "exec")
        exec(code, self.namespace)
        made: Any = self.namespace[definition.name]
        made.__defaults__ = tuple(plain(d) for d in defaults[0]) if defaults[0] else None
        made.__kwdefaults__ = {k: plain(d) for k, d in defaults[1].items()} if defaults[1] else None
        run: Callable[..., Any] = made
        # The function's own name must mean the kernel again, for recursion and for the next refresh.
        self.refresh()
        return run

    def refresh(self) -> None:
        """Binds the free names as they are now."""
        cells = dict(zip(self.fn.__code__.co_freevars, self.fn.__closure__ or (), strict=True))
        for name in self.free:
            if name in cells:
                value = cells[name].cell_contents
            elif name in self.fn.__globals__:
                value = self.fn.__globals__[name]
            elif hasattr(builtins, name):
                value = getattr(builtins, name)
            else:
                continue
            self.namespace[name] = self.language.resolve(value)


def _annotation_text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    if annotation is tl.constexpr:
        return "constexpr"
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
