"""The candidate as one arm of a timing: warm, renew, burst, and what it held of its timed calls.

In: questions of the host and what the conversation remembers. Out: answers on the channel. Left to others: clock and
ring (`tensors.clock`), copies of results (`tensors.held`), the comparison (`judge.timed`). All of it is a claim: this
process holds the candidate.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch

from kernelevolve import codec
from kernelevolve.protocol import Case
from kernelevolve.tensors import call, graphs, kernels
from kernelevolve.tensors.arm import Arm, put_back
from kernelevolve.tensors.clock import replaced
from kernelevolve.tensors.held import Held
from kernelevolve.tensors.outputs import to_bytes
from kernelevolve.wire import Channel, Message, memory_bytes
from kernelevolve.worker import ipc
from kernelevolve.worker.fault import Fault
from kernelevolve.worker.run import Runner

State = dict[str, Any]
_REASON = 300  # characters


def warm(state: State, message: Message, channel: Channel) -> None:
    """`warm {seed, distribution, seconds, slots, hold, state}`: see `tensors.arm.Arm.warm`."""
    runner: Runner = state["runner"]
    state.pop("held", None)
    if "arm" not in state:
        case = Case(int(message.body["seed"]), state=int(message.body.get("state", message.body["seed"])))
        runner.arguments(case)
        forward = runner.opened.direction == "forward"
        state["arm"] = Arm(
            runner.timed(case),
            runner.inputs,
            call.output_leaves if forward else list,
            runner.device,
            grad=not forward,
            before=put_back(runner.model),
        )
    arm: Arm = state["arm"]
    with runner.context():
        facts = runner.guarded(lambda: arm.warm(message.body))
    channel.send("warmed", facts)


def renew(state: State, message: Message, channel: Channel) -> None:
    """`renew {calls, distribution, drop}`: see `tensors.arm.Arm.renew`."""
    arm: Arm = state["arm"]
    arm.renew(message.body)
    channel.send("renewed", {})


def capture(state: State, message: Message, channel: Channel) -> None:
    """`capture {}`: one CUDA graph per slot of the warm ring; `why` says why there are none, empty where there are."""
    runner: Runner = state["runner"]
    arm: Arm = state["arm"]
    try:
        with runner.context(), torch.set_grad_enabled(arm.grad):
            why = runner.guarded(lambda: graphs.capture(arm.function, arm.ring))
    except Fault as fault:  # not everything that is right can be captured
        why = str(fault)
    channel.send("captured", {"why": why[:_REASON]})


def seen(state: State, message: Message, channel: Channel) -> None:
    """`kernels {calls}`: spans on the device of that many calls, in microseconds; `why` says why there are none."""
    runner: Runner = state["runner"]
    arm: Arm = state["arm"]
    spans, why = [], ""
    try:
        with runner.context(), torch.set_grad_enabled(arm.grad):
            spans = runner.guarded(lambda: kernels.spans_of(arm.function, arm.ring, int(message.body["calls"])))
    except Fault as fault:  # a profiler that does not work is nobody's fault
        why = str(fault)
    channel.send("seen", {"why": why[:_REASON], "spans": spans})


def burst(state: State, message: Message, channel: Channel) -> None:
    """`burst {mode, untimed, hold, lead}`: see `tensors.arm.Arm.burst`."""
    runner: Runner = state["runner"]
    arm: Arm = state["arm"]
    with runner.context():
        found = runner.guarded(lambda: arm.burst(message.body))
    # Outside of the context: on the CPU the interpreter itself poses as a device and its clock.
    channel.send("timed", {**found, "replaced": replaced()})


def held(state: State, message: Message, channel: Channel) -> None:
    """`held {ipc, pause}`: metadata of every held call's outputs and where their copies lie.

    Copies in the arena come as one attachment, or with `ipc` as one handle; others each as an attachment. With `pause`
    they are made once more, that many seconds from now, from the results themselves.
    """
    results: Held = state["arm"].results
    if "pause" in message.body:
        time.sleep(float(message.body["pause"]))
        results.again()
    calls, elsewhere, used = [], {}, 0
    for number, copied in enumerate(results.calls):
        calls.append({"metas": codec.to_data([c.meta for c in copied]), "offsets": [c.offset for c in copied]})
        for one in copied:
            if one.offset >= 0:
                used = max(used, one.offset + one.meta.nbytes)
            elif one.values is not None and one.meta.nbytes:
                elsewhere[f"{number}/{one.meta.path}"] = memory_bytes(to_bytes(one.values))
    body: dict[str, Any] = {"calls": calls}
    state["arm"].ring.wait()
    if message.body.get("ipc"):
        # Where the driver refuses, bytes are sent: that is no fault of the candidate's.
        with contextlib.suppress(RuntimeError):
            body["handle"] = ipc.export(results.arena)
    files = elsewhere
    if "handle" not in body:
        files = {"arena": memory_bytes(memoryview(results.arena[:used].cpu().numpy())), **elsewhere}
    channel.send("holding", body, files)
    for file in files.values():
        file.close()
