"""Names of models, their options, prices and forecasts; what is refused before anything is opened; keys kept out."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelevolve.candidate import Cost
from kernelevolve.errors import ModelFault, UnknownName, UsageError
from kernelevolve.llm.estimate import tokens_from_above
from kernelevolve.llm.forecast import Habits, forecast, forecast_lines, tokens_of
from kernelevolve.llm.ledger import Ledger
from kernelevolve.llm.models import checked_model, open_model
from kernelevolve.llm.names import ModelOptions, parse_name
from kernelevolve.llm.prices import context_window
from kernelevolve.llm.secrets import looks_secret, redact, redact_data
from kernelevolve.settings import settings_for

KEY = "sk-planted-5f0c1d2e3b4a59687786"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    import os

    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_BASE_URL")) or name.startswith("AWS_"):
            monkeypatch.delenv(name)


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_nothing_heavy_is_imported_before_a_model_is_opened():
    modules = "models, ledger, names, prices, forecast, reach, secrets, gate, scripted, providers"
    heavy = "('pydantic_ai', 'openai', 'anthropic', 'google.genai', 'boto3', 'mistralai', 'genai_prices', 'yaml')"
    code = f"import sys; from kernelevolve.llm import {modules}; print([m for m in {heavy} if m in sys.modules])"
    assert python(code) == "[]"


@pytest.mark.parametrize(
    ("text", "provider", "model", "address"),
    [
        ("openai:gpt-5", "openai", "gpt-5", ""),
        ("bedrock:us.anthropic.claude-v1:0", "bedrock", "us.anthropic.claude-v1:0", ""),
        ("http://127.0.0.1:8000/v1:Qwen/Qwen3:8b", "openai-compatible", "Qwen/Qwen3:8b", "http://127.0.0.1:8000/v1"),
        ("https://models.example/api/v1/:m", "openai-compatible", "m", "https://models.example/api/v1"),
        ("ollama:llama3:8b", "ollama", "llama3:8b", "http://127.0.0.1:11434/v1"),
        ("scripted:answers/a.yaml", "scripted", "answers/a.yaml", ""),
    ],
)
def test_names_are_understood(text, provider, model, address):
    name, options = parse_name(text)
    assert (name.text, name.provider, name.model, name.address, options) == (text, provider, model, address, {})


def test_options_follow_the_name_and_arguments_go_before_them(monkeypatch):
    name, options, price = checked_model("http://127.0.0.1:1/v1:m,price_in=0.5,price_out=2,max_tokens=99,stream=false")
    assert name.text == "http://127.0.0.1:1/v1:m"
    assert (options.max_tokens, options.stream, price.read, price.written) == (99, False, 0.5, 2.0)
    assert checked_model("openai:gpt-5,max_tokens=99", max_tokens=7)[1].max_tokens == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpt-5", "no name of a model"),
        ("openai:", "no name of a model"),
        ("http://127.0.0.1:8000:m", "write the path and the model"),
        ("http://127.0.0.1:8000/v1", "write the path and the model"),
        ("openai:gpt-5,max_tokens=0", "above 0"),
        ("openai:gpt-5,max_tokens=many", "is not int"),
        ("openai:gpt-5,max_tokens", "not option=value"),
        ("openai:gpt-5,attempts=1,attempts=2", "comes twice"),
        ("openai:gpt-5,price_in=1", "both price_in= and price_out="),
        ("openai:gpt-5,price_in=nan,price_out=1", "finite"),
    ],
)
def test_what_is_no_name_is_refused_with_what_to_write(text, said):
    with pytest.raises(UsageError, match=said):
        checked_model(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("opnai:gpt-5", "provider of models"), ("openai:gpt-5,max=1", "option of a model"),
     ("openai:gpt-5,effort=enormous", "effort"), ("openai:gpt-5,api=soap", "api")],
)  # fmt: skip
def test_unknown_names_list_the_known_ones(text, kind):
    with pytest.raises(UnknownName, match=f"unknown {kind} .*; known: "):
        checked_model(text)


@pytest.mark.parametrize(
    "text",
    [f"openai:{KEY}", KEY, f"http://user:{KEY}@127.0.0.1:8000/v1:m", f"http://127.0.0.1:8000/v1?key={KEY}:m",
     f"https://{KEY}@models.example/v1:m", f"openai:gpt-5,key_env={KEY}", f"openai:gpt-5,address=http://h/v1?key={KEY}",
     f"{KEY}:m"],
)  # fmt: skip
def test_a_key_in_a_name_is_refused_and_not_repeated(text):
    with pytest.raises(UsageError) as told:
        checked_model(text)
    assert KEY not in str(told.value) and "key" in str(told.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai:gpt-5", "OPENAI_API_KEY"),
        ("anthropic:claude-sonnet-4-6", "ANTHROPIC_API_KEY"),
        ("google:gemini-2.5-pro", "GOOGLE_API_KEY or GEMINI_API_KEY"),
        ("mistral:mistral-large-latest", "MISTRAL_API_KEY"),
        ("openai:gpt-5,key_env=MY_OWN", "'MY_OWN' that key_env= names is not set"),
    ],
)
def test_a_missing_key_is_told_with_its_variable(name, said):
    with pytest.raises(UsageError, match=said):
        open_model(name)


def test_a_missing_package_is_told_with_the_command(monkeypatch):
    from kernelevolve.llm import providers

    monkeypatch.setattr(providers, "is_installed", lambda package: package != "mistralai")
    monkeypatch.setenv("MISTRAL_API_KEY", KEY)
    with pytest.raises(UsageError, match=r'mistralai is not installed.*pip install "kernelevolve\[mistral\]"'):
        open_model("mistral:mistral-large-latest")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("openai:gpt-5", "OpenAIResponsesModel"),
        ("openai:gpt-5,api=chat", "OpenAIChatModel"),
        ("anthropic:claude-sonnet-4-6", "AnthropicModel"),
        ("google:gemini-2.5-pro", "GoogleModel"),
        ("mistral:mistral-large-latest", "MistralModel"),
        ("bedrock:amazon.nova-pro-v1:0", "BedrockConverseModel"),
        ("vllm:qwen3", "OpenAIChatModel"),
    ],
)
def test_every_provider_is_opened_with_its_own_model_and_one_try(monkeypatch, name, kind):
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "MISTRAL_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTEDPLANTED00")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-of-aws")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    model = open_model(name)
    assert type(model.wrapped).__name__ == kind
    if kind == "BedrockConverseModel":
        assert model.wrapped.client.meta.config.retries["total_max_attempts"] == 1
    else:
        assert model._defaults["max_retries"] == 0


def test_prices_are_from_the_shipped_table_or_given():
    assert checked_model("openai:gpt-5")[2].read == pytest.approx(1.25)
    assert "genai-prices" in checked_model("anthropic:claude-sonnet-4-6")[2].source
    assert checked_model("bedrock:us.anthropic.claude-sonnet-4-5-20250929-v1:0")[2].written == pytest.approx(16.5)
    given_price = checked_model("openai:gpt-5,price_in=7,price_out=9")[2]
    assert (given_price.read, given_price.written, given_price.source) == (7, 9, "given by the user")
    assert given_price.most(1_000_000, 500_000) == pytest.approx(11.5)


@pytest.mark.parametrize("name", ["http://127.0.0.1:8000/v1:gpt-5", "ollama:m", "openai:no-such-model",
                                  "openai:gpt-5,address=http://127.0.0.1:8000/v1"])  # fmt: skip
def test_an_unknown_price_is_refused_under_a_cap_of_money_unless_given(name):
    assert checked_model(name)[2] is None
    with pytest.raises(UsageError, match=r"nobody knows what .* costs.*price_in=N,price_out=N.*--tokens N"):
        checked_model(name, 1.0)
    assert checked_model(f"{name},price_in=0,price_out=0", 1.0)[2].most(1000, 1000) == 0
    with pytest.raises(UsageError, match="nobody knows"):
        open_model(name, Ledger(money_usd=1.0))


def test_at_another_address_the_price_is_that_of_who_is_there(monkeypatch):
    groq = checked_model("https://api.groq.com/openai/v1:openai/gpt-oss-120b")[2]
    assert groq is not None and "genai-prices" in groq.source
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    assert checked_model("openai:gpt-5")[2] is None
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gateway.example")
    assert checked_model("anthropic:claude-sonnet-4-6")[2].read == pytest.approx(3)


def test_a_key_that_cannot_be_one_is_told_without_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(UsageError, match="OPENAI_API_KEY holds characters that no key has") as told:
        open_model("openai:gpt-5")
    assert KEY not in str(told.value)


def test_the_most_of_a_call_covers_caches_and_tiers():
    price = checked_model("anthropic:claude-sonnet-4-6")[2]
    assert price.most(100_000, 1000) >= (100_000 * 3.75 + 1000 * 15) / 1e6 - 1e-9


def test_the_window_of_a_model_is_known_offline():
    assert context_window(parse_name("openai:gpt-5")[0]) == 400_000
    assert context_window(parse_name("ollama:m")[0]) is None


def test_options_cannot_be_forgotten_in_their_types():
    from kernelevolve.llm import names

    assert set(names._TYPES) == {field.name for field in dataclasses.fields(ModelOptions)}


@given(st.text(max_size=300))
def test_tokens_are_estimated_from_above(text):
    assert tokens_from_above(text) >= len(text.encode("utf-8", "replace")) / 4


# --- keys


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {KEY}",
        f"{{'authorization': 'Bearer {KEY}', 'x-api-key': '{KEY}'}}",
        f"GET https://models.example/v1/models?key={KEY}&alt=sse",
        f"https://someone:{KEY}@models.example/v1",
        f"https://{KEY}@models.example/v1",
        f"x-goog-api-key: {KEY}",
        f"Incorrect API key provided: {KEY}.",
    ],
)
def test_keys_are_hidden_by_their_shape_and_by_their_place(text):
    assert KEY not in redact(text) and "[key]" in redact(text) and looks_secret(text)
    odd = text.replace(KEY, "0ddLyShapedValue42")
    if "Incorrect" not in text:
        assert "0ddLyShapedValue42" not in redact(odd)


def test_the_values_of_variables_that_hold_keys_are_hidden_everywhere(monkeypatch):
    monkeypatch.setenv("SOME_SERVICE_API_KEY", "plain words 12345 +/=")
    monkeypatch.setenv("SOME_KEYBOARD", "qwertyuiop")
    assert redact("it said plain words 12345 +/= here") == "it said [key] here"
    assert redact("?q=plain%20words%2012345%20%2B%2F%3D") == "?q=[key]"
    assert redact("qwertyuiop") == "qwertyuiop"
    data = {"a": ["plain words 12345 +/=", {"plain words 12345 +/=": 1}], "n": 3, "none": None}
    assert redact_data(data) == {"a": ["[key]", {"[key]": 1}], "n": 3, "none": None}


@pytest.mark.parametrize(
    "text",
    [
        "the bearer of good news reads tokens",
        "tl.load(x + offs, mask=offs < n, other=0.0)  # key: value",
        "def key(self): return self.token",
        "for sk-learn users: http://127.0.0.1:8000/v1:qwen3?",
        "KNOBS = {'BLOCK_M': [64, 128]}",
        "a mask-parallel_scheduling-of-128-blocks, task-specific-optimisation-2 and disk-to-device-copies-of-16-bytes",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert redact(text) == text and not looks_secret(text)


@given(st.text(max_size=200))
def test_hiding_twice_changes_nothing_more(text):
    once = redact(f"{text} Bearer {KEY} {text}")
    assert redact(once) == once


# --- forecasts


def test_a_forecast_says_likely_and_most_and_by_what():
    settings = dataclasses.replace(settings_for("quick"), candidates=10)
    found = forecast(["openai:gpt-5"], settings, 8000, habits=Habits(calls=2, most_calls=3, answer=1000, report=500))
    # Two calls read the prompt twice, and the first answer and report once.
    assert found.likely.tokens_in == 10 * (2 * 8000 + 1500)
    assert found.likely.tokens_out == 10 * 2000
    assert found.likely.money_usd == pytest.approx((175_000 * 1.25 + 20_000 * 10) / 1e6)
    assert found.most.money_usd > found.likely.money_usd
    text = "\n".join(forecast_lines(found))
    assert "modelled" in text and "likely 0.42 US dollars" in text and "genai-prices" in text


def test_a_forecast_is_held_to_the_limits_of_the_run_and_shared_by_models():
    settings = dataclasses.replace(settings_for("quick"), candidates=11, money_usd=0.5)
    found = forecast(["openai:gpt-5", "openai:gpt-5-mini"], settings, 8000)
    assert [share.candidates for share in found.shares] == [6, 5]
    assert found.most.money_usd == pytest.approx(0.5)
    assert "0.5 US dollars" in found.limited
    tight = dataclasses.replace(settings_for("quick"), candidates=11, tokens=1000)
    assert (lambda cost: cost.tokens_in + cost.tokens_out)(forecast(["ollama:m"], tight, 8000).most) <= 1001


def test_a_forecast_with_unknown_prices_says_so_and_earlier_sessions_replace_assumptions():
    settings = dataclasses.replace(settings_for("quick"), candidates=4)
    text = "\n".join(forecast_lines(forecast(["ollama:m"], settings, 8000)))
    assert "price that is not known" in text and "ollama:m,price_in=N" in text
    earlier = [Cost(tokens_in=1000, tokens_out=100, calls=1), Cost(tokens_in=3000, tokens_out=300, calls=4), Cost()]
    found = forecast(["openai:gpt-5"], settings, 8000, earlier=earlier)
    assert found.likely.tokens_in == 4 * 2000 and "mean of 2 earlier sessions" in found.how
    assert tokens_of(3500) == 1000


def test_a_forecast_of_nothing_is_refused():
    with pytest.raises(UsageError, match="names of models"):
        forecast([], settings_for("quick"), 10)
    with pytest.raises(UsageError, match="cannot go like this"):
        Habits(calls=0)


# --- scripted


def scripted(tmp_path, text, ledger=None):
    file = tmp_path / "script.yaml"
    file.write_text(text)
    return open_model(f"scripted:{file}", ledger)


async def say(model, text="job", history=()):
    from pydantic_ai.messages import ModelRequest, UserPromptPart
    from pydantic_ai.models import ModelRequestParameters

    messages = [*history, ModelRequest(parts=[UserPromptPart(text)])]
    return messages, await model.request(messages, None, ModelRequestParameters())


def test_a_script_answers_in_order_with_texts_files_and_tools(tmp_path):
    (tmp_path / "kernel.py").write_text("x = 1\n")
    model = scripted(tmp_path, """
tokens: {in: 100, out: 20}
answers:
  - text: First
    tools: [{name: check, args: {source: {file: kernel.py}, deep: true}}]
  - {text: Here it is., file: kernel.py, tokens: {in: 7, out: 3}}
  - the last
""", ledger := Ledger(money_usd=0.01))  # fmt: skip
    _, first = asyncio.run(say(model))
    assert first.parts[0].content == "First"
    assert (first.parts[1].tool_name, first.parts[1].args) == ("check", {"source": "x = 1\n", "deep": True})
    _, second = asyncio.run(say(model))
    assert second.parts[0].content == "Here it is.\n```python\nx = 1\n```\n"
    asyncio.run(say(model))
    with pytest.raises(ModelFault, match="has 3 answers and was asked for one more; add answers, or `repeat: true`"):
        asyncio.run(say(model))
    spent = ledger.spent
    assert (spent.tokens_in, spent.tokens_out, spent.calls, spent.money_usd) == (207, 43, 3, 0.0)


def test_a_script_by_brief_is_the_same_with_any_number_of_writers(tmp_path):
    model = scripted(tmp_path, """
briefs:
  - {when: brief one, answers: [one a, one b]}
  - {when: brief two, answers: [two a, two b]}
answers: [other]
repeat: true
""")  # fmt: skip

    async def session(which):
        messages, first = await say(model, which)
        _, second = await say(model, "go on", (*messages, first))
        return first.parts[0].content, second.parts[0].content

    async def all_of_them():
        return await asyncio.gather(*(session(f"brief {n}") for n in ("two", "one", "two", "three")))

    assert asyncio.run(all_of_them()) == [
        ("two a", "two b"), ("one a", "one b"), ("two a", "two b"), ("other", "other"),
    ]  # fmt: skip


@pytest.mark.parametrize(("fault", "kind"), [("refused", "refused"), ("empty", "empty"), ("cut", "cut")])
def test_a_script_plays_faults(tmp_path, fault, kind):
    model = scripted(tmp_path, f"answers: [{{fault: {fault}, text: some}}]")
    with pytest.raises(ModelFault) as told:
        asyncio.run(say(model))
    assert told.value.kind == kind and told.value.cost.calls == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("answers: [", "neither YAML nor JSON"),
        ("- a", "the file: expected answers, briefs"),
        ("{}", "neither `answers` nor `briefs`"),
        ("answers: [{txt: a}]", r"answers\[0\]: unknown 'txt'; known: fault, file, text, tokens, tools"),
        ("answers: [{file: nowhere.py}]", "'nowhere.py' cannot be read"),
        ("answers: [{text: ''}]", "it says nothing"),
        ("answers: [{fault: tired}]", "unknown fault 'tired'; known: refused, empty, cut"),
        ("answers: [{tools: [{args: {}}]}]", r"tools\[0\]: a tool call has a `name`"),
        ("answers: [{text: a, tokens: 7}]", "`tokens` must be"),
        ("briefs: [{answers: [a]}]", r"briefs\[0\]: `when` must be a text"),
        ("answers: [a]\nrepeat: perhaps", "`repeat` must be true or false"),
    ],
)
def test_what_is_no_script_is_told_with_its_place(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        scripted(tmp_path, text)


def test_a_script_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        open_model(f"scripted:{tmp_path / 'none.yaml'}")
    with pytest.raises(UsageError, match="nothing to record"):
        open_model("scripted:x", record=tmp_path / "c")
