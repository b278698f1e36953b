"""Opens models by name.

In: `openai:gpt-5`, `http://127.0.0.1:8000/v1:qwen3`, `scripted:FILE`, `cassette:FILE`. Out: a pydantic-ai Model behind
the guard of a run's ledger. Left to others: names (`names`), accounts (`ledger`), each provider's package
(`providers`).

pydantic-ai and the packages of providers are imported when a model is opened, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernelevolve.errors import UsageError
from kernelevolve.llm.ledger import Ledger
from kernelevolve.llm.names import ModelName, ModelOptions, options_of, parse_name
from kernelevolve.llm.prices import Price, price_for, refuse_unpriced

if TYPE_CHECKING:
    from pydantic_ai.models import Model


def open_model(
    name: str,
    ledger: Ledger | None = None,
    *,
    record: Path | None = None,
    tell: Callable[[str], None] | None = None,
    **options: Any,
) -> Model:
    """The model called `name`, which may be used by any number of sessions at the same time.

    Its `request` reserves before each call and settles after it, waits and tries again, and raises `ModelFault` (with
    what it has cost) or `BudgetSpent`. Nothing is called before the first request.

    Args:
        name: see `names.parse_name`; it may end in `,option=value`.
        ledger: of the run; default: one without caps.
        record: file to which requests and answers are added, for `cassette:FILE`; as the option of that name.
        tell: called with one line whenever a call has to be repeated.
        options: fields of `names.ModelOptions`; they go before those in the name.

    Raises:
        UsageError: it is no name of a model, a key is missing, a package is not installed, a file cannot be read, or
            the ledger caps money and the price is not known.
        UnknownName: no such provider or option.
    """
    ledger = ledger or Ledger()
    parsed, chosen, price = checked_model(name, ledger.money_usd, **options)
    record = record or (Path(chosen.record) if chosen.record else None)
    if parsed.is_free and record is not None:
        raise UsageError(f"{parsed.text} calls nothing, so there is nothing to record; leave record= out")
    # Imported here: the guard is a class of pydantic-ai.
    from kernelevolve.llm.providers import guarded

    return guarded(parsed, ledger, price, chosen, record, tell)


def checked_model(
    name: str, money_usd: float | None = None, **options: Any
) -> tuple[ModelName, ModelOptions, Price | None]:
    """What a name stands for, without opening it: for refusing it before a run begins.

    Raises:
        UsageError: it is no name of a model, has a key in it, or its price is not known and money is capped.
        UnknownName: no such provider or option.
    """
    parsed, written = parse_name(name)
    chosen = options_of({**written, **options})
    price = price_for(parsed, chosen)
    refuse_unpriced(parsed, price, money_usd)
    return parsed, chosen, price
