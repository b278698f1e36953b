"""Diagnosis: what limits a candidate and what to try, by rules that anybody can check.

In: an Evaluation and, where known, the hardware's figures. Out: a Diagnosis with the evidence line that it rests on.
Left to others: profiles (a diagnosis that the profiler or cost model wrote into the evaluation goes first).

The rules are tried in order and the first that fits is taken: a broken kernel before a slow one, what is certain (a
compiler's message, spills) before what is inferred (an instruction mix).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kernelevolve.evaluation import Evaluation, Resources, Verdict
from kernelevolve.hardware import HardwareFigures

LOW_OCCUPANCY = 0.25
LAUNCH_SHARE = 0.5
LATENCY_LAUNCHES = 3.0
SHARED_SHARE = 0.9
MOST_LINES = 4

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

DIRECTIVES = {
    "compile-error": (
        "repair the statement that the compiler names, and nothing else; the structure has not been judged yet"
    ),
    "wrong-interface": (
        "make constructor, parameters, outputs and their shapes and dtypes those of the reference; leave the "
        "kernels alone"
    ),
    "wrong-values": (
        "find the first check that failed and the indices, masks or accumulation that explain it; a check that "
        "fails on ragged sizes only is a mask, one that fails on large values only is precision"
    ),
    "race": "give every output element one program that writes it, or pass partial results to a second launch",
    "out-of-memory": "remove the largest scratch tensor: keep that value on chip, or compute it again where it is used",
    "timeout": "bound every loop by a shape, and check that the grid is not a multiple of what is needed",
    "breach": (
        "compute the result anew in every call, from this call's inputs, with your own kernels on the current "
        "stream"
    ),
    "spills": (
        "reduce what one thread holds: smaller tiles first, then more warps, then fewer values alive across the "
        "loop"
    ),
    "shared-memory": "reduce stages times tile bytes until a block fits; put both among the knobs",
    "launch": (
        "do in one launch what follows element by element or row by row, so that nothing in between reaches "
        "memory"
    ),
    "latency": (
        "give the units more to do at once: split long reductions, and let each program have several loads in "
        "flight"
    ),
    "occupancy": (
        "let more programs be resident: fewer registers or less shared memory for each, which smaller tiles give"
    ),
    "compute": (
        "let the matrix units do the work at the precision that is allowed, with tiles large enough to reuse each "
        "operand, and overlap loads with products"
    ),
    "bandwidth": (
        "move fewer bytes: read each input once, keep what is reused on chip, write only what is asked for; then "
        "make accesses wide and contiguous"
    ),
    "unknown": "change one thing whose effect the next evaluation can show",
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
        lines: more evidence, one figure or message each.
        directive: the one thing to do next.
        later: what else limits it and is better put off.
        avoid: what was tried and lost, where a model said so.
        said: who says all this, where it is worth telling.
    """

    limit: str
    evidence: str
    tries: tuple[str, ...]
    lines: tuple[str, ...] = ()
    directive: str = ""
    later: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    said: str = ""

    def __str__(self) -> str:
        return f"{self.limit}: {self.evidence}"


def diagnose(evaluation: Evaluation, figures: HardwareFigures | None = None) -> Diagnosis:
    """The first rule that fits `evaluation`; what other rules found is put off."""
    fault = _fault(evaluation)
    inferred = (_told(evaluation), _resources(evaluation, figures), _times(evaluation, figures), _mix(evaluation))
    found = [one for one in (fault, *(inferred if fault is None else ())) if one is not None]
    limit, evidence = found[0]
    later = {other: f"{other}: {why}" for other, why in found[1:] if other not in (limit, "unknown")}
    return Diagnosis(
        limit, evidence, LIMITS[limit], tuple(_lines(evaluation)), DIRECTIVES[limit], tuple(later.values())
    )


Found = tuple[str, str] | None


def _lines(evaluation: Evaluation) -> Iterator[str]:
    """What is known of its times, the slowest against its floor first, and of what its launches use."""
    timings = [t for t in evaluation.timings if t.platform == evaluation.platform and t.mode == "cold"]
    for t in sorted(timings, key=lambda t: t.speedup.value)[:MOST_LINES]:
        against = f"{t.speedup.value:.3g} times as fast as {t.against} ({t.speedup.evidence.value})"
        reached = ""
        if t.floor is not None and t.candidate.value > 0:
            share = t.floor.value / t.candidate.value
            reached = f", {share:.0%} of the speed that bytes and FLOPs allow (modelled floor)"
        yield f"{t.workload}: {against}{reached}"
    launches = _launches(evaluation)
    if launches:
        least, most = min(r.occupancy for r in launches), max(r.registers for r in launches)
        yield (
            f"{len(launches)} kernel{'s' * (len(launches) > 1)}, least occupancy {least:.2f}, most registers {most}, "
            f"most shared bytes {max(r.shared_bytes for r in launches)} (compiled)"
        )
    wrong = [c for correctness in evaluation.correctness for c in correctness.checks if not c.passed]
    for c in wrong[:MOST_LINES]:
        yield f"{c.name} of {c.workload} under {c.distribution}: {c.value:.3g}, allowed {c.limit:.3g}"
    compared = {c.distribution for correctness in evaluation.correctness for c in correctness.checks}
    passed = sorted(compared - {c.distribution for c in wrong})
    if wrong and passed:
        yield f"no check fails under {', '.join(passed)}"


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
