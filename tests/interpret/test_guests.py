"""Other people's agents with real parts: the SDK's client, a server in a process of its own, and the whole ladder on
the CPU, over stdio and over HTTP, with clients that vanish in the middle and come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

import kernelevolve as ke

TOKEN = "a token of the test's own"
PROBLEM = '''
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x) + 1.0

def get_inputs():
    return [torch.randn(16, 256)]

def get_init_inputs():
    return []
'''
KERNEL = '''"""One program for each block of elements."""
import torch, triton
import triton.language as tl

KNOBS = {"BLOCK": [256]}
CHOICE = {}

@triton.jit
def relu_kernel(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < count)
    tl.store(out_ptr + at, tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + 1.0, mask=at < count)

class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        block = CHOICE.get("BLOCK", KNOBS["BLOCK"][0])
        relu_kernel[(triton.cdiv(x.numel(), block),)](x, out, x.numel(), BLOCK=block)
        return out
'''
WRONG = KERNEL.replace("+ 1.0, mask", "+ 1.1, mask")
SERVE = ("-m", "kernelevolve", "mcp", "--device", "none", "--effort", "quick")


class Guest:
    """One client's calls."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.said: list[str] = []

    async def __call__(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        async def progress(value: float, total: float | None, message: str | None) -> None:
            self.said.append(message or "")

        found = await self._client.call_tool(tool, arguments, progress_callback=progress)
        assert not found.is_error, found.content
        return {**found.structured_content, "text": found.content[0].text}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "relu.py").write_text(PROBLEM)
    return tmp_path


@contextlib.asynccontextmanager
async def over_stdio(place: Path) -> Any:
    started = StdioServerParameters(command=sys.executable, args=list(SERVE), env=dict(os.environ), cwd=place)
    async with Client(started) as client:
        yield Guest(client)


@contextlib.asynccontextmanager
async def over_http(address: str) -> Any:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120) as http,
        Client(streamable_http_client(address, http_client=http)) as client,
    ):
        yield Guest(client)


@contextlib.contextmanager
def served(place: Path, *more: str) -> Any:
    """The process of a server over HTTP, and its address."""
    env = dict(os.environ, KERNELEVOLVE_MCP_TOKEN=TOKEN)
    command = [sys.executable, *SERVE, "--http", "--port", "0", "--json", *more]
    with subprocess.Popen(command, cwd=place, env=env, stdout=subprocess.PIPE, text=True) as process:
        late = threading.Timer(120, process.kill)
        late.start()
        try:
            yield process, json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
            process.wait(30)
            late.cancel()


def play(work: Any, seconds: float = 240) -> Any:
    return asyncio.run(asyncio.wait_for(work, seconds))


def test_a_search_over_stdio_whose_client_goes_away_in_the_middle(place: Path) -> None:
    async def begin() -> tuple[str, str]:
        async with over_stdio(place) as guest:
            run = (await guest("create_run", problem="relu.py", built_in=False))["run"]
            assert any("starting the processes" in text for text in guest.said)
            (brief,) = (await guest("ask", run=run))["briefs"]
            assert "torch.relu(x) + 1.0" in brief["prompt"]
            broken = await guest("check", run=run, source="x = (")
            assert not broken["ok"] and "never closed" in broken["text"]
            compiled = await guest("compile", run=run, source=KERNEL)
            assert compiled["ok"] and compiled["facts"]["h100"]["resources"][0]["target"] == "sm_90"
            assert "WRONG_VALUE" in (await guest("interpret", run=run, source=WRONG))["text"]
            found = await guest("submit", run=run, brief=brief["brief"], source=KERNEL, wait_seconds=0)
            assert found["state"] == "evaluating"
            return run, brief["brief"]

    async def go_on(run: str, ticket: str) -> None:
        async with over_stdio(place) as guest:
            shown = await guest("show", run=run, what=ticket, wait_seconds=120)
            assert (shown["ticket"]["state"], shown["ticket"]["verdict"]) == ("done", "OK_UNTIMED")
            assert shown["ticket"]["fitness"]["evidence"] == "modelled" and "modelled speedup" in shown["text"]
            best = await guest("best", run=run)
            assert Path(best["file"]).read_text() == best["source"] and Path(best["receipt"]).is_file()

    run, ticket = play(begin())
    assert not ke.read_run(Path(run)).nodes
    play(go_on(run, ticket))
    (node,) = ke.read_run(Path(run)).nodes.values()
    assert (node.candidate.writer, node.candidate.source) == ("guest", KERNEL)


def test_two_agents_over_http_of_which_one_vanishes_and_comes_back(place: Path) -> None:
    async def search(address: str) -> str:
        wrong = {"Authorization": "Bearer not that one"}
        async with httpx2.AsyncClient() as http:
            assert [(await http.post(address, json={}, headers=head)).status_code for head in ({}, wrong)] == [401, 401]
            lured = {"Authorization": f"Bearer {TOKEN}", "Host": "rebound.example"}
            assert (await http.post(address, json={}, headers=lured)).status_code == 421
        async with over_http(address) as other:
            async with over_http(address) as one:
                run = (await one("create_run", problem="relu.py", built_in=False))["run"]
                mine, yours = (await one("ask", run=run, count=2))["briefs"]
                waiting = asyncio.create_task(one("submit", run=run, brief=mine["brief"], source=KERNEL))
                while not one.said or "evaluating" not in one.said[-1]:
                    await asyncio.sleep(0.05)
                waiting.cancel()
            found = await other("submit", run=run, brief=yours["brief"], source=WRONG, wait_seconds=120)
            assert (found["state"], found["verdict"]) == ("done", "WRONG_VALUE") and "rms" in found["text"]
            async with over_http(address) as one:
                shown = await one("show", run=run, what=mine["brief"], wait_seconds=120)
                assert (shown["ticket"]["verdict"], shown["run"]["candidates"]) == ("OK_UNTIMED", 2)
            return run

    with served(place) as (process, address):
        run = Path(play(search(address)))
        with pytest.raises(ke.RunBusy):
            ke.open_run(run, None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert len(ke.read_run(run).nodes) == 2


def test_the_server_ends_while_processes_are_starting(place: Path) -> None:
    async def create(address: str, process: subprocess.Popen[str]) -> None:
        async with over_http(address) as guest:
            creating = asyncio.create_task(guest("create_run", problem="relu.py"))
            while not guest.said:
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, 30)
            creating.cancel()

    with served(place) as (process, address):
        with contextlib.suppress(Exception):
            play(create(address, process), 60)
        assert process.wait(1) == 0
