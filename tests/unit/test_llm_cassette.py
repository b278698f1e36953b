"""Recording over a real connection and replaying without one; keys stay out of the file."""

from __future__ import annotations

import asyncio
import json
import stat

import pytest
from wires import serve

from kernelevolve.errors import ModelFault, UsageError
from kernelevolve.llm.ledger import Ledger
from kernelevolve.llm.models import open_model

KEY = "sk-planted-5f0c1d2e3b4a59687786"
OTHER = "planted-value-of-another-shape"
OPTIONS = {"price_in": 1.0, "price_out": 2.0, "backoff": 0.01}


@pytest.fixture(scope="module")
def server():
    with serve() as wire:
        yield wire


@pytest.fixture
def wire(server, monkeypatch):
    server.plan()
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("KERNELEVOLVE_API_KEY", KEY)
    monkeypatch.setenv("SOME_OTHER_TOKEN", OTHER)
    return server


def session(model, text, instructions="Be brief."):
    from pydantic_ai import Agent

    agent = Agent(model, instructions=instructions)

    @agent.tool_plain
    def check(source: str) -> str:
        """Looks at a source."""
        return f"fine: {source}"

    async def run():
        return (await agent.run(text)).output

    return asyncio.run(run())


def names(wire):
    return (f"{wire.openai}:served-model", {}), ("anthropic:claude-sonnet-4-6", {"address": wire.root})


def test_what_was_recorded_is_replayed_exactly_with_its_costs(wire, tmp_path):
    file = tmp_path / "deep" / "cassette.jsonl"
    outputs, recorded = [], Ledger()
    for index, (name, more) in enumerate(names(wire)):
        model = open_model(name, recorded, record=file, **OPTIONS, **more)
        wire.plan(queue=["tool", "", "500", "tool"])
        outputs += [session(model, f"job {index}"), session(model, f"job 1{index}")]
    replayed = Ledger()
    model = open_model(f"cassette:{file}", replayed)
    assert [session(model, text) for text in ("job 0", "job 10", "job 1", "job 11")] == outputs
    assert replayed.spent.money_usd == pytest.approx(recorded.spent.money_usd) and recorded.spent.money_usd > 0
    for field in ("calls", "tokens_in", "tokens_out"):
        assert getattr(replayed.spent, field) == getattr(recorded.spent, field)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_equal_requests_are_answered_in_their_order_and_no_more_often(wire, tmp_path):
    file = tmp_path / "c"
    model = open_model(f"{wire.openai}:m", record=file, **OPTIONS)
    for text in ("first", "second"):
        wire.plan(text=text)
        session(model, "the same")
    again = open_model(f"cassette:{file}")
    assert [session(again, "the same"), session(again, "the same")] == ["first", "second"]
    with pytest.raises(UsageError, match="has this request 2 times and was asked for it once more"):
        session(again, "the same")


def test_a_request_that_was_not_recorded_is_shown_against_the_nearest(wire, tmp_path):
    file = tmp_path / "c"
    model = open_model(f"{wire.openai}:m", record=file, **OPTIONS)
    for job in (1, 2):
        session(model, f"job {job}\nwith a long\ntext of several lines", instructions=f"Rules {job}.")
    with pytest.raises(UsageError) as told:
        session(open_model(f"cassette:{file}"), "job 2\nwith a long\ntext of other lines", instructions="Rules 2.")
    text = str(told.value)
    assert "nearest of its 2 is number 2" in text
    assert "-text of several lines" in text and "+text of other lines" in text
    assert "with a long" not in text and "Rules 2" not in text


def test_faults_are_recorded_and_replayed(wire, tmp_path):
    file = tmp_path / "c"
    wire.plan(queue=["refuse"])
    for name, more in ((f"{wire.openai}:m", {"record": file, **OPTIONS}), (f"cassette:{file}", {})):
        with pytest.raises(ModelFault, match="the model refused") as told:
            session(open_model(name, **more), "something")
        assert (told.value.kind, told.value.cost.tokens_in) == ("refused", 120)


def test_keys_never_enter_the_cassette(wire, tmp_path):
    file = tmp_path / "c"
    wire.plan(text=f"I was given {KEY} and {OTHER}", queue=["tool"])
    model = open_model(f"{wire.openai}:m", record=file, **OPTIONS)
    asked = f"Use Authorization: Bearer {KEY}, or https://me:{OTHER}@h/v1?api_key={KEY}, or {OTHER}."
    session(model, asked, instructions=f"My key is {KEY}")
    wire.plan(key=OTHER)
    with pytest.raises(ModelFault) as told:
        session(model, "again")
    written = file.read_text()
    for text in (written, str(told.value)):
        assert KEY not in text and OTHER not in text and "[key]" in text
    assert len(written.splitlines()) == 3
    # Replayed where the keys are known or not, for their places are hidden before there is a digest.
    assert "[key]" in session(open_model(f"cassette:{file}"), asked, instructions=f"My key is {KEY}")


def test_many_writers_record_whole_lines(wire, tmp_path):
    from pydantic_ai.messages import ModelRequest, UserPromptPart
    from pydantic_ai.models import ModelRequestParameters

    file = tmp_path / "c"
    models = [open_model(f"{wire.openai}:m", record=file, **OPTIONS) for _ in range(4)]

    async def one(job):
        request = ModelRequest(parts=[UserPromptPart(f"job {job} {'x' * 5000}")])
        return await models[job % 4].request([request], None, ModelRequestParameters())

    async def all_of_them():
        await asyncio.gather(*(one(job) for job in range(40)))

    asyncio.run(all_of_them())
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({entry["digest"] for entry in entries}) == 40


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; record one first"),
        ("nonsense", "line 1 is no entry of a cassette"),
        ('{"cassette": 1}', "line 1 is no entry of a cassette: KeyError"),
        ('{"cassette": 99}', "format 99, and this KernelEvolve reads 1"),
    ],
)
def test_what_is_no_cassette_is_told_with_its_line(tmp_path, text, said):
    file = tmp_path / "c"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        open_model(f"cassette:{file}")
    with pytest.raises(UsageError, match="cannot be read"):
        open_model(f"cassette:{tmp_path / 'none'}")


def test_the_name_of_a_model_may_say_where_to_record(wire, tmp_path):
    file = tmp_path / "c"
    said = session(open_model(f"{wire.openai}:m,record={file}"), "job 3")
    assert session(open_model(f"cassette:{file}"), "job 3") == said == "answer 3"


def test_a_place_that_cannot_be_written_is_told_before_a_call(wire, tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        open_model(f"{wire.openai}:m", record=tmp_path)
