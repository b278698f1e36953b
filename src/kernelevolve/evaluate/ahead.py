"""What is made ready on a device before the first candidate of a problem gets there.

In: a bench, the inputs on which candidates will be compared. Out: baselines that are compiled, warm and looked at,
oracles that are computed and floors that are known, while the first candidates are still built. Left to others:
baselines and their warmth (`measure`), room for them (`households`), turns (`seat`).

Whatever takes long submits no work to the device, so that nobody who is timed has to wait for it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from kernelevolve import codec
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.floor import compulsory
from kernelevolve.evaluate.room import screen_slots
from kernelevolve.evaluate.seat import SOON, Share
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.protocol import Case, Description

if TYPE_CHECKING:
    from kernelevolve.evaluate.measure import Device


class Ahead:
    """For one device.

    Args:
        seeds: of inputs on which nothing is judged.
    """

    def __init__(self, device: Device, seeds: Seeds) -> None:
        self._device, self._seeds = device, seeds
        self._pool = ThreadPoolExecutor(2, "ahead")  # oracles beside baselines
        self._first = threading.Lock()
        self._preparing: dict[str, Future[None]] = {}

    def prepare(self, bench: Bench, memory: int, cases: Sequence[Case] = ()) -> Future[None]:
        """Has the baselines of a problem compiled and looked at, and its oracles computed; done at once where the sizes
        leave no room for that, or where it was done before.

        Args:
            memory: the device's bytes.
            cases: of the oracles.

        The future is that of the baselines; its errors are the problem's or the machine's: ProblemError, SeatLost. Who
        finds an oracle missing asks for it himself, and meets the same fault.
        """
        with self._first:
            known = self._preparing.get(bench.problem.key)
            if known is None and self._device.roomy(bench):
                self._pool.submit(self._oracles, bench, memory, cases)
            if known is None or (known.done() and (known.exception() is not None or self._device.cold(bench))):
                known = self._preparing[bench.problem.key] = self._pool.submit(self._baselines, bench, memory)
            return known

    def _baselines(self, bench: Bench, memory: int) -> None:
        device = self._device
        if not device.roomy(bench):
            return
        keys = [(w.name, arm) for w in bench.problem.workloads for arm in device.arms(bench, w.name)]
        with device.household(bench, memory, yields=False):
            with device.seat.doorstep(), device.lock, ThreadPoolExecutor(len(keys)) as pool:
                # Side by side: each is mostly the start of a process, and compiling.
                list(pool.map(lambda key: bench.judged(device.baseline(bench, *key), "compile", {}), keys))
            with device.seat.unplaced(), device.lock:
                for name in device.cold(bench):
                    sizes = {"slots": 0, "most": screen_slots(bench.full(name)), "hold": 0}
                    body: dict[str, Any] = {"distribution": "declared", "seconds": 0.0, **sizes}
                    device.warm_baselines(bench, name, {"seed": self._seeds.seed(f"warm/{name}") >> 1, **body})
            if device.unseen(bench):
                # All candidates of the problem may wait for it.
                with device.seat.unplaced() as share, share.alone(SOON):
                    device.first_looks(bench, self._seeds)
            device.settle(bench, memory)

    def _oracles(self, bench: Bench, memory: int, cases: Sequence[Case]) -> None:
        device = self._device
        fulls = [bench.full(workload.name) for workload in bench.problem.workloads]

        def computed(share: Share, full: Description, case: Case) -> Mapping[str, Any]:
            with share.holding(bench.lock):
                judge = bench.oracle(full, device.torch_name)
                return bench.judged(judge, "case", {"case": codec.to_data(case)}).body

        with device.household(bench, memory, yields=False):
            with device.seat.doorstep(), bench.lock:
                for full in fulls:
                    bench.oracle(full, device.torch_name)
            with device.seat.unplaced() as share:
                for full, case in itertools.product(fulls, cases):
                    share.give_way()
                    bench.expected(full, device.torch_name, case, partial(computed, share, full, case))
                for full in fulls:
                    share.give_way()
                    seed = self._seeds.seed(f"floor/{full.variant.workload}")
                    compulsory(bench, full, device.torch_name, Case(seed, state=seed), share)
