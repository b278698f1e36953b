"""Driving a run while a person watches: a live page on a terminal, plain lines elsewhere.

In: a Run. Out: the same Run, driven until it ends or is interrupted. Left to others: what a page looks like (`view`).
The first Ctrl-C or SIGTERM stops cleanly: work in flight is cancelled and stays pending, the log is complete; a second
one aborts.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kernelevolve import Run
from kernelevolve.cli import view, words

_REFRESH_SECONDS = 0.25
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Screen(Protocol):
    """Where progress is shown."""

    def show(self, run: Run) -> None:
        """Called several times per second, and once at the end."""
        ...


class PlainScreen:
    """One line for each evaluated candidate and each note of the log, in order."""

    def __init__(self, console: Console) -> None:
        self._console, self._nodes, self._notes = console, -1, -1

    def show(self, run: Run) -> None:
        """Prints what is new since the last call."""
        nodes, notes = list(run.graph.nodes.values()), run.graph.notes
        if self._nodes < 0:
            # What a resumed run did before has been shown then.
            self._nodes, self._notes = len(nodes), len(notes)
        for note in notes[self._notes :]:
            self._console.print(f"{note.topic}: {note.text}", markup=False, highlight=False, soft_wrap=True)
        for node in nodes[self._nodes :]:
            line = view.plain_line(run.graph, node)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._nodes, self._notes = len(nodes), len(notes)


class LiveScreen:
    """The tree, the best so far, what each candidate in flight is doing, and the time left."""

    def __init__(self, live: Live, worked_before: float) -> None:
        self._live, self._before, self._start = live, worked_before, time.monotonic()

    def show(self, run: Run) -> None:
        """Draws the page anew."""
        self._live.update(page(run, self._before + time.monotonic() - self._start))


def page(run: Run, worked: float) -> RenderableType:
    """The live page; `worked` is how many seconds the run has worked so far."""
    graph, settings = run.graph, run.settings
    parts: list[RenderableType] = [view.tree(graph, most=24)]
    best = graph.best
    if best is not None:
        line = Text("best so far ", style="bold")
        line.append(f"{best.id} {words.fitness(best)}, {words.correctness(best.evaluation)}", style="green")
        parts.append(line)
        for t in best.evaluation.timings[:4]:
            baseline = f"{t.against} {words.figure(t.baselines[t.against])}"
            parts.append(Text(f"  {t.workload}: {words.figure(t.candidate)} against {baseline}"))
    flight = Table.grid(padding=(0, 2))
    for stage in run.feed.now.values():
        since = words.duration(time.time() - stage.wall)
        flight.add_row(Text(stage.candidate or stage.brief, style="bold"), stage.stage, Text(since, style="dim"))
    parts.append(flight)
    parts.append(
        Text(
            f"{len(graph.nodes)} of {settings.candidates} candidates, {words.duration(worked)} worked, "
            f"{words.duration(settings.seconds - worked)} left; Ctrl-C stops and keeps everything",
            style="dim",
        )
    )
    return Group(*parts)


@contextlib.contextmanager
def screen(console: Console, run: Run) -> Iterator[Screen]:
    """The screen that fits the console."""
    if not console.is_terminal:
        yield PlainScreen(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveScreen(live, run.graph.active_seconds)


def drive(run: Run, console: Console) -> bool:
    """Drives the run to its end; False if Ctrl-C ended it.

    Raises:
        KernelEvolveError: what `Run.drive` raises.
        KeyboardInterrupt: Ctrl-C was pressed twice.
    """
    with screen(console, run) as shown:
        return asyncio.run(_drive(run, shown, console))


async def _drive(run: Run, shown: Screen, console: Console) -> bool:
    interrupts = 0

    def interrupt() -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            raise KeyboardInterrupt
        console.print("stopping; press Ctrl-C again to abort", markup=False)
        run.stop()

    loop = asyncio.get_running_loop()
    # Only the main thread can have signal handlers; elsewhere somebody else stops the run.
    with contextlib.suppress(RuntimeError, ValueError):
        for number in _STOPPING:
            loop.add_signal_handler(number, interrupt)
    shown.show(run)
    driving = asyncio.create_task(run.drive())
    try:
        while not driving.done():
            await asyncio.wait({driving}, timeout=_REFRESH_SECONDS)
            shown.show(run)
        await driving
    finally:
        with contextlib.suppress(RuntimeError, ValueError):
            for number in _STOPPING:
                loop.remove_signal_handler(number)
    return interrupts == 0
