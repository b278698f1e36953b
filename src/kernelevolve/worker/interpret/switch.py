"""The switch that sends launches to the interpreter instead of the compiler.

Comes in: a function that launches. Goes out: for the time of the context, every launch of a ``@triton.jit`` function,
defined before or inside, goes there; the same process compiles again afterwards. ``TRITON_INTERPRET`` is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .compat import Autotuner, InterpretedFunction, JITFunction
from .errors import CannotBeSeen

Launch = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], None]


@contextmanager
def redirected(launch: Launch, call: Callable[..., Any], note: Callable[[str], None]) -> Iterator[None]:
    """Sends launches to ``launch`` and direct calls of kernel functions to ``call``."""

    def run(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
        if warmup:
            raise CannotBeSeen(f"a compiled kernel (warmup of {self.fn.__name__})", "the candidate's host code")
        full = {**dict(zip(self.arg_names, args, strict=False)), **kwargs}
        for hook in self.pre_run_hooks:
            hook(**full)
        launch(self, grid, args, kwargs)

    def autotuned(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        # Like Triton, which prunes no list of one; that one may be the choice of a tuner.
        config = (self.prune_configs(kwargs) if len(self.configs) > 1 else self.configs)[0]
        if len(self.configs) > 1:
            note(f"the other {len(self.configs) - 1} autotune configurations of {self.base_fn.__name__}")
        self.best_config = config
        if config.pre_hook is not None:
            config.pre_hook({**self.nargs, **kwargs, **config.all_kwargs()})
        out = self.fn.run(*args, **kwargs, **config.all_kwargs())
        self.nargs = None
        return out

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, **kwargs)

    replaced = [(Autotuner, "run", autotuned)]
    for kind in (JITFunction, InterpretedFunction):
        replaced += [(kind, "run", run), (kind, "__call__", called)]
    before = [(kind, name, kind.__dict__[name]) for kind, name, _ in replaced]
    for kind, name, function in replaced:
        setattr(kind, name, function)
    try:
        yield
    finally:
        for kind, name, function in before:
            setattr(kind, name, function)
