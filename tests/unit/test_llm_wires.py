"""Models over real connections: the providers' own packages against a server that misbehaves and counts its charges."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from wires import READ, WRITTEN, serve

from kernelevolve.errors import BudgetSpent, ModelFault
from kernelevolve.llm.gate import Gate
from kernelevolve.llm.ledger import Ledger
from kernelevolve.llm.models import open_model

PRICE_IN, PRICE_OUT = 100.0, 400.0
ONE_CALL = (READ * PRICE_IN + WRITTEN * PRICE_OUT) / 1e6
QUICK = {"backoff": 0.01, "patience": 5.0, "timeout": 15.0, "price_in": PRICE_IN, "price_out": PRICE_OUT,
         "max_tokens": WRITTEN}  # fmt: skip
WIRES = ("chat", "responses", "anthropic")
KEY = "sk-planted-5f0c1d2e3b4a59687786"


@pytest.fixture(scope="module")
def server():
    with serve() as wire:
        yield wire


@pytest.fixture
def wire(server, monkeypatch):
    server.plan()
    for service in ("OPENAI", "ANTHROPIC", "GOOGLE", "MISTRAL", "KERNELEVOLVE"):
        monkeypatch.setenv(f"{service}_API_KEY", KEY)
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    return server


def opened(wire, which, ledger=None, **more):
    options = {**QUICK, **more}
    if which == "chat":
        return open_model(f"{wire.openai}:served-model", ledger, **options)
    if which == "responses":
        return open_model("openai:gpt-5", ledger, api="responses", address=wire.openai, **options)
    return open_model("anthropic:claude-sonnet-4-6", ledger, address=wire.root, **options)


async def asked(model, job=7, parameters=None):
    from pydantic_ai.messages import ModelRequest, UserPromptPart
    from pydantic_ai.models import ModelRequestParameters

    request = ModelRequest(parts=[UserPromptPart(f"job {job}, and as many words as a prompt of {READ} tokens has" * 4)])
    return await model.request([request], None, parameters or ModelRequestParameters())


def text_of(response):
    return "".join(part.content for part in response.parts if part.part_kind == "text")


def same_bill(wire, ledger):
    bill, spent = wire.charged(), ledger.spent
    assert (spent.calls, spent.tokens_in, spent.tokens_out) == (bill["calls"], bill["tokens_in"], bill["tokens_out"])
    money = (bill["tokens_in"] * PRICE_IN + bill["tokens_out"] * PRICE_OUT) / 1e6
    assert spent.money_usd == pytest.approx(money)
    assert ledger.reserved.money_usd == 0
    return bill


@pytest.mark.parametrize("which", WIRES)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("met", ["429:0", "500", "503", "529", "cut", "malformed", "close", "html"])
def test_one_fault_is_tried_again_once_and_charged_once(wire, which, stream, met):
    ledger, told = Ledger(), []
    wire.plan(queue=[met])
    model = opened(wire, which, ledger, stream=stream, tell=told.append)
    assert text_of(asyncio.run(asked(model))) == "answer 7"
    bill = same_bill(wire, ledger)
    # Exactly two: nobody below us tries again too.
    assert bill["asked"] == 2 and bill["answered"] == 1
    assert len(told) == 1 and "again in" in told[0]


@pytest.mark.parametrize("which", WIRES)
def test_a_stall_ends_after_the_timeout_and_is_tried_again(wire, which):
    ledger = Ledger()
    wire.plan(queue=["stall"])
    start = time.monotonic()
    assert text_of(asyncio.run(asked(opened(wire, which, ledger, timeout=1.5)))) == "answer 7"
    assert 1.5 <= time.monotonic() - start < 45
    same_bill(wire, ledger)
    assert ledger.unreported.money_usd > 0


@pytest.mark.parametrize("which", WIRES)
def test_a_stream_that_ends_well_before_the_answer_does_is_cut(wire, which):
    ledger = Ledger()
    wire.plan(queue=["early"])
    assert text_of(asyncio.run(asked(opened(wire, which, ledger)))) == "answer 7"
    assert same_bill(wire, ledger)["asked"] == 2
    assert ledger.unreported.tokens_out > 0


def test_what_was_reported_before_the_cut_is_charged(wire):
    ledger = Ledger()
    wire.plan(queue=["cut"])
    asyncio.run(asked(opened(wire, "anthropic", ledger)))
    bill = same_bill(wire, ledger)
    assert (bill["calls"], bill["tokens_in"], bill["tokens_out"]) == (2, 2 * READ, WRITTEN + 1)


@pytest.mark.parametrize("which", WIRES)
@pytest.mark.parametrize(
    ("met", "kind", "said", "charged"),
    [
        ("length", "cut", "cut off after 40 tokens.*max_tokens=80", 1),
        ("400:overflow", "overflow", "shorter prompt", 0),
        ("404:model", "model", "kernelevolve models", 0),
        ("400:x", "model", "unsupported parameter", 0),
        ("401", "key", "set ", 0),
    ],
)
def test_what_trying_again_cannot_mend_is_told_at_once_with_its_cost(wire, which, met, kind, said, charged):
    ledger = Ledger()
    wire.plan(queue=[met])
    with pytest.raises(ModelFault, match=said) as fault:
        asyncio.run(asked(opened(wire, which, ledger)))
    assert fault.value.kind == kind
    assert fault.value.cost.calls == charged == same_bill(wire, ledger)["calls"]
    assert wire.charged()["asked"] == 1


@pytest.mark.parametrize("which", ["chat", "anthropic"])
def test_a_refusal_is_told_with_its_cost(wire, which):
    wire.plan(queue=["refuse"])
    with pytest.raises(ModelFault, match="refused") as fault:
        asyncio.run(asked(opened(wire, which)))
    assert fault.value.kind == "refused" and fault.value.cost.tokens_in == READ


@pytest.mark.parametrize("which", ["chat", "anthropic"])
def test_an_empty_answer_is_asked_for_once_more_and_both_are_charged(wire, which):
    ledger = Ledger()
    wire.plan(queue=["empty"])
    assert text_of(asyncio.run(asked(opened(wire, which, ledger)))) == "answer 7"
    assert same_bill(wire, ledger)["calls"] == 2
    wire.plan(queue=["empty"] * 5)
    with pytest.raises(ModelFault, match="neither text nor a tool call") as fault:
        asyncio.run(asked(opened(wire, which)))
    assert fault.value.kind == "empty" and fault.value.cost.calls == 2


@pytest.mark.parametrize(("met", "kind"), [("500", "network"), ("malformed", "malformed"), ("cut", "cut")])
def test_a_fault_that_stays_is_told_after_so_many_calls(wire, met, kind):
    wire.plan(queue=[met] * 9)
    with pytest.raises(ModelFault, match=r"\(3 calls\)") as fault:
        asyncio.run(asked(opened(wire, "chat", attempts=3)))
    assert fault.value.kind == kind
    assert wire.charged()["asked"] == 3


ODD = ("null", "[]", "{}", "7", '"text"', '{"choices": null}', '{"choices": [{}]}', '{"choices": [{"delta": 5}]}',
       '{"type": "message_start", "message": {}}', '{"type": "message_start", "message": null}',
       '{"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": 4}}',
       '{"content": [{"type": "text"}], "usage": {}}', '{"type": "response.completed", "response": {}}',
       '{"output": 5}', '{"error": "x"}', '{"id": {}, "choices": [{"message": {"tool_calls": [{}]}}]}')  # fmt: skip


@pytest.mark.parametrize("which", WIRES)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_json_of_the_wrong_shape_is_a_fault_and_never_a_crash(wire, which, stream):
    model = opened(wire, which, stream=stream, attempts=2)

    async def all_of_them():
        for body in ODD:
            wire.plan(queue=[f"odd:{body}"] * 2)
            with pytest.raises(ModelFault) as fault:
                await asked(model)
            assert fault.value.kind in ("malformed", "cut", "empty", "network"), (body, str(fault.value))
            wire.plan(queue=[f"odd:{body}"])
            assert text_of(await asked(model)) == "answer 7"

    asyncio.run(all_of_them())


def test_retry_after_is_waited_for_by_everybody_and_not_longer_than_patience(wire):
    wire.plan(queue=["429:1"])
    model = opened(wire, "chat")

    async def later():
        first = asyncio.create_task(asked(model))
        await asyncio.sleep(0.3)
        start = time.monotonic()
        await asyncio.gather(first, asked(model, 8))
        return time.monotonic() - start

    assert asyncio.run(later()) > 0.5
    wire.plan(queue=["429:600"])
    with pytest.raises(ModelFault, match=r"asks to wait 600 s, longer than patience=5") as fault:
        asyncio.run(asked(opened(wire, "chat")))
    assert fault.value.kind == "rate"


def test_so_many_calls_per_minute_are_spaced_evenly():
    async def turns():
        gate = Gate()
        gate.limit(600)
        gate.limit(1200)  # the lower one holds
        start = time.monotonic()
        await asyncio.gather(*(gate.turn() for _ in range(6)))
        return time.monotonic() - start

    assert 0.5 <= asyncio.run(turns()) < 3


@pytest.mark.parametrize("which", WIRES)
def test_a_model_goes_on_in_another_event_loop_without_asking_twice(wire, which):
    ledger = Ledger()
    model = opened(wire, which, ledger)
    for job in range(3):
        assert text_of(asyncio.run(asked(model, job))) == f"answer {job}"
    assert same_bill(wire, ledger)["asked"] == 3 and ledger.unreported == ledger.reserved


def test_nothing_listens(wire):
    model = open_model("http://127.0.0.1:9/v1:nothing", attempts=2, backoff=0.01)
    with pytest.raises(ModelFault, match=r"is the server at http://127\.0\.0\.1:9/v1 running") as fault:
        asyncio.run(asked(model))
    assert fault.value.kind == "network" and fault.value.cost.calls == 0


@pytest.mark.parametrize("which", ["chat", "anthropic"])
def test_a_tool_call_comes_through_an_agent(wire, which):
    from pydantic_ai import Agent

    wire.plan(queue=["tool"])
    ledger, seen = Ledger(), []
    agent = Agent(opened(wire, which, ledger))

    @agent.tool_plain
    def check(source: str) -> str:
        """Looks at a source."""
        seen.append(source)
        return "fine"

    async def session():
        with ledger.account() as account:
            return (await agent.run("job 5")).output, account.cost

    output, cost = asyncio.run(session())
    assert (output, seen, cost.calls) == ("answer 5", ["x = 1"], 2)
    same_bill(wire, ledger)


def test_a_server_that_counts_nothing_is_bounded_and_told_apart(wire):
    wire.plan(usage="none")
    ledger = Ledger(money_usd=1.0)
    asyncio.run(asked(opened(wire, "chat", ledger)))
    assert ledger.spent.calls == 1 and ledger.spent.tokens_in == 0
    assert 0 < ledger.unreported.money_usd < 1.0


def test_a_cancelled_call_is_settled(wire):
    wire.plan(queue=["stall"])
    ledger = Ledger()

    async def cancelled():
        task = asyncio.create_task(asked(opened(wire, "anthropic", ledger)))
        while wire.charged()["calls"] == 0:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    same_bill(wire, ledger)
    assert ledger.unreported.tokens_out > 0


@pytest.mark.parametrize("which", ["chat", "anthropic"])
def test_five_hundred_calls_with_a_fifth_of_faults_lose_nothing_and_charge_nothing_twice(wire, which):
    kinds = ["429:0", "500", "503", "529", "cut", "malformed", "close"] * 8 + ["stall"]
    wire.plan(share=0.2, kinds=kinds, seed=11)
    ledger, answers = Ledger(), Counter()
    model = opened(wire, which, ledger, timeout=8.0, attempts=12)
    writers = asyncio.Semaphore(16)

    async def one(job):
        async with writers:
            answers[text_of(await asked(model, job))] += 1

    async def all_of_them():
        await asyncio.gather(*(one(job) for job in range(500)))

    asyncio.run(all_of_them())
    assert answers == Counter(f"answer {job}" for job in range(500))
    bill = same_bill(wire, ledger)
    faults = sum(count for met, count in bill["met"].items() if met)
    assert 0.15 < faults / bill["asked"] < 0.25
    assert bill["asked"] == 500 + faults
    assert bill["answered"] == 500


@pytest.mark.parametrize("which", ["chat", "anthropic"])
def test_sixty_four_writers_never_spend_more_than_the_cap(wire, which):
    cap = 1.0
    wire.plan(delay=0.01, share=0.1, kinds=["500", "429:0"], seed=5)
    ledger, ended = Ledger(money_usd=cap), Counter()
    model = opened(wire, which, ledger, attempts=12)

    async def writer():
        while True:
            try:
                await asked(model)
            except BudgetSpent:
                ended["budget"] += 1
                return
            ended["calls"] += 1

    async def all_of_them():
        await asyncio.gather(*(writer() for _ in range(64)))

    asyncio.run(all_of_them())
    bill = same_bill(wire, ledger)
    assert ended == {"budget": 64, "calls": bill["calls"]}
    assert ledger.spent.money_usd <= cap
    # What was reserved too much is given back: most of the cap is used.
    assert ledger.spent.money_usd > 0.8 * cap


@pytest.mark.parametrize("which", WIRES)
def test_keys_stay_out_of_errors_however_they_are_printed(wire, which):
    import traceback

    wire.plan(key="another-key")  # the server's message quotes the key that it was given
    with pytest.raises(ModelFault, match=r"\[key\]") as fault:
        asyncio.run(asked(opened(wire, which)))
    printed = "".join(traceback.format_exception(fault.value)) + repr(fault.value)
    assert KEY not in printed and fault.value.kind == "key"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("google:gemini-2.5-pro", {"429": "rate", "500": "network", "400:x": "model", "404": "model", "401": "key"}),
        ("mistral:mistral-large-latest", {"429": "rate", "500": "network", "400:x": "model", "401": "key"}),
        ("bedrock:amazon.nova-pro-v1:0", {"429": "rate", "500": "network", "400:x": "model", "404": "model",
                                          "401": "key"}),
    ],
    ids=["google", "mistral", "bedrock"],
)  # fmt: skip
def test_faults_of_the_other_providers_have_the_same_names(wire, monkeypatch, name, kinds):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTEDPLANTED00")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-of-aws")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for met, kind in kinds.items():
        wire.plan(queue=[met] * 20)
        with pytest.raises(ModelFault) as fault:
            asyncio.run(asked(open_model(name, address=wire.root, attempts=1, price_in=1.0, price_out=1.0)))
        assert (met, fault.value.kind) == (met, kind)
        assert wire.charged()["asked"] == 1, "its package tried again by itself"


@pytest.mark.parametrize(
    ("name", "stream", "met"),
    [
        ("mistral:mistral-large-latest", True, "cut"),
        ("mistral:mistral-large-latest", False, "malformed"),
        ("google:gemini-2.5-pro", True, "cut"),
        ("google:gemini-2.5-pro", True, "early"),
        ("google:gemini-2.5-pro", False, "close"),
        ("bedrock:amazon.nova-pro-v1:0", False, "close"),
    ],
)
def test_the_other_providers_answer_after_a_fault(wire, monkeypatch, name, stream, met):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTEDPLANTED00")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-of-aws")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    ledger = Ledger()
    wire.plan(queue=[met])
    model = open_model(name, ledger, address=wire.root, stream=stream, **QUICK)
    assert text_of(asyncio.run(asked(model))) == "answer 7"
    assert same_bill(wire, ledger)["asked"] == 2
    assert ledger.unreported.tokens_in > 0
