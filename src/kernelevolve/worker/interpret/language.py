"""Triton's language bound to our builder: tensors whose operators compute, and the functions that take code regions.

Comes in: a builder. Goes out: `Language`, which turns any name of ``triton.language`` into something Python can call.
Nothing in Triton is patched: tensors are a subclass, builtins are bound to our semantics one by one. Rewriting a
kernel's source to use these names is left to `rewrite`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from triton.language.extra import cuda

from . import regions
from .builder import Builder
from .compat import KERNELS, is_builtin, tl
from .errors import AssumptionFailed, CannotBeSeen
from .formats import SCALARS
from .semantic import DescriptorValue, Semantic, Tensor, plain
from .values import Handle, candidate_line

# Turns of one while loop: far more than a scaled workload needs, few enough to end a wait within a minute.
MOST_TURNS = 1 << 20


# Operators that are one call of the semantics, given here without the builtin's checks in between.
_OPERATORS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "add": ("add", (True,)),
    "sub": ("sub", (True,)),
    "mul": ("mul", (True,)),
    "truediv": ("truediv", ()),
    "floordiv": ("floordiv", ()),
    "mod": ("mod", ()),
    "and": ("and_", ()),
    "or": ("or_", ()),
    "xor": ("xor_", ()),
    "gt": ("greater_than", ()),
    "ge": ("greater_equal", ()),
    "lt": ("less_than", ()),
    "le": ("less_equal", ()),
    "eq": ("equal", ()),
    "ne": ("not_equal", ()),
}


def _operator(method: Callable[..., Any], rest: tuple[Any, ...], swapped: bool) -> Callable[[Any, Any], Any]:
    def forward(self: Any, other: Any) -> Any:
        return method(self, plain(other), *rest)

    def reflected(self: Any, other: Any) -> Any:
        return method(plain(other), self, *rest)

    return reflected if swapped else forward


class KernelCall:
    """A kernel function as kernel code sees it: calling it runs it in place."""

    __slots__ = ("call", "kernel")

    def __init__(self, kernel: Any, call: Callable[..., Any]) -> None:
        self.kernel = kernel
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(self.kernel, *args, **kwargs)


class Language:
    """The language over one builder; `resolve` gives the callable stand-in of a value found in a kernel's namespace."""

    def __init__(self, builder: Builder, call_kernel: Callable[..., Any]) -> None:
        self.builder = builder
        self.semantic = Semantic(builder)
        self.call_kernel = call_kernel
        self._bound: dict[int, tuple[Any, Any]] = {}
        self._own = self._own_functions()
        self._bind_methods(Tensor, tl.tensor)
        self._bind_methods(DescriptorValue, tl.tensor_descriptor)

    def _own_functions(self) -> dict[int, Callable[..., Any]]:
        core = tl.core
        pairs: list[tuple[Any, Callable[..., Any]]] = [
            (core.reduce, self.reduce),
            (core.associative_scan, self.associative_scan),
            (core._reduce_with_indices, self.reduce_with_indices),
            (core.map_elementwise, self.map_elementwise),
            (core.multiple_of, _multiple_of),
            (core.max_contiguous, _hint),
            (core.max_constancy, _hint),
            (core.static_assert, _static_assert),
            (core.static_print, _ignore),
            (core.range, self.loop),
            (core.static_range, _static_loop),
            (core.constexpr, plain),
            (core.condition, _condition),
            (core.inline_asm_elementwise, _no_assembly),
            (range, self.loop),
            (print, self._print),
            (min, functools.partial(core.builtin_min.__wrapped__, _semantic=self.semantic)),
            (max, functools.partial(core.builtin_max.__wrapped__, _semantic=self.semantic)),
        ]
        # Waiting for an earlier kernel, and letting a later one start, have nothing to do here.
        pairs += [
            (getattr(cuda, name), _ignore) for name in ("gdc_wait", "gdc_launch_dependents") if hasattr(cuda, name)
        ]
        return {id(theirs): ours for theirs, ours in pairs}

    def _print(self, prefix: Any = "", *values: Any, hex: bool = False, **unused: Any) -> None:
        if not isinstance(prefix, str):
            prefix, values = "", (prefix, *values)
        tl.core.device_print.__wrapped__(prefix, *values, hex=hex, _semantic=self.semantic)

    def _bind_methods(self, ours: type, theirs: type) -> None:
        for name in dir(theirs):
            member = getattr(theirs, name)
            if isinstance(member, KERNELS):
                setattr(ours, name, _method(KernelCall(member, self.call_kernel)))
            elif getattr(member, "__qualname__", "").startswith("_tensor_member_fn"):
                free = getattr(tl.core, name, None) or getattr(tl.math, name, None) or getattr(tl, name)
                setattr(ours, name, _method(self.resolve(free)))
            elif is_builtin(member):
                setattr(ours, name, _method(self._bind(member)))
        if ours is Tensor:
            ours.T = property(lambda self: self.trans())
            for name, (method, rest) in _OPERATORS.items():
                bound = getattr(self.semantic, method)
                setattr(ours, f"__{name}__", _operator(bound, rest, swapped=False))
                if name not in ("gt", "ge", "lt", "le", "eq", "ne"):
                    setattr(ours, f"__r{name}__", _operator(bound, rest, swapped=True))

    def resolve(self, value: Any) -> Any:
        """What the kernel sees for ``value``: builtins bound to our semantics, constexprs plain, the rest unchanged."""
        if not callable(value):
            return plain(value)
        known = self._bound.get(id(value))
        if known is not None:
            return known[1]
        found = self._resolve(value)
        self._bound[id(value)] = (value, found)
        return found

    def _resolve(self, value: Any) -> Any:
        own = self._own.get(id(value))
        if own is not None:
            return own
        if isinstance(value, KERNELS):
            return KernelCall(value, self.call_kernel)
        module = getattr(value, "__module__", None) or ""
        if module == "triton.language.extra.libdevice":
            return self._device_function(value)
        if is_builtin(value) and hasattr(value, "__wrapped__"):
            # These modules make tensors of Triton's own class.
            return self._extern(value) if ".extra." in module or module == tl.math.__name__ else self._bind(value)
        return value

    def _bind(self, builtin: Any) -> Any:
        if not hasattr(builtin, "__wrapped__"):
            return builtin
        inner = builtin.__wrapped__
        return functools.partial(inner, _semantic=self.semantic)

    def _extern(self, function: Any) -> Any:
        bound = self._bind(function)

        def call(*args: Any, **kwargs: Any) -> Any:
            out = bound(*args, **kwargs)
            return Tensor(out.handle, out.type) if isinstance(out, tl.tensor) else plain(out)

        return call

    def _device_function(self, stub: Any) -> Any:
        """The generic ``libdevice.f``: any library's ``f`` will do, since symbols of both are known."""
        from triton.language.extra.cuda import libdevice as nvidia
        from triton.language.extra.hip import libdevice as amd

        for library in (nvidia, amd):
            if hasattr(library, stub.__name__):
                return self.resolve(getattr(library, stub.__name__))

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise CannotBeSeen(f"device function {stub.__name__}", candidate_line())

        return refuse

    # Values.

    def value(self, x: Any) -> Any:
        """What an assignment or return makes of ``x``: Python scalars become tensors, as the compiler's do."""
        if type(x) is Tensor:
            return x
        x = plain(x)
        if isinstance(x, (bool, int, float)):
            return self.semantic.to_tensor(x if isinstance(x, (bool, float)) else int(x))
        if isinstance(x, (tuple, tl.tuple)) and not isinstance(x, str):
            return _rebuild(x, [self.value(v) for v in x])
        return x

    def truth(self, x: Any) -> bool:
        """The condition of an ``if`` or ``while``."""
        if isinstance(x, tl.tensor):
            data = x.handle.data
            if data.size != 1:
                raise regions.AmbiguousTruth("Boolean value of Tensor with more than one value is ambiguous")
            return bool(data.reshape(-1)[0])
        return bool(plain(x))

    def turns(self) -> Callable[[Any], bool]:
        """The condition of one ``while`` loop, which may hold `MOST_TURNS` times."""
        left = MOST_TURNS

        def holds(x: Any) -> bool:
            nonlocal left
            left -= 1
            if left < 0:
                what = (
                    f"a while loop of more than {MOST_TURNS} turns (a wait for what a later program stores never ends)"
                )
                raise CannotBeSeen(what, candidate_line())
            return self.truth(x)

        return holds

    def both(self, *thunks: Callable[[], Any]) -> Any:
        return self._logical(thunks, "logical_and", stop=False)

    def either(self, *thunks: Callable[[], Any]) -> Any:
        return self._logical(thunks, "logical_or", stop=True)

    def _logical(self, thunks: Sequence[Callable[[], Any]], method: str, stop: bool) -> Any:
        result: Any = None
        last: Any = None
        for thunk in thunks:
            last = plain(thunk())
            if isinstance(last, tl.tensor):
                result = last if result is None else getattr(result, method)(last)
            elif bool(last) is stop:
                return last
        return last if result is None else result

    def negate(self, x: Any) -> Any:
        return x.__not__() if isinstance(x, tl.tensor) else not plain(x)

    def loop(self, start: Any, end: Any = None, step: Any = None, **hints: Any) -> Any:
        """``range`` of a kernel: its index is a tensor of the bounds' promoted integer type."""
        if end is None:
            start, end = 0, start
        bounds = [self.semantic.to_tensor(_index(b)) for b in (start, end, 1 if step is None else step)]
        ty = self.semantic.integer_promote_impl(bounds[0].dtype, bounds[1].dtype)
        ty = self.semantic.integer_promote_impl(ty, bounds[2].dtype)
        held = SCALARS[ty.name]
        first, stop, stride = (int(b.handle.data.reshape(-1)[0]) for b in bounds)
        for i in range(first, stop, stride):
            yield Tensor(Handle(np.array([i], held.np), held), ty)

    # Functions that take a region of code.

    def reduce(self, input: Any, axis: Any, combine_fn: Any, keep_dims: Any = False, **unused: Any) -> Any:
        """A tree over neighbours, vectorised: the order of operands is kept, each step rounds to the element type."""
        return regions.reduce(self, input, plain(axis), kernel_of(combine_fn), bool(plain(keep_dims)))

    def associative_scan(self, input: Any, axis: Any, combine_fn: Any, reverse: Any = False, **unused: Any) -> Any:
        return regions.scan(self, input, plain(axis), kernel_of(combine_fn), bool(plain(reverse)))

    def reduce_with_indices(self, input: Any, axis: Any, combine_fn: Any, keep_dims: Any = False, **unused: Any) -> Any:
        return regions.reduce_with_indices(self, input, plain(axis), kernel_of(combine_fn), bool(plain(keep_dims)))

    def map_elementwise(self, scalar_fn: Any, *args: Any, pack: Any = 1, **unused: Any) -> Any:
        return regions.map_elementwise(self, kernel_of(scalar_fn), args, int(plain(pack)))


def kernel_of(function: Any) -> Any:
    """The kernel function behind what kernel code passes around."""
    return function.kernel if isinstance(function, KernelCall) else function


def _rebuild(like: Any, values: list[Any]) -> Any:
    return type(like)(*values) if hasattr(like, "_fields") else tuple(values)


def _index(x: Any) -> Any:
    x = plain(x)
    return int(x) if isinstance(x, int) else x


def _method(function: Callable[..., Any]) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    return method


def _multiple_of(x: Any, values: Any, **unused: Any) -> Any:
    """A scalar's hint is checked: the compiler builds on it."""
    if isinstance(x, tl.tensor) and not x.type.is_block() and not x.type.is_ptr():
        factor = int(plain(values[0] if isinstance(values, (list, tuple, tl.tuple)) else values))
        if factor and int(x.handle.data.item()) % factor:
            raise AssumptionFailed(f"tl.multiple_of({x.handle.data.item()}, {factor})", candidate_line())
    return x


def _hint(x: Any, values: Any, **unused: Any) -> Any:
    return x


def _ignore(*args: Any, **kwargs: Any) -> None:
    """``static_print`` speaks at compile time only; hints to the hardware's scheduler change no value."""


def _condition(x: Any, **hints: Any) -> Any:
    return x


def _static_assert(condition: Any, message: Any = "", **unused: Any) -> None:
    if not plain(condition):
        raise AssertionError(f"static_assert failed at {candidate_line()}: {plain(message)}")


def _static_loop(arg1: Any, arg2: Any = None, step: Any = None, **unused: Any) -> range:
    first, second, stride = (plain(v) for v in (arg1, arg2, step))
    start, stop = (0, first) if second is None else (first, second)
    return range(int(start), int(stop), 1 if stride is None else int(stride))


def _no_assembly(*args: Any, **kwargs: Any) -> Any:
    raise CannotBeSeen("inline assembly", candidate_line())
