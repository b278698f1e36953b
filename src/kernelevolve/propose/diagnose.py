"""Diagnosis: what limits a candidate and what to try, by rules that anybody can check.

In: an Evaluation and, where known, the hardware's figures. Out: a Diagnosis with the evidence line that it rests on.
Left to others: profiles (a diagnosis that the profiler or cost model wrote into the evaluation goes first).

The rules are tried in order and the first that fits is taken: a broken kernel before a slow one, what is certain (a
compiler's message, spills) before what is inferred (an instruction mix).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernelevolve.evaluation import Evaluation, Resources, Verdict
from kernelevolve.hardware import HardwareFigures

LOW_OCCUPANCY = 0.25
LAUNCH_SHARE = 0.5
LATENCY_LAUNCHES = 3.0
SHARED_SHARE = 0.9

LIMITS = {
    "compile-error": ("repair what the compiler refuses", "go back to the parent's form of that statement"),
    "wrong-interface": (
        "define ModelNew with the reference's constructor and forward",
        "keep shapes, dtypes and strides",
    ),
    "wrong-values": (
        "compare index arithmetic and masks with the reference",
        "accumulate in fp32",
        "check ragged edges",
    ),
    "race": ("let each program own its output", "use atomics or a second pass for what programs share"),
    "out-of-memory": ("allocate less scratch", "work in place on outputs", "split the work into passes"),
    "timeout": ("look for a loop that does not end", "use fewer, larger programs"),
    "breach": ("compute the result in the kernel, on the current stream, from this call's inputs, in every call",),
    "spills": ("smaller blocks", "more warps per program", "fewer values alive at once"),
    "shared-memory": ("fewer pipeline stages", "smaller blocks"),
    "launch": ("fuse launches", "fewer, larger programs", "move work out of the host code"),
    "latency": ("split the reduction over more programs", "more independent loads in flight", "fewer dependent steps"),
    "occupancy": ("fewer registers or less shared memory per program", "smaller blocks", "other number of warps"),
    "compute": ("use matrix instructions at the allowed precision", "larger blocks for reuse", "more stages"),
    "bandwidth": ("read each byte once: fuse", "wider, aligned, coalesced accesses", "keep reused data on chip"),
    "unknown": ("measure on the device", "change one thing at a time"),
}

_VERDICTS = {
    Verdict.COMPILE_ERROR: "compile-error",
    Verdict.LOAD_ERROR: "wrong-interface",
    Verdict.WRONG_META: "wrong-interface",
    Verdict.WRONG_VALUE: "wrong-values",
    Verdict.GENERALIZATION: "wrong-values",
    Verdict.CRASH: "wrong-values",
    Verdict.NONDETERMINISTIC: "race",
    Verdict.MEM_RACE: "race",
    Verdict.OOM: "out-of-memory",
    Verdict.TIMEOUT: "timeout",
}


@dataclass(frozen=True)
class Diagnosis:
    """What limits a candidate.

    Attributes:
        limit: one of `LIMITS`.
        evidence: the line that it rests on, with figures and how they were obtained.
        tries: what to try, most promising first.
    """

    limit: str
    evidence: str
    tries: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.limit}: {self.evidence}"


def diagnose(evaluation: Evaluation, figures: HardwareFigures | None = None) -> Diagnosis:
    """The first rule that fits `evaluation`."""
    found = _fault(evaluation) or _told(evaluation) or _resources(evaluation, figures) or _times(evaluation, figures)
    limit, evidence = found or _mix(evaluation)
    return Diagnosis(limit, evidence, LIMITS[limit])


Found = tuple[str, str] | None


def _fault(evaluation: Evaluation) -> Found:
    if evaluation.correct:
        return None
    failed = [r for r in evaluation.rungs if r.status == "failed"]
    where = f"{failed[-1].rung.value}: {failed[-1].message}" if failed else "no rung says more"
    limit = "breach" if evaluation.verdict.family == "breach" else _VERDICTS.get(evaluation.verdict, "unknown")
    # Triton reports a kernel that needs more shared memory than there is while compiling or loading it.
    if limit in ("compile-error", "wrong-interface") and "shared memory" in where.lower():
        limit = "shared-memory"
    return limit, f"{evaluation.verdict.value} at {where}"


def _told(evaluation: Evaluation) -> Found:
    limit, _, rest = evaluation.diagnosis.partition(":")
    return (limit, rest.strip()) if limit in LIMITS else None


def _resources(evaluation: Evaluation, figures: HardwareFigures | None) -> Found:
    launches = _launches(evaluation)
    if not launches:
        return None
    spilling = max(launches, key=lambda r: r.spill_bytes)
    if spilling.spill_bytes > 0:
        return "spills", f"{spilling.kernel} spills {spilling.spill_bytes} bytes per thread (compiled)"
    idle = min(launches, key=lambda r: r.occupancy)
    if idle.occupancy >= LOW_OCCUPANCY:
        return None
    text = f"{idle.kernel} reaches occupancy {idle.occupancy:.2f} with {idle.registers} registers"
    if figures is not None and idle.shared_bytes > SHARED_SHARE * figures.shared_bytes_per_block:
        return (
            "shared-memory",
            f"{text} and {idle.shared_bytes} of {figures.shared_bytes_per_block} bytes shared (compiled)",
        )
    # Matrix kernels are fast at low occupancy: their latency is hidden by the pipeline, not by other warps.
    return None if idle.instructions.get("matrix", 0) else ("occupancy", f"{text} per thread (compiled)")


def _times(evaluation: Evaluation, figures: HardwareFigures | None) -> Found:
    launches = len(_launches(evaluation))
    timings = [t for t in evaluation.timings if t.platform == evaluation.platform and t.mode == "cold"]
    if figures is None or not timings or not launches:
        return None
    slowest = max(timings, key=lambda t: t.candidate.value)
    seconds, cost = slowest.candidate.value / 1e3, launches * figures.launch_seconds
    text = (
        f"{slowest.workload} takes {seconds * 1e6:.1f} us ({slowest.candidate.evidence.value}) in {launches} launches"
    )
    if launches > 1 and cost > LAUNCH_SHARE * seconds:
        return "launch", f"{text}, which cost about {cost * 1e6:.1f} us by themselves"
    if seconds < LATENCY_LAUNCHES * figures.launch_seconds:
        return "latency", f"{text}, less than {LATENCY_LAUNCHES:g} empty launches"
    return None


def _mix(evaluation: Evaluation) -> tuple[str, str]:
    launches = _launches(evaluation)
    total = {name: sum(r.instructions.get(name, 0) for r in launches) for name in ("matrix", "fma", "load", "store")}
    if not any(total.values()):
        return "unknown", "neither profile, nor resources, nor instruction mix say more"
    text = ", ".join(f"{count} {name}" for name, count in total.items())
    memory = total["load"] + total["store"]
    busy = total["matrix"] > 0 or total["fma"] > 4 * memory
    return ("compute" if busy else "bandwidth"), f"instruction mix: {text} (compiled)"


def _launches(evaluation: Evaluation) -> Sequence[Resources]:
    return evaluation.resources.get(evaluation.platform, ())
