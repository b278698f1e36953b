"""Composing: prose with named blanks becomes the prompt of a brief.

In: the templates in `prompts/*.md` and text for each blank. Out: Markdown. Left to others: what goes into the blanks.

A blank is `{{name}}`. A blank without text and a text without a blank are errors, so that a template cannot silently
lose what it was given.
"""

from __future__ import annotations

import functools
import re
from importlib.resources import files

from kernelevolve.evaluation import Evaluation, Figure
from kernelevolve.graph import Graph, Node
from kernelevolve.hardware import HardwareFigures
from kernelevolve.problem import Problem
from kernelevolve.propose.diagnose import Diagnosis
from kernelevolve.propose.memory import Memory

_BLANK = re.compile(r"\{\{(\w+)\}\}")
LONGEST_MESSAGE = 2000


@functools.cache
def template(name: str) -> str:
    """The text of `prompts/NAME.md`."""
    return files("kernelevolve.propose").joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")


def fill(text: str, blanks: dict[str, str]) -> str:
    """`text` with each `{{name}}` replaced by `blanks[name]`; what is filled in is not searched for blanks.

    Raises:
        ValueError: a blank without text, or a text without a blank.
    """
    wanted = set(_BLANK.findall(text))
    if wanted != set(blanks):
        odd = ", ".join(sorted(wanted ^ set(blanks)))
        raise ValueError(f"the template's blanks and the given texts differ in: {odd}")
    return _BLANK.sub(lambda match: blanks[match.group(1)], text)


def compose(
    graph: Graph,
    parents: tuple[str, ...],
    *,
    diagnosis: Diagnosis | None,
    memory: Memory,
    figures: HardwareFigures | None,
    knowledge: str,
    prefer: str = "",
) -> str:
    """The prompt for the next child of `parents`, as Markdown; `prefer` is the kind of change to prefer."""
    problem = graph.created.problem
    nodes = [graph.nodes[p] for p in parents]
    return fill(
        template("brief"),
        {
            "task": problem_text(problem, graph.created.platform),
            "hardware": hardware_text(figures),
            "parents": "\n\n".join([*_combining(parents), *map(parent_text, nodes)]) or "None: write a first kernel.",
            "diagnosis": _diagnosis_text(diagnosis) + (f"\nPrefer this kind of change: {prefer}." if prefer else ""),
            "memory": _memory_text(memory),
            "knowledge": knowledge or "Nothing was looked up.",
            "constraints": template("constraints"),
        },
    )


def _combining(parents: tuple[str, ...]) -> list[str]:
    """What is to be done with several parents."""
    if len(parents) < 2:
        return []
    others = ", ".join(parents[1:])
    return [f"Go on from {parents[0]}; take over from {others} what is better there, and say what it was."]


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
        *(f"workload {w.name}, weight {w.weight:g}: {dict(w.constants) or 'as written'}" for w in problem.workloads),
    ]
    return fill(
        template("task"),
        {
            "name": problem.name,
            "source": problem.source.rstrip(),
            "rules": "\n".join(f"- {rule}" for rule in rules),
            "notes": problem.notes or "None.",
        },
    )


def parent_text(node: Node) -> str:
    """A parent's source and what the harness found about it."""
    return fill(
        template("parent"),
        {"id": node.id, "source": node.candidate.source.rstrip(), "findings": findings(node.evaluation, node.fitness)},
    )


def findings(evaluation: Evaluation, fitness: Figure) -> str:
    """An evaluation as a list, each figure with its evidence."""
    lines = [f"verdict: {evaluation.verdict.value}", f"fitness: {_figure(fitness)}"]
    lines += [f"{r.rung.value}: {r.status}, {r.message[:LONGEST_MESSAGE]}" for r in evaluation.rungs]
    lines += [
        f"check {c.name} of {c.workload} under {c.distribution}: {c.value:.3g} with limit {c.limit:.3g}. {c.detail}"
        for correctness in evaluation.correctness
        for c in correctness.checks
        if not c.passed
    ]
    lines += [
        f"{r.kernel}: {r.registers} registers, {r.spill_bytes} bytes spilled, {r.shared_bytes} bytes shared, "
        f"occupancy {r.occupancy:.2f} (compiled)"
        for r in evaluation.resources.get(evaluation.platform, ())
    ]
    lines += [
        f"{t.workload}: {_figure(t.candidate)}, {t.against} {_figure(t.baselines[t.against])}, "
        f"ratio {_figure(t.speedup)}, knobs {dict(t.knobs)}"
        for t in evaluation.timings
        if t.platform == evaluation.platform
    ]
    lines += [f"label: {label}" for label in evaluation.labels]
    return "\n".join(f"- {text}" for text in lines)


def hardware_text(figures: HardwareFigures | None) -> str:
    """The figures that decide structure, with units."""
    if figures is None:
        return "Its figures are not known."
    peaks = ", ".join(f"{name} {value / 1e12:g}" for name, value in figures.peak_flops.items())
    return "\n".join(
        (
            f"- {figures.name}: {figures.units} units at {figures.clock_hz / 1e9:g} GHz",
            f"- memory: {figures.memory_bytes / 2**30:g} GiB at {figures.bandwidth / 1e12:g} TB/s, "
            f"last cache {figures.l2_bytes / 2**20:g} MiB",
            f"- shared memory: {figures.shared_bytes_per_block} bytes a block, {figures.shared_bytes_per_unit} a unit",
            f"- registers: {figures.registers_per_unit} per unit; at most {figures.max_warps_per_unit} warps and "
            f"{figures.max_blocks_per_unit} blocks per unit",
            f"- dense peak in TFLOP/s: {peaks}",
            f"- one launch costs about {figures.launch_seconds * 1e6:g} us",
        )
    )


def _figure(figure: Figure) -> str:
    interval = f" [{figure.low:.4g}, {figure.high:.4g}]" if figure.low is not None and figure.high is not None else ""
    return f"{figure.value:.4g} {figure.unit}{interval} ({figure.evidence.value})"


def _diagnosis_text(diagnosis: Diagnosis | None) -> str:
    if diagnosis is None:
        return "Nothing to diagnose yet."
    tries = "\n".join(f"- {text}" for text in diagnosis.tries)
    return f"Limited by {diagnosis.limit}: {diagnosis.evidence}.\n\nWorth trying:\n{tries}"


def _memory_text(memory: Memory) -> str:
    parts = [
        ("Best so far", (memory.best,) if memory.best else ()),
        ("How the first parent came about", memory.lineage),
        ("Already tried from here (do not repeat)", memory.children),
        ("Repeats: these were kernels that the run had already; change what is computed or how", memory.repeats),
        ("From earlier runs (other problems or machines may differ)", memory.earlier),
    ]
    return "\n\n".join(f"{title}:\n" + "\n".join(f"- {t}" for t in lines) for title, lines in parts if lines) or (
        "Nothing is told about what came before."
        if memory.mode.startswith("none")
        else "This is the first brief of the run."
    )
