"""What a run found: for people as a page, for scripts as one JSON object.

In: the graph of a run and where it lives. Out: lines of text; a result object. Left to others: printing.

The result object always has `verdict` (null where no candidate was evaluated) and `correct`; every figure in it is an
object with value, unit, evidence and how.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kernelevolve import (
    Figure,
    Graph,
    KernelEvolveError,
    MachineError,
    Node,
    ProblemError,
    StoreError,
    Verdict,
    compare_with_control,
    to_data,
)
from kernelevolve.cli import admitting, billing, warming, words, writing

# What holds where everything that the seal asks for is granted.
SEALED = ("namespaces+landlock+seccomp", "bwrap+landlock+seccomp")


def result(graph: Graph, folder: Path, kernel: Path | None) -> dict[str, Any]:
    """The result object of one run."""
    created, best = graph.created, graph.best
    shown = best or graph.furthest
    data: dict[str, Any] = {
        "verdict": str(shown.evaluation.verdict) if shown else None,
        "correct": best is not None,
        "run": created.run,
        "folder": str(folder),
        "problem": created.problem.name,
        "problem_key": created.problem.key,
        "platform": created.platform,
        "effort": created.settings.get("effort"),
        "seed": created.seed,
        "candidates": len(graph.nodes),
        "finished": graph.finished or None,
        "ended": to_data(graph.ending) if graph.ending else None,
        "device_seconds": round(_device_seconds(graph), 3),
        "seconds": round(graph.active_seconds, 3),
        "kernelevolve": created.version,
        "result": {"said": graph.result.text, **graph.result.data} if graph.result else None,
        "control": to_data(compare_with_control(graph)),
        "admission": dict(admitting.facts(graph)) or None,
        "admit_anyway": created.admit_anyway,
        "chooser": to_data(created.chooser),
        "arms": writing.facts(graph),
        "writers": writing.authors_facts(graph),
        "cost": billing.bill_facts(graph),
        "warm_start": warming.facts(graph),
    }
    if best is not None:
        evaluation = best.evaluation
        data |= {
            "node": best.id,
            "kernel": str(kernel) if kernel else None,
            "fitness": to_data(best.fitness),
            "correctness": [
                {"evidence": str(c.evidence), "passed": c.passed, "checks": len(c.checks), "scaled": list(c.scaled)}
                for c in evaluation.correctness
            ],
            "timings": [
                {
                    "workload": t.workload,
                    "platform": t.platform,
                    "candidate": to_data(t.candidate),
                    "baselines": to_data(t.baselines),
                    "aside": to_data(t.aside),
                    "against": t.against,
                    "speedup": to_data(t.speedup),
                    "knobs": to_data(t.knobs),
                }
                for t in evaluation.timings
            ],
            "built_for": {name: [r.target for r in found][:1] for name, found in evaluation.resources.items()},
            "labels": list(evaluation.labels),
            "isolation": evaluation.isolation,
            "versions": dict(evaluation.versions),
            "guards": to_data(evaluation.guards),
        }
    return data


def failure(error: KernelEvolveError) -> dict[str, Any]:
    """The result object of a command that could not run."""
    verdict = None
    if isinstance(error, ProblemError):
        verdict = str(Verdict.TASK_INVALID)
    elif isinstance(error, (MachineError, StoreError)):
        verdict = str(Verdict.INFRA)
    return {"verdict": verdict, "correct": False, "error": str(error), "kind": type(error).__name__}


def lines(graph: Graph, folder: Path, kernel: Path | None) -> list[str]:
    """The summary of one run, line by line, without colours."""
    created, best = graph.created, graph.best
    out = [f"{created.problem.name} on {created.platform}: {_headline(graph)}"]
    if best is not None:
        out += [f"  kernel       {kernel}"] if kernel else []
        out += list(_best(best))
    if graph.result is not None:
        out.append(f"  result       {graph.result.text}")
    if (control := compare_with_control(graph)) is not None:
        out.append(f"  control      {control.said}")
    out += admitting.lines(graph)
    out += _moves(graph)
    out += warming.lines(graph)
    out += writing.authors(graph)
    out += billing.bill(graph)
    out += writing.lines(graph)
    reason = graph.finished or "interrupted"
    count = f"{len(graph.nodes)} candidate{'s' * (len(graph.nodes) != 1)}"
    out.append(f"  run          {count} in {words.duration(graph.active_seconds)}; ended: {reason}")
    out += [f"  {'':<12} {name}: {words.figure(f)}, {f.how}" for name, f in _behind(graph)]
    if held := _device_seconds(graph):
        out.append(f"  device       held for {words.duration(held)} by candidates")
    out.append(f"  look closer  kernelevolve show {folder}{f' {best.id}' if best else ''}")
    out.append(f"  go on        kernelevolve resume {folder}")
    return out


def _behind(graph: Graph) -> Iterable[tuple[str, Figure]]:
    """The figures behind the end of the run."""
    return graph.ending.figures.items() if graph.ending else ()


def _device_seconds(graph: Graph) -> float:
    """Seconds for which candidates held an accelerator, measuring the best again included."""
    again = graph.result.data.get("again", ()) if graph.result else ()
    confirmed = sum(float(one["evaluation"].get("device_seconds", 0.0)) for one in again)
    return confirmed + graph.device_seconds


def _headline(graph: Graph) -> str:
    best = graph.best
    if best is None:
        furthest = graph.furthest
        if furthest is None and graph.pending:
            return "no candidate is evaluated yet"
        if furthest is None:
            return f"no candidate was evaluated ({graph.last_drop or 'nothing was written'})"
        failed = next((r for r in furthest.evaluation.rungs if r.status == "failed"), None)
        verdict = f"{furthest.verdict}: "
        where = f": {failed.message.removeprefix(verdict)}" if failed else ""
        return f"no correct candidate; {furthest.id} came furthest, {furthest.verdict}{where}"
    fast = words.speedup(best.fitness) if best.fitness.value > 0 else "not timed"
    taken = f", taken over from run {best.candidate.origin.replace('/', ', ')}" if best.candidate.origin else ""
    return f"{best.evaluation.verdict}, {fast}, {words.correctness(best.evaluation)}{taken}"


def _best(best: Node) -> Iterable[str]:
    evaluation = best.evaluation
    for t in evaluation.timings:
        aside = [f"{n} {words.figure(f)} (first look)" for n, f in t.aside.items()]
        others = ", ".join([*(f"{n} {words.figure(f)}" for n, f in t.baselines.items()), *aside])
        yield f"  {t.workload:<12} {words.figure(t.candidate)} against {others}"
        for name, f in (("candidate", t.candidate), (t.against, t.baselines[t.against])):
            if f.how:
                yield f"  {'':<12} {name}: {f.how}"
    for evidence in dict.fromkeys(c.evidence for c in evaluation.correctness):
        found = [c for c in evaluation.correctness if c.evidence is evidence]
        checks = [check for c in found for check in c.checks]
        sizes = ", ".join(dict.fromkeys(check.workload for check in checks))
        passed = sum(c.passed for c in checks)
        yield f"  checked      {passed} of {len(checks)} comparisons passed on {sizes} ({evidence})"
        if scaled := dict.fromkeys(line for c in found for line in c.scaled):
            yield f"  scaled       {'; '.join(scaled)}"
        if unseen := dict.fromkeys(item.split(":")[0] for c in found for item in c.not_seen):
            yield f"  not seen     {'; '.join(unseen)}"
    for platform, launches in evaluation.resources.items():
        kernels = ", ".join(
            f"{r.kernel} {r.registers} registers, {r.spill_bytes} B spilled, {r.occupancy:.0%} occupancy"
            for r in launches
        )
        target = launches[0].target if launches else "nothing to launch"
        yield f"  built for    {platform} ({target}): {kernels} (compiled)"
    if evaluation.diagnosis:
        yield f"  limited by   {evaluation.diagnosis}"
    if evaluation.labels:
        yield f"  notes        {'; '.join(evaluation.labels)}"
    if evaluation.isolation not in SEALED:
        held = "nothing" if evaluation.isolation == "none" else evaluation.isolation
        yield f"  isolation    only {held} held while the candidate ran; `kernelevolve doctor` says what is missing"


def _moves(graph: Graph) -> list[str]:
    children = [n for n in graph.nodes.values() if n.parents]
    out = []
    for kind in ("accepted", "rejected"):
        some = [n for n in children if words.effect(graph, n).startswith(kind)]
        if some:
            out.append(f"  {kind:<12} {len(some)} of {len(children)} moves")
            newest = some[-5:]
            out += [f"  {'':<12} {n.id} {words.change(graph, n)} ({_reason(graph, n)})" for n in newest]
    return out


def _reason(graph: Graph, node: Node) -> str:
    return words.effect(graph, node).split(": ", 1)[1]
