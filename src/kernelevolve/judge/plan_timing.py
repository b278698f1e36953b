"""A plan as one arm of a timing: the same questions as a worker's, the same clock and ring, no candidate's Python.

In: messages. Out: answers. Left to others: the plan (`plan_lane`), clock, ring and held results (`tensors`), comparing
(`timed`, in another child).

warm    {seed, state, distribution, seconds, slots, hold}  -> warmed {...}     see `tensors.arm.Arm.warm`
capture {}                                                 -> captured {why}
kernels {calls}                                            -> seen {spans, why}
renew   {calls, distribution, drop}                        -> renewed {}
burst   {mode, untimed, hold}                              -> timed {milliseconds, sums, replaced}
held    {ipc, pause?}                                      -> holding {calls, handle?}      + arena
"""

from __future__ import annotations

from typing import Any

from kernelevolve import codec
from kernelevolve.judge.plan_lane import PlanArm
from kernelevolve.protocol import Case
from kernelevolve.tensors.arm import Arm
from kernelevolve.tensors.export import export
from kernelevolve.tensors.held import Held
from kernelevolve.tensors.outputs import to_bytes
from kernelevolve.wire import Attachment, Message, memory_bytes

Replied = tuple[str, dict[str, Any], dict[str, Attachment]]


def warm(plan: PlanArm, state: dict[str, Any], message: Message) -> Replied:
    """See above; before each burst weights, modules and poison are as new."""
    body = message.body
    if "arm" not in state:
        case = Case(int(body["seed"]), state=int(body.get("state", body["seed"])))

        def afresh() -> None:
            plan.restore(case)
            plan.fresh()

        afresh()
        plan.forget()
        state["arm"] = Arm(plan, plan.inputs, plan.leaves, plan.device, before=afresh)
    return "warmed", plan.guarded(lambda: _arm(state).warm(body)), {}


def capture(plan: PlanArm, state: dict[str, Any], message: Message) -> Replied:
    """See above; a plan's launches have no Python between them that a graph would save."""
    return "captured", {"why": "a plan is launched as it is"}, {}


def seen(plan: PlanArm, state: dict[str, Any], message: Message) -> Replied:
    """See above; what a plan launches is written in it."""
    return "seen", {"why": "a plan says itself what it launches", "spans": []}, {}


def renew(plan: PlanArm, state: dict[str, Any], message: Message) -> Replied:
    """See above."""
    return "renewed", _arm(state).renew(message.body), {}


def burst(plan: PlanArm, state: dict[str, Any], message: Message) -> Replied:
    """See above; nothing foreign ran here that could have replaced a clock."""
    found = plan.guarded(lambda: _arm(state).burst(message.body))
    return "timed", {**found, "replaced": []}, {}


def held(plan: PlanArm, state: dict[str, Any], message: Message) -> Replied:
    """See above. With `pause` a second look is asked for: whatever a kernel does is over when the device has finished,
    so the copies are made again at once."""
    results: Held = _arm(state).results
    if "pause" in message.body:
        results.again()
    calls, elsewhere, used = [], dict[str, Attachment](), 0
    for number, copied in enumerate(results.calls):
        calls.append({"metas": codec.to_data([c.meta for c in copied]), "offsets": [c.offset for c in copied]})
        for one in copied:
            if one.offset >= 0:
                used = max(used, one.offset + one.meta.nbytes)
            elif one.values is not None and one.meta.nbytes:
                elsewhere[f"{number}/{one.meta.path}"] = memory_bytes(to_bytes(one.values))
    _arm(state).ring.wait()
    body: dict[str, Any] = {"calls": calls}
    if message.body.get("ipc"):
        return "holding", {**body, "handle": export(results.arena)}, elsewhere
    arena = memory_bytes(memoryview(results.arena[:used].cpu().numpy()))
    return "holding", body, {"arena": arena, **elsewhere}


def _arm(state: dict[str, Any]) -> Arm:
    arm: Arm = state["arm"]
    return arm


ANSWERS = {"warm": warm, "capture": capture, "kernels": seen, "renew": renew, "burst": burst, "held": held}
