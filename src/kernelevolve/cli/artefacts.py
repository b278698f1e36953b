"""What lies beside a run's log, on a terminal: launch plans, raw samples, whole error texts.

In: the artefacts of a run. Out: Rich renderables. Left to others: reading and verifying the blobs, the rest of a node's
page (`view`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kernelevolve import Artefacts, Launch, LaunchPlan, Samples

LONGEST = 80  # lines of an error text; the file that is named beside it has all of them


def page(artefacts: Artefacts, node: str) -> RenderableType:
    """Everything that is kept of a node beside the log; nothing where nothing is.

    Raises:
        UnknownName: no such node.
        StoreError: a blob is missing or damaged.
    """
    parts: list[RenderableType] = []
    for name, plan in artefacts.launch_plans(node).items():
        parts += [_title(name, f"{_count(plan.launches, 'launch', 'launches')}, {_count(plan.buffers, 'buffer')}")]
        parts += _plan(plan)
    for name, samples in artefacts.samples(node).items():
        parts += [_title(name, samples.unit), *_samples(samples)]
    for name, text in artefacts.errors(node).items():
        lines = text.splitlines()
        hidden = f"the last {LONGEST} of {len(lines)} lines" if len(lines) > LONGEST else ""
        parts += [_title(name, hidden), _indented(Text("\n".join(lines[-LONGEST:])), 2)]
    return Group(*parts)


def _title(name: str, more: str) -> Text:
    return Text.assemble((name, "bold"), (f": {more}" if more else "", "dim"))


def _count(things: tuple[object, ...], one: str, many: str = "") -> str:
    return f"{len(things)} {one if len(things) == 1 else many or f'{one}s'}"


def _plan(plan: LaunchPlan) -> Iterator[RenderableType]:
    table = _table("buffer", "role", "dtype", "shape", "stride")
    for b in plan.buffers:
        table.add_row(*map(Text, (b.name, b.role, b.dtype, _numbers(b.shape), _numbers(b.stride))))
    yield _indented(table, 2)
    for fill in plan.fills:
        yield Text(f"    fill of {fill.buffer} with {fill.value:g}")
    for copy in plan.copies:
        yield Text(f"    copy of {copy.source} to {copy.target}, {copy.bytes_written} bytes")
    for number, launch in enumerate(plan.launches, 1):
        options = ", ".join(f"{k}={v}" for k, v in launch.options.items())
        programs = launch.grid[0] * launch.grid[1] * launch.grid[2]
        head = f"    {number}. {launch.kernel}[{_numbers(launch.grid)}], {programs} program{'s' * (programs != 1)}"
        yield Text(f"{head}, {options}" if options else head)
        yield _indented(_arguments(launch), 5)


def _arguments(launch: Launch) -> Table:
    """One row per argument: Triton's type for it, its value, and what the compiler may assume.

    Pointers come first, then numbers, then constants; JSON objects have no order that could be kept.
    """
    table = _table("argument", "type", "value", "attributes")

    def order(name: str) -> tuple[int, str]:
        kind = launch.signature.get(name, "")
        return (0 if kind.startswith("*") else 2 if kind == "constexpr" else 1), name

    for name in sorted({*launch.signature, *launch.arguments, *launch.constants}, key=order):
        value = launch.arguments.get(name, launch.constants.get(name, ""))
        cells = (name, launch.signature.get(name, ""), str(value), _facts(launch.attributes.get(name, "")))
        table.add_row(*map(Text, cells))
    return table


def _facts(attributes: object) -> str:
    """Triton's `[['tt.divisibility', 16]]` as `divisibility 16`; what reads otherwise stays as it is."""
    pairs = re.findall(r"\['(?:tt\.)?(\w+)', ([^\]]+)\]", str(attributes))
    return ", ".join(f"{name} {value}" for name, value in pairs) if pairs else str(attributes).replace("[]", "")


def _samples(samples: Samples) -> Iterator[RenderableType]:
    for arm, bursts in samples.arms.items():
        times = [t for burst in bursts for t in burst]
        span = f", {min(times):.4g} to {max(times):.4g} {samples.unit}" if times else ""
        yield Text(f"    {arm}: {len(times)} calls in {len(bursts)} blocks{span}")


def _indented(what: RenderableType, spaces: int) -> Padding:
    return Padding(what, (0, 0, 0, spaces), expand=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2))
    for column in columns:
        table.add_column(column)
    return table


def _numbers(values: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, values))})"
