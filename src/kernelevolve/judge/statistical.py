"""Outputs that a reference draws at random, judged by their distribution instead of value by value.

In: draws of the reference on the same inputs under different seeds, and the candidate's values. Out: Checks. Left to
others: running the reference (`reference`), metadata and outputs that do not vary (`accept`).

Each figure of the candidate is compared with what the reference's own draws give for it: the difference may be
`SIGMAS` standard errors, the larger of that for independent elements and of the spread between the draws, which is the
larger one where elements are not independent (whole channels dropped). Distributions are compared by the two-sample
Kolmogorov-Smirnov statistic with Kolmogorov's series in the form of Stephens (1970), see `kolmogorov`. Dependence
between elements is seen in the autocorrelation of residuals at the strides of the shape and at powers of two, where a
mask that is reused for each row or each program repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from kernelevolve.evaluation import Check
from kernelevolve.judge import accept

DRAWS, FEW_DRAWS, FEW = 8, 64, 1024  # draws of the reference; more where an output has few elements
SIGMAS = 6.0
LEVEL, CASES = 1e-6, 64  # false alarms of the KS test for one output over this many cases: Bonferroni
SAMPLE = 100_000  # elements of each side in the KS test
TAIL, BEYOND = 0.001, 1e4  # share of a tail; the most that the largest values of two draws are taken to differ by
RELATED = 64  # fewer elements say nothing about correlation
SLACK = 2.5  # times the KS statistic that the reference's own draws reach against each other


def varies(draws: Sequence[Any]) -> bool:
    """Whether draws of one output differ in any bit that is no NaN."""
    first = torch.nan_to_num(draws[0].double())
    return any(not torch.equal(first, torch.nan_to_num(other.double())) for other in draws[1:])


def kolmogorov(statistic: float, one: int, other: int) -> float:
    """The asymptotic p-value of a two-sample KS statistic.

    Q(l) = 2 sum (-1)^(j-1) exp(-2 j^2 l^2), Kolmogorov (1933); l = (s + 0.12 + 0.11 / s) D with
    s = sqrt(n m / (n + m)), Stephens (1970), J. R. Stat. Soc. B 32.
    """
    size = math.sqrt(one * other / (one + other))
    at = (size + 0.12 + 0.11 / size) * statistic
    if at < 0.2:
        return 1.0  # the series converges slowly there, and is 1 to twelve digits
    terms = [(-1) ** (j - 1) * math.exp(-2 * (j * at) ** 2) for j in range(1, 101)]
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def distance(one: Any, other: Any) -> float:
    """The two-sample KS statistic: the largest distance of the empirical distribution functions."""
    one, other = one.sort().values, other.sort().values
    points = torch.cat([one, other])
    below = torch.searchsorted(one, points, right=True).double() / one.numel()
    return float((below - torch.searchsorted(other, points, right=True).double() / other.numel()).abs().max().item())


def check_leaf(where: accept.Where, path: str, draws: Sequence[Any], values: Any, outputs: int) -> tuple[Check, ...]:
    """Compares one output that varies between draws.

    Args:
        draws: of the reference on the same inputs, all of the candidate's shape and dtype.
        outputs: how many the problem has, for the level of the KS test.
    """
    known = torch.stack([d.reshape(-1) for d in draws]).double()
    own = values.reshape(-1).to(known.device).double()
    unit = torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0
    found = [
        _moment(where, path, f"share of {what}", how(known), how(own), 0.0)
        for what, how in (("NaN", torch.isnan), ("inf", torch.isposinf), ("-inf", torch.isneginf), ("zeros", _zero))
    ]
    known, own = (torch.nan_to_num(v, nan=0.0, posinf=0.0, neginf=0.0) for v in (known, own))
    found.append(_largest(where, path, known, own))
    known, own = _without_tails(known, own)
    center, scale = known.mean(), max(float(known.std().item()), 1e-300)
    known, own = (known - center) / scale, (own - center) / scale
    unit *= 1.0 + abs(float(center.item())) / scale  # rounding in standardised values
    found.append(_moment(where, path, "mean", known, own, unit))
    found.append(_moment(where, path, "mean square", known.square(), own.square(), 2 * unit))
    found.append(_distribution(where, path, known, own, outputs))
    if own.numel() >= RELATED:
        found.append(_follows(where, path, known, own))
        found += _dependence(where, path, known, own, tuple(values.shape))
    return tuple(found)


def _largest(where: accept.Where, path: str, known: Any, own: Any) -> Check:
    """The largest magnitude, as far as the draws' own differ: tails that are heavy vary by powers of ten."""
    largest = known.abs().amax(dim=1)
    most, least = float(largest.max().item()), float(largest.min().item())
    limit = 4.0 * most * min(most / least if least else BEYOND, BEYOND) ** 3
    found = float(own.abs().max().item())
    detail = f"{path}: largest magnitude {found:.4g}, in draws of the reference {least:.4g} to {most:.4g}"
    return where.check("statistical largest", found <= limit, found, limit, detail)


def _without_tails(known: Any, own: Any) -> tuple[Any, Any]:
    """Values held within twice the range from the 0.1 to the 99.9 percentile, so that means have a variance."""
    if own.numel() < FEW:
        return known, own
    some = known[:, :: -(-own.numel() // SAMPLE)].reshape(-1).sort().values
    low, high = some[int(TAIL * some.numel())], some[-1 - int(TAIL * some.numel())]
    if low == high:
        return known, own
    low, high = low - (high - low) / 2, high + (high - low) / 2
    return known.clamp(low, high), own.clamp(low, high)


def _zero(values: Any) -> Any:
    return values == 0


def _moment(where: accept.Where, path: str, what: str, known: Any, own: Any, unit: float) -> Check:
    """The mean over all elements, given the inputs: only what varies between draws counts as its error."""
    known, own = known.double(), own.double()
    count, size = known.shape
    within = known.var(dim=0).sum().sqrt().item() / size
    means = known.mean(dim=1)
    error = max(within, float(means.std().item())) * math.sqrt(1 + 1 / count)
    off = abs(float(own.mean().item()) - float(means.mean().item()))
    detail = f"{path}: {what} {own.mean().item():.4g}, that of {count} draws of the reference {means.mean().item():.4g}"
    limit = SIGMAS * error + unit
    return where.check(f"statistical {what}", off <= limit, off, limit, detail)


def _distribution(where: accept.Where, path: str, known: Any, own: Any, outputs: int) -> Check:
    count, size = known.shape
    source = torch.Generator(device=known.device)
    source.manual_seed(where.seed % 2**63)
    pick = torch.randint(size, (min(size, SAMPLE),), generator=source, device=known.device) if size > SAMPLE else None
    some = known if pick is None else known[:, pick]
    mine = own if pick is None else own[pick]
    found = distance(mine, some.reshape(-1))
    level = LEVEL / (CASES * max(outputs, 1))
    chance = kolmogorov(found, mine.numel(), some.numel())
    held = max(distance(some[i], torch.cat([some[:i], some[i + 1 :]]).reshape(-1)) for i in range(min(count, DRAWS)))
    detail = f"{path}: Kolmogorov-Smirnov distance from {count} draws of the reference, p = {chance:.2g} < {level:.2g}"
    return where.check("statistical KS", chance >= level or found <= SLACK * held, found, SLACK * held, detail)


def _follows(where: accept.Where, path: str, known: Any, own: Any) -> Check:
    """Whether the values follow the inputs as each draw does: 1 - correlation with the mean of other draws."""
    count, size = known.shape
    total = known.sum(dim=0)
    others = torch.tensor([_correlation(known[i], total - known[i]) for i in range(count)], dtype=torch.float64)
    expected = float(others.mean().item())
    error = max((1 - expected**2) / math.sqrt(size), float(others.std().item()), 1e-9)
    found = _correlation(own, total)
    detail = f"{path}: correlation with the mean of the reference's draws {found:.4g}, theirs {expected:.4g}"
    off, limit = expected - found, SIGMAS * error
    return where.check("statistical correlation", off <= limit, off, limit, detail)


def _correlation(one: Any, other: Any) -> float:
    one, other = one - one.mean(), other - other.mean()
    norm = (one.norm() * other.norm()).item()
    return float((one @ other).item()) / norm if norm else 0.0


def _dependence(where: accept.Where, path: str, known: Any, own: Any, shape: tuple[int, ...]) -> Iterator[Check]:
    """Autocorrelation of residuals as they are, and with the sign of the mean, as a mask acts on a value."""
    count, size = known.shape
    mean = known.mean(dim=0)
    sign = torch.sign(mean)
    lags = _lags(shape, size)
    for what, theirs, mine in (
        ("residuals", known - mean, own - mean),
        ("signed residuals", (known - mean) * sign, (own - mean) * sign),
    ):
        worst = max((_repeats(theirs, mine, lag) for lag in lags), key=lambda found: found[0] - found[1])
        detail = f"{path}: {what} depend on each other otherwise than in {count} draws of the reference"
        yield where.check("statistical dependence", worst[0] <= worst[1], *worst, detail)


def _lags(shape: tuple[int, ...], size: int) -> list[int]:
    strides = {math.prod(shape[i:]) for i in range(1, len(shape) + 1)}
    powers = {1 << k for k in range(size.bit_length())}
    return sorted(lag for lag in strides | powers if 0 < lag <= size - RELATED // 2)


def _repeats(theirs: Any, mine: Any, lag: int) -> tuple[float, float]:
    """How far the autocorrelation at a lag is from that of the draws, and how far it may be."""
    known = torch.tensor([_auto(one, lag) for one in theirs[:DRAWS]], dtype=torch.float64)
    products = mine[:-lag] * mine[lag:]
    error = float(products.norm().item()) / max(float(mine.square().sum().item()), 1e-300)
    allowed = SIGMAS * max(error, float(known.std().item()))
    return abs(_auto(mine, lag) - float(known.mean().item())), allowed


def _auto(one: Any, lag: int) -> float:
    return float((one[:-lag] @ one[lag:]).item()) / max(float(one.square().sum().item()), 1e-300)


def check_again(where: accept.Where, path: str, earlier: Any, values: Any) -> tuple[Check, ...]:
    """Whether a second call on the same inputs gave the bits of the first, which numbers drawn anew do not."""
    same = torch.equal(torch.nan_to_num(earlier), torch.nan_to_num(values))
    detail = f"{path}: two calls under different seeds gave the same values, the reference's draws differ"
    return (where.check("statistical seeds", not same, float(same), 0.0, detail),)
