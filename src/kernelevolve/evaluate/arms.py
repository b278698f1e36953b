"""The arms of a timing as this process sees them: which inputs each call gets, how long the arm was waited for, and
whether what the candidate's timed calls gave is right.

In: conversations with a worker and with judges. Out: bursts for `timing.time_arms`, and after each block the comparison
of every timed call. Left to others: clock and ring (`tensors.arm`), the rule (`judge.timed`), the interval (`timing`).

Every call has inputs of its own: their seed leaves this process just before the burst. The order in which slots are
visited and the choice of the calls that are compared in full come from the secret, too, and the choice is made once the
burst is over. Both arms get the same inputs in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kernelevolve import codec
from kernelevolve.errors import SeatLost
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.consistency import Taken
from kernelevolve.evaluate.correct import Failed, candidate_asks
from kernelevolve.evaluate.roles import Conversation, Refusal
from kernelevolve.evaluate.room import HELD_BLOCKS, HOLD_BYTES, HOLD_SHARE, SCREEN_HOLD_BYTES, SCREEN_HOLD_SHARE
from kernelevolve.evaluate.seat import Stay, Undisturbed
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.timing import BURSTS, pilot
from kernelevolve.evaluation import Check, Verdict
from kernelevolve.protocol import Case, Description
from kernelevolve.wire import Message

PAUSE = 0.05  # seconds after which a wrong output is read once more
EARLIER = 48  # calls of which one may be what a wrong output was remembered from
_LOOK_SECONDS = 300.0
Ask = Callable[[str, Mapping[str, Any]], Message]


@dataclass(frozen=True)
class Call:
    """One timed or untimed call: the slot that it visited and its inputs."""

    slot: int
    case: Case


@dataclass(frozen=True)
class Shape:
    """The bursts of one timing.

    Attributes:
        slots: of both rings.
        untimed: calls before each burst.
        calls, longer: timed calls of the two kinds of bursts.
        hold: results that are held at a time.
        by_burst: compared after each burst, where memory does not hold a block's results.
    """

    slots: int
    untimed: int
    calls: int
    longer: int
    hold: int
    by_burst: bool

    @property
    def block(self) -> int:
        """Results that are held until they are compared, where that is done as soon as can be."""
        return self.longer if self.by_burst else BURSTS // 2 * (self.calls + self.longer)


def shape_for(calls: int, slow: bool, slots: int, output: int, free: int, *, blocks: int = 0) -> Shape:
    """As many calls as asked for, as far as slots and memory for results allow.

    Args:
        blocks: of a candidate that shares the device, whose results are held together if they fit; 0 = of one that has
            it to itself, where those of one block are.
        calls: of a short burst.
        slow: one untimed call before each burst is enough.
        output: bytes of one call's results.
        free: bytes of free device memory.
    """
    untimed = 1 if slow or blocks or slots < 8 else 3
    most, share = (SCREEN_HOLD_BYTES, SCREEN_HOLD_SHARE) if blocks else (HOLD_BYTES, HOLD_SHARE)
    room = max(1, int(min(most, share * free)) // max(1, output))
    longest = max(1, slots - untimed)
    # What does not fit is compared between blocks, while nobody else works: in a screen at most every other block's.
    calls = max(1, min(calls, longest // 2, room // (6 * (HELD_BLOCKS if blocks else 1))))
    longer = min(2 * calls, longest)
    by_burst = BURSTS // 2 * (calls + longer) > room
    one = Shape(slots, untimed, calls, longer, 0, by_burst)
    return replace(one, hold=one.block * (1 if by_burst else max(1, min(blocks, room // one.block))))


class Arm:
    """One process that is timed.

    Args:
        ask: puts a question to it.
        turns: draws the calls of its burst number 0, 1, ...
        queued: milliseconds that it has stood in line for a processor so far.

    Attributes:
        blocks: what was taken of each block's bursts.
        pending: timed calls whose results are held and not compared yet, with the sums that came with their times.
        history: every call before those, the latest last.
    """

    def __init__(
        self,
        ask: Ask,
        turns: Callable[[int, int], list[Call]],
        shape: Shape,
        mode: str,
        queued: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.ask, self.turns, self.shape, self.mode, self.queued = ask, turns, shape, mode, queued
        self.blocks: list[list[Taken]] = [[]]
        self.pending: list[tuple[Call, Sequence[str]]] = []
        self.history: list[Call] = []
        self.replaced: list[str] = []
        self.number = 0
        self.lead = 0.0  # milliseconds of busy wait before its timed calls
        self.ahead = False  # whether the last burst's were submitted while it lasted

    def __call__(self, calls: int) -> Sequence[float]:
        """Milliseconds of each of `calls` calls on new inputs."""
        due = self.turns(self.number, self.shape.untimed + calls)
        self.number += 1
        # Untimed calls find their slots as they were.
        seeds = [[call.slot, call.case.seed if i >= self.shape.untimed else -1] for i, call in enumerate(due)]
        self.ask("renew", {"calls": seeds, "distribution": due[0].case.distribution, "drop": not self.pending})
        queued, start = self.queued(), time.monotonic()
        answer = self.ask("burst", {"mode": self.mode, "untimed": self.shape.untimed, "hold": True, "lead": self.lead})
        wall, queued = (time.monotonic() - start) * 1e3, self.queued() - queued
        self.ahead = bool(answer.body.get("ahead"))
        times = [float(t) for t in answer.body["milliseconds"]]
        timed = due[self.shape.untimed :]
        sums = list(answer.body.get("sums", ()))
        if len(times) != len(timed):
            raise Failed(Verdict.TAMPER, f"the worker reports {len(times)} times of {len(timed)} calls")
        self.replaced = [str(name) for name in answer.body.get("replaced", ())]
        self.blocks[-1].append(Taken(len(times), wall, sum(times), queued))
        self.pending += [(call, sums[i] if i < len(sums) else ()) for i, call in enumerate(timed)]
        return times

    def next_block(self, *, keep: bool = False) -> None:
        """What is taken from now on belongs to another block; results held so far are given up unless they are to be
        kept for a comparison."""
        self.blocks.append([])
        if not keep:
            self.compared()

    def compared(self) -> None:
        """The results held so far are no longer needed."""
        self.history += [call for call, _ in self.pending]
        self.pending = []


def turns_of(
    seeds: Seeds, label: str, slots: int, state: int, distribution: str = "declared"
) -> Callable[[int, int], list[Call]]:
    """The calls of each burst: slots in shuffled order, inputs from the secret; the same for every arm."""

    def calls(number: int, count: int) -> list[Call]:
        order = list(range(slots))
        seeds.stream(f"{label}/{number}/slots").shuffle(order)
        return [
            Call(slot, Case(seeds.seed(f"{label}/{number}/{i}"), distribution, state=state))
            for i, slot in enumerate(order[:count])
        ]

    return calls


def first_look(
    asks: Mapping[str, Ask], turns: Callable[[int, int], list[Call]], slots: int, mode: str, rounds: int = 1
) -> dict[str, float]:
    """Milliseconds of a call of each baseline, from short bursts in turn; nobody else may be on the device."""
    short = Shape(slots, 1, 1, 1, 0, False)
    return pilot({name: Arm(ask, turns, short, mode) for name, ask in asks.items()}, rounds)


@dataclass
class Looks:
    """Compares every timed call of a candidate after each block.

    Attributes:
        share: of the calls that are compared in full.
        stay: lets others by.
        full, short: calls compared so far; `escalated` of the full ones were not near the reference.
        unusable: calls on whose inputs passing means nothing.
        worst: the failed or first check of the full comparison that came nearest to its limit.
    """

    bench: Bench
    description: Description
    device: str
    worker: Conversation
    key: str
    share: float
    seeds: Seeds
    label: str
    seconds: float
    stay: Stay = field(default_factory=Undisturbed)
    full: int = 0
    short: int = 0
    unusable: int = 0
    worst: Check | None = None
    _warmed: list[Call] = field(default_factory=list)

    def started(self, calls: Sequence[Call]) -> None:
        """These were in the slots while the candidate was warmed up."""
        self._warmed = list(calls)

    def look(self, arm: Arm, block: int) -> None:
        """Compares what is pending of an arm.

        Raises:
            Failed: `WRONG_VALUE`, `WRONG_META`, `REPLAY`, `DEFERRED` or `TAMPER`.
        """
        if not arm.pending:
            return
        chosen = self.seeds.stream(f"{self.label}/full/{block}/{arm.number}")
        full = [chosen.random() < self.share for _ in arm.pending]
        if not any(full) and not self.full:
            full[chosen.randrange(len(full))] = True
        holding = self._held({})
        try:
            bodies = self._bodies(holding, arm, full)
            looked = self._judge("look", {"calls": bodies, "candidate": self.key}, holding)
        finally:
            holding.close()
        for number, (found, (call, _)) in enumerate(zip(looked["calls"], arm.pending, strict=True)):
            self._count(found)
            if number in looked["changed"]:
                raise self._failed(Verdict.DEFERRED, call, "the output was written to after its call had been timed")
            if not found["passed"]:
                raise self._wrong(number, call, found, arm, bodies)

    def _count(self, found: Mapping[str, Any]) -> None:
        self.full, self.short = self.full + bool(found["full"]), self.short + (not found["full"])
        self.unusable += not found["usable"]
        for check in (codec.from_data(Check, c) for c in found["checks"]):
            if self.worst is None or _ratio(check) > _ratio(self.worst):
                self.worst = check

    def _held(self, more: Mapping[str, Any]) -> Message:
        asked = {"ipc": self.device != "cpu" and self.bench.shares_memory, **more}
        return candidate_asks(self.worker, "held", asked, seconds=self.seconds)  # type: ignore[no-any-return]

    def _bodies(self, holding: Message, arm: Arm, full: Sequence[bool]) -> list[dict[str, Any]]:
        calls = holding.body["calls"]
        if len(calls) != len(arm.pending):
            raise Failed(Verdict.TAMPER, f"the worker holds results of {len(calls)} of {len(arm.pending)} timed calls")
        return [
            {
                "case": codec.to_data(call.case),
                "metas": one["metas"],
                "offsets": one["offsets"],
                "sums": list(sums),
                "full": full[number],
                "number": number,
            }
            for number, ((call, sums), one) in enumerate(zip(arm.pending, calls, strict=True))
        ]

    def _judge(self, kind: str, body: Mapping[str, Any], holding: Message) -> Mapping[str, Any]:
        """The judge's answer; where device memory cannot be shared, the bytes are sent, here and from now on."""
        handle = holding.body.get("handle")
        asked = {**body, "handle": handle} if handle else body
        with self.stay.holding(self.bench.lock):
            judge = self.bench.oracle(self.description, self.device)
            if not handle:
                return self.bench.judged(judge, kind, asked, holding.attachments, seconds=_LOOK_SECONDS).body
            try:
                return judge.ask(kind, asked, holding.attachments, seconds=_LOOK_SECONDS).body
            except Refusal as refusal:
                if "CUDA IPC" not in refusal.message:
                    raise SeatLost(f"while asked to {kind}: {refusal}") from refusal
                self.bench.shares_memory = False
        sent = self._held({})
        try:
            return self._judge(kind, body, sent)
        finally:
            sent.close()

    def _wrong(
        self, number: int, call: Call, found: Mapping[str, Any], arm: Arm, bodies: Sequence[Mapping[str, Any]]
    ) -> Failed:
        """The verdict on a timed call whose output is wrong, by what it turns out to be."""
        check = codec.from_data(Check, found["checks"][0])
        if check.name == "meta":
            return self._failed(Verdict.WRONG_META, call, f"{check.detail} in a timed call", check)
        one = {**bodies[number], "sums": [], "full": True}
        known = self._earlier(call, arm, number)
        holding = self._held({})
        try:
            cases = [codec.to_data(k.case) for k in known]
            matched = self._judge("earlier", {"calls": [one], "cases": cases}, holding)
        finally:
            holding.close()
        again = self._held({"pause": PAUSE})
        try:
            later = self._judge("look", {"calls": [one], "candidate": ""}, again)
        finally:
            again.close()
        if later["calls"][0]["passed"]:
            return self._failed(
                Verdict.DEFERRED, call, f"the output of a timed call was right only {PAUSE:g} s after it", check
            )
        if (index := int(matched["index"])) >= 0:
            before = "the same slot's call before" if known[index].slot == call.slot else "an earlier call"
            message = f"the output of a timed call is the right one for {before}, not for its own"
            return self._failed(Verdict.REPLAY, call, message, check)
        if matched["stale"]:
            return self._failed(
                Verdict.REPLAY, call, f"the output of a timed call uses an earlier call's {matched['stale']}", check
            )
        return self._failed(Verdict.WRONG_VALUE, call, "a timed call is wrong", check)

    def _earlier(self, call: Call, arm: Arm, number: int) -> list[Call]:
        """Earlier calls from which the output may be remembered, the likeliest first."""
        before = [*self._warmed, *arm.history, *(c for c, _ in arm.pending[:number])]
        same = [c for c in reversed(before) if c.slot == call.slot]
        kept = dict.fromkeys([*same[: EARLIER // 2], *before[-EARLIER // 4 :][::-1], *before[: EARLIER // 4]])
        return list(kept)

    def _failed(self, verdict: Verdict, call: Call, message: str, check: Check | None = None) -> Failed:
        facts: dict[str, Any] = {
            "guard": "timed-outputs",
            "workload": self.description.variant.workload,
            "size": self.description.variant.size,
            "device": self.device,
            **codec.to_data(call.case),
        }
        if check is not None:
            facts |= {"statistic": check.name, "value": check.value, "limit": check.limit}
            message += f": {check.name} {check.value:.3g} exceeds {check.limit:.3g} {check.detail}"
        return Failed(verdict, f"{message} (inputs {call.case.distribution}, seed {call.case.seed})", artefact=facts)

    def __str__(self) -> str:
        worst = f"; nearest to its limit: {self.worst.name} {_ratio(self.worst):.2g} of it" if self.worst else ""
        odd = f", {self.unusable} of them on inputs on which passing means nothing" if self.unusable else ""
        return (
            f"{self.full + self.short} of {self.full + self.short} timed calls compared, {self.full} in full with the "
            f"oracle{odd}{worst}"
        )


def _ratio(check: Check) -> float:
    return check.value / check.limit if check.limit else float(not check.passed)
