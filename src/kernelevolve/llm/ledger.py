"""Money and tokens of one run: reserved before each call of a model, settled after it.

In: the most that a call may cost, and what it did cost. Out: a reservation, or the news that the cap may not hold.
Left to others: what a call may cost (`prices`), when to call (`guard`).

The cap holds under any number of parallel writers, threads and event loops: what is spent, what is reserved and what
broke off without a report never exceed it together, as long as no call costs more than was reserved for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType

from kernelevolve.candidate import Cost
from kernelevolve.errors import BudgetSpent, UsageError

_NOTHING = Cost()
# Sums of a few thousand prices in binary are off by less; a cap of 1.00 must take ten calls of 0.10.
_ROUNDING_USD = 1e-9


class Account:
    """What the calls made within one `Ledger.account()` cost so far."""

    def __init__(self) -> None:
        self._cost = _NOTHING

    @property
    def cost(self) -> Cost:
        """As settled; `seconds` is the sum over calls."""
        return self._cost

    def _add(self, cost: Cost) -> None:
        self._cost += cost


_OPEN: ContextVar[tuple[tuple[Ledger, Account], ...]] = ContextVar("accounts", default=())


class Reservation:
    """The most that one call may cost, set aside until it is settled, once.

    Used in a `with` statement it is released where nothing settled it.
    """

    def __init__(self, ledger: Ledger, most: Cost, accounts: tuple[Account, ...]) -> None:
        self.most = most
        self._ledger, self._accounts = ledger, accounts

    def settle(self, cost: Cost, unreported: Cost = _NOTHING) -> None:
        """Ends the reservation with what the call cost.

        Args:
            cost: as the provider reported it.
            unreported: the most that it may have cost beyond that, where it broke off before all was reported; it
                counts against the cap and is told apart.

        Raises:
            ValueError: it is settled already.
        """
        self._ledger._settle(self, cost, unreported, self._accounts)

    def release(self) -> None:
        """Ends the reservation of a call that cost nothing."""
        self.settle(_NOTHING)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ledger._holds(self):
            self.release()


class Ledger:
    """Of one run; any thread and any task may use it.

    Args:
        money_usd: the cap in US dollars; None for none.
        tokens: the cap on tokens, read and written; None for none.
        spent: what the run has spent before, such as the sum over the log of a resumed one.

    Raises:
        UsageError: a cap that is not above 0.
    """

    def __init__(self, money_usd: float | None = None, tokens: int | None = None, spent: Cost = _NOTHING) -> None:
        for name, cap in (("money", money_usd), ("tokens", tokens)):
            if cap is not None and not cap > 0:
                raise UsageError(f"a cap on {name} of {cap} leaves nothing to spend; give more than 0, or no cap")
        self.money_usd, self.tokens = money_usd, tokens
        self._spent, self._unreported = spent, _NOTHING
        self._live: dict[int, Reservation] = {}
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._lock = threading.Lock()

    @property
    def spent(self) -> Cost:
        """What was settled, as reported by the providers."""
        with self._lock:
            return self._spent

    @property
    def reserved(self) -> Cost:
        """What calls in flight may cost."""
        with self._lock:
            return self._reserved()

    @property
    def unreported(self) -> Cost:
        """The most that calls may have cost that broke off before their provider said what they cost."""
        with self._lock:
            return self._unreported

    def reserve(self, most: Cost) -> Reservation:
        """Sets aside the most that the next call may cost.

        Raises:
            BudgetSpent: spent, reserved and this together may pass a cap.
        """
        with self._lock:
            if limit := self._passed(most, self._reserved()):
                raise self._refusal(most, limit)
            return self._reserve(most)

    async def acquire(self, most: Cost) -> Reservation:
        """As `reserve`, but waits where it would fit once calls in flight have cost less than was reserved for them.

        Raises:
            BudgetSpent: it may not fit whatever they cost.
        """
        while True:
            with self._lock:
                if limit := self._passed(most, _NOTHING):
                    raise self._refusal(most, limit)
                if not self._passed(most, self._reserved()):
                    return self._reserve(most)
                loop = asyncio.get_running_loop()
                waiter = (loop, loop.create_future())
                self._waiting.append(waiter)
            try:
                await waiter[1]
            finally:
                with self._lock, contextlib.suppress(ValueError):
                    self._waiting.remove(waiter)

    def charge(self, cost: Cost) -> None:
        """Adds what was spent without a reservation, such as what a guest says that its answer cost."""
        accounts = self._accounts()
        with self._lock:
            self._spent += cost
            for account in accounts:
                account._add(cost)

    @contextlib.contextmanager
    def account(self) -> Iterator[Account]:
        """Sums what the calls cost that are made within it, in this task and those that it starts.

        What fails counts too, so it is all that a session has to tell.
        """
        account = Account()
        token = _OPEN.set((*_OPEN.get(), (self, account)))
        try:
            yield account
        finally:
            _OPEN.reset(token)

    def _accounts(self) -> tuple[Account, ...]:
        return tuple(account for ledger, account in _OPEN.get() if ledger is self)

    def _reserved(self) -> Cost:
        # Summed anew each time: adding and taking away would leave a rest in binary.
        return sum((live.most for live in self._live.values()), _NOTHING)

    def _reserve(self, most: Cost) -> Reservation:
        made = Reservation(self, most, self._accounts())
        self._live[id(made)] = made
        return made

    def _holds(self, reservation: Reservation) -> bool:
        with self._lock:
            return id(reservation) in self._live

    def _settle(self, which: Reservation, cost: Cost, unreported: Cost, accounts: tuple[Account, ...]) -> None:
        with self._lock:
            if self._live.pop(id(which), None) is None:
                raise ValueError("the reservation is settled already")
            self._spent += cost
            self._unreported += unreported
            for account in accounts:
                account._add(cost)
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            # A loop that has ended in the meantime has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, future)

    def _passed(self, most: Cost, reserved: Cost) -> str:
        """Which cap may be passed; empty for none."""
        total = self._spent + self._unreported + reserved + most
        if self.money_usd is not None and total.money_usd > self.money_usd + _ROUNDING_USD:
            return "money"
        if self.tokens is not None and _tokens(total) > self.tokens:
            return "tokens"
        return ""

    def _refusal(self, most: Cost, limit: str) -> BudgetSpent:
        costs = {"spent": self._spent, "reserved by calls in flight": self._reserved()}
        if self._unreported != _NOTHING:
            costs["perhaps spent by calls that broke off"] = self._unreported
        if limit == "money":
            told = ", ".join(f"{cost.money_usd:.4f} {what}" for what, cost in costs.items())
            cap, need = f"{self.money_usd:.4f} US dollars", f"{most.money_usd:.4f}"
        else:
            told = ", ".join(f"{_tokens(cost):,} {what}" for what, cost in costs.items())
            cap, need = f"{self.tokens:,} tokens", f"{_tokens(most):,}"
        option = "--money" if limit == "money" else "--tokens"
        return BudgetSpent(
            f"the next call of a model may need {need} of {cap}: {told}; "
            f"go on with more: kernelevolve resume RUN {option} N, or let a call write less (max_tokens=)",
            limit,
        )


def _tokens(cost: Cost) -> int:
    return cost.tokens_in + cost.tokens_out


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
