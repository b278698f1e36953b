"""Receipts: made from a run, held against themselves, and against what was found when they were run again.

In: the graph and artefacts of a run; a Receipt and the Evaluation of its candidate made here. Out: a Receipt; every
difference, in one line each. Left to others: running it again and whether that can be done here at all (`recheck`).

What must come out the same: verdict, each guard, each comparison, the machine code of each launch, a modelled time to
its last digits. A measured time is confirmed where the two intervals of the speedup overlap. Statistics of equal seeds
may differ by what another processor's rounding explains.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from kernelevolve.errors import UnknownName, UsageError
from kernelevolve.evaluate.admission import TOPIC
from kernelevolve.evaluate.timing import CANDIDATE, ratio_of, statistic_for
from kernelevolve.evaluation import (
    Check,
    Correctness,
    Evaluation,
    Evidence,
    Figure,
    Guard,
    Resources,
    Samples,
    Timing,
    Verdict,
)
from kernelevolve.graph import Graph
from kernelevolve.receipt import SCHEMA, Receipt
from kernelevolve.store.artefacts import Artefacts

EXACT = 1e-6  # relative: a modelled figure, and one that is computed again from raw samples
# Of a statistic, or of a limit that was calibrated by the reference's own error; and of its limit: another processor's
# order of summation, and what the judge had seen of small outputs before.
SHARE, OF_LIMIT = 0.25, 0.05
_TIMED = (Verdict.OK_FASTER, Verdict.OK_SAME, Verdict.OK_SLOWER, Verdict.INCONCLUSIVE)


def receipt_of(graph: Graph, artefacts: Artefacts, node: str) -> Receipt:
    """The receipt of one node.

    Raises:
        UnknownName: no such node.
        UsageError: it was evaluated before evaluations kept what a receipt needs.
        StoreError: an artefact is missing or damaged.
    """
    if node not in graph.nodes:
        raise UnknownName("node", node, graph.nodes)
    found, created = graph.nodes[node], graph.created
    circumstances = artefacts.circumstances(node)
    if circumstances is None:
        raise UsageError(f"{node} was evaluated by a KernelEvolve without receipts; evaluate its file again")
    timed = [t for t in found.evaluation.timings if t.candidate.evidence == "measured"]
    notes = [note.data for note in graph.notes if note.topic == TOPIC]
    return Receipt(
        schema=SCHEMA,
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        problem=created.problem,
        candidate=found.candidate.source,
        platform=created.platform,
        seed=created.seed,
        settings=dict(graph.settings),
        evaluation=replace(found.evaluation, artefacts={}),
        fitness=found.fitness,
        circumstances=circumstances,
        timed_in="" if not timed else "plan" if all(t.lane == "plan" for t in timed) else "process",
        samples=tuple(artefacts.samples(node).values()),
        failure=artefacts.failure(node),
        admission=notes[-1] if notes else {},
    )


def inconsistencies(receipt: Receipt) -> tuple[str, ...]:
    """Where a receipt contradicts itself; needs no device."""
    return tuple(
        itertools.chain(_verdict_of_itself(receipt), _samples_of_itself(receipt), _checks_of_itself(receipt.evaluation))
    )


def differences(claimed: Evaluation, found: Evaluation, *, same_compiler: bool = True) -> tuple[str, ...]:
    """What came out otherwise than claimed.

    Args:
        same_compiler: false where machine code was built by another release of Triton and cannot be compared.
    """
    return tuple(
        itertools.chain(
            _verdicts(claimed, found),
            _guards(claimed.guards, found.guards),
            _comparisons(claimed.correctness, found.correctness),
            _binaries(claimed.resources, found.resources) if same_compiler else (),
            _times(claimed.timings, found.timings),
            _tuned(claimed, found) if same_compiler else (),
        )
    )


def _verdict_of_itself(receipt: Receipt) -> Iterator[str]:
    evaluation = receipt.evaluation
    if not evaluation.verdict.ok:
        return
    if evaluation.verdict is not Verdict.OK_UNTIMED and not receipt.samples:
        yield f"verdict {evaluation.verdict} without raw samples of a time"
    if any(not c.passed for c in evaluation.correctness) or not evaluation.correctness:
        yield f"verdict {evaluation.verdict} without comparisons that all passed"
    failed = [g.name for g in evaluation.guards if g.held == "failed"]
    if failed:
        yield f"verdict {evaluation.verdict} although the guard {failed[0]!r} failed"


def _checks_of_itself(evaluation: Evaluation) -> Iterator[str]:
    for check in (c for found in evaluation.correctness for c in found.checks):
        if check.passed and not check.value <= check.limit:
            yield f"{_named(check)}: {check.value:.6g} is said to pass the limit {check.limit:.6g}"


def _samples_of_itself(receipt: Receipt) -> Iterator[str]:
    kept = {(s.workload, s.mode): s for s in receipt.samples}
    for timing in receipt.evaluation.timings:
        if timing.candidate.evidence is not Evidence.MEASURED:
            continue
        samples = kept.get((timing.workload, timing.mode))
        if samples is None:
            yield f"{timing.workload}, {timing.mode}: a measured time without its raw samples"
        else:
            yield from _recomputed(timing, samples)


def _recomputed(timing: Timing, samples: Samples) -> Iterator[str]:
    """The figures of a workload beside those that its raw samples give."""
    where = f"{timing.workload}, {timing.mode}"
    if set(samples.arms) != {CANDIDATE, *timing.baselines}:
        yield f"{where}: raw samples of {', '.join(samples.arms)}, figures of {', '.join(timing.baselines)}"
        return
    blocks = {name: _blocks(b, samples.per_block) for name, b in samples.arms.items()}
    try:
        statistic = statistic_for(blocks)
        ratio, against = ratio_of(blocks, list(timing.baselines), statistic=statistic)
    except (ValueError, statistics.StatisticsError) as error:
        yield f"{where}: the raw samples give no ratio: {error}"
        return
    for name, figure in {CANDIDATE: timing.candidate, **timing.baselines}.items():
        median = statistics.median(statistic(burst) for burst in samples.arms[name])
        if not _near(figure.value, median):
            yield f"{where}: {name} {figure.value:.6g} {figure.unit}, its raw samples say {median:.6g}"
    speedup = timing.speedup
    if against != timing.against or not _near(speedup.value, ratio.value):
        yield f"{where}: {speedup.value:.6g}x of {timing.against}, raw samples say {ratio.value:.6g}x of {against}"
    narrow = (speedup.low or math.inf) > ratio.low * (1 + EXACT) or (speedup.high or 0) < ratio.high * (1 - EXACT)
    if narrow:
        yield f"{where}: its interval is narrower than the 95 % of its raw samples, {ratio.low:.6g} to {ratio.high:.6g}"


def _blocks(bursts: Sequence[tuple[float, ...]], per_block: int) -> list[Sequence[tuple[float, ...]]]:
    return [bursts[i : i + per_block] for i in range(0, len(bursts), per_block)]


def _verdicts(claimed: Evaluation, found: Evaluation) -> Iterator[str]:
    if claimed.verdict is found.verdict:
        return
    unclear = Verdict.INCONCLUSIVE in (claimed.verdict, found.verdict)
    if unclear and claimed.verdict in _TIMED and found.verdict in _TIMED:
        return  # the intervals say whether the times agree
    why = next((f": {r.message}" for r in found.rungs if r.status == "failed"), "")
    yield f"verdict {claimed.verdict} claimed, {found.verdict} found{why}"


def _guards(claimed: tuple[Guard, ...], found: tuple[Guard, ...]) -> Iterator[str]:
    now = {g.name: g for g in found}
    for guard in claimed:
        here = now[guard.name].held if guard.name in now else "not run"
        if guard.held != here:
            yield f"guard {guard.name!r}: {guard.held} claimed, {here} found"
    known = {g.name for g in claimed}
    for guard in found:
        if guard.held == "failed" and guard.name not in known:
            yield f"guard {guard.name!r}: not claimed, failed here"


def _comparisons(claimed: tuple[Correctness, ...], found: tuple[Correctness, ...]) -> Iterator[str]:
    here: dict[tuple[str, str, str], list[Check]] = {}
    for check in (c for f in found for c in f.checks):
        here.setdefault((check.name, check.workload, check.distribution), []).append(check)
    seen: set[str] = set()
    for check in (c for f in claimed for c in f.checks):
        some = here.get((check.name, check.workload, check.distribution), [])
        line = _comparison(check, some)
        if line and line not in seen:
            seen.add(line)
            yield line


def _comparison(check: Check, some: list[Check]) -> str:
    if not some:
        return f"{check.name} on {check.workload}, {check.distribution}: claimed, not compared here"
    for other in (c for c in some if c.seed == check.seed):
        if other.passed != check.passed:
            said = {True: "passed", False: "failed"}
            return f"{_named(check)}: {said[check.passed]} claimed, {said[other.passed]} found"
        if not math.isclose(other.limit, check.limit, rel_tol=SHARE):
            return f"{_named(check)}: limit {check.limit:.6g} claimed, {other.limit:.6g} found"
        room = SHARE * max(abs(check.value), abs(other.value)) + OF_LIMIT * abs(check.limit)
        if math.isfinite(check.value) and math.isfinite(other.value) and abs(check.value - other.value) > room:
            return f"{_named(check)}: {check.value:.6g} claimed, {other.value:.6g} found"
    return ""


def _binaries(
    claimed: Mapping[str, tuple[Resources, ...]], found: Mapping[str, tuple[Resources, ...]]
) -> Iterator[str]:
    for platform, launches in claimed.items():
        here = found.get(platform, ())
        if [r.kernel for r in launches] != [r.kernel for r in here]:
            names = ", ".join(r.kernel for r in here) or "nothing"
            yield f"{platform}: {', '.join(r.kernel for r in launches)} claimed, {names} built here"
            continue
        for one, other in zip(launches, here, strict=True):
            if one.binary != other.binary:
                yield f"{one.kernel} for {one.target}: machine code {one.binary[:12]} claimed, {other.binary[:12]} here"
            elif one != other:
                yield f"{one.kernel} for {one.target}: what is said of its machine code is not what it has"


def _times(claimed: tuple[Timing, ...], found: tuple[Timing, ...]) -> Iterator[str]:
    here = {(t.workload, t.mode): t for t in found}
    for timing in claimed:
        where = f"{timing.workload}, {timing.mode}"
        other = here.get((timing.workload, timing.mode))
        if other is None:
            yield f"{where}: a time is claimed, none was found"
            continue
        modelled = Evidence.MODELLED in (timing.candidate.evidence, other.candidate.evidence)
        pairs = {"speedup": (timing.speedup, other.speedup)}
        if modelled:
            pairs |= {"candidate": (timing.candidate, other.candidate)}
            pairs |= {n: (f, other.baselines[n]) for n, f in timing.baselines.items() if n in other.baselines}
        for name, (one, two) in pairs.items():
            if not (_same(one, two) if modelled else _overlap(one, two)):
                yield f"{where}: {name} {_said(one)} claimed, {_said(two)} found"


def _tuned(claimed: Evaluation, found: Evaluation) -> Iterator[str]:
    modelled = all(t.candidate.evidence is Evidence.MODELLED for t in claimed.timings)
    if modelled and claimed.tuned_source != found.tuned_source:
        yield "the tuned file is another one than what tuning gives here"


def _same(one: Figure, two: Figure) -> bool:
    return one.evidence is two.evidence and one.unit == two.unit and _near(one.value, two.value)


def _overlap(one: Figure, two: Figure) -> bool:
    if one.evidence is not two.evidence or one.low is None or one.high is None or two.low is None or two.high is None:
        return False
    return one.low <= two.high and two.low <= one.high


def _said(figure: Figure) -> str:
    interval = f" ({figure.low:.4g} to {figure.high:.4g})" if figure.low and figure.high else ""
    return f"{figure.value:.6g} {figure.unit}{interval}, {figure.evidence}"


def _near(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=EXACT) or one == two


def _named(check: Check) -> str:
    return f"{check.name} on {check.workload}, {check.distribution}, seed {check.seed}"
