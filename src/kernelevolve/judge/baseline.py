"""The baselines: the honest reference, eager or compiled, timed on the device by the shared clock.

In: an `Opened` and the name of an arm. Out: milliseconds per call. Left to others: interleaving the arms (`evaluate`),
ring and events (`tensors.clock`), held in the same way as a candidate's (`tensors.arm`).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from kernelevolve.errors import MachineError, ProblemError
from kernelevolve.protocol import Case, Opened
from kernelevolve.tensors import call, draw, graphs, load
from kernelevolve.tensors.arm import Arm, put_back

ARMS = ("eager", "compile", "compile-max-autotune")


class Baseline:
    """One arm on one device, with its own ring; every burst's inputs are drawn from the candidate's seeds."""

    def __init__(self, opened: Opened, arm: str, seed: int, distribution: str = "D1") -> None:
        if arm not in ARMS:
            raise ProblemError(f"unknown baseline {arm!r}; known: {', '.join(ARMS)}")
        load.set_precision(opened.precision)
        variant = opened.description.variant
        self.opened, self.distribution, self._name = opened, distribution, arm
        self.module = load.load_module(variant.source, variant.label)
        self.model = load.build_model(
            self.module, seed=opened.module_seed, device=opened.device, precision=opened.precision, mode=opened.mode
        )
        self.case = Case(seed, distribution, state=seed)
        draw.apply_state(self.model, draw.draw_state(opened.description.state, self.case, opened.device))
        forward = opened.direction == "forward"
        leaves, back = call.output_leaves if forward else list, put_back(self.model)
        self.arm = Arm(self._arm(arm), self._draw, leaves, opened.device, grad=not forward, before=back)

    def _arm(self, arm: str) -> Callable[..., Any]:
        if arm == "eager":
            forward: Callable[..., Any] = self.model
        elif arm == "compile":
            _compile_here()
            forward = torch.compile(self.model)
        else:
            forward = torch.compile(self.model, mode="max-autotune")
        if self.opened.direction == "forward":
            return forward

        class Compiled(torch.nn.Module):  # type: ignore[misc]
            """The compiled forward with the module's own parameters, for autograd."""

            def __init__(self, model: Any) -> None:
                super().__init__()
                self.model = model

            def forward(self, *arguments: Any) -> Any:
                return forward(*arguments)

        cotangents = draw.draw_cotangents(self.case, self.opened.device)
        return call.timed(Compiled(self.model), self.opened.direction, cotangents)

    def _draw(self, case: Case) -> Sequence[Any]:
        needs = self.opened.direction != "forward"
        return draw.draw_inputs(self.opened.description, case, self.opened.device, self.module, requires_grad=needs)

    def compile(self) -> dict[str, Any]:
        """Compiles for what the ring will hold and runs none of it, so that nobody on the device is disturbed; `whole`
        is false where that cannot be: eager has nothing to compile, and max-autotune measures while it does."""
        if self._name != "compile":
            return {"whole": False}
        with self._blamed(), torch.set_grad_enabled(self.arm.grad), _not_run() as stopped:
            self.arm.function(*self._draw(self.case))
        return {"whole": bool(stopped)}

    def warm(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """See `tensors.arm.Arm.warm`."""
        with self._blamed():
            return self.arm.warm(body)

    def capture(self) -> dict[str, Any]:
        """One CUDA graph per slot of the warm ring; `why` says why there are none, empty where there are."""
        try:
            with self._blamed(), torch.set_grad_enabled(self.arm.grad):
                return {"why": graphs.capture(self.arm.function, self.arm.ring)}
        except (ProblemError, MachineError) as error:
            return {"why": str(error)}

    def renew(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """See `tensors.arm.Arm.renew`."""
        return self.arm.renew(body)

    def burst(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """See `tensors.arm.Arm.burst`."""
        with self._blamed():
            return self.arm.burst(body)

    def _blamed(self) -> Any:
        return load.blamed(self.module.__file__ or "", self.opened.description.variant.label, "forward")


class _Compiled(Exception):
    """In place of the first run of what was compiled."""


@contextlib.contextmanager
def _not_run() -> Iterator[list[str]]:
    """Ends inside before a graph that Inductor compiled is run, and says so in the list: what was compiled stays."""
    graph: Any = importlib.import_module("torch._inductor.output_code").CompiledFxGraph
    run, stopped = graph.__call__, list[str]()

    def stop(_self: Any, *_arguments: Any, **_named: Any) -> None:
        raise _Compiled

    graph.__call__ = stop
    try:
        yield stopped
    except _Compiled:
        stopped.append("compiled")
    finally:
        graph.__call__ = run


def _compile_here() -> None:
    """Has Inductor compile in this process: its pool takes longer to start than the few kernels of one problem to
    compile, on all processors while candidates are built on them."""
    config: Any = importlib.import_module("torch._inductor.config")
    config.compile_threads = 1
