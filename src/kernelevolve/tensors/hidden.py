"""Sizes that no file names: what a kernel meets that was written for the declared ones alone.

In: a problem's text, the sizes at which it is compared otherwise, a generator of a secret. Out: the text at other
sizes, one after the other, each accepted by the reference under fake tensors. Left to others: whether an oracle says
anything there (`judge`), who is asked to compute them (`evaluate.hidden`).

The numbers are those that `scale` changes; each draw takes one number to 1, to a tile of 16 to 256 or one beside it,
or to a prime, or all of them to sizes between the smallest compared and the largest timed, even on a logarithmic scale.
A ladder takes all of them from small sizes to large ones, each with more work than the one before.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from kernelevolve.errors import KernelEvolveError
from kernelevolve.problem import Problem
from kernelevolve.protocol import Description, Variant
from kernelevolve.tensors.probe import Probe, probe
from kernelevolve.tensors.scale import Budget, changes, literals, replace

TILES = (16, 32, 64, 128, 256)
KINDS = ("one", "tile", "between", "prime", "tile", "between")
ATTEMPTS = 16  # per size that is wanted
ON_DEVICE = Budget(largest=1 << 26, elements=1 << 28, flops=1 << 38)  # of a ladder's largest size
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
GROWTH = 1.25  # of the work from one size to the next, at least
_CHANGE = re.compile(r"(\d+) -> (\d+) ")


def sizes_of(scaled: Sequence[str]) -> dict[int, int]:
    """The sizes by original value, from what `scale.changes` printed."""
    found = (_CHANGE.match(line) for line in scaled)
    return {int(m.group(1)): int(m.group(2)) for m in found if m is not None}


def draws(
    source: str, problem: Problem, small: Description, luck: random.Random, count: int, budget: Budget
) -> Iterator[Variant]:
    """Variants of `source` at hidden sizes, more than `count` where some turn out to say nothing.

    Args:
        source: the workload's text at full size.
        small: at the smallest size that is compared.
        luck: from the secret.
        budget: what one of them may cost.
    """
    base = {n.value: n.value for n in literals(source)} | sizes_of(small.variant.scaled)
    kinds = list(KINDS)
    luck.shuffle(kinds)
    seen = {_shapes_of(small)}
    for attempt in range(ATTEMPTS * count):
        if not base:
            return
        sizes = _drawn(base, kinds[attempt % len(kinds)], luck)
        text = replace(source, sizes)
        try:
            found = probe(text, problem, real=False)
        except KernelEvolveError:
            continue
        shapes = _shapes(found)
        if shapes in seen or budget.excess(found.cost) > 1 or not _same_kind(found, small):
            continue
        seen.add(shapes)
        yield Variant(small.variant.workload, "hidden", text, changes(source, sizes), luck.getrandbits(31))


def ladder(
    source: str, problem: Problem, small: Description, luck: random.Random, count: int, budget: Budget
) -> Iterator[Variant]:
    """At most `count` variants of `source`, from small to large: the first below the smallest size that is compared,
    where the reference runs there, the last the full size or what the budget allows of it.

    Args:
        luck: from the secret; moves the sizes in the middle.
    """
    base = {n.value: n.value for n in literals(source)} | sizes_of(small.variant.scaled)
    wanted = _shapes_of(small)

    def runs(sizes: Mapping[int, int]) -> Probe | None:
        try:
            found = probe(replace(source, sizes), problem, real=False)
        except KernelEvolveError:
            return None
        return found if _same_kind(found, small) else None

    if runs(base) is None:
        return
    low, high = dict(base), dict(base)
    for value in sorted(base):
        for part in (8, 4, 2):
            lower = {**low, value: max(2, base[value] // part)}
            if lower[value] < low[value] and runs(lower) is not None:
                low = lower
                break
    for share in SHARES:
        sizes = _between(base, {value: value for value in base}, share)
        found = runs(sizes)
        if found is not None and budget.excess(found.cost) <= 1:
            high = sizes
            break
    work = 0.0
    for rung in range(count):
        inner = 0 < rung < count - 1
        share = (rung + (luck.uniform(-0.25, 0.25) if inner else 0.0)) / max(1, count - 1)
        sizes = _between(low, high, share)
        found = runs(sizes)
        if found is None:
            continue
        total = float(found.cost.elements + found.cost.flops)
        if total < GROWTH * work or (_shapes(found) == wanted and inner):
            continue
        work = total
        yield Variant(
            small.variant.workload, "hidden", replace(source, sizes), changes(source, sizes), luck.getrandbits(31)
        )


def _between(low: Mapping[int, int], high: Mapping[int, int], share: float) -> dict[int, int]:
    """Sizes between two others, even on a logarithmic scale; what divides both divides them too, so that groups and
    heads stay whole."""
    sizes = {}
    for value, least in low.items():
        step = math.gcd(least, high[value])
        exact = math.exp(math.log(least) + share * (math.log(high[value]) - math.log(least)))
        sizes[value] = min(max(least, step * round(exact / step)), max(least, high[value]))
    return sizes


def _drawn(base: Mapping[int, int], kind: str, luck: random.Random) -> dict[int, int]:
    """Other sizes, by original value."""
    sizes = dict(base)
    if kind == "between":
        for value, small in base.items():
            low, high = math.log(max(1, small // 2)), math.log(max(2, value))
            sizes[value] = max(1, round(math.exp(luck.uniform(low, min(high, low + math.log(4))))))
        return sizes
    value = luck.choice(sorted(base))
    if kind == "one":
        sizes[value] = 1
    elif kind == "tile":
        sizes[value] = luck.choice(TILES) + luck.choice((-1, 0, 1))
    else:
        small = max(4, base[value])
        primes = [n for n in range(max(2, small // 2), 2 * small) if all(n % d for d in range(2, math.isqrt(n) + 1))]
        sizes[value] = luck.choice(primes)
    return sizes


Shapes = tuple[tuple[int, ...], ...]


def _shapes(seen: Probe) -> Shapes:
    leaves = [leaf for _, leaf in (*seen.inputs, *seen.outputs)] + [t for t, _ in seen.state.values()]
    return tuple(tuple(getattr(leaf, "shape", ())) for leaf in leaves)


def _shapes_of(described: Description) -> Shapes:
    given, made = [s.shape for s in described.inputs], [s.shape for s in described.outputs]
    return (*given, *made, *(s.shape for s in described.state))


def _same_kind(found: Probe, small: Description) -> bool:
    """As many tensors of as many dimensions; none of them empty."""
    shapes, wanted = _shapes(found), _shapes_of(small)
    return len(shapes) == len(wanted) and all(
        len(a) == len(b) and 0 not in a for a, b in zip(shapes, wanted, strict=True)
    )
