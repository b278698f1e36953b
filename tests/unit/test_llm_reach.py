"""`kernelevolve models`: what can be reached, and each reason why something cannot."""

from __future__ import annotations

import json
import os
import socket

import pytest
from typer.testing import CliRunner
from wires import serve

from kernelevolve import Ledger, ping_models, reachable_models, to_ping
from kernelevolve.cli.app import app
from kernelevolve.errors import UsageError

KEY = "sk-planted-5f0c1d2e3b4a59687786"
VARIABLES = {
    "openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL", "google": "GOOGLE_GEMINI_BASE_URL",
    "mistral": "MISTRAL_BASE_URL", "vllm": "VLLM_BASE_URL", "ollama": "OLLAMA_BASE_URL",
    "llama.cpp": "LLAMA_CPP_BASE_URL", "lmstudio": "LMSTUDIO_BASE_URL",
}  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with serve() as wire:
        yield wire


@pytest.fixture
def wire(server, monkeypatch):
    """Every service at an address of this machine, without keys; nothing listens at those of local servers."""
    server.plan()
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_PROXY", "_proxy")) or name.startswith(("AWS_", "KERNELEVOLVE_M")):
            monkeypatch.delenv(name)
    for provider, variable in VARIABLES.items():
        local = provider in ("vllm", "ollama", "llama.cpp", "lmstudio")
        path = "/v1" if provider == "openai" else ""
        monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}/v1" if local else server.root + path)
    return server


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def found(addresses=()):
    return {one.provider: one for one in reachable_models(addresses, seconds=5)}


def called(*arguments):
    result = CliRunner().invoke(app, ["models", *arguments])
    return result.exit_code, result.output


def test_without_keys_each_says_which_to_set(wire):
    all_of_them = found()
    assert {name: one.state for name, one in all_of_them.items()} == {
        **dict.fromkeys(("openai", "anthropic", "google", "bedrock", "mistral"), "no key"),
        **dict.fromkeys(("vllm", "ollama", "llama.cpp", "lmstudio"), "not there"),
    }
    assert all_of_them["google"].remedy == "set GOOGLE_API_KEY"
    assert "VLLM_BASE_URL" in all_of_them["vllm"].remedy
    code, text = called()
    assert code == 1 and "the built-in writer needs none" in text


def test_what_keys_reach_is_listed_with_prices(wire, monkeypatch):
    for service in ("OPENAI", "ANTHROPIC", "GOOGLE", "MISTRAL"):
        monkeypatch.setenv(f"{service}_API_KEY", KEY)
    wire.plan(models=["gpt-5", "claude-sonnet-4-6", "text-embedding-3-small"], key=KEY)
    all_of_them = found([wire.openai])
    for name in ("openai", "anthropic", "google", "mistral"):
        assert all_of_them[name].state == "ok", all_of_them[name]
        assert [one.name for one in all_of_them[name].models] == [f"{name}:claude-sonnet-4-6", f"{name}:gpt-5"]
    sonnet = all_of_them["anthropic"].models[0]
    assert (sonnet.price_in, sonnet.price_out) == (pytest.approx(3), pytest.approx(15)) and sonnet.window
    # What listens here is not OpenAI.
    assert all_of_them["openai"].models[1].price_out is None
    assert all_of_them["openai-compatible"].state == "wrong key"
    assert to_ping(all_of_them.values())[:2] == ("openai:claude-sonnet-4-6", "anthropic:claude-sonnet-4-6")


def test_a_wrong_key_is_told_and_not_repeated(wire, monkeypatch):
    wire.plan(key="another")
    for service in ("OPENAI", "ANTHROPIC", "GOOGLE", "MISTRAL"):
        monkeypatch.setenv(f"{service}_API_KEY", KEY)
    for name in ("openai", "anthropic", "google", "mistral"):
        one = found()[name]
        assert one.state == "wrong key" and "401" in one.found and f"set {name.upper()}_API_KEY" in one.remedy
        assert KEY not in str(one) and "[key]" in one.found


def test_no_network_is_not_a_wrong_key(wire, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://no-such-host.invalid/v1")
    one = found()["openai"]
    assert one.state == "no network" and "proxy" in one.remedy
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:{KEY}@host/v1")
    one = found()["openai"]
    assert one.state == "fault" and KEY not in str(one) and "OPENAI_BASE_URL" in one.remedy


def test_an_address_that_lists_nothing_is_told(wire):
    for path in ("/charged", "/nowhere"):
        one = found([wire.root + path])["openai-compatible"]
        assert one.state == "fault" and "HTTP 404" in one.found and "ends in /v1" in one.remedy
    with pytest.raises(UsageError, match="has a key in it"):
        reachable_models([f"http://127.0.0.1:1/v1?key={KEY}"])


def test_a_missing_package_is_told_with_its_command(wire, monkeypatch):
    from kernelevolve.llm import reach

    monkeypatch.setattr(reach, "is_installed", lambda package: package == "openai")
    assert found()["google"].state == "no package"
    assert found()["google"].remedy == 'pip install "kernelevolve[google]"'


def test_pings_are_real_calls_and_say_what_they_cost(wire, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    local = f"{wire.openai}:served-model"
    ours, theirs = ping_models([local, "anthropic:claude-sonnet-4-6"])
    assert (ours.answered, ours.priced, ours.cost.unpriced) == (True, False, 160)
    assert (theirs.answered, theirs.priced, theirs.text) == (True, True, "answer 0")
    assert theirs.cost.money_usd == pytest.approx((120 * 3 + 40 * 15) / 1e6)
    wire.plan(queue=["500", "length", "404:model"])
    states = [ping_models([local])[0] for _ in range(3)]
    assert [(one.answered, one.kind) for one in states] == [(False, "network"), (True, ""), (False, "model")]
    assert wire.charged()["asked"] == 3
    missing, unknown = ping_models(["openai:gpt-5", "opnai:gpt-5"])
    assert missing.kind == unknown.kind == "usage"
    assert "OPENAI_API_KEY" in missing.text and "known:" in unknown.text


def test_a_ping_under_a_cap_asks_for_a_price(wire):
    assert "nobody knows" in ping_models([f"{wire.openai}:m"], money_usd=0.01)[0].text
    assert Ledger(money_usd=0.01).spent.calls == 0


def test_the_command_lists_and_pings_for_scripts(wire):
    code, text = called("--address", wire.openai, "--ping", "--json")
    data = json.loads(text.splitlines()[-1])
    assert code == 0 and data["correct"] is True
    (reached,) = (one for one in data["services"] if one["state"] == "ok")
    assert [one["name"] for one in reached["models"]] == [f"{wire.openai}:other-model", f"{wire.openai}:served-model"]
    assert data["pings"][0]["answered"] is True


def test_the_command_looks_at_named_models(wire):
    code, text = called(f"{wire.openai}:served-model,price_in=1,price_out=2", "--ping")
    assert code == 0 and "1 and 2 US dollars per million tokens" in text and "0.000200 US dollars" in text
    code, text = called(f"{wire.openai}:served-model")
    assert code == 0 and "price not known" in text and wire.charged()["asked"] == 1
    wire.plan(queue=["404:model"])
    code, text = called(f"{wire.openai}:served-model", "--ping")
    assert code == 1 and "model: " in text and "kernelevolve models" in text
