"""The interpret and correct rungs: a worker runs the candidate, the judge compares what came out.

In: a candidate and the sizes and cases to try. Out: `Correctness` and, where something is wrong, the verdict. Left to
others: the oracle and the acceptance rule (`judge`), running (`worker`). Inputs are drawn on both sides from the case;
outputs travel as memory files that this process hands on without reading.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from kernelevolve import codec
from kernelevolve.errors import ProblemError
from kernelevolve.evaluate.asking import BOUNDS, Bounds, Failed, Trial, Unseen, candidate_asks
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.roles import Conversation
from kernelevolve.evaluate.seat import Stay
from kernelevolve.evaluate.talk import Talk
from kernelevolve.evaluation import Correctness, Evidence, Verdict
from kernelevolve.protocol import Case

__all__ = ["BOUNDS", "Bounds", "Failed", "Trial", "Unseen", "addresses", "candidate_asks", "compare", "telling"]

_ADDRESS_PROGRAMS = 24
_ADDRESS_SECONDS = 30.0


def compare(
    bench: Bench,
    trial: Trial,
    cases: Sequence[Case],
    evidence: Evidence,
    then: Callable[[Talk], None] | None = None,
    *,
    enough: int = 0,
    stay: Stay | None = None,
    loaded: Conversation | None = None,
    keep: Callable[[Conversation], None] | None = None,
) -> tuple[Correctness, str]:
    """Runs and compares every case; returns what was found and which isolation held.

    Args:
        enough: ends after so many cases, if one of them said anything; 0 = after all.
        then: goes on with the same worker once all cases were right.
        stay: lets others by before each question.
        loaded: a worker that has the candidate already; a fresh one if None. It is ended here unless it is kept.
        keep: is given the worker once all is well, and ends it when it is no longer needed.

    Raises:
        Failed: at the first case that is wrong.
        ProblemError, SeatLost: not the candidate's fault.
    """
    description = trial.description
    on_cpu = trial.device == "cpu"
    limits = trial.bounds.limits if on_cpu else trial.bounds.on_device
    scratch = None if on_cpu else bench.scratch(trial.source)
    with contextlib.ExitStack() as stack:
        worker = loaded
        if worker is None:
            if stay is not None:
                stay.give_way()
            worker = bench.roles["worker"].open(limits, scratch)
        stack.enter_context(worker)
        talk = Talk(bench, trial, worker, stay)
        try:
            if loaded is None:
                talk.load()
            for case in cases:
                if enough and talk.checks and len(talk.tried) >= enough:
                    break
                talk.check(case)
            if then is not None and talk.right:
                then(talk)
        except Failed as failed:
            failed.knowing(**_replayed(trial, talk.tried))
            if not isinstance(failed, Unseen):
                failed.correctness = _found(talk, evidence, False)
            raise
        if not talk.checks:
            reasons = dict.fromkeys(u.partition(": ")[2] for u in talk.unusable)
            raise ProblemError(
                f"{bench.problem.name}, {description.variant.label}: no case says anything ({'; '.join(reasons)}); "
                "give inputs on which the reference is finite and not constant"
            )
        if keep is not None:
            stack.pop_all()
            keep(worker)
        return _found(talk, evidence, True), worker.isolation


def telling(found: Sequence[Correctness], cases: Sequence[Case]) -> str:
    """The first distribution on which a comparison on the device said something: on others passing means nothing."""
    said = {check.distribution for one in found if one.evidence is Evidence.MEASURED for check in one.checks}
    return next((c.distribution for c in cases if c.distribution in said), cases[0].distribution)


def _found(talk: Talk, evidence: Evidence, passed: bool) -> Correctness:
    seen = dict.fromkeys((*talk.not_seen, *talk.limited, *(f"inputs {u}" for u in talk.unusable)))
    scaled = talk.trial.description.variant.scaled
    return Correctness(evidence, passed, tuple(talk.checks), scaled, tuple(seen), *talk.errors)


def _replayed(trial: Trial, tried: Sequence[Case] = (), device: str = "") -> dict[str, Any]:
    """What replays a trial's last case, as fields of `receipt.Failure`; the judge pools errors of small outputs over
    the cases before it."""
    variant, bounds = trial.description.variant, codec.to_data(trial.bounds)
    facts: dict[str, Any] = {"workload": variant.workload, "size": variant.size, "bounds": bounds}
    facts |= {"device": device or trial.device, "choice": dict(trial.choice)}
    if tried:
        last, cases = tried[-1], [codec.to_data(case) for case in tried]
        facts |= {"seed": last.seed, "distribution": last.distribution, "cases": cases}
    return facts


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
            failed.knowing(**_replayed(trial, device="meta"))
            raise
        report = answer.body["interpreted"]
        return f"addresses of {report['programs']} programs at full size"
