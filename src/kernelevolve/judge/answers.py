"""What a judge's child answers to each kind of question.

In: messages of `protocol`. Out: answers, or `fault` with `TASK_INVALID` for the problem's fault and `INFRA` for the
machine's. Left to others: forking (`nursery`), the work itself (`reference`, `admission`, `tensors`).

describe {problem, workloads?, budget?}    -> described {descriptions}          full, scaled, ragged of each workload
oracle   {opened}                          -> ready {}
case     {case}                            -> computed {usable, reason, outputs, changed_inputs, limited, ...}
compare  {case, metas, handles?, candidate?}  -> compared {checks, own_error, reference_error}     + bytes
changed  {case, metas, bands, allowed}     -> changed {inputs, bands}           + bytes or handles
results  {case, metas, keep | power}       -> results {difference}              + bytes or handles
explain  {cases, metas}                    -> explained {index}                 + bytes or handles
linear   {case}                            -> linear {inputs}
hidden   {problem, opened, workload, seed, count, ladder?, budget?}  -> described {descriptions}
admit    {distribution, seconds}           -> tried {...}   see `protocol.Tried`; ask `oracle` first
baseline {opened, arm, seed, distribution} -> ready {}      arm: eager, compile, compile-max-autotune
compile  {}                                -> compiled {whole}      runs nothing of it
warm     {seed, seconds, slots, hold}      -> warmed {calls, seconds, first, slots, flush, ...}   `tensors.arm`
renew    {calls}                           -> renewed {}
burst    {mode, untimed}                   -> timed {milliseconds, sums, replaced}
look     {calls, handle?, candidate}       -> looked {calls, changed}      + arena; ask `oracle` first
earlier  {calls, cases, handle?}           -> matched {index, stale}       + arena; one call, and earlier ones' cases
compulsory {case, seconds}                 -> moved {read, written, shares}
replay   {opened, plan}                    -> replayed {covered, reason}   and what follows it, see `replaying`
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from kernelevolve import codec
from kernelevolve.errors import MachineError, ProblemError
from kernelevolve.judge import admission, compulsory, holding, replaying, structure
from kernelevolve.judge.arrived import arrived, metas_of
from kernelevolve.judge.baseline import Baseline
from kernelevolve.judge.reference import Reference
from kernelevolve.judge.timed import TimedCalls
from kernelevolve.problem import Problem, workload_source
from kernelevolve.protocol import Case, Description, Opened, Variant
from kernelevolve.tensors import describe, hidden, scale
from kernelevolve.tensors.clock import replaced
from kernelevolve.tensors.queues import limit_queues
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
HIDDEN_SECONDS = 20.0


def _describe(state: State, message: Message) -> Answered:
    problem = codec.from_data(Problem, message.body["problem"])
    budget = codec.from_data(scale.Budget, message.body["budget"]) if message.body.get("budget") else None
    descriptions = describe_problem(problem, tuple(message.body.get("workloads", ())), budget)
    return "described", {"descriptions": codec.to_data(descriptions)}


def _hidden(state: State, message: Message) -> Answered:
    """Hidden sizes at which the oracle says something, on the device and near the size of `opened`; with `ladder` from
    small to large."""
    body = message.body
    problem, opened = codec.from_data(Problem, body["problem"]), codec.from_data(Opened, body["opened"])
    budget = codec.from_data(scale.Budget, body["budget"]) if body.get("budget") else scale.Budget()
    source = workload_source(problem, problem.workload(str(body["workload"])))
    luck, count, found = random.Random(int(body["seed"])), int(body["count"]), []
    deadline = time.monotonic() + HIDDEN_SECONDS
    drawn = hidden.draws
    if body.get("ladder"):
        drawn, budget = hidden.ladder, hidden.ON_DEVICE if opened.device != "cpu" else budget
    for variant in drawn(source, problem, opened.description, luck, count, budget):
        try:
            described = describe.describe(problem, variant, opened.description)
            usable = Reference(replace(opened, description=described)).compute(Case(luck.getrandbits(62))).usable
        except ProblemError:
            continue  # fake tensors let pass what real ones do not
        if usable:
            found.append(described)
        if len(found) == count or time.monotonic() > deadline:
            break
    return "described", {"descriptions": codec.to_data(found)}


def _oracle(state: State, message: Message) -> Answered:
    opened = codec.from_data(Opened, message.body.get("opened", message.body))
    limit_queues(opened.queues)
    state["reference"] = Reference(opened)
    return "ready", {}


def _case(state: State, message: Message) -> Answered:
    computed = _held(state, "reference", "oracle").compute(
        codec.from_data(Case, message.body.get("case", message.body))
    )
    return "computed", codec.to_data(computed)


def _compare(state: State, message: Message) -> Answered:
    reference: Reference = _held(state, "reference", "oracle")
    case = codec.from_data(Case, message.body["case"])
    with arrived(message, reference.opened.device) as values:
        compared = reference.compare(case, metas_of(message), values, str(message.body.get("candidate", "")))
    return "compared", codec.to_data(compared)


def _admit(state: State, message: Message) -> Answered:
    reference: Reference = _held(state, "reference", "oracle")
    body = message.body
    tried = admission.try_distribution(reference, str(body["distribution"]), float(body["seconds"]))
    return "tried", codec.to_data(tried)


def _baseline(state: State, message: Message) -> Answered:
    body = message.body
    opened = codec.from_data(Opened, body["opened"])
    limit_queues(opened.queues)
    state["baseline"] = Baseline(
        opened, str(body["arm"]), int(body.get("seed", 0)), str(body.get("distribution", "D1"))
    )
    return "ready", {}


def _compile(state: State, message: Message) -> Answered:
    return "compiled", _held(state, "baseline", "baseline").compile()


def _warm(state: State, message: Message) -> Answered:
    return "warmed", _held(state, "baseline", "baseline").warm(message.body)


def _capture(state: State, message: Message) -> Answered:
    return "captured", _held(state, "baseline", "baseline").capture()


def _renew(state: State, message: Message) -> Answered:
    return "renewed", _held(state, "baseline", "baseline").renew(message.body)


def _burst(state: State, message: Message) -> Answered:
    # What a tracer of this machine has rewritten is no candidate's doing.
    return "timed", {**_held(state, "baseline", "baseline").burst(message.body), "replaced": replaced()}


def _look(state: State, message: Message) -> Answered:
    timed = _timed_calls(state)
    with holding.opened(message, timed.reference.opened.device) as calls:
        found = [timed.look(c.case, c.metas, c.values, full=c.full, candidate=c.candidate) for c in calls]
        changed = [number for number, c in enumerate(calls) if c.changed]
    return "looked", {"calls": codec.to_data(found), "changed": changed}


def _earlier(state: State, message: Message) -> Answered:
    timed = _timed_calls(state)
    cases = [codec.from_data(Case, c) for c in message.body["cases"]]
    with holding.opened(message, timed.reference.opened.device) as (call,):
        index = next((i for i, case in enumerate(cases) if timed.right_for(case, call.values)), -1)
        stale = "" if index >= 0 or not cases else timed.right_with_stale(call.case, cases[0], call.values)
    return "matched", {"index": index, "stale": stale}


def _compulsory(state: State, message: Message) -> Answered:
    reference: Reference = _held(state, "reference", "oracle")
    case = codec.from_data(Case, message.body["case"])
    return "moved", codec.to_data(compulsory.compulsory(reference, case, float(message.body["seconds"])))


def _timed_calls(state: State) -> TimedCalls:
    if "timed" not in state:
        state["timed"] = TimedCalls(_held(state, "reference", "oracle"))
    return state["timed"]  # type: ignore[no-any-return]


def _held(state: State, name: str, question: str) -> Any:
    if name not in state:
        raise MachineError(f"ask {question!r} first")
    return state[name]


ANSWERS: dict[str, Callable[[State, Message], Answered]] = {
    "describe": _describe,
    "hidden": _hidden,
    "oracle": _oracle,
    "case": _case,
    "compare": _compare,
    **structure.ANSWERS,
    "admit": _admit,
    "baseline": _baseline,
    "compile": _compile,
    "warm": _warm,
    "capture": _capture,
    "renew": _renew,
    "burst": _burst,
    "look": _look,
    "earlier": _earlier,
    "compulsory": _compulsory,
}
