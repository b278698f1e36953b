"""The interpret and correct rungs: a worker runs the candidate, the judge compares what came out.

In: a candidate and the sizes and cases to try. Out: `Correctness` and, where something is wrong, the verdict. Left to
others: the oracle and the acceptance rule (`judge`), running (`worker`). Inputs are drawn on both sides from the case;
outputs travel as memory files that this process hands on without reading.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Choice
from kernelevolve.errors import ProblemError, SeatLost
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.roles import ChildDied, ChildSilent, Conversation, Refusal
from kernelevolve.evaluation import Check, Correctness, Evidence, LaunchPlan, Resources, Verdict
from kernelevolve.nursery import Limits
from kernelevolve.protocol import Case, Description
from kernelevolve.wire import Message

_ADDRESS_PROGRAMS = 24
_ADDRESS_SECONDS = 30.0
# What a process that holds a candidate may find against it; only the harness finds anything for it.
_FAULTS = {v.value for v in Verdict if v.family in ("fault", "breach")}


@dataclass(frozen=True)
class Bounds:
    """What a candidate may use before it counts as hung or greedy.

    Attributes:
        build_seconds: for one workload's plan and build.
        load_seconds: for import and construction.
        call_seconds: for one call.
        memory_bytes: of private memory, in a builder and in a worker on the CPU.
        file_bytes: of one file that it writes, what it prints included.
    """

    build_seconds: float = 180.0
    load_seconds: float = 120.0
    call_seconds: float = 120.0
    memory_bytes: int = 12 << 30
    file_bytes: int = 2 << 30

    @property
    def limits(self) -> Limits:
        """Those that the kernel enforces."""
        return Limits(memory_bytes=self.memory_bytes, file_bytes=self.file_bytes)


BOUNDS = Bounds()


class Failed(Exception):
    """A rung said no: the verdict, one line, what was compared until then, and the whole text where the line is cut.

    Attributes:
        artefact: what replays it, as fields of `receipt.Failure`: `guard`, `workload`, `variant`, `seed`,
            `distribution`, `statistic`, `value`, `limit`, `choice`, ...; who is asked fills in what it knows.
    """

    def __init__(
        self,
        verdict: Verdict,
        message: str,
        correctness: Correctness | None = None,
        *,
        detail: str = "",
        artefact: Mapping[str, Any] | None = None,
    ) -> None:
        self.verdict, self.correctness, self.detail = verdict, correctness, detail
        self.artefact: Mapping[str, Any] = artefact or {}
        super().__init__(message)

    def knowing(self, **facts: Any) -> Failed:
        """The same, with facts for a replay that the raiser did not know; what it said itself stays."""
        self.artefact = {**facts, **self.artefact}
        return self


class Unseen(Failed):
    """The interpreter refuses what it cannot see: nothing is known about the values, and only a device can tell."""


@dataclass(frozen=True)
class Trial:
    """What is run: one candidate at one size.

    Attributes:
        source, choice: the candidate's file and knob values.
        description: the size.
        device: `cpu` means under the interpreter.
        answers: what the stand-in device answers on the CPU.
        bounds: what it may use.
    """

    source: str
    choice: Mapping[str, Choice]
    description: Description
    device: str
    answers: Mapping[str, Any]
    bounds: Bounds = BOUNDS

    @property
    def key(self) -> str:
        """Identifies the candidate at its choice, so that the judge can pool errors of outputs with few elements."""
        return hashlib.sha256(f"{self.source}{sorted(self.choice.items())}".encode()).hexdigest()


def _planned(body: Mapping[str, Any]) -> None:
    codec.from_data(LaunchPlan, body["plan"])
    codec.from_data(tuple[Resources, ...], body["resources"])
    codec.from_data(tuple[str, ...], body["forbidden"])


def _called(body: Mapping[str, Any]) -> None:
    codec.from_data(tuple[str, ...], body["changed"])
    codec.from_data(tuple[str, ...], body["forbidden"])
    codec.from_data(tuple[tuple[str, str], ...], body["aliases"])
    if not isinstance(body["metas"], list):
        raise ValueError("metas are no list")


def _timed(body: Mapping[str, Any]) -> None:
    times = codec.from_data(tuple[float, ...], body["milliseconds"])
    if not times or not all(math.isfinite(t) and t > 0 for t in times):
        raise ValueError(f"times must be above 0, got {times}")


_ANSWERS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], object]]] = {
    "prepare": ("prepared", dict),
    "plan": ("planned", _planned),
    "load": ("loaded", dict),
    "addresses": ("addressed", lambda body: int(body["interpreted"]["programs"])),
    "call": ("called", _called),
    "fetch": ("called", _called),
    "choose": ("chosen", dict),
    "warm": ("warmed", dict),
    "burst": ("timed", _timed),
}


def candidate_asks(worker: Conversation, kind: str, body: Mapping[str, Any], *, seconds: float) -> Any:
    """A question to a worker that holds a candidate: whatever goes wrong is the candidate's fault.

    The candidate lives in the process that answers, so what comes is read as its claim: an answer to another question,
    with fields that do not fit, or a fault that is none is `TAMPER`.

    Raises:
        Failed: with the verdict that fits how it went wrong.
    """
    try:
        answer = worker.ask(kind, body, seconds=seconds)
    except Refusal as refusal:
        detail = str(refusal.facts.get("detail", ""))
        if refusal.verdict == Verdict.INCONCLUSIVE:
            message = f"cannot be judged without a device: {refusal.message}"
            raise Unseen(Verdict.LOAD_ERROR, message, detail=detail) from refusal
        if refusal.verdict not in _FAULTS:
            message = f"the worker's process answered {kind!r} with the verdict {refusal.verdict[:40]!r}"
            raise Failed(Verdict.TAMPER, message) from refusal
        raise Failed(Verdict(refusal.verdict), refusal.message, detail=detail) from refusal
    except ChildSilent as error:
        raise Failed(Verdict.TIMEOUT, f"no answer to {kind!r} within {seconds:g} s; the process was killed") from error
    except ChildDied as error:
        memory = "MemoryError" in error.log or "out of memory" in error.log.lower() or error.signal == "SIGKILL"
        raise Failed(Verdict.OOM if memory else Verdict.CRASH, str(error), detail=error.log) from error
    wanted, read = _ANSWERS[kind]
    try:
        if answer.kind != wanted:
            raise ValueError(f"it says {answer.kind[:40]!r}")
        read(answer.body)
    except (KeyError, TypeError, ValueError) as error:
        answer.close()
        message = f"the worker's process answered {kind!r} with what is no answer: {str(error)[:200]}"
        raise Failed(Verdict.TAMPER, message) from error
    return answer


def compare(bench: Bench, trial: Trial, cases: Sequence[Case], evidence: Evidence) -> tuple[Correctness, str]:
    """Runs and compares every case; returns what was found and which isolation held.

    Raises:
        Failed: at the first case that is wrong.
        ProblemError, SeatLost: not the candidate's fault.
    """
    description = trial.description
    checks: list[Check] = []
    errors = [0.0, 0.0]
    not_seen: tuple[str, ...] = ()
    unusable: list[str] = []
    limited: dict[str, None] = {}

    def found(passed: bool) -> Correctness:
        scaled = description.variant.scaled
        seen = (*not_seen, *limited, *(f"inputs {u}" for u in unusable))
        return Correctness(evidence, passed, tuple(checks), scaled, seen, errors[0], errors[1])

    on_cpu = trial.device == "cpu"
    limits, scratch = (trial.bounds.limits, None) if on_cpu else (None, bench.scratch(trial.source))
    with bench.roles["worker"].open(limits, scratch) as worker:
        opened = bench.opened(description, trial.device, candidate=trial.source, choice=trial.choice)
        body = {"opened": codec.to_data(opened), "answers": dict(trial.answers)}
        tried: Case | None = None
        try:
            candidate_asks(worker, "load", body, seconds=trial.bounds.load_seconds)
            for case in cases:
                bench.go_on()
                tried = case
                computed = _expect(bench, trial, case)
                if computed["limited"]:
                    limited[str(computed["limited"])] = None
                if not computed["usable"] and not bench.anyway:
                    unusable.append(f"{case.distribution}: {computed['reason']}")
                    continue
                question = {
                    "case": codec.to_data(case),
                    "ipc": trial.device != "cpu" and bench.shares_memory,
                    "state": [p for p in computed["outputs"] if p.startswith(("state:", "input:"))],
                }
                called = candidate_asks(worker, "call", question, seconds=trial.bounds.call_seconds)
                not_seen = tuple(called.body.get("interpreted", {}).get("not_seen", not_seen))
                _refuse_ops(bench, called)
                _refuse_changes(bench, called, computed["changed_inputs"])
                _refuse_aliases(bench, description, called)
                compared = _judge(bench, trial, case, worker, called)
                checks += [codec.from_data(Check, c) for c in compared["checks"]]
                errors[0] = max(errors[0], float(compared.get("own_error", 0.0)))
                errors[1] = max(errors[1], float(compared.get("reference_error", 0.0)))
                wrong = [c for c in checks if not c.passed]
                if wrong:
                    raise Failed(_verdict(wrong[0]), _sentence(wrong[0]), artefact=_statistic(wrong[0]))
        except Failed as failed:
            failed.knowing(**_replayed(trial, tried))
            if not isinstance(failed, Unseen):
                failed.correctness = found(False)
            raise
        if not checks:
            reasons = dict.fromkeys(u.partition(": ")[2] for u in unusable)
            raise ProblemError(
                f"{bench.problem.name}, {description.variant.label}: no case says anything ({'; '.join(reasons)}); "
                "give inputs on which the reference is finite and not constant"
            )
        return found(True), worker.isolation


def _replayed(trial: Trial, case: Case | None) -> dict[str, Any]:
    """What replays a trial up to this case, as fields of `receipt.Failure`."""
    variant = trial.description.variant
    facts = {"workload": variant.workload, "size": variant.size, "device": trial.device, "choice": dict(trial.choice)}
    return facts if case is None else {**facts, **codec.to_data(case)}


def _statistic(check: Check) -> dict[str, Any]:
    return {"statistic": check.name, "value": check.value, "limit": check.limit}


def _expect(bench: Bench, trial: Trial, case: Case) -> Mapping[str, Any]:
    """Oracle and reference for one case: what must come out, and whether passing would mean anything."""
    with bench.lock:
        judge = bench.oracle(trial.description, trial.device)
        return bench.judged(judge, "case", {"case": codec.to_data(case)}).body


def _judge(bench: Bench, trial: Trial, case: Case, worker: Conversation, called: Message) -> Mapping[str, Any]:
    with bench.lock:
        judge = bench.oracle(trial.description, trial.device)
        body = {"case": codec.to_data(case), "metas": called.body["metas"], "candidate": trial.key}
        try:
            if handles := called.body.get("handles"):
                try:
                    return judge.ask("compare", {**body, "handles": handles}, seconds=trial.bounds.call_seconds).body
                except Refusal as refusal:
                    if "CUDA IPC" not in refusal.message:
                        raise SeatLost(f"while asked to compare: {refusal}") from refusal
                    # Device memory cannot be shared between these processes: send the bytes, here and from now on.
                    bench.shares_memory = False
                called.close()
                called = candidate_asks(worker, "fetch", {}, seconds=trial.bounds.call_seconds)
            return bench.judged(judge, "compare", body, called.attachments).body
        finally:
            called.close()


def _refuse_ops(bench: Bench, called: Message) -> None:
    """What forward ran on real tensors, where the census of the plan saw meta tensors only."""
    forbidden = called.body["forbidden"]
    if forbidden and bench.problem.library_calls == "forbidden":
        called.close()
        raise Failed(Verdict.POLICY, f"forward runs {forbidden[0]} on real tensors, and not where its plan was made")


def _refuse_changes(bench: Bench, called: Message, allowed: Sequence[str]) -> None:
    odd = [name for name in called.body["changed"] if name not in (*bench.problem.mutates, *allowed)]
    if odd:
        called.close()
        raise Failed(Verdict.MUTATED_INPUT, f"input or parameter {odd[0]!r} was changed by the call")


def _refuse_aliases(bench: Bench, description: Description, called: Message) -> None:
    """Which outputs share an input's memory: never more than the problem allows or the reference's own do, and as in
    the reference where the problem names them."""
    outputs = [o for o in description.outputs if o.path.startswith("out")]
    declared = {(outputs[index].path, name) for index, name in bench.problem.aliases}
    own = {(o.path, name) for o in outputs for name in o.shares}
    found = {(str(path), str(name)) for path, name in called.body["aliases"]}
    odd, absent = sorted(found - declared - own), sorted(declared & own - found)
    if odd:
        called.close()
        raise Failed(
            Verdict.WRONG_META,
            f"{odd[0][0]} shares the memory of input {odd[0][1]!r}, which neither the reference's output does nor the "
            "problem's aliases allow; return a tensor of its own",
        )
    if absent:
        called.close()
        raise Failed(
            Verdict.WRONG_META,
            f"{absent[0][0]} must share the memory of input {absent[0][1]!r}, as the problem's aliases say and the "
            "reference does; write into that input or return a view of it",
        )


def _verdict(check: Check) -> Verdict:
    return Verdict.WRONG_META if check.name.startswith("meta") else Verdict.WRONG_VALUE


def _sentence(check: Check) -> str:
    where = f"{check.workload}, inputs {check.distribution}, seed {check.seed}"
    return f"{check.name} {check.value:.3g} exceeds {check.limit:.3g} ({where}) {check.detail}".strip()


def addresses(bench: Bench, trial: Trial) -> str:
    """Runs a few programs of each launch at full size without data; what was looked at, for the report.

    Raises:
        Failed: `MEM_RACE` where an address is out of bounds or an index has wrapped.
    """
    opened = bench.opened(trial.description, "meta", candidate=trial.source, choice=trial.choice)
    question = {"opened": codec.to_data(opened), "answers": dict(trial.answers), "programs": _ADDRESS_PROGRAMS}
    with bench.roles["worker"].open(trial.bounds.limits) as worker:
        try:
            answer = candidate_asks(worker, "addresses", question, seconds=_ADDRESS_SECONDS)
        except Unseen as unseen:
            return f"addresses at full size not seen ({unseen})"
        except Failed as failed:
            if failed.verdict is Verdict.TIMEOUT:
                return f"addresses at full size not seen within {_ADDRESS_SECONDS:g} s"
            raise
        report = answer.body["interpreted"]
        return f"addresses of {report['programs']} programs at full size"
