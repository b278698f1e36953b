"""What a judge's child answers about a plan: the questions that a worker with the candidate would be asked.

In: messages. Out: answers, with `covered: false` and the reason where the lane cannot carry the plan out. Left to
others: the plan itself (`plan_lane`), comparing (`reference`, in another child). The host asks what it would ask of a
worker, so that everything that judges and times a candidate can have the plan in its place.

replay  {opened, plan} + binaries by digest  -> replayed {covered, reason}
call    {case, ipc, state}                   -> called {metas, changed, forbidden, aliases, handles?}     + bytes
fetch, later {}                              -> called ..., the last call's outputs as bytes
warm, renew, burst, held                     -> see `plan_timing`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernelevolve import codec
from kernelevolve.errors import MachineError
from kernelevolve.evaluation import Verdict
from kernelevolve.judge import plan_lane, plan_timing
from kernelevolve.judge.claims import NotCovered, PlanFault
from kernelevolve.judge.driver import DriverRefused, driver_of
from kernelevolve.protocol import Case, Opened
from kernelevolve.tensors import outputs
from kernelevolve.tensors.export import export
from kernelevolve.wire import Attachment, Channel, Message

State = dict[str, Any]
Replied = tuple[str, dict[str, Any], dict[str, Attachment]]


def answered(channel: Channel, state: State, message: Message) -> bool:
    """Answers one of these questions; false if it is another role's, or no plan has been given to this child.

    What the plan does wrong is a `fault` with its verdict.
    """
    if message.kind != "replay" and ("plan" not in state or message.kind not in QUESTIONS):
        return False
    kind, body, files = "fault", dict[str, Any](), dict[str, Attachment]()
    try:
        kind, body, files = _ANSWERS[message.kind](state, message)
    except PlanFault as fault:
        body = {"verdict": fault.verdict.value, "message": str(fault)}
    except NotCovered as reason:
        # `replay` said that it is covered: the plan's addresses are not those of its own layout.
        body = {"verdict": Verdict.POLICY.value, "message": f"the plan cannot be carried out: {reason}"}
    except torch.OutOfMemoryError as error:
        body = {"verdict": Verdict.OOM.value, "message": f"out of device memory: {str(error)[:200]}"}
    try:
        channel.send(kind, body, files)
    finally:
        for file in files.values():
            file.close()
    return True


def _replay(state: State, message: Message) -> Replied:
    opened = codec.from_data(Opened, message.body["opened"])
    binaries = {digest: file.read() for digest, file in message.attachments.items()}
    try:
        driver = driver_of(opened.device)
        arm = plan_lane.PlanArm(opened, plan_lane.read(message.body["plan"]), binaries, driver)
        arm.try_on(Case(0))
    except (NotCovered, DriverRefused) as reason:
        return "replayed", {"covered": False, "reason": str(reason)}, {}
    state["plan"] = arm
    return "replayed", {"covered": True, "reason": ""}, {}


def _call(state: State, message: Message) -> Replied:
    arm: plan_lane.PlanArm = _held(state)
    state.pop("called", None)
    state.pop("arm", None)  # a ring and a verified call need not have room side by side
    found = arm.replay(codec.from_data(Case, message.body["case"]), message.body.get("state", ()))
    body: dict[str, Any] = {"changed": found.changed, "forbidden": [], "aliases": [list(a) for a in found.aliases]}
    # What is exported or sent is contiguous; the metadata are those of the output itself.
    body["metas"] = codec.to_data([outputs.meta_of(path, leaf) for path, leaf in found.leaves])
    state["called"] = [(path, leaf.contiguous()) for path, leaf in found.leaves]
    if message.body.get("ipc"):
        try:
            body["handles"] = {path: export(leaf) for path, leaf in state["called"] if leaf.numel()}
            state["answer"] = body
            return "called", body, {}
        except (RuntimeError, OSError):
            body.pop("handles", None)
    return _bytes(state, body)


def _fetch(state: State, message: Message) -> Replied:
    _held(state)
    return _bytes(state, {"changed": [], "forbidden": [], "aliases": [], "metas": state["answer"]["metas"]})


def _bytes(state: State, body: dict[str, Any]) -> Replied:
    _, files = outputs.to_attachments(state["called"])
    state["answer"] = body
    return "called", body, files


def _held(state: State) -> Any:
    if "plan" not in state:
        raise MachineError("ask 'replay' first")
    return state["plan"]


def _timed(kind: str) -> Callable[[State, Message], Replied]:
    return lambda state, message: plan_timing.ANSWERS[kind](_held(state), state, message)


_ANSWERS: dict[str, Callable[[State, Message], Replied]] = {
    "replay": _replay,
    "call": _call,
    "fetch": _fetch,
    "later": _fetch,
    **{kind: _timed(kind) for kind in plan_timing.ANSWERS},
}
QUESTIONS = frozenset(_ANSWERS)
