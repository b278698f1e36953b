"""What a builder or worker child answers to each kind of question.

In: a message and what the conversation remembers. Out: the answer on the channel. Left to others: the work itself
(`plan`, `build`, `run`, `interpret`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch

from kernelevolve import codec
from kernelevolve.evaluation import LaunchPlan
from kernelevolve.hardware import HardwareFigures, Target
from kernelevolve.protocol import Case, Opened, Placement
from kernelevolve.seal.limits import Limits
from kernelevolve.tensors import load, outputs
from kernelevolve.tensors.queues import limit_queues
from kernelevolve.wire import Attachment, Channel, Message, memory_bytes
from kernelevolve.worker import ipc, pack, plan, sanitized, structure, timed
from kernelevolve.worker.build import build
from kernelevolve.worker.fault import Fault
from kernelevolve.worker.gradients import Gradients
from kernelevolve.worker.interpret import interpreting
from kernelevolve.worker.load import build_candidate, choose, load_candidate, silence_autotune
from kernelevolve.worker.run import Runner, guarded

State = dict[str, Any]
Answer = Callable[[State, Message, Channel], None]


def _prepare(state: State, message: Message, channel: Channel) -> None:
    """`prepare {opened}`: loads a candidate on meta tensors at full size, for `plan`."""
    opened = codec.from_data(Opened, message.body["opened"])
    silence_autotune()
    problem = load.load_module(opened.description.variant.source)
    module = load_candidate(opened.candidate, opened.choice)
    with load.seeded(opened.module_seed), torch.device("meta"):
        init = problem.get_init_inputs()
    model = build_candidate(module, init, opened.module_seed, "meta")
    model = load.prepare(model, device="meta", precision=opened.precision, mode=opened.mode)
    state |= {
        "opened": opened,
        "module": module,
        "model": model,
        "inputs": _meta_inputs(opened, problem),
        "devices": {},
    }
    channel.send("prepared", {"kernels": plan.candidate_kernels(module)})


def _meta_inputs(opened: Opened, problem: Any) -> list[Any]:
    declared = load.declared_inputs(problem, seed=0, device="meta")
    leaves, tree = torch.utils._pytree.tree_flatten(declared)
    specs = opened.description.inputs
    made = [
        torch.empty_strided(s.shape, s.stride, dtype=outputs.dtype_of(s.dtype), device="meta") if s.dtype else leaf
        for s, leaf in zip(specs, leaves, strict=True)
    ]
    return list(torch.utils._pytree.tree_unflatten(made, tree))


def _plan(state: State, message: Message, channel: Channel) -> None:
    """`plan {platform, target, figures, answers, choice, build, pack?}`: the LaunchPlan, its census, its Resources.

    Where the direction is not `forward`, `gradients` is the plan of a call with its gradients, or None, and
    `unrecorded` says why; the Resources are of the launches of both.
    With `pack` also the PackedPlan, or in `unpacked` why there is none; its binaries are attached by digest.
    """
    body = message.body
    opened: Opened = state["opened"]
    target, figures = codec.from_data(Target, body["target"]), codec.from_data(HardwareFigures, body["figures"])
    choose(state["module"], body["choice"])
    index = state["devices"].setdefault(body["platform"], len(state["devices"]))
    rules = {
        "workload": opened.description.variant.workload,
        "platform": body["platform"],
        "target": target,
        "answers": body["answers"],
        "device_index": index,
    }
    recorded, recording = plan.record_plan(state["model"], (state["inputs"], {}), **rules)
    launched, backward = [recording], None
    answer = {"plan": codec.to_data(recorded), "forbidden": recording.forbidden, "unrecorded": ""}
    if opened.direction != "forward":
        try:
            model = Gradients(state["model"], opened.direction)
            backward, gradients = plan.record_plan(model, (state["inputs"], {}), **rules)
            launched.append(gradients)
        except Fault as fault:  # on a device it may be right all the same: there its tensors have data
            answer["unrecorded"] = str(fault)
    resources = [build(c, target, figures) for c in _distinct(launched)] if body["build"] else []
    answer |= {"gradients": codec.to_data(backward), "resources": codec.to_data(resources)}
    if not body.get("pack"):
        channel.send("planned", answer)
        return
    packed, files = _pack(state, recording, recorded, target)
    channel.send("planned", {**answer, **packed}, files)
    for file in files.values():
        file.close()


def _pack(
    state: State, recording: plan.Recording, recorded: LaunchPlan, target: Target
) -> tuple[dict[str, Any], dict[str, Attachment]]:
    opened: Opened = state["opened"]
    try:
        if opened.direction != "forward":
            raise pack.Unpackable(f"direction {opened.direction}: what autograd runs is not recorded")
        packed, binaries = pack.pack(
            recording,
            state["model"],
            state["inputs"],
            workload=recorded.workload,
            platform=recorded.platform,
            target=target,
        )
    except pack.Unpackable as reason:
        return {"packed": None, "unpacked": str(reason)}, {}
    files = {digest: memory_bytes(binary) for digest, binary in binaries.items()}
    return {"packed": codec.to_data(packed), "unpacked": ""}, files


def _distinct(recordings: Iterable[plan.Recording]) -> Iterator[plan.Compilable]:
    seen: set[str] = set()
    for compilable in (c for recording in recordings for c in recording.compilables):
        key = repr((compilable.function.__name__, compilable.signature, compilable.constants, compilable.attributes))
        key += repr(compilable.options)
        if key not in seen:
            seen.add(key)
            yield compilable


def _load(state: State, message: Message, channel: Channel) -> None:
    """`load {opened, answers, program_limit}`: constructs the candidate, on the CPU under the interpreter."""
    opened = codec.from_data(Opened, message.body["opened"])
    silence_autotune()
    answers = message.body["answers"]
    on_cpu = opened.device == "cpu"
    limit_queues(opened.queues)
    bound_memory(opened.device)
    state["runner"] = Runner(opened, lambda: interpreting(device_answers=answers) if on_cpu else nullcontext())
    channel.send("loaded", {"device": _device_facts(opened.device)})


def bound_memory(device: str) -> None:
    """Has torch refuse this process more than its share of an accelerator's memory, before it is taken from neighbours
    and the judge. The seal's watch is what foreign code cannot undo, where the driver says who holds what."""
    if device.startswith("cuda"):
        torch.cuda.set_per_process_memory_fraction(Limits().device_share, device)


def _device_facts(device: str) -> dict[str, Any]:
    if not device.startswith("cuda"):
        return {}
    properties = torch.cuda.get_device_properties(device)
    return {"name": properties.name, "units": properties.multi_processor_count, "torch": str(torch.__version__)}


def _addresses(state: State, message: Message, channel: Channel) -> None:
    """`addresses {opened, answers, programs}`: runs a few programs of each launch at full size, for addresses alone."""
    opened = codec.from_data(Opened, message.body["opened"])
    silence_autotune()
    problem = load.load_module(opened.description.variant.source)
    with load.seeded(opened.module_seed), torch.device("meta"):
        init = problem.get_init_inputs()
    inputs = _meta_inputs(opened, problem)
    limit = int(message.body["programs"])
    with interpreting(device_answers=message.body["answers"], program_limit=limit, address_only=True) as recorder:
        module = load_candidate(opened.candidate, opened.choice)
        model = build_candidate(module, init, opened.module_seed, "meta")
        model = load.prepare(model, device="meta", precision=opened.precision, mode=opened.mode)
        with torch.no_grad():
            guarded(lambda: model(*inputs), "meta")
    channel.send("addressed", {"interpreted": codec.to_data(recorder.report)})


def _call(state: State, message: Message, channel: Channel) -> None:
    """`call {case, ipc, how}`: the outputs for one case, as attachments or, with `ipc`, as CUDA IPC handles; with
    `how.back` inputs, state and bands too."""
    runner: Runner = state["runner"]
    how = codec.from_data(Placement, message.body.get("how") or {})
    case = codec.from_data(Case, message.body["case"])
    leaves, changed = runner.call(case, message.body.get("state", ()), how)
    body: dict[str, Any] = {"changed": changed, "forbidden": runner.forbidden, "aliases": runner.aliases}
    body |= {"back": [], "seconds": runner.seconds}
    state["late"], state["held"] = leaves, (leaves, [*runner.early, *runner.back])
    if message.body.get("ipc"):
        # The judge reads them in place until the next question.
        body["metas"] = codec.to_data([outputs.meta_of(path, leaf) for path, leaf in leaves])
        body["handles"] = _handles(runner.early)
        state["back"] = [(path, leaf.contiguous()) for path, leaf in runner.back]
        body["back"] = codec.to_data([outputs.meta_of(path, leaf) for path, leaf in state["back"]])
        body["handles"] |= _handles(state["back"])
        channel.send("called", body)
        return
    if runner.recorder is not None:
        body["interpreted"] = codec.to_data(runner.recorder.report)
    body["back"] = codec.to_data([outputs.meta_of(path, leaf) for path, leaf in runner.back])
    _send_bytes(channel, body, *state["held"])


def _handles(values: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of the plain tensors, as only their bytes are sent: what else there is, its metadata say."""
    plain = (path_leaf for path_leaf in values if outputs.meta_of(*path_leaf).kind == "Tensor")
    return {path: ipc.export(leaf) for path, leaf in plain if leaf.numel()}


def _send_bytes(
    channel: Channel, body: dict[str, Any], leaves: list[tuple[str, Any]], values: list[tuple[str, Any]]
) -> None:
    """`called` with the metadata of `leaves` and the bytes of `values`."""
    metas = [outputs.meta_of(path, leaf) for path, leaf in leaves]
    _, files = outputs.to_attachments(values)
    channel.send("called", {**body, "metas": codec.to_data(metas)}, files)
    for file in files.values():
        file.close()


_SAID_BEFORE: dict[str, Any] = {"changed": [], "forbidden": [], "aliases": []}


def _fetch(state: State, message: Message, channel: Channel) -> None:
    """`fetch {}`: the last call's outputs as attachments, where handles were refused."""
    _send_bytes(channel, dict(_SAID_BEFORE), *state["held"])


def _later(state: State, message: Message, channel: Channel) -> None:
    """`later {seconds}`: the last call's outputs as they are after so long."""
    time.sleep(float(message.body["seconds"]))
    runner: Runner = state["runner"]
    values = runner.guarded(lambda: structure.snapshot(state["late"]))
    _send_bytes(channel, dict(_SAID_BEFORE), state["late"], values)


def _again(state: State, message: Message, channel: Channel) -> None:
    """`again {index}`: outputs of an earlier call that were kept, as they are now."""
    runner: Runner = state["runner"]
    leaves = runner.stage.held[int(message.body["index"])]
    _send_bytes(channel, dict(_SAID_BEFORE), leaves, runner.guarded(lambda: structure.snapshot(leaves)))


def _process(state: State, message: Message, channel: Channel) -> None:
    """`process {}`: what the process was like before the candidate was loaded, and is like now."""
    runner: Runner = state["runner"]
    now = {**structure.process_state(runner.device), "random state": runner.random_state.seen}
    channel.send("processed", {"before": runner.before, "now": now})


def _opcheck(state: State, message: Message, channel: Channel) -> None:
    """`opcheck {case}`: `torch.library.opcheck` of the operators that the candidate registered: what is wrong."""
    runner: Runner = state["runner"]
    channel.send("opchecked", {"ops": runner.opcheck(codec.from_data(Case, message.body["case"]))})


def _choose(state: State, message: Message, channel: Channel) -> None:
    """`choose {choice}`: other knob values from the next call on."""
    state["runner"].choose(dict(message.body["choice"]))
    channel.send("chosen", {})


ANSWERS: dict[str, Answer] = {
    "prepare": _prepare,
    "plan": _plan,
    "load": _load,
    "addresses": _addresses,
    "call": _call,
    "fetch": _fetch,
    "later": _later,
    "again": _again,
    "process": _process,
    "opcheck": _opcheck,
    "choose": _choose,
    "sanitize": sanitized.sanitize,
    "warm": timed.warm,
    "capture": timed.capture,
    "kernels": timed.seen,
    "renew": timed.renew,
    "burst": timed.burst,
    "held": timed.held,
}
