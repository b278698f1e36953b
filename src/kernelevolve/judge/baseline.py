"""The baselines: the honest reference, eager or compiled, timed on the device by the shared clock.

In: an `Opened` and the name of an arm. Out: milliseconds per call. Left to others: interleaving the arms (`evaluate`),
ring and events (`tensors.clock`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from kernelevolve.errors import ProblemError
from kernelevolve.protocol import Case, Opened
from kernelevolve.tensors import call, clock, draw, load

ARMS = ("eager", "compile", "compile-max-autotune")


class Baseline:
    """One arm on one device, with its own ring of inputs drawn from the same seeds as the candidate's."""

    def __init__(self, opened: Opened, arm: str, seed: int, distribution: str = "D1") -> None:
        if arm not in ARMS:
            raise ProblemError(f"unknown baseline {arm!r}; known: {', '.join(ARMS)}")
        load.set_precision(opened.precision)
        variant = opened.description.variant
        self.opened, self.distribution = opened, distribution
        self.module = load.load_module(variant.source, variant.label)
        self.model = load.build_model(
            self.module, seed=opened.module_seed, device=opened.device, precision=opened.precision, mode=opened.mode
        )
        state = draw.draw_state(opened.description.state, Case(seed), opened.device)
        draw.apply_state(self.model, state)
        self.call = self._arm(arm)
        self.ring = clock.Ring(self._draw, seed, opened.device)

    def _arm(self, arm: str) -> Callable[..., Any]:
        if arm == "eager":
            forward: Callable[..., Any] = self.model
        elif arm == "compile":
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

        cotangents = draw.draw_cotangents(Case(0), self.opened.device)
        return call.timed(Compiled(self.model), self.opened.direction, cotangents)

    def _draw(self, seed: int) -> Sequence[Any]:
        needs = self.opened.direction != "forward"
        return draw.draw_inputs(
            self.opened.description, Case(seed, self.distribution), self.opened.device, self.module, requires_grad=needs
        )

    def warm(self, seconds: float) -> clock.Warmed:
        """Calls until warm."""
        with self._blamed(), torch.set_grad_enabled(self.opened.direction != "forward"):
            return clock.warm(self.call, self.ring, seconds)

    def burst(self, calls: int) -> list[float]:
        """Milliseconds of each of `calls` calls, cold."""
        with self._blamed(), torch.set_grad_enabled(self.opened.direction != "forward"):
            return clock.burst(self.call, self.ring, calls)

    def _blamed(self) -> Any:
        return load.blamed(self.module.__file__ or "", self.opened.description.variant.label, "forward")
