"""The writer `model` over real connections, to a server that misbehaves and counts what it charges."""

from __future__ import annotations

import asyncio

import pytest
from wires import serve

from kernelevolve.candidate import Brief
from kernelevolve.errors import BudgetSpent, ModelFault
from kernelevolve.llm.ledger import Ledger
from kernelevolve.problem import Problem, Workload
from kernelevolve.propose import Workbench

pytest.importorskip("pydantic_ai")

from kernelevolve.propose.model import ModelWriter

OPTIONS = "price_in=1,price_out=10,max_tokens=40,backoff=0.01,timeout=5"


@pytest.fixture(scope="module")
def server():
    with serve() as wire:
        yield wire


@pytest.fixture
def wire(server, monkeypatch):
    server.plan()
    for service in ("ANTHROPIC", "KERNELEVOLVE"):
        monkeypatch.setenv(f"{service}_API_KEY", "sk-planted-5f0c1d2e3b4a59687786")
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    return server


def writer(wire, which, ledger=None, **more):
    name = f"{wire.openai}:served-model" if which == "chat" else "anthropic:claude-sonnet-4-6"
    address = "" if which == "chat" else f",address={wire.root}"
    problem = Problem(
        name="p", suite="folder", path="p.py", source="class Model: ...", workloads=(Workload("declared"),)
    )
    return ModelWriter(Workbench(problem, "h100", 0, ledger=ledger), f"{name},{OPTIONS}{address}", **more)


class NoGraph:
    nodes = {}  # noqa: RUF012


def same_bill(wire, cost):
    bill = wire.charged()
    assert (cost.calls, cost.tokens_in, cost.tokens_out) == (bill["calls"], bill["tokens_in"], bill["tokens_out"])
    assert cost.money_usd == pytest.approx((bill["tokens_in"] + 10 * bill["tokens_out"]) / 1e6)


@pytest.mark.parametrize("which", ["chat", "anthropic"])
@pytest.mark.parametrize("mode", ["tools", "single"])
def test_a_session_through_faults_costs_what_the_server_charged(wire, which, mode):
    # A tool call with arguments that fit no tool here, then prose: nothing useful.
    wire.plan(queue=["429:0", *(["tool"] if mode == "tools" else []), "500", "close"])
    with pytest.raises(ModelFault, match="nothing useful 3 times in a row") as caught:
        asyncio.run(writer(wire, which, mode=mode, useless=3).write(Brief("b0", 0, (), "job 7"), NoGraph()))
    assert caught.value.kind == "useless"
    assert caught.value.cost.calls == (4 if mode == "tools" else 3)
    same_bill(wire, caught.value.cost)


def test_many_sessions_share_one_cap(wire):
    ledger = Ledger(money_usd=0.005)
    made = writer(wire, "chat", ledger, mode="single", useless=2)

    async def many():
        briefs = [Brief(f"b{i}", i, (), f"job {i}") for i in range(6)]
        return await asyncio.gather(*(made.write(brief, NoGraph()) for brief in briefs), return_exceptions=True)

    ended = asyncio.run(many())
    assert {type(error) for error in ended} == {ModelFault, BudgetSpent}
    assert ledger.spent.money_usd <= 0.005 and ledger.reserved.money_usd == 0
    assert sum(error.cost.money_usd for error in ended) == pytest.approx(ledger.spent.money_usd)
    assert sum(error.cost.calls for error in ended) == wire.charged()["calls"]


def test_a_writer_goes_on_in_another_event_loop(wire):
    made = writer(wire, "chat", mode="single", useless=1)
    for number in range(2):
        with pytest.raises(ModelFault, match="no code"):
            asyncio.run(made.write(Brief(f"b{number}", number, (), "job 3"), NoGraph()))
    assert wire.charged()["calls"] == 2
