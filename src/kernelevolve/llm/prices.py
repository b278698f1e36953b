"""What tokens cost, by the table that genai-prices ships; nothing is fetched.

In: a model's name, or the price that the user gives. Out: a `Price`, or None where nobody knows one. Left to others:
adding up (`ledger`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from kernelevolve.errors import UsageError
from kernelevolve.llm.names import PROVIDERS, ModelName, ModelOptions, address_of

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelResponse
    from pydantic_ai.usage import RequestUsage

_MILLION = 1e6


@dataclass(frozen=True)
class Price:
    """Of one model's tokens.

    Attributes:
        source: where it is from, for people.
        read, written: US dollars per million tokens; for a price in the table those of a short request.
        provider, model: what genai-prices calls them; empty for a given price.
    """

    source: str
    read: float
    written: float
    provider: str = ""
    model: str = ""

    def most(self, tokens_in: int, tokens_out: int) -> float:
        """The most that so many tokens of a call cost in US dollars: read anew or into a cache, at the dearer tier."""
        if not self.provider:
            return (tokens_in * self.read + tokens_out * self.written) / _MILLION
        plain = self._table(input_tokens=tokens_in, output_tokens=tokens_out)
        cached = self._table(input_tokens=tokens_in, cache_write_tokens=tokens_in, output_tokens=tokens_out)
        return max(plain, cached)

    def plain(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost in US dollars, at the price of short requests and without caches."""
        return (tokens_in * self.read + tokens_out * self.written) / _MILLION

    def cost(self, usage: RequestUsage, response: ModelResponse | None = None) -> float:
        """What `usage` cost in US dollars, tokens of caches at their own price.

        Args:
            response: says what its provider tells about the tier that served it.
        """
        if not self.provider:
            return (usage.input_tokens * self.read + usage.output_tokens * self.written) / _MILLION
        from genai_prices import calc_price

        context = response.provider_details if response is not None else None
        try:
            found = calc_price(usage, self.model, provider_id=self.provider, price_context=context)
        except ValueError:
            # Counts that contradict each other, such as more cached than read: the totals alone still have a price.
            return self._table(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
        return float(found.total_price)

    def _table(self, **tokens: int) -> float:
        from genai_prices import Usage, calc_price

        return float(calc_price(Usage(**tokens), self.model, provider_id=self.provider).total_price)


FREE = Price("nothing is called", 0.0, 0.0)


def price_for(name: ModelName, options: ModelOptions) -> Price | None:
    """The price of a model: the user's own, else the table's; None where it is not known."""
    if name.is_free:
        return FREE
    if options.price_in is not None and options.price_out is not None:
        return Price("given by the user", options.price_in, options.price_out)
    provider = _seller(name, options)
    return _in_table(provider, name.model) if provider else None


def _seller(name: ModelName, options: ModelOptions) -> str:
    """Who charges for the model, as genai-prices calls it; empty where it knows nobody."""
    service, address = PROVIDERS.get(name.provider), address_of(name, options)
    # What answers where OpenAI's wire is spoken need not be OpenAI, whatever the model is called there; the other
    # services' wires are spoken by gateways to them.
    if service is not None and (name.provider != "openai" or address == service.address):
        return service.prices
    from genai_prices.data_snapshot import get_snapshot

    try:
        return get_snapshot().find_provider(None, None, address).id
    except LookupError:
        return ""


def _in_table(provider: str, model: str) -> Price | None:
    from genai_prices import Usage, calc_price

    try:
        read = calc_price(Usage(input_tokens=1000), model, provider_id=provider)
        written = calc_price(Usage(output_tokens=1000), model, provider_id=provider)
    except LookupError:
        return None
    per_million = _MILLION / 1000
    prices = float(read.total_price) * per_million, float(written.total_price) * per_million
    if not any(prices) or not all(map(math.isfinite, prices)):
        return None
    return Price(f"genai-prices {version('genai-prices')}", *prices, provider, model)


def context_window(name: ModelName) -> int | None:
    """Most tokens that the model reads and writes in one call, as the table has it; None where it is not known."""
    provider = "" if name.is_free else _seller(name, ModelOptions())
    return _known_window(provider, name.model) if provider else None


def _known_window(provider: str, model: str) -> int | None:
    from genai_prices.data_snapshot import get_snapshot

    try:
        found: Any = get_snapshot().find_provider_model(model, None, provider, None)[1]
    except LookupError:
        return None
    return int(found.context_window) if found.context_window else None


def refuse_unpriced(name: ModelName, price: Price | None, money_usd: float | None) -> None:
    """Refuses a model whose price is not known where money is capped: the cap could not be held.

    Raises:
        UsageError: that is so; the message says how to give a price.
    """
    if price is None and money_usd is not None:
        raise UsageError(
            f"nobody knows what {name.text} costs, so a cap of {money_usd:g} US dollars cannot be held; give its price "
            f"in US dollars per million tokens: {name.text},price_in=N,price_out=N (0 where it costs nothing), or cap "
            "tokens in its place: --tokens N"
        )
