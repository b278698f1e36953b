"""What a judge's child answers to each kind of question.

In: messages of `protocol`. Out: answers, or `fault` with `TASK_INVALID` for the problem's fault and `INFRA` for the
machine's. Left to others: forking (`nursery`), the work itself (`reference`, `admission`, `tensors`).

describe {problem, workloads?, budget?}    -> described {descriptions}          full, scaled, ragged of each workload
oracle   {opened}                          -> ready {}
case     {case}                            -> computed {usable, reason, outputs, changed_inputs, limited, ...}
compare  {case, metas, handles?, candidate?}  -> compared {checks, own_error, reference_error}     + bytes
admit    {distribution, seconds}           -> tried {...}   see `protocol.Tried`; ask `oracle` first
baseline {opened, arm, seed, distribution} -> ready {}      arm: eager, compile, compile-max-autotune
warm     {seconds}                         -> warmed {calls, seconds, first, slots, flush}
burst    {calls}                           -> timed {milliseconds}
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from kernelevolve import codec
from kernelevolve.errors import MachineError, ProblemError
from kernelevolve.judge import admission, ipc, replaying
from kernelevolve.judge.baseline import Baseline
from kernelevolve.judge.reference import Reference
from kernelevolve.problem import Problem, workload_source
from kernelevolve.protocol import Case, Description, Opened, Variant
from kernelevolve.tensors import describe, outputs, scale
from kernelevolve.wire import Channel, Message

State = dict[str, Any]


def serve(channel: Channel) -> None:
    """Answers until the other side hangs up (`WireError`)."""
    state: State = {}
    while True:
        message = channel.receive()
        try:
            if replaying.answered(channel, state, message):
                continue
            answer = ANSWERS.get(message.kind)
            if answer is None:
                raise MachineError(f"unknown question {message.kind!r}; known: {', '.join(ANSWERS)}")
            channel.send(*answer(state, message))
        except ProblemError as error:
            channel.send("fault", {"verdict": "TASK_INVALID", "message": str(error)})
        except (MachineError, torch.OutOfMemoryError) as error:
            channel.send("fault", {"verdict": "INFRA", "message": str(error)})
        finally:
            message.close()


def describe_problem(
    problem: Problem, workloads: tuple[str, ...] = (), budget: scale.Budget | None = None
) -> list[Description]:
    """The Descriptions of each workload: full, scaled, and where one runs, ragged; labels are those of the scaled one.

    Raises:
        ProblemError: a size cannot be run, or the reference is random.
    """
    made: list[Description] = []
    for workload in problem.workloads:
        if workloads and workload.name not in workloads:
            continue
        source = workload_source(problem, workload)
        sizes = scale.scale(source, problem, budget or scale.Budget())
        small = describe.describe(problem, Variant(workload.name, "scaled", sizes.scaled, sizes.changes))
        describe.check_random(problem, small)
        found = admission.labels(problem, small) + sizes.labels
        full = describe.describe(problem, Variant(workload.name, "full", source), small)
        made += [_labelled(full, found), _labelled(small, found)]
        if sizes.ragged:
            ragged = Variant(workload.name, "ragged", sizes.ragged, sizes.ragged_changes)
            made.append(_labelled(describe.describe(problem, ragged), found))
    return made


def _labelled(description: Description, found: tuple[str, ...]) -> Description:
    return Description(description.variant, description.inputs, description.state, description.outputs, found)


Answered = tuple[str, dict[str, Any]]


def _describe(state: State, message: Message) -> Answered:
    problem = codec.from_data(Problem, message.body["problem"])
    budget = codec.from_data(scale.Budget, message.body["budget"]) if message.body.get("budget") else None
    descriptions = describe_problem(problem, tuple(message.body.get("workloads", ())), budget)
    return "described", {"descriptions": codec.to_data(descriptions)}


def _oracle(state: State, message: Message) -> Answered:
    state["reference"] = Reference(codec.from_data(Opened, message.body.get("opened", message.body)))
    return "ready", {}


def _case(state: State, message: Message) -> Answered:
    computed = _held(state, "reference", "oracle").compute(
        codec.from_data(Case, message.body.get("case", message.body))
    )
    return "computed", codec.to_data(computed)


def _compare(state: State, message: Message) -> Answered:
    reference: Reference = _held(state, "reference", "oracle")
    metas = [codec.from_data(outputs.TensorMeta, m) for m in message.body["metas"]]
    handles = message.body.get("handles") or {}
    case = codec.from_data(Case, message.body["case"])
    with contextlib.ExitStack() as stack:

        def values(meta: outputs.TensorMeta) -> Any:
            if meta.path in handles:
                return stack.enter_context(ipc.opened(handles[meta.path], meta))
            if meta.path in message.attachments:
                return outputs.from_attachment(meta, message.attachments[meta.path], reference.opened.device)
            if meta.nbytes == 0:
                return torch.empty(meta.shape, dtype=outputs.dtype_of(meta.dtype), device=reference.opened.device)
            raise ValueError(f"{meta.path}: neither bytes nor a handle arrived for it")

        compared = reference.compare(case, metas, values, str(message.body.get("candidate", "")))
    return "compared", codec.to_data(compared)


def _admit(state: State, message: Message) -> Answered:
    reference: Reference = _held(state, "reference", "oracle")
    body = message.body
    tried = admission.try_distribution(reference, str(body["distribution"]), float(body["seconds"]))
    return "tried", codec.to_data(tried)


def _baseline(state: State, message: Message) -> Answered:
    body = message.body
    state["baseline"] = Baseline(
        codec.from_data(Opened, body["opened"]),
        str(body["arm"]),
        int(body.get("seed", 0)),
        str(body.get("distribution", "D1")),
    )
    return "ready", {}


def _warm(state: State, message: Message) -> Answered:
    return "warmed", codec.to_data(_held(state, "baseline", "baseline").warm(float(message.body["seconds"])))


def _burst(state: State, message: Message) -> Answered:
    times = _held(state, "baseline", "baseline").burst(int(message.body["calls"]))
    return "timed", {"milliseconds": list(times)}


def _held(state: State, name: str, question: str) -> Any:
    if name not in state:
        raise MachineError(f"ask {question!r} first")
    return state[name]


ANSWERS: dict[str, Callable[[State, Message], Answered]] = {
    "describe": _describe,
    "oracle": _oracle,
    "case": _case,
    "compare": _compare,
    "admit": _admit,
    "baseline": _baseline,
    "warm": _warm,
    "burst": _burst,
}
