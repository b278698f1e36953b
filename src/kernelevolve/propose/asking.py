"""A question to a model with a typed answer: what the sub-agents of the operator have in common.

In: a prompt, the type of the answer, and who opens the model. Out: the answer or why there is none, and what it cost in
either case. Left to others: what is asked (`analysis`, `deep`), retries, prices and the cap (`llm`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kernelevolve.candidate import Cost
from kernelevolve.errors import KernelEvolveError
from kernelevolve.llm.ledger import Ledger
from kernelevolve.llm.models import checked_model, open_model

if TYPE_CHECKING:
    from pydantic_ai.models import Model

T = TypeVar("T")
#: How long one question may take: an answer that comes later than this delays the search more than rules would.
SECONDS = 180.0
#: How often a model may be told that its answer does not have the form that was asked for.
FORM_RETRIES = 2


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What came of a question: `said` or, where that is None, `why` not."""

    said: T | None
    cost: Cost
    why: str = ""


@dataclass(frozen=True)
class Asker:
    """A model for questions, opened when it is first asked.

    Attributes:
        name: as the settings have it.
        open: gives the model.
        ledger: of the run, which sums what a question costs; None for none.
    """

    name: str
    open: Callable[[], Model]
    ledger: Ledger | None = None
    seconds: float = SECONDS

    async def ask(self, prompt: str, kind: type[T]) -> Reply[T]:
        """The answer as a `kind`; every fault of the model is a reply without one."""
        # Imported here: who asks no model does not wait for its package.
        from pydantic_ai import Agent
        from pydantic_ai.exceptions import AgentRunError, UserError
        from pydantic_ai.usage import RunUsage

        usage, why, said = RunUsage(), "", None
        with ExitStack() as stack:
            account = stack.enter_context(self.ledger.account()) if self.ledger is not None else None
            try:
                agent = Agent(self.open(), output_type=kind, retries=FORM_RETRIES)
                said = (await asyncio.wait_for(agent.run(prompt, usage=usage), self.seconds)).output
            except TimeoutError:
                why = f"no answer within {self.seconds:g} s"
            except (AgentRunError, UserError, KernelEvolveError) as error:
                why = " ".join(str(error).split()) or type(error).__name__
            # A model that was opened elsewhere keeps no accounts here.
            if account is not None and (account.cost.calls or not usage.requests):
                return Reply(said, account.cost, why)
        used = Cost(0.0, usage.input_tokens, usage.output_tokens, 0.0, usage.requests,
                    usage.input_tokens + usage.output_tokens)  # fmt: skip
        return Reply(said, used, why)


def asker_for(name: str, ledger: Ledger | None = None) -> Asker:
    """The model `name` for questions; its name is looked at now, its provider when it is first asked.

    Raises:
        UsageError: it is no name of a model, its key is missing, or its price is not known and money is capped.
    """
    checked_model(name, ledger.money_usd if ledger is not None else None)
    opened: list[Any] = []

    def open_once() -> Any:
        if not opened:
            opened.append(open_model(name, ledger))
        return opened[0]

    return Asker(name, open_once, ledger)
