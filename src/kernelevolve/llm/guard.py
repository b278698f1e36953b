"""The model that a session talks to: it keeps accounts, waits, tries again, and says by name what went wrong.

In: a pydantic-ai Model of one provider, and the run's ledger. Out: its answers, or `ModelFault` or `BudgetSpent` with
what the request has cost all the same. Left to others: what is said (`propose`), which model (`models`).

Each call is reserved for and settled by itself: what a provider reported is what is charged, once, also where the call
broke off after that; what it may have charged without a report counts against the cap and is told apart. The retries of
providers' packages are off, so nothing is tried twice that is not counted twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from kernelevolve.candidate import Cost
from kernelevolve.errors import BudgetSpent, KernelEvolveError, ModelFault
from kernelevolve.llm.estimate import request_tokens, response_tokens
from kernelevolve.llm.faults import Trouble, trouble_of, trouble_with
from kernelevolve.llm.gate import Gate
from kernelevolve.llm.ledger import Ledger, Reservation
from kernelevolve.llm.names import ModelName, ModelOptions
from kernelevolve.llm.prices import Price

if TYPE_CHECKING:
    from pydantic_ai.tools import RunContext
    from pydantic_ai.usage import RequestUsage

# A model that says nothing twice says nothing; each time is paid for.
_EMPTY_TRIES = 2
# Being told to wait is no failure: with many writers it is how the limit is found.
_RATE_TRIES = 4
# By how much the estimate is raised over what a provider counted, where it counted more.
_MARGIN = 1.1


class Recorder(Protocol):
    """Keeps what was asked and answered; see `cassette`."""

    def answered(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters,
        response: ModelResponse, cost: Cost,
    ) -> None: ...  # fmt: skip

    def failed(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters,
        fault: ModelFault,
    ) -> None: ...  # fmt: skip


@dataclass
class _Call:
    """One call while it is made: what has arrived of its answer."""

    most: Cost
    started: float
    stream: StreamedResponse | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class GuardedModel(WrapperModel):
    """One model under one ledger; any number of requests at the same time.

    Args:
        wrapped: made with its package's own retries off.
        price: None where it is not known.
        gate: of its provider.
        settings: of every call, where the session does not set them itself.
        recorder: None to keep nothing.
        tell: called with one line whenever a call has to be repeated.
    """

    def __init__(
        self,
        wrapped: Model,
        name: ModelName,
        ledger: Ledger,
        price: Price | None,
        options: ModelOptions,
        gate: Gate,
        settings: Mapping[str, Any] | None = None,
        recorder: Recorder | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(wrapped)
        self.name, self.ledger, self.price, self.options = name, ledger, price, options
        self._gate, self._defaults = gate, settings or {}
        self._recorder, self._tell = recorder, tell
        self._scale = 1.0

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """The answer.

        Raises:
            ModelFault: there is none that can be used; `cost` is what trying has cost, which the ledger has already.
            BudgetSpent: the next call may pass a cap.
        """
        settings: Any = {**self._defaults, **(model_settings or {})}
        # As an agent does at the start of a run: connections belong to the event loop that opened them.
        self._refresh_http_client()
        try:
            response, cost = await self._tried(messages, settings, model_request_parameters)
        except ModelFault as fault:
            if self._recorder is not None:
                self._recorder.failed(messages, model_settings, model_request_parameters, fault)
            raise
        if self._recorder is not None:
            self._recorder.answered(messages, model_settings, model_request_parameters, response, cost)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """The whole answer as one stream: before it is complete it may still have to be asked for again."""
        response = await self.request(messages, model_settings, model_request_parameters)
        yield CompletedStreamedResponse(response, model_request_parameters=model_request_parameters, replay_events=True)

    async def _tried(
        self, messages: list[ModelMessage], settings: Any, parameters: ModelRequestParameters
    ) -> tuple[ModelResponse, Cost]:
        spent, tries = Cost(), {"": 0, "rate": 0, "empty": 0}
        while True:
            try:
                found = await self._called(messages, settings, parameters)
            except BudgetSpent as error:
                error.cost = spent
                raise
            cost, outcome = found
            spent += cost
            if isinstance(outcome, ModelResponse):
                return outcome, spent
            counted = outcome.kind if outcome.kind in tries else ""
            tries[counted] += 1
            if not outcome.again or tries[counted] >= self._most_tries(counted):
                raise self._fault(outcome, spent, sum(tries.values()))
            await self._wait(outcome, tries[counted], spent, sum(tries.values()))

    def _most_tries(self, counted: str) -> int:
        if counted == "rate" and self.options.attempts > 1:
            return self.options.attempts * _RATE_TRIES
        return min(self.options.attempts, _EMPTY_TRIES) if counted == "empty" else self.options.attempts

    async def _called(
        self, messages: list[ModelMessage], settings: Any, parameters: ModelRequestParameters
    ) -> tuple[Cost, ModelResponse | Trouble]:
        """One call: what it cost, and its answer or what went wrong; settled in either case."""
        tokens_in = int(request_tokens(messages, parameters) * self._scale)
        tokens_out = int(settings.get("max_tokens") or self.options.max_tokens)
        money = self.price.most(tokens_in, tokens_out) if self.price else 0.0
        most = Cost(tokens_in=tokens_in, tokens_out=tokens_out, money_usd=money)
        await self._gate.turn()
        with await self.ledger.acquire(most) as reservation:
            call = _Call(most, time.monotonic())
            try:
                response = await self._answer(messages, settings, parameters, call)
            except asyncio.CancelledError:
                self._broken_off(call, reservation, True)
                raise
            except KernelEvolveError:
                raise
            # Providers' packages and what is under them raise what they like on odd data; one call has failed.
            except Exception as error:
                failed = trouble_of(error, self.name, self.options)
                if not failed.sent:
                    return Cost(), failed  # the reservation is released
                silent = isinstance(error, TimeoutError) or not self.options.stream
                return self._broken_off(call, reservation, silent), failed
            trouble = trouble_with(response, self.name, self.options)
            if trouble is not None and trouble.kind == "cut" and trouble.again:
                return self._broken_off(call, reservation, False), trouble
            return self._completed(call, reservation, response), trouble or response

    async def _answer(
        self, messages: list[ModelMessage], settings: Any, parameters: ModelRequestParameters, call: _Call
    ) -> ModelResponse:
        loop, patience = asyncio.get_running_loop(), self.options.timeout
        if not self.options.stream:
            async with asyncio.timeout(patience):
                return await self.wrapped.request(messages, settings, parameters)
        async with asyncio.timeout(patience) as limit:
            async with self.wrapped.request_stream(messages, settings, parameters) as stream:
                call.stream = stream
                async for _ in stream:
                    limit.reschedule(loop.time() + patience)
                return stream.get()

    def _completed(self, call: _Call, reservation: Reservation, response: ModelResponse) -> Cost:
        usage = response.usage
        if not usage.has_values():
            # Some servers count nothing; what cannot be known is bounded, and told as not known.
            tokens_in, tokens_out = call.most.tokens_in, response_tokens(response.parts)
            free = self.price is not None and self.price.most(1, 1) == 0
            cost = Cost(call.seconds, 0, 0, 0.0, 1)
            money = self.price.most(tokens_in, tokens_out) if self.price else 0.0
            rest = Cost(tokens_in=tokens_in, tokens_out=tokens_out, money_usd=0.0 if free else money)
            reservation.settle(cost, rest)
            return cost
        if usage.input_tokens > call.most.tokens_in:
            self._scale *= usage.input_tokens / call.most.tokens_in * _MARGIN
        cost = self._cost(call, usage, response)
        reservation.settle(cost)
        return cost

    def _broken_off(self, call: _Call, reservation: Reservation, silent: bool) -> Cost:
        """Settles a call that failed after it may have been charged for.

        Args:
            silent: whether the provider may have written on without our seeing it.
        """
        stream = call.stream
        usage = stream.usage if stream is not None else None
        cost = self._cost(call, usage, None) if usage is not None and usage.has_values() else Cost(call.seconds)
        written = response_tokens(stream.get().parts) if stream is not None else 0
        tokens_in = max(call.most.tokens_in - cost.tokens_in, 0) if not cost.tokens_in else 0
        tokens_out = max((call.most.tokens_out if silent else written) - cost.tokens_out, 0)
        money = self.price.most(tokens_in, tokens_out) if self.price else 0.0
        reservation.settle(cost, Cost(tokens_in=tokens_in, tokens_out=tokens_out, money_usd=money))
        return cost

    def _cost(self, call: _Call, usage: RequestUsage, response: ModelResponse | None) -> Cost:
        tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
        money = self.price.cost(usage, response) if self.price else 0.0
        unpriced = tokens_in + tokens_out if self.price is None else 0
        return Cost(call.seconds, tokens_in, tokens_out, money, 1, unpriced)

    async def _wait(self, trouble: Trouble, tries: int, spent: Cost, calls: int) -> None:
        options = self.options
        waits = min(options.patience, options.backoff * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0)
        if trouble.after is not None:
            if trouble.after > options.patience:
                asks = f"{trouble.text}; it asks to wait {trouble.after:g} s, longer than patience={options.patience:g}"
                raise self._fault(Trouble(trouble.kind, asks, False, remedy=trouble.remedy), spent, calls)
            waits = max(waits, trouble.after)
        if self._tell is not None:
            self._tell(f"{self.name.text}: {trouble.text}; again in {waits:.1f} s")
        if trouble.kind == "rate":
            self._gate.shut(waits)
        else:
            await asyncio.sleep(waits)

    def _fault(self, trouble: Trouble, spent: Cost, calls: int) -> ModelFault:
        tried = f" ({calls} calls)" if calls > 1 else ""
        remedy = f"; {trouble.remedy}" if trouble.remedy else ""
        return ModelFault(f"{self.name.text}: {trouble.text}{tried}{remedy}", spent, kind=trouble.kind)
