"""One check that failed, run again: same source, choice, workload, size and inputs, same guard.

In: a Failure and the ladder of its problem and platform. Out: whether it comes out as before. Left to others: where
failures are kept (`store.artefacts`, `receipt`), what is asked on the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kernelevolve import codec
from kernelevolve.candidate import Candidate
from kernelevolve.errors import MissingDevice, ProblemError
from kernelevolve.evaluate.asking import Killed
from kernelevolve.evaluate.building import Builder
from kernelevolve.evaluate.check import check_source
from kernelevolve.evaluate.correct import Bounds, Failed, Trial, addresses, compare
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluation import Evaluation, Evidence, Rung
from kernelevolve.protocol import Case, Description
from kernelevolve.receipt import Failure
from kernelevolve.settings import lane_for


@dataclass(frozen=True)
class Replayed:
    """What running a check again showed.

    Attributes:
        how: what was different, or why nothing could be said; else what came out again.
    """

    status: Literal["reproduced", "not reproduced", "cannot replay"]
    how: str


class _Unable(Exception):
    """The check cannot be run here; says why."""


def replay(ladder: Ladder, source: str, failure: Failure) -> Replayed:
    """Runs the failing check once more; where the judge pools errors over cases, the cases before it first.

    Raises:
        SeatLost: a process was lost.
    """
    try:
        try:
            passed = _again(ladder, source, failure)
        except Killed:
            passed = _again(ladder, source, failure)  # the second time counts
    except _Unable as unable:
        return Replayed("cannot replay", str(unable))
    except (MissingDevice, ProblemError) as error:
        return Replayed("cannot replay", str(error))
    except Failed as failed:
        return _compared(failure, failed)
    return Replayed("not reproduced", f"it passed this time: {passed}")


def _compared(failure: Failure, failed: Failed) -> Replayed:
    statistic, guard = str(failed.artefact.get("statistic", "")), str(failed.artefact.get("guard", ""))
    odd = [
        f"{name} {now or 'none'}, then {before or 'none'}"
        for name, now, before in (
            ("verdict", failed.verdict.value, failure.verdict.value),
            ("guard", guard, failure.guard),
            ("statistic", statistic, failure.statistic),
        )
        if now != before
    ]
    return Replayed("not reproduced" if odd else "reproduced", "; ".join(odd) or f"{failed.verdict.value}: {failed}")


def _again(ladder: Ladder, source: str, failure: Failure) -> str:
    """What passed; raises `Failed` where the check fails again."""
    if failure.rung is Rung.CHECK:
        finding = check_source(source)
        if finding.verdict is not None:
            raise Failed(finding.verdict, finding.message)
        return finding.message
    if failure.guard or failure.rung in (Rung.TUNE, Rung.TIME, Rung.PROFILE):
        return _whole(ladder, source, failure)
    known = {d.variant.workload: d for d in ladder.bench.descriptions}
    if failure.workload not in known:
        raise _Unable(f"the problem has no workload {failure.workload!r}")
    if failure.rung in (Rung.PLAN, Rung.BUILD):
        builder = Builder(ladder.bench, ladder.platform, _bounds(failure))
        try:
            launches = sum(len(b.plan.launches) for b in builder.build(source, failure.choice, (failure.workload,)))
        finally:
            builder.close()
        return f"{launches} launches were recorded and built"
    return _run(ladder, source, failure)


def _run(ladder: Ladder, source: str, failure: Failure) -> str:
    """Values or addresses of one workload at one size, on the inputs of the case that failed."""
    trial = Trial(
        source,
        failure.choice,
        _description(ladder.bench.descriptions, failure),
        failure.device,
        ladder.platform.device_answers() if failure.device in ("cpu", "meta") else {},
        _bounds(failure),
    )
    if failure.device == "meta":
        return addresses(ladder.bench, replace(trial, device="cpu"))
    evidence = Evidence.INTERPRETED
    if failure.device != "cpu":
        if ladder.device is None:
            raise _Unable(f"it failed on a device ({failure.device}) and there is none here that is the platform")
        trial, evidence = replace(trial, device=ladder.device.torch_name), Evidence.MEASURED
    # Without a case it failed before the first inputs were drawn.
    cases = [codec.from_data(Case, c) for c in failure.more.get("cases", ())] or [Case(max(failure.seed, 0))]
    found, _ = compare(ladder.bench, trial, cases[-1:], evidence)
    if len(cases) > 1:
        found, _ = compare(ladder.bench, trial, cases, evidence)
    return f"{len(found.checks)} checks"


def _whole(ladder: Ladder, source: str, failure: Failure) -> str:
    """A guard's or the clock's no: the climb up to it, in the same lane, with what it finds in place of the rest."""
    if failure.device not in ("", "cpu", "meta") and ladder.device is None:
        raise _Unable(f"it failed on a device ({failure.device}) and there is none here that is the platform")
    ladder.lane = lane_for(failure.lane)
    kept: list[bytes] = []

    def keep(data: bytes) -> str:
        kept.append(data)
        return f"sha256:{len(kept) - 1:064x}"

    found = ladder.climb(Candidate("replayed", "", "replay", source), lambda rung: None, keep)
    again = _failure_in(found, kept)
    if again is not None:
        artefact: dict[str, Any] = {"statistic": again.statistic, "guard": again.guard}
        raise Failed(again.verdict, again.message, artefact=artefact)
    return f"the whole climb came out {found.verdict}"


def _failure_in(found: Evaluation, kept: Sequence[bytes]) -> Failure | None:
    reference = found.artefacts.get("failure")
    if reference is None:
        return None
    return codec.loads(Failure, kept[int(reference.partition(":")[2], 16)].decode())


def _description(known: Sequence[Description], failure: Failure) -> Description:
    size = "full" if failure.device == "meta" else failure.size
    for description in known:
        if description.variant.workload == failure.workload and description.variant.size == size:
            return description
    raise _Unable(f"workload {failure.workload!r} has no size {size!r} here")


def _bounds(failure: Failure) -> Bounds:
    """What the candidate was allowed to use when it failed."""
    return codec.from_data(Bounds, failure.more["bounds"]) if "bounds" in failure.more else Bounds()
