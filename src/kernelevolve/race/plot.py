"""The curves of a race as one SVG file that needs nothing else.

In: laps. Out: SVG text: for each course a panel with the median best fitness of each policy against candidates, and
against device seconds where a device was held. Left to others: figures (`standings`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from kernelevolve.race.laps import Course, Lap, RacePlan

#: Okabe and Ito's colours, which colour-blind readers tell apart; the control is grey and dashed.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
CONTROL, GREY = "best_of_n", "#777777"
WIDTH, HEIGHT, LEFT, TOP, BELOW, ACROSS = 300, 200, 46, 30, 34, 3
POINTS = 60


def race_svg(plan: RacePlan, courses: Sequence[Course], laps: Sequence[Lap]) -> str:
    """The picture."""
    panels: list[tuple[str, str, dict[str, list[tuple[float, float]]]]] = []
    for course in courses:
        mine = {p: [lap for lap in laps if (lap.course, lap.policy) == (course.name, p)] for p in plan.policies}
        panels.append((f"{course.name} ({course.evidence})", "candidates", _curves(mine, _by_candidate(plan))))
        if any(lap.device and lap.device[-1] > 0 for some in mine.values() for lap in some):
            panels.append((f"{course.name} ({course.evidence})", "device seconds", _curves(mine, _by_device(mine))))
    colours = _colours(plan.policies)
    rows = -(-len(panels) // ACROSS)
    width, height = ACROSS * (WIDTH + LEFT) + 20, rows * (HEIGHT + TOP + BELOW) + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="11" viewBox="0 0 {width} {height}"><rect width="100%" height="100%" fill="white"/>'
    ]
    for i, policy in enumerate(plan.policies):
        x = LEFT + i * (width - LEFT) // len(plan.policies)
        out.append(f'<line x1="{x}" x2="{x + 24}" y1="16" y2="16" {_stroke(policy, colours)}/>')
        out.append(f'<text x="{x + 30}" y="20">{escape(policy)}</text>')
    for i, (title, axis, curves) in enumerate(panels):
        x, y = LEFT + i % ACROSS * (WIDTH + LEFT), 40 + TOP + i // ACROSS * (HEIGHT + TOP + BELOW)
        out += _panel(x, y, title, axis, curves, colours)
    return "\n".join([*out, "</svg>\n"])


def _colours(policies: Sequence[str]) -> dict[str, str]:
    others = [policy for policy in policies if policy.partition(":")[0] != CONTROL]
    return {policy: COLOURS[i % len(COLOURS)] for i, policy in enumerate(others)}


def _stroke(policy: str, colours: dict[str, str]) -> str:
    dashed = ' stroke-dasharray="5 3"' if policy not in colours else ""
    return f'stroke="{colours.get(policy, GREY)}" stroke-width="1.8" fill="none"{dashed}'


def _by_candidate(plan: RacePlan) -> list[tuple[float, Callable[[Lap], float]]]:
    def at(count: int) -> Callable[[Lap], float]:
        return lambda lap: lap.best[min(count, len(lap.best)) - 1] if lap.best else 0.0

    return [(float(count), at(count)) for count in range(1, plan.candidates + 1)]


def _by_device(laps: dict[str, list[Lap]]) -> list[tuple[float, Callable[[Lap], float]]]:
    most = max(lap.device[-1] for some in laps.values() for lap in some if lap.device)

    def at(seconds: float) -> Callable[[Lap], float]:
        return lambda lap: max((b for b, d in zip(lap.best, lap.device, strict=True) if d <= seconds), default=0.0)

    return [(most * i / POINTS, at(most * i / POINTS)) for i in range(1, POINTS + 1)]


def _curves(
    laps: dict[str, list[Lap]], marks: Sequence[tuple[float, Callable[[Lap], float]]]
) -> dict[str, list[tuple[float, float]]]:
    return {policy: [(x, statistics.median(map(at, some))) for x, at in marks] for policy, some in laps.items()}


def _panel(
    x: int, y: int, title: str, axis: str, curves: dict[str, list[tuple[float, float]]], colours: dict[str, str]
) -> list[str]:
    points = [point for curve in curves.values() for point in curve]
    most_x, most_y = max(p[0] for p in points), max(p[1] for p in points) or 1.0
    least_y = min((p[1] for p in points if p[1] > 0), default=0.0)
    spread = (most_y - least_y) or most_y
    low, high = least_y - 0.05 * spread, most_y + 0.05 * spread

    def placed(point: tuple[float, float]) -> str:
        return (
            f"{x + (WIDTH - 20) * point[0] / most_x:.1f},{y + HEIGHT * (high - max(point[1], low)) / (high - low):.1f}"
        )

    out = [
        f'<text x="{x}" y="{y - 8}" font-weight="bold">{escape(title)}</text>',
        f'<rect x="{x}" y="{y}" width="{WIDTH - 20}" height="{HEIGHT}" fill="none" stroke="#cccccc"/>',
        f'<text x="{x}" y="{y + HEIGHT + 14}">0</text>',
        f'<text x="{x + WIDTH - 20}" y="{y + HEIGHT + 14}" text-anchor="end">{most_x:.3g} {axis}</text>',
    ]
    for value in (least_y, most_y):
        at = placed((0.0, value)).split(",")[1]
        out.append(f'<text x="{x - 4}" y="{float(at) + 4:.1f}" text-anchor="end">{value:.3g}x</text>')
    for policy, curve in curves.items():
        out.append(f'<polyline points="{" ".join(map(placed, curve))}" {_stroke(policy, colours)}/>')
    return out
