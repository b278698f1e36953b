"""What a run is likely to cost, and at most, before it is started.

In: the models, the length of a prompt and the limits of a run. Out: a `Forecast` and the lines that a door prints. Left
to others: holding the run to it (`ledger`).

Modelled, never measured: a session is taken to call its model so many times, each time with all that was said before,
as models are told it. The numbers of calls and tokens of a session are assumptions, named in what is printed, unless
earlier sessions are given: then their means take the place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kernelevolve.candidate import Cost
from kernelevolve.errors import UsageError
from kernelevolve.evaluation import Evidence
from kernelevolve.llm.models import checked_model
from kernelevolve.llm.prices import Price
from kernelevolve.settings import Settings

# English and code have three to four characters per token.
CHARACTERS_PER_TOKEN = 3.5


@dataclass(frozen=True)
class Habits:
    """How a session is taken to go; assumptions of ours, of kernels of a few hundred lines.

    Attributes:
        calls: of the model in a session that goes as usual.
        most_calls: in the longest one, the tool steps and the last answer.
        answer: tokens that a call writes as a rule, thinking included.
        most_answer: tokens that a call may write.
        report: tokens that a tool's report adds to what is said.
    """

    calls: int = 5
    most_calls: int = 21
    answer: int = 3000
    most_answer: int = 16384
    report: int = 800

    def __post_init__(self) -> None:
        if not 1 <= self.calls <= self.most_calls or not 0 < self.answer <= self.most_answer or self.report < 0:
            raise UsageError(f"a session cannot go like this: {self}")

    def likely(self, prompt: int) -> tuple[int, int]:
        """Tokens that a usual session reads and writes, from a prompt of so many."""
        return self._read(prompt, self.calls, self.answer), self.calls * self.answer

    def most(self, prompt: int) -> tuple[int, int]:
        """Tokens that the longest session reads and writes."""
        return self._read(prompt, self.most_calls, self.most_answer), self.most_calls * self.most_answer

    def _read(self, prompt: int, calls: int, answer: int) -> int:
        # The n-th call reads the prompt and all n - 1 answers and reports before it.
        return calls * prompt + (answer + self.report) * calls * (calls - 1) // 2


@dataclass(frozen=True)
class Share:
    """One model's part of a forecast; candidates are shared equally.

    Attributes:
        price: None where it is not known; then the money is not either.
        likely, most: of all its candidates.
    """

    model: str
    candidates: int
    price: Price | None
    likely: Cost
    most: Cost


@dataclass(frozen=True)
class Forecast:
    """What a run is likely to cost and at most.

    Attributes:
        likely, most: of the run, under its limits; `unpriced` counts tokens whose price is not known.
        limited: which limits of the run bind before all candidates are written, were each as costly as assumed.
        evidence: always `modelled`.
        how: what it rests on, in one sentence.
    """

    shares: tuple[Share, ...]
    candidates: int
    prompt: int
    habits: Habits
    likely: Cost
    most: Cost
    limited: tuple[str, ...]
    how: str
    evidence: Evidence = field(default=Evidence.MODELLED)


def forecast(
    models: Sequence[str],
    settings: Settings,
    prompt_tokens: int,
    *,
    habits: Habits | None = None,
    earlier: Sequence[Cost] = (),
) -> Forecast:
    """What a run with these models is likely and at most to cost.

    Args:
        models: names as `open_model` takes them; each writes the same share of the candidates.
        settings: of the run: its candidates, and its limits of tokens and money.
        prompt_tokens: of a brief as it is composed.
        habits: of a session; default: assumed.
        earlier: what sessions of earlier candidates have cost; their mean takes the place of a usual session.

    Raises:
        UsageError: no models, or a name that is none.
    """
    if not models:
        raise UsageError("a forecast needs the names of models")
    habits = habits or Habits()
    written = [cost for cost in earlier if cost.calls]
    shares = []
    for index, name in enumerate(models):
        parsed, options, price = checked_model(name)
        count = settings.candidates // len(models) + (index < settings.candidates % len(models))
        own = _capped(habits, options.max_tokens)
        mean = _mean(written) if written else own.likely(prompt_tokens)
        shares.append(
            Share(parsed.text, count, price, _cost(price, mean, count), _most(price, own, prompt_tokens, count))
        )
    likely, most = _sum(share.likely for share in shares), _sum(share.most for share in shares)
    bound_likely, limited = _limited(likely, settings)
    bound_most, limits = _limited(most, settings)
    how = (
        f"modelled from the mean of {len(written)} earlier sessions" if written
        else f"modelled from a prompt of {prompt_tokens:,} tokens and assumed sessions of {habits.calls} calls that "
        f"write {habits.answer:,} tokens each and read {habits.report:,} more of each tool's report, without caches"
    )  # fmt: skip
    return Forecast(
        tuple(shares), settings.candidates, prompt_tokens, habits, bound_likely, bound_most,
        tuple(dict.fromkeys((*limited, *limits))), how,
    )  # fmt: skip


def forecast_lines(found: Forecast) -> list[str]:
    """The forecast for people, line by line."""
    sessions = f"{found.habits.most_calls} calls that write {found.habits.most_answer:,} tokens each"
    lines = [
        f"forecast for {found.candidates} candidates ({found.evidence}): likely {_told(found.likely)}, at most "
        f"{_told(found.most)}",
        f"  likely: {found.how}",
        f"  at most: sessions of {sessions}, each call reading all that was said before"
        + (f"; held to the run's {' and '.join(found.limited)}" if found.limited else ""),
    ]
    for share in found.shares:
        price = (
            f"{share.price.read:g} and {share.price.written:g} US dollars per million tokens read and written "
            f"({share.price.source})" if share.price is not None
            else f"price not known; give {share.model},price_in=N,price_out=N"
        )  # fmt: skip
        lines.append(f"  {share.model}: {share.candidates} candidates, {price}")
    return lines


def tokens_of(characters: int) -> int:
    """About how many tokens a prompt of so many characters has."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)


def _capped(habits: Habits, max_tokens: int) -> Habits:
    most = min(habits.most_answer, max_tokens)
    return Habits(habits.calls, habits.most_calls, min(habits.answer, most), most, habits.report)


def _mean(costs: Sequence[Cost]) -> tuple[int, int]:
    count = len(costs)
    return round(sum(c.tokens_in for c in costs) / count), round(sum(c.tokens_out for c in costs) / count)


def _cost(price: Price | None, tokens: tuple[int, int], times: int) -> Cost:
    read, written = tokens[0] * times, tokens[1] * times
    if price is None:
        return Cost(tokens_in=read, tokens_out=written, unpriced=read + written)
    return Cost(tokens_in=read, tokens_out=written, money_usd=price.plain(*tokens) * times)


def _most(price: Price | None, habits: Habits, prompt: int, times: int) -> Cost:
    tokens = habits.most(prompt)
    if price is None:
        return _cost(price, tokens, times)
    # Call by call, since long requests may be dearer by the token.
    money = sum(
        price.most(prompt + n * (habits.most_answer + habits.report), habits.most_answer)
        for n in range(habits.most_calls)
    )
    return Cost(tokens_in=tokens[0] * times, tokens_out=tokens[1] * times, money_usd=money * times)


def _sum(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


def _limited(cost: Cost, settings: Settings) -> tuple[Cost, tuple[str, ...]]:
    """A cost under the limits of the run, and which of them bind."""
    limits, share = [], 1.0
    if settings.money_usd is not None and cost.money_usd > settings.money_usd:
        share = min(share, settings.money_usd / cost.money_usd)
        limits.append(f"{settings.money_usd:g} US dollars")
    tokens = cost.tokens_in + cost.tokens_out
    if settings.tokens is not None and tokens > settings.tokens:
        share = min(share, settings.tokens / tokens)
        limits.append(f"{settings.tokens:,} tokens")
    scaled = Cost(
        tokens_in=round(cost.tokens_in * share), tokens_out=round(cost.tokens_out * share),
        money_usd=cost.money_usd * share, unpriced=round(cost.unpriced * share),
    )  # fmt: skip
    return scaled, tuple(limits)


def _told(cost: Cost) -> str:
    tokens = f"{(cost.tokens_in + cost.tokens_out) / 1e6:.2f} M tokens"
    money = f"{cost.money_usd:.2f} US dollars"
    if cost.unpriced == cost.tokens_in + cost.tokens_out and cost.unpriced:
        return f"{tokens} at a price that is not known"
    return f"{money} ({tokens}{f', {cost.unpriced / 1e6:.2f} M of them unpriced' if cost.unpriced else ''})"
