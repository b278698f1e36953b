"""Prose: what a run knows of its problem, its hardware and a node, as Markdown that cannot break out of its place.

In: frozen values. Out: text for the blanks of `prompts/*.md`. Left to others: what a prompt has room for (`compose`).

A source, a message or a note is foreign text. Sources and long messages stand in fences that are longer than any in
them; short ones are brought onto one line. Mappings are written in the order of their names: what is read back from the
log gives the same text as what is still in memory.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any

from kernelevolve.evaluation import Evaluation, Figure, Rung, RungReport
from kernelevolve.graph import Node
from kernelevolve.hardware import HardwareFigures
from kernelevolve.problem import Problem

_BLANK = re.compile(r"\{\{(\w+)\}\}")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
#: Characters of a message that stay: its beginning says where, its end says what.
LONGEST_MESSAGE = 2000
MOST_CHECKS, MOST_LAUNCHES = 8, 12


@functools.cache
def template(name: str) -> str:
    """The text of `prompts/NAME.md`."""
    return files("kernelevolve.propose").joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")


def fill(text: str, blanks: Mapping[str, str]) -> str:
    """`text` with each `{{name}}` replaced by `blanks[name]`; what is filled in is not searched for blanks. A paragraph
    that is nothing but a blank goes with it where its text is empty.

    Raises:
        ValueError: a blank without text, or a text without a blank.
    """
    wanted = set(_BLANK.findall(text))
    if wanted != set(blanks):
        odd = ", ".join(sorted(wanted ^ set(blanks)))
        raise ValueError(f"the template's blanks and the given texts differ in: {odd}")
    paragraphs = [p for p in text.split("\n\n") if not (_BLANK.fullmatch(p.strip()) and not blanks[p.strip()[2:-2]])]
    return _BLANK.sub(lambda match: blanks[match.group(1)], "\n\n".join(paragraphs))


def fenced(text: str, language: str = "") -> str:
    """`text` as a block that ends where it is meant to."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def has_open_fence(text: str) -> bool:
    """Whether a code block of `text` does not end in it."""
    opened = ""
    for match in _FENCE.finditer(text):
        mark = match[1]
        rest = text[match.end() : (text.find("\n", match.end()) + 1 or len(text) + 1) - 1]
        if not opened:
            opened = mark if "`" not in rest or mark[0] == "~" else ""
        elif mark[0] == opened[0] and len(mark) >= len(opened) and not rest.strip():
            opened = ""
    return bool(opened)


def one_line(text: str) -> str:
    """`text` with its white space brought together, for a line of a list; it opens no block."""
    return " ".join(text.replace("```", "'''").replace("~~~", "---").split())


def quoted(text: str) -> str:
    """A message: as it is where it is one line, else in a block of its own; the middle of a long one is left out."""
    text = text.strip()
    if len(text) > LONGEST_MESSAGE:
        lines, room = text.splitlines(), LONGEST_MESSAGE // 2
        head, tail = _within(lines, room), _within(lines[::-1], room)[::-1]
        left = len(lines) - len(head) - len(tail)
        text = "\n".join([*head, f"... ({left} lines left out)", *tail]) if left > 0 else text[:LONGEST_MESSAGE]
    return "\n" + fenced(text, "text") if "\n" in text else one_line(text)


def _within(lines: list[str], room: int) -> list[str]:
    """The first lines that have room; of a first one that has not, the beginning."""
    kept: list[str] = []
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            return kept or [line[: LONGEST_MESSAGE // 2]]
        kept.append(line)
    return kept


def listed(lines: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def named(values: Mapping[str, Any]) -> str:
    """`BLOCK = 64, num_warps = 4`, in the order of the names."""
    return ", ".join(f"{name} = {values[name]}" for name in sorted(values))


def problem_text(problem: Problem, platform: str) -> str:
    """The reference with its rules."""
    rules = [
        f"platform: {platform}",
        f"precision: {problem.precision}",
        f"direction: {problem.direction}",
        f"mode: {problem.mode}",
        f"weights: {problem.weights}",
        f"library calls: {problem.library_calls}",
        f"NaN and infinities in inputs: {problem.special_values}",
        f"results of two calls on the same inputs: {problem.determinism}",
        f"layouts of inputs: {problem.layouts}",
        *(
            f"workload {w.name}, weight {w.weight:g}: {named(w.constants) or 'as written'}"
            for w in problem.workloads
        ),
    ]
    notes = problem.notes.strip() or "None."
    return fill(
        template("task"),
        {
            "name": one_line(problem.name),
            "source": fenced(problem.source, "python"),
            "rules": listed(rules),
            "notes": fenced(notes, "text") if has_open_fence(notes) else notes,
        },
    ).rstrip()


def hardware_text(figures: HardwareFigures | None) -> str:
    """The figures that decide structure, with units."""
    if figures is None:
        return "Its figures are not known."
    peaks = ", ".join(f"{name} {figures.peak_flops[name] / 1e12:g}" for name in sorted(figures.peak_flops))
    return listed(
        (
            f"{figures.name}: {figures.units} units at {figures.clock_hz / 1e9:g} GHz",
            f"memory: {figures.memory_bytes / 2**30:g} GiB at {figures.bandwidth / 1e12:g} TB/s, "
            f"last cache {figures.l2_bytes / 2**20:g} MiB",
            f"shared memory: {figures.shared_bytes_per_block} bytes a block, {figures.shared_bytes_per_unit} a unit",
            f"registers: {figures.registers_per_unit} per unit; at most {figures.max_warps_per_unit} warps and "
            f"{figures.max_blocks_per_unit} blocks per unit",
            f"dense peak in TFLOP/s: {peaks}",
            f"one launch costs about {figures.launch_seconds * 1e6:g} us",
        )
    )


def figure_text(figure: Figure) -> str:
    """`1.31 x [1.29, 1.33] (measured)`."""
    interval = f" [{figure.low:.4g}, {figure.high:.4g}]" if figure.low is not None and figure.high is not None else ""
    return f"{figure.value:.4g} {figure.unit}{interval} ({figure.evidence.value})"


def findings(evaluation: Evaluation, fitness: Figure | None = None) -> list[str]:
    """What decides: the verdict, what failed, how long each workload takes; each figure with its evidence."""
    lines = [f"verdict: {evaluation.verdict.value}"] + ([f"fitness: {figure_text(fitness)}"] if fitness else [])
    lines += [_rung(r) for r in evaluation.rungs if r.status == "failed"]
    failed = [c for correctness in evaluation.correctness for c in correctness.checks if not c.passed]
    lines += [
        f"check {c.name} of {c.workload} under {c.distribution}: {c.value:.3g} with limit {c.limit:.3g}. "
        f"{quoted(c.detail)}".rstrip()
        for c in failed[:MOST_CHECKS]
    ]
    lines += [f"and {len(failed) - MOST_CHECKS} more checks that failed"] if len(failed) > MOST_CHECKS else []
    lines += [f"guard {g.name} failed: {quoted(g.detail)}" for g in evaluation.guards if g.held == "failed"]
    for t in evaluation.timings:
        if t.platform == evaluation.platform:
            floor = f", floor {figure_text(t.floor)}" if t.floor is not None else ""
            lines.append(
                f"{t.workload}{'' if t.mode == 'cold' else f', {t.mode}'}: {figure_text(t.candidate)}, "
                f"{t.against} {figure_text(t.baselines[t.against])}, ratio {figure_text(t.speedup)}{floor}"
                + (f", knobs {named(t.knobs)}" if t.knobs else "")
            )
    return lines


def details(evaluation: Evaluation) -> list[str]:
    """What else is known: what the compiler made of each launch, the rungs that passed, labels."""
    launches = evaluation.resources.get(evaluation.platform, ())
    # The rung builds the defaults; what is listed by kernel was built as the tuner left it.
    tuned = any(timing.knobs for timing in evaluation.timings)
    lines = [
        f"{r.kernel}: {r.registers} registers, {r.spill_bytes} bytes spilled, {r.shared_bytes} bytes shared, "
        f"{r.warps} warps, occupancy {r.occupancy:.2f} (compiled{', at the tuned knobs' * tuned})"
        for r in launches[:MOST_LAUNCHES]
    ]
    lines += [f"and {len(launches) - MOST_LAUNCHES} more launches"] if len(launches) > MOST_LAUNCHES else []
    # What the interpreter cannot see is the same of every candidate: the rules of the file say it once.
    lines += [_rung(replace(r, message=r.message.partition("; not seen here")[0]))
              + " (at the default knobs)" * (tuned and r.rung is Rung.BUILD)
              for r in evaluation.rungs if r.status != "failed"]  # fmt: skip
    return lines + [f"label: {one_line(label)}{_explained(label)}" for label in evaluation.labels]


def _explained(label: str) -> str:
    dead = label.startswith(("dead parameter ", "dead input "))
    return " (no output of the reference depends on it, whatever its values)" if dead else ""


def _rung(report: RungReport) -> str:
    return f"{report.rung.value}: {report.status}, {quoted(report.message)}"


def source_text(node: Node) -> str:
    """A node's source as a block."""
    return fenced(node.candidate.source, "python")
