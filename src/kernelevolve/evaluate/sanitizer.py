"""The guard `sanitizer`: a candidate's calls at a small size under NVIDIA's compute-sanitizer, where that is installed.

In: a trial on a device, cases. Out: the guard's report; `Failed` with `MEM_RACE` and the first finding. Left to
others: running the tool inside the seal (`worker.sanitized`).

Three tools: `memcheck` (outside of memory, misaligned), `racecheck` (hazards in shared memory), `initcheck` (reads of
global memory that nobody wrote). Only findings in the candidate's own kernels convict; others are said. Two writes of
the same instruction are no finding against it: Triton has several threads store the same number in a reduction, and
racecheck calls that a race. What the tool says passes through the candidate's process: this guard is for mistakes.
"""

from __future__ import annotations

import ast
import glob
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernelevolve import codec
from kernelevolve.evaluate.asking import Failed, Trial, candidate_asks
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.structure import Report
from kernelevolve.evaluation import Verdict
from kernelevolve.protocol import Case
from kernelevolve.syntax import parse

GUARD = "sanitizer"
TOOLS = ("memcheck", "racecheck", "initcheck")
SECONDS = 180.0  # for one tool, with the import of torch under it
_SLACK = 30.0  # for the process that waits for it
_SHOWN = 500
_PREFIX = re.compile(r"^={8,} ?")
_SUMMARY = re.compile(
    r"(?<!LEAK )(?:\bERROR SUMMARY: (\d+) errors?\b|\bRACECHECK SUMMARY: \d+ hazards? displayed \((\d+))"
)
_FINDING = re.compile(
    r"(?:Invalid |Uninitialized |Misaligned |Barrier error|Error: (?:Potential|Race)|(?:Potential|Race) |"
    r"Malloc/Free|Stack overflow|Stream-ordered|Host API memory access)"
)
_ACCESS = re.compile(r"(Write|Read|Atomic) access at (\S.*?)(?=(?: \[\d+ hazards?\])?$)", re.MULTILINE)


@dataclass(frozen=True)
class Findings:
    """What a report says.

    Attributes:
        errors: by its summary; None where there is none.
        found: the text of each finding that it prints, without the prefix.
        last: its last line, for who has to understand a report without a summary.
    """

    errors: int | None
    found: tuple[str, ...]
    last: str

    def against(self, kernels: Sequence[str]) -> str:
        """The first finding in one of these kernels, or in any where there are none; empty if there is none."""
        named = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in kernels)) if kernels else None
        return next((f for f in self.found if not _same_write(f) and (named is None or named.search(f))), "")


def read_report(text: str) -> Findings:
    """Reads the tool's output format: lines with a prefix of `=`, a finding's further lines indented."""
    lines = [_PREFIX.sub("", line) for line in text.splitlines() if _PREFIX.match(line)]
    summaries = [m for line in lines if (m := _SUMMARY.search(line))]
    errors = sum(int(next(filter(None, m.groups()))) for m in summaries) if summaries else None
    found: list[list[str]] = []
    inside = False
    for line in lines:
        if line.startswith(" ") or not line.strip():
            if inside and line.strip():
                found[-1].append(line.strip())
            continue
        inside = bool(_FINDING.match(line))
        if inside:
            found.append([line.strip()])
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Findings(errors, tuple("\n".join(f) for f in found), last)


def _same_write(finding: str) -> bool:
    """Whether it is a race of an instruction's own writes with each other."""
    accesses = _ACCESS.findall(finding)
    return len(accesses) == 2 and accesses[0] == accesses[1] and accesses[0][0] == "Write"


def kernels_of(source: str) -> tuple[str, ...]:
    """Names of the functions that a `jit` decorator makes kernels; none where the source has none."""
    names = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
            names.append(node.name)
    return tuple(names)


def find(environment: Mapping[str, str] | None = None) -> str:
    """Where compute-sanitizer is: on the path, in CUDA_HOME or CUDA_PATH, in /usr/local/cuda*; empty for nowhere."""
    seen = os.environ if environment is None else environment
    if found := shutil.which("compute-sanitizer", path=seen.get("PATH")):
        return os.path.realpath(found)
    roots = [seen[name] for name in ("CUDA_HOME", "CUDA_PATH") if seen.get(name)]
    for root in [*roots, *sorted(glob.glob("/usr/local/cuda*"), reverse=True)]:
        for place in ("bin/compute-sanitizer", "compute-sanitizer/compute-sanitizer"):
            if found := shutil.which(os.path.join(root, place)):
                return os.path.realpath(found)
    return ""


def sanitize(bench: Bench, trial: Trial, cases: Sequence[Case], report: Report, *, binary: str | None = None) -> None:
    """Runs every tool on calls of the candidate, and reports.

    Args:
        trial: at a size that a hundred times slower is still soon done.
        cases: on which it is called under each tool.
        binary: the tool; what `find` finds if None, empty for none.

    Raises:
        Failed: `MEM_RACE` with the first finding.
    """
    binary = find() if binary is None else binary
    if not binary:
        report(GUARD, "not run", "compute-sanitizer is not installed")
        return
    kernels, clean, absent = kernels_of(trial.source), list[str](), list[str]()
    for tool in TOOLS:
        bench.go_on()
        start = time.monotonic()
        why, findings = _run(bench, trial, cases, binary, tool)
        if not why and (findings is None or findings.errors is None):
            why = f"its report has no summary: {findings.last if findings else ''}"[:_SHOWN]
        if why or findings is None:
            absent.append(f"{tool}: {why}")
            continue
        if findings.errors and (first := findings.against(kernels)):
            raise _convicted(trial, tool, findings.errors, first)
        noted = f", {findings.errors} elsewhere: {findings.found[0][:_SHOWN]}" if findings.errors else ""
        clean.append(f"{tool} found nothing in its kernels{noted} ({time.monotonic() - start:.0f} s)")
    said = "; ".join([*clean, *absent])
    report(GUARD, "not run" if absent else "held", f"{trial.description.variant.label}: {said}")


def _run(bench: Bench, trial: Trial, cases: Sequence[Case], binary: str, tool: str) -> tuple[str, Findings | None]:
    """Why a tool said nothing, or what it said."""
    opened = bench.opened(trial.description, trial.device, candidate=trial.source, choice=trial.choice)
    body = {
        "opened": codec.to_data(opened),
        "answers": dict(trial.answers),
        "cases": codec.to_data(list(cases)),
        "binary": binary,
        "tool": tool,
        "seconds": SECONDS,
    }
    limits = trial.bounds.limits if trial.device == "cpu" else trial.bounds.on_device
    try:
        with bench.roles["worker"].open(limits, bench.scratch(trial.source)) as worker:
            answer = candidate_asks(worker, "sanitize", body, seconds=SECONDS + _SLACK)
            why, text = str(answer.body["why"]), str(answer.body["report"])
            answer.close()
    except Failed as failed:
        if failed.verdict is Verdict.TAMPER:
            raise
        return str(failed), None
    found = read_report(text)
    if found.errors and found.found:
        return "", found  # a call that fails because of what was found
    return why, found


def _convicted(trial: Trial, tool: str, errors: int, first: str) -> Failed:
    variant = trial.description.variant
    lines = [line.strip() for line in first.splitlines()]
    message = f"compute-sanitizer {tool}: {errors} error{'s' * (errors > 1)}, the first: {'; '.join(lines)[:_SHOWN]}"
    facts = {
        "guard": GUARD,
        "workload": variant.workload,
        "size": variant.size,
        "device": trial.device,
        "statistic": tool,
        "value": float(errors),
        "limit": 0.0,
        "choice": dict(trial.choice),
    }
    return Failed(Verdict.MEM_RACE, message, detail=first, artefact=facts)
