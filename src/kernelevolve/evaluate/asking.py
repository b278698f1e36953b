"""Asking a worker that holds a candidate: what it may use, how it fails, and what counts as an answer.

In: a Conversation and a question. Out: the answer, or `Failed` with the verdict that fits how it went wrong. Left to
others: what is asked and in which order (`correct`, `structure`, `session`), who judges the outputs (`judge`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Choice
from kernelevolve.errors import SeatLost
from kernelevolve.evaluate.roles import ChildDied, ChildSilent, Conversation, Refusal
from kernelevolve.evaluation import Correctness, LaunchPlan, Resources, Verdict
from kernelevolve.nursery import Limits
from kernelevolve.protocol import Description
from kernelevolve.seal.limits import BACKGROUND

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
        host_bytes: of memory beside a device's, in a worker that uses one.
        file_bytes: of one file that it writes, what it prints included.
    """

    build_seconds: float = 180.0
    load_seconds: float = 120.0
    call_seconds: float = 120.0
    memory_bytes: int = 12 << 30
    host_bytes: int = 64 << 30
    file_bytes: int = 2 << 30

    @property
    def limits(self) -> Limits:
        """Those that the kernel enforces. Building and interpreting wait for whoever times a kernel on a device: there
        a process that is scheduled late costs everybody's turn."""
        return Limits(memory_bytes=self.memory_bytes, file_bytes=self.file_bytes, nice=BACKGROUND)

    @property
    def on_device(self) -> Limits:
        """Those of a worker that uses a device; its outputs may be files of any size."""
        return Limits(memory_bytes=self.host_bytes, device=True)


BOUNDS = Bounds()
_killed: set[str] = set()  # candidates whose process was killed once


class Killed(SeatLost):
    """A process that holds a candidate was killed, and not by the seal: by the candidate itself, or by an operator or
    a kernel that was short of memory for somebody else's sake. Nobody can tell from outside, so it is tried once more.
    """


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
        queues: of its context on the device; see `protocol.Opened`.
    """

    source: str
    choice: Mapping[str, Choice]
    description: Description
    device: str
    answers: Mapping[str, Any]
    bounds: Bounds = BOUNDS
    queues: int = 0

    @property
    def key(self) -> str:
        """Identifies the candidate at its choice, so that the judge can pool errors of outputs with few elements."""
        return hashlib.sha256(f"{self.source}{sorted(self.choice.items())}".encode()).hexdigest()


def refuses(failed: Failed) -> bool:
    """Whether the candidate said by an exception of its own, before it launched anything, that it does not do this."""
    return bool(failed.artefact.get("refused"))


def generalization(failed: Failed, what: str, *, refusable: bool = True) -> Failed:
    """The verdict for a fault on inputs that the problem does not declare: memory and honesty are judged as anywhere,
    anything else is that the candidate does not generalize.

    Args:
        refusable: whether the candidate may say that it does not compute them.
    """
    stays = failed.verdict.family != "fault" or failed.verdict in (Verdict.MEM_RACE, Verdict.GENERALIZATION)
    if stays:
        return failed
    otherwise = "compute them, or raise ValueError or NotImplementedError before any launch"
    if not refusable:
        otherwise = "the problem asks for all of them"
    message = f"right for the declared inputs and wrong for {what} ({failed.verdict.value}); {otherwise}"
    artefact = {**failed.artefact, "found": f"{failed.verdict.value}: {failed}"}
    return Failed(Verdict.GENERALIZATION, message, failed.correctness, detail=failed.detail, artefact=artefact)


def _planned(body: Mapping[str, Any]) -> None:
    codec.from_data(LaunchPlan, body["plan"])
    codec.from_data(tuple[Resources, ...], body["resources"])
    codec.from_data(tuple[str, ...], body["forbidden"])


def _called(body: Mapping[str, Any]) -> None:
    codec.from_data(tuple[str, ...], body["changed"])
    codec.from_data(tuple[str, ...], body["forbidden"])
    codec.from_data(tuple[tuple[str, str], ...], body["aliases"])
    if not 0.0 <= codec.from_data(float, body.get("seconds", 0.0)) < math.inf:
        raise ValueError("seconds are below 0 or no number")
    if not isinstance(body["metas"], list):
        raise ValueError("metas are no list")


def _processed(body: Mapping[str, Any]) -> None:
    if not isinstance(body["before"], dict) or not isinstance(body["now"], dict):
        raise ValueError("the state of the process is no object")


def _timed(body: Mapping[str, Any]) -> None:
    times = codec.from_data(tuple[float, ...], body["milliseconds"])
    if not times or not all(math.isfinite(t) and t > 0 for t in times):
        raise ValueError(f"times must be above 0, got {times}")
    codec.from_data(tuple[tuple[str, ...], ...], body.get("sums", ()))
    codec.from_data(tuple[str, ...], body.get("replaced", ()))


def _holding(body: Mapping[str, Any]) -> None:
    for one in body["calls"]:
        offsets = codec.from_data(tuple[int, ...], one["offsets"])
        if not isinstance(one["metas"], list) or len(offsets) != len(one["metas"]):
            raise ValueError("metas and offsets of a call do not fit each other")
    if "handle" in body:
        handle = body["handle"]
        numbers = (handle["offset"], handle["nbytes"], handle["device"])
        if not isinstance(handle["handle"], str) or any(type(number) is not int for number in numbers):
            raise ValueError("the handle has other fields than a handle has")


def _seen(body: Mapping[str, Any]) -> None:
    if not all(math.isfinite(start) and start <= end for call in body["spans"] for start, end in call):
        raise ValueError("a span on the device that is none")
    if not str(body["why"]) and not body["spans"]:
        raise ValueError("neither spans nor a reason")


def _sanitized(body: Mapping[str, Any]) -> object:
    return str(body["report"]), str(body["why"])


_ANSWERS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], object]]] = {
    "prepare": ("prepared", dict),
    "plan": ("planned", _planned),
    "load": ("loaded", dict),
    "addresses": ("addressed", lambda body: int(body["interpreted"]["programs"])),
    "call": ("called", _called),
    "fetch": ("called", _called),
    "later": ("called", _called),
    "again": ("called", _called),
    "process": ("processed", _processed),
    "opcheck": ("opchecked", lambda body: dict(body["ops"])),
    "choose": ("chosen", dict),
    "warm": ("warmed", dict),
    "capture": ("captured", lambda body: str(body["why"])),
    "kernels": ("seen", _seen),
    "sanitize": ("sanitized", _sanitized),
    "renew": ("renewed", dict),
    "burst": ("timed", _timed),
    "held": ("holding", _holding),
}


def _key(body: Mapping[str, Any]) -> str:
    """Identifies the candidate that a question brings along; empty if it brings none."""
    opened = body.get("opened")
    source = opened.get("candidate", "") if isinstance(opened, Mapping) else ""
    return hashlib.sha256(source.encode()).hexdigest() if source else ""


def candidate_asks(worker: Conversation, kind: str, body: Mapping[str, Any], *, seconds: float) -> Any:
    """A question to a worker that holds a candidate: whatever goes wrong is the candidate's fault.

    The candidate lives in the process that answers, so what comes is read as its claim: an answer to another question,
    with fields that do not fit, or a fault that is none is `TAMPER`.

    Raises:
        Failed: with the verdict that fits how it went wrong.
        Killed: the first time that somebody, not the seal, has killed this candidate's process.
    """
    worker.about = worker.about or _key(body)
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
        refused = {"refused": True} if refusal.facts.get("refused") is True else None
        raise Failed(Verdict(refusal.verdict), refusal.message, detail=detail, artefact=refused) from refusal
    except ChildSilent as error:
        raise Failed(Verdict.TIMEOUT, f"no answer to {kind!r} within {seconds:g} s; the process was killed") from error
    except ChildDied as error:
        told = "MemoryError" in error.log or "out of memory" in error.log.lower()
        if error.signal == "SIGKILL" and not told and worker.about and worker.about not in _killed:
            _killed.add(worker.about)
            raise Killed(
                f"a process that holds a candidate was killed while asked to {kind}, and nothing says by whom; if that "
                "happens to the candidate again, it counts as its own doing"
            ) from error
        memory = told or error.signal == "SIGKILL"
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
