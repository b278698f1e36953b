"""The ledger: caps that hold under parallel writers, reservations settled once, accounts of sessions."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelevolve.candidate import Cost
from kernelevolve.errors import BudgetSpent, UsageError
from kernelevolve.llm.ledger import Ledger


def usd(money, tokens=0):
    return Cost(money_usd=money, tokens_in=tokens)


def test_what_is_reserved_counts_until_it_is_settled():
    ledger = Ledger(money_usd=1.0)
    first = ledger.reserve(usd(0.6))
    with pytest.raises(BudgetSpent, match=r"may need 0\.5000 of 1\.0000 US dollars: 0\.0000 spent, 0\.6000 reserved"):
        ledger.reserve(usd(0.5))
    first.settle(usd(0.1))
    ledger.reserve(usd(0.5)).release()
    assert ledger.spent.money_usd == pytest.approx(0.1)
    assert ledger.reserved == Cost()


def test_each_limit_is_named_with_what_to_do():
    with pytest.raises(BudgetSpent, match=r"1,001 of 1,000 tokens.*--tokens N") as told:
        Ledger(tokens=1000).reserve(Cost(tokens_in=1, tokens_out=1000))
    assert told.value.limit == "tokens"
    with pytest.raises(BudgetSpent, match="--money N") as told:
        Ledger(money_usd=0.01).reserve(usd(0.02))
    assert told.value.limit == "money"


def test_ten_calls_of_a_tenth_fit_into_one():
    ledger = Ledger(money_usd=1.0)
    for _ in range(10):
        ledger.reserve(usd(0.1)).settle(usd(0.1))
    with pytest.raises(BudgetSpent):
        ledger.reserve(usd(0.001))


def test_a_reservation_is_settled_once():
    ledger = Ledger()
    reservation = ledger.reserve(usd(0.1))
    reservation.settle(usd(0.1))
    with pytest.raises(ValueError, match="settled already"):
        reservation.settle(usd(0.1))
    assert ledger.spent.money_usd == pytest.approx(0.1)


def test_an_error_within_releases_what_nothing_settled():
    ledger = Ledger(money_usd=1.0)
    with pytest.raises(ZeroDivisionError), ledger.reserve(usd(0.9)):
        _ = 1 / 0
    assert ledger.reserved == Cost() and ledger.spent == Cost()


def test_what_may_have_been_charged_counts_against_the_cap_and_is_told_apart():
    ledger = Ledger(money_usd=1.0)
    ledger.reserve(usd(0.9)).settle(usd(0.2), unreported=usd(0.5))
    assert ledger.spent.money_usd == pytest.approx(0.2)
    assert ledger.unreported.money_usd == pytest.approx(0.5)
    with pytest.raises(BudgetSpent, match=r"0\.5000 perhaps spent by calls that broke off"):
        ledger.reserve(usd(0.4))


def test_a_resumed_run_goes_on_where_it_was():
    with pytest.raises(BudgetSpent):
        Ledger(money_usd=1.0, spent=usd(0.95)).reserve(usd(0.1))


@pytest.mark.parametrize("caps", [{"money_usd": 0}, {"money_usd": -1.0}, {"tokens": 0}])
def test_a_cap_that_leaves_nothing_is_refused(caps):
    with pytest.raises(UsageError, match="leaves nothing to spend"):
        Ledger(**caps)


def test_waiting_ends_when_a_call_cost_less_than_was_reserved():
    async def both():
        ledger = Ledger(money_usd=1.0)
        first = await ledger.acquire(usd(0.9))
        second = asyncio.create_task(ledger.acquire(usd(0.5)))
        await asyncio.sleep(0.01)
        assert not second.done()
        first.settle(usd(0.2))
        (await asyncio.wait_for(second, 5)).settle(usd(0.5))
        return ledger

    assert asyncio.run(both()).spent.money_usd == pytest.approx(0.7)


def test_waiting_is_refused_as_soon_as_it_cannot_help():
    async def both():
        ledger = Ledger(money_usd=1.0)
        first = await ledger.acquire(usd(0.9))
        second = asyncio.create_task(ledger.acquire(usd(0.5)))
        await asyncio.sleep(0.01)
        first.settle(usd(0.8))
        with pytest.raises(BudgetSpent):
            await asyncio.wait_for(second, 5)

    asyncio.run(both())


def test_who_is_cancelled_while_waiting_holds_nothing():
    async def cancelled():
        ledger = Ledger(money_usd=1.0)
        first = await ledger.acquire(usd(0.9))
        waiting = asyncio.create_task(ledger.acquire(usd(0.5)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        first.release()
        return ledger

    ledger = asyncio.run(cancelled())
    assert ledger.reserved == Cost() and not ledger._waiting


def test_sixty_four_writers_in_threads_and_loops_never_pass_the_cap():
    ledger = Ledger(money_usd=1.0)
    calls = []

    async def write(luck):
        while True:
            most = luck.uniform(0.005, 0.05)
            try:
                reservation = await ledger.acquire(usd(most))
            except BudgetSpent:
                return
            await asyncio.sleep(luck.uniform(0, 0.002))
            reservation.settle(usd(luck.uniform(0, most)))
            calls.append(most)

    async def several(first):
        await asyncio.gather(*(write(random.Random(first + i)) for i in range(16)))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(several(16 * n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert 0.95 < ledger.spent.money_usd <= 1.0 + 1e-9
    assert ledger.reserved == Cost()
    assert len(calls) > 30


def test_an_account_has_what_its_own_task_spent_failures_included():
    ledger, other = Ledger(), Ledger()

    async def session(calls):
        with ledger.account() as account:
            for _ in range(calls):
                reservation = ledger.reserve(usd(1.0))
                await asyncio.sleep(0)
                reservation.settle(Cost(tokens_in=10, calls=1), unreported=usd(0.1))
            other.reserve(usd(1.0)).settle(usd(1.0))
            return account.cost

    async def both():
        return await asyncio.gather(session(2), session(5))

    few, many = asyncio.run(both())
    assert (few.calls, few.tokens_in, few.money_usd) == (2, 20, 0.0)
    assert (many.calls, many.tokens_in) == (5, 50)
    assert ledger.spent.calls == 7


def test_accounts_within_accounts_both_count():
    ledger = Ledger()
    with ledger.account() as outer:
        with ledger.account() as inner:
            ledger.charge(usd(0.25))
        ledger.charge(usd(0.5))
    assert (inner.cost.money_usd, outer.cost.money_usd, ledger.spent.money_usd) == (0.25, 0.75, 0.75)


MONEY = st.integers(1, 400).map(lambda cents: cents / 1000)


@given(st.lists(st.tuples(MONEY, st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=60))
def test_spent_reserved_and_unreported_never_pass_the_cap(steps):
    ledger, live = Ledger(money_usd=1.0), []
    for most, share, lost, settle in steps:
        if settle and live:
            reservation, amount = live.pop(0)
            reservation.settle(usd(amount * share), unreported=usd(amount * (1 - share) * lost))
        else:
            try:
                live.append((ledger.reserve(usd(most)), most))
            except BudgetSpent:
                continue
        total = ledger.spent.money_usd + ledger.reserved.money_usd + ledger.unreported.money_usd
        assert total <= 1.0 + 1e-6
