"""The plan and build rungs: launches recorded at full size and compiled for the platform, with a cache by content.

In: a candidate's source and a choice of its knobs. Out: per workload a LaunchPlan and the Resources of its launches.
Left to others: recording and compiling (`worker.plan`, `worker.build`, in a sealed builder).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Choice
from kernelevolve.errors import SeatLost
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.cache import BuildCache
from kernelevolve.evaluate.correct import BOUNDS, Bounds, Failed, candidate_asks
from kernelevolve.evaluate.roles import Conversation
from kernelevolve.evaluate.tune import BATCH
from kernelevolve.evaluation import LaunchPlan, Resources, Verdict
from kernelevolve.packed import PackedPlan
from kernelevolve.platforms import Platform
from kernelevolve.protocol import Description
from kernelevolve.wire import Message

BINARY_BYTES = 256 << 20  # of one workload's kernels, together


@dataclass(frozen=True)
class Built:
    """One workload's plan and what the compiler made of its distinct launches.

    Attributes:
        resources: of the plan's launches, then of those that only `gradients` has.
        gradients: the plan of a call with its gradients; None where the direction is `forward`, or with `unrecorded`,
            which says why there is none.
    """

    plan: LaunchPlan
    resources: tuple[Resources, ...]
    gradients: LaunchPlan | None = None
    unrecorded: str = ""

    def for_launches(self) -> tuple[Resources | None, ...]:
        """Resources in the order of the plan's launches, by kernel name and then by order of appearance."""
        by_name: dict[str, list[Resources]] = {}
        for r in self.resources:
            by_name.setdefault(r.kernel, []).append(r)
        return tuple(by_name.get(launch.kernel, [None])[0] for launch in self.plan.launches)


@dataclass(frozen=True)
class Packed:
    """One workload's plan ready to be carried out, with its binaries by digest; or None and the reason."""

    plan: PackedPlan | None
    binaries: Mapping[str, bytes]
    reason: str = ""


def _packed_again(known: Mapping[str, Any], cache: BuildCache) -> Packed | None:
    """What the cache has, if it has all of it."""
    try:
        plan = codec.from_data(PackedPlan | None, known["packed"])  # type: ignore[arg-type]
    except (KeyError, ValueError):
        return None
    digests = {kernel.digest for kernel in plan.kernels} if plan else set()
    binaries = {digest: data for digest in digests if (data := cache.get_bytes(digest)) is not None}
    return Packed(plan, binaries, str(known.get("unpacked", ""))) if len(binaries) == len(digests) else None


class Builder:
    """Builds candidates of one problem for one platform; a conversation lasts while the candidate stays the same."""

    def __init__(self, bench: Bench, platform: Platform, bounds: Bounds = BOUNDS) -> None:
        self.bench, self.platform, self.bounds = bench, platform, bounds
        self._open: dict[tuple[int, str, str], Conversation] = {}
        self._pool = ThreadPoolExecutor(min(BATCH, os.cpu_count() or 1), "build")

    def build(self, source: str, choice: Mapping[str, Choice], workloads: Sequence[str] = ()) -> list[Built]:
        """The plan and build of each of these workloads, by default of all.

        Raises:
            Failed: the candidate's host code, an op that is not allowed, or the compiler said no.
            SeatLost: the builder is gone, or the run was stopped.
        """
        self.bench.go_on()
        names = workloads or [w.name for w in self.bench.problem.workloads]
        return [self._built(name, source, choice) for name in names]

    def build_some(
        self, source: str, choices: Sequence[Mapping[str, Choice]], workloads: Sequence[str] = ()
    ) -> list[list[Built] | Failed]:
        """`build` of several choices side by side, in their order; a choice that fails gives its failure.

        Raises:
            SeatLost: a builder was lost.
        """

        def one(choice: Mapping[str, Choice]) -> list[Built] | Failed:
            try:
                return self.build(source, choice, workloads)
            except Failed as failed:
                return failed

        return list(self._pool.map(one, choices))

    def _built(self, workload: str, source: str, choice: Mapping[str, Choice]) -> Built:
        try:
            return self._build_one(self.bench.full(workload), source, choice)
        except Failed as failed:
            bounds = codec.to_data(self.bounds)
            failed.knowing(workload=workload, size="full", device="meta", choice=dict(choice), bounds=bounds)
            raise

    def _build_one(self, description: Description, source: str, choice: Mapping[str, Choice]) -> Built:
        role = self.bench.roles["builder"]
        facts = ("with gradients", source, description.variant.source, self.platform.name, dict(choice), self._rules())
        key = self.bench.cache.key(*facts, role.known_versions())
        answer = self.bench.cache.get(key)
        if answer is None:
            answer = dict(self._ask(description, source, choice).body)
            self.bench.cache.put(key, answer)
        forbidden = answer["forbidden"]
        if forbidden and self.bench.problem.library_calls == "forbidden":
            allowed = "views, allocations, fills and copies"
            raise Failed(Verdict.POLICY, f"forward runs {forbidden[0]}; only {allowed} are allowed beside kernels")
        resources = tuple(codec.from_data(Resources, r) for r in answer["resources"])
        gradients = codec.from_data(LaunchPlan | None, answer["gradients"])  # type: ignore[arg-type]
        return Built(codec.from_data(LaunchPlan, answer["plan"]), resources, gradients, answer["unrecorded"])

    def pack(self, source: str, choice: Mapping[str, Choice], workload: str) -> Packed:
        """The plan of one workload ready to be carried out, or why there is none.

        Raises:
            Failed: as in `build`; `TAMPER` where what came is no plan.
            SeatLost: the builder is gone, or the run was stopped.
        """
        self.bench.go_on()
        description, role = self.bench.full(workload), self.bench.roles["builder"]
        facts = ("packed", source, description.variant.source, self.platform.name, dict(choice), self._rules())
        key = self.bench.cache.key(*facts, role.known_versions())
        known = self.bench.cache.get(key)
        found = _packed_again(known, self.bench.cache) if known is not None else None
        if found is None:
            found = self._ask_packed(description, source, choice)
            for binary in found.binaries.values():
                self.bench.cache.put_bytes(binary)
            self.bench.cache.put(key, {"packed": codec.to_data(found.plan), "unpacked": found.reason})
        return found

    def _ask_packed(self, description: Description, source: str, choice: Mapping[str, Choice]) -> Packed:
        message = self._ask(description, source, choice, pack=True)
        try:
            if sum(file.size for file in message.attachments.values()) > BINARY_BYTES:
                return Packed(None, {}, f"its binaries have more than {BINARY_BYTES} bytes")
            binaries = {name: file.read() for name, file in message.attachments.items()}
        finally:
            message.close()
        odd = [name for name, data in binaries.items() if hashlib.sha256(data).hexdigest() != name]
        try:
            if odd:
                raise ValueError(f"a binary is not the one that it names: {odd[0][:64]!r}")
            plan = codec.from_data(PackedPlan | None, message.body["packed"])  # type: ignore[arg-type]
            return Packed(plan, binaries, str(message.body["unpacked"])[:300])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise Failed(Verdict.TAMPER, f"the builder sent a plan that is none: {str(error)[:200]}") from error

    def _rules(self) -> list[str]:
        p = self.bench.problem
        return [p.precision, p.direction, p.mode]

    def _ask(
        self, description: Description, source: str, choice: Mapping[str, Choice], *, pack: bool = False
    ) -> Message:
        conversation = self._conversation(description, source)
        body = {
            "platform": self.platform.name,
            "target": codec.to_data(self.platform.target),
            "figures": codec.to_data(self.platform.figures),
            "answers": dict(self.platform.device_answers()),
            "choice": dict(choice),
            "build": not pack,
            "pack": pack,
        }
        try:
            return candidate_asks(conversation, "plan", body, seconds=self.bounds.build_seconds)  # type: ignore[no-any-return]
        except (Failed, SeatLost):
            if conversation.channel.sock.fileno() < 0:
                self._open = {k: c for k, c in self._open.items() if c is not conversation}
            raise

    def _conversation(self, description: Description, source: str) -> Conversation:
        key = (threading.get_ident(), description.variant.label, source)
        if key in self._open and not self._open[key].role.gone:
            return self._open[key]
        for stale in [k for k in self._open if k[0] == key[0] and k[2] != source]:
            self._open.pop(stale).end()
        conversation = self.bench.roles["builder"].open(self.bounds.limits, self.bench.scratch(source))
        opened = self.bench.opened(description, "meta", candidate=source)
        try:
            body = {"opened": codec.to_data(opened)}
            candidate_asks(conversation, "prepare", body, seconds=self.bounds.build_seconds)
        except (Failed, SeatLost):
            conversation.end()
            raise
        self._open[key] = conversation
        return conversation

    def close(self) -> None:
        """Ends the open conversations."""
        self._pool.shutdown(cancel_futures=True)
        for conversation in self._open.values():
            conversation.end()
        self._open.clear()

    def describe(self, resources: Sequence[Resources]) -> str:
        """One line about what was built."""
        parts = [
            f"{r.kernel}: {r.registers} registers, {r.spill_bytes} B spilled, {r.shared_bytes} B shared, "
            f"occupancy {r.occupancy:.0%}"
            for r in resources
        ]
        return f"{self.platform.target.name}: " + "; ".join(parts)
