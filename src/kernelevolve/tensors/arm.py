"""One arm of a timing: a function with its ring of inputs and its held results, as judge and worker both have it.

In: the function, how inputs are drawn from a Case, the host's questions `warm`, `renew`, `burst`. Out: their answers.
Left to others: clock and ring (`clock`), copies of results (`held`), who compares (`judge.timed`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kernelevolve import codec
from kernelevolve.protocol import Case
from kernelevolve.tensors import clock, held
from kernelevolve.tensors.outputs import meta_of

Draw = Callable[[Case], Sequence[Any]]


class Arm:
    """A function ready to be timed.

    Args:
        leaves: names the outputs of one result.
        before: called before every burst: puts back state that calls change.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        draw: Draw,
        leaves: Callable[[Any], held.Leaves],
        device: str,
        *,
        grad: bool = False,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.function, self.draw, self.leaves, self.device = function, draw, leaves, device
        self.grad, self.before = grad, before
        self._ring: clock.Ring | None = None
        self._held: held.Held | None = None
        self._due: list[int] = []

    def warm(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`warm {seed, distribution, seconds, slots, most, hold}`: fills the ring and calls until warm.

        Args:
            body: `slots` 0 leaves their number to the memory here, within `most` if that is above 0; `hold` is the
                number of results held at a time.
        """
        seed, distribution = int(body["seed"]), str(body.get("distribution", "declared"))
        if self._ring is None:
            self._ring = clock.Ring(
                self.draw(Case(seed, distribution)),
                lambda i: self.draw(Case(seed + i, distribution)),
                self.device,
                int(body.get("slots", 0)),
                seed=seed,
                most=int(body.get("most", 0)),
            )
        self.drop()
        with torch.set_grad_enabled(self.grad):
            facts, result = clock.warm(self.function, self._ring, float(body["seconds"]))
        metas, hold = [meta_of(path, leaf) for path, leaf in self.leaves(result)], int(body.get("hold", 0))
        arena = held.arena_bytes(metas, hold)
        if hold and (self._held is None or self._held.arena.numel() < arena):
            self._held = None  # before the next one is made
            self._held = held.Held(self.leaves, self.device, arena)
        return dict(codec.to_data(facts))

    def renew(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`renew {calls, distribution, drop}`: other bytes in the slots that the next burst visits, in this order.

        Args:
            body: `calls` are pairs of a slot and the seed of its inputs, below 0 for those that it has, each slot at
                most once; with `drop` results held so far are forgotten first.

        Raises:
            ValueError: no such slot, or one of them twice.
        """
        ring = self.ring
        if body.get("drop"):
            self.drop()
        calls = [(int(slot), int(seed)) for slot, seed in body["calls"]]
        self._due = [slot for slot, _ in calls]
        if len(set(self._due)) != len(self._due) or not all(0 <= slot < len(ring.slots) for slot in self._due):
            raise ValueError(f"a burst visits each of {len(ring.slots)} slots at most once, asked for {self._due}")
        for slot, seed in calls:
            if seed < 0:
                continue
            ring.renew(slot, self.draw(Case(seed, str(body.get("distribution", "declared")))))
        self.before()
        ring.wait()
        return {}

    def burst(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`burst {mode, untimed, hold, lead}`: calls on the slots just renewed; `milliseconds` of each timed one.

        Args:
            body: the first `untimed` of them are not timed; without `hold` results are dropped at once.
        """
        untimed, taken = int(body.get("untimed", 0)), self._held
        hold = taken.take if body.get("hold", True) and taken is not None else _drop
        since = len(taken.calls) if taken is not None else 0
        due, self._due = self._due, []
        with torch.set_grad_enabled(self.grad):
            lead = float(body.get("lead", 0.0))
            times = clock.burst(self.function, self.ring, due[:untimed], due[untimed:], body["mode"], hold, lead)
        sums = taken.sums(since) if taken is not None else []
        return {"milliseconds": times, "sums": [[str(s) for s in call] for call in sums], "ahead": self.ring.ahead}

    @property
    def ring(self) -> clock.Ring:
        """The ring; a RuntimeError before `warm`."""
        if self._ring is None:
            raise RuntimeError("the arm is not warm: ask `warm` first")
        return self._ring

    @property
    def results(self) -> held.Held:
        """The results held since they were last dropped; a RuntimeError if none were asked for."""
        if self._held is None:
            raise RuntimeError("no results are held: ask `warm` with `hold`")
        return self._held

    def drop(self) -> None:
        """Forgets the results held so far."""
        if self._held is not None:
            self._held.drop()


def put_back(model: Any) -> Callable[[], None]:
    """Remembers the model's buffers as they are; the function returned gives them these values again, in place."""
    held = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]

    def put() -> None:
        for buffer, values in held:
            buffer.data.copy_(values)

    return put


def _drop(result: Any) -> None:
    """Nothing is held."""
