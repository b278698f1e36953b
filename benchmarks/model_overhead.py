"""How much time the framework adds to a call of a model, and to a session of several.

In: a number of calls. Out: one line per wire and way with the median and the 95th percentile of what is added, and one
JSON file with all samples. Left to others: models; a server on loopback answers at once, so that nothing hides the
difference.

Each sample is a call through the guard (reserved, priced, settled) beside the same call through the provider's own
package alone, one after the other; added = guarded - alone. A session is five calls of an agent with a tool, beside
five calls alone.

    python benchmarks/model_overhead.py --calls 200 --out benchmarks/results/model_overhead.json
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))

from wires import Wire, serve

from kernelevolve.llm.ledger import Ledger
from kernelevolve.llm.models import open_model

BUDGET_MS = 50.0
WARM_UP = 5
STEPS = 5  # calls of a session
CANDIDATE = "    acc += tl.dot(tl.load(a_ptrs), tl.load(b_ptrs))  # a line of a kernel\n" * 420  # 30 kB
PACKAGES = ("kernelevolve", "pydantic-ai-slim", "genai-prices", "openai", "anthropic")
KEY = "no key is needed here"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ["ANTHROPIC_API_KEY"] = KEY
    with serve() as wire:
        wire.plan()
        rows = asyncio.run(measure(wire, options.calls))
    for row in rows:
        print(
            f"{row['wire']}, {row['way']}: added {row['added_median_ms']:.2f} ms median, {row['added_p95_ms']:.2f} p95 "
            f"(alone {row['alone_median_ms']:.2f}, with the framework {row['framework_median_ms']:.2f}; "
            f"budget {BUDGET_MS:g})"
        )
    if options.out is not None:
        facts = {
            "benchmark": "model_overhead",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "system": platform.system(),
                        "load": os.getloadavg()},
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "unit": "ms",
            "prompt_bytes": len(CANDIDATE),
            "calls_of_a_session": STEPS,
            "rows": rows,
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


async def measure(wire: Wire, calls: int) -> list[dict[str, Any]]:
    """Both ways on both wires."""
    rows = []
    for name, alone in (("openai", _openai(wire)), ("anthropic", _anthropic(wire))):
        address = {"address": wire.root} if name == "anthropic" else {}
        model_name = "anthropic:claude-sonnet-4-6" if name == "anthropic" else f"{wire.openai}:served-model"
        model = open_model(model_name, Ledger(money_usd=1e6), price_in=1.0, price_out=1.0, **address)
        rows.append(await _beside(name, "call", alone, _call(model), calls))

        async def five(alone: Callable[[], Awaitable[None]] = alone) -> None:
            for _ in range(STEPS):
                await alone()

        def prepare() -> None:
            wire.plan(queue=["tool"] * (STEPS - 1), reset=False)

        rows.append(await _beside(name, f"session of {STEPS} calls", five, _session(model), calls // STEPS, prepare))
    return rows


async def _beside(
    wire: str,
    way: str,
    alone: Callable[[], Awaitable[None]],
    framework: Callable[[], Awaitable[None]],
    calls: int,
    prepare: Callable[[], None] | None = None,
) -> dict[str, Any]:
    samples = []
    for index in range(WARM_UP + calls):
        without = await _timed(alone)
        if prepare is not None:
            prepare()
        pair = (without, await _timed(framework))
        if index >= WARM_UP:
            samples.append(pair)
    added = sorted(with_us - without for without, with_us in samples)
    return {
        "wire": wire,
        "way": way,
        "added_median_ms": statistics.median(added),
        "added_p95_ms": added[min(int(len(added) * 0.95), len(added) - 1)],
        "alone_median_ms": statistics.median(without for without, _ in samples),
        "framework_median_ms": statistics.median(with_us for _, with_us in samples),
        "samples_ms": [[round(value, 4) for value in pair] for pair in samples],
    }


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    start = time.perf_counter()
    await work()
    return (time.perf_counter() - start) * 1e3


def _openai(wire: Wire) -> Callable[[], Awaitable[None]]:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=wire.openai, api_key=KEY, max_retries=0)

    async def call() -> None:
        stream = await client.chat.completions.create(
            model="served-model", messages=[{"role": "user", "content": f"job 1\n{CANDIDATE}"}], stream=True,
            stream_options={"include_usage": True}, max_tokens=1000,
        )  # fmt: skip
        async for _ in stream:
            pass

    return call


def _anthropic(wire: Wire) -> Callable[[], Awaitable[None]]:
    from anthropic import AsyncAnthropic

    client = AsyncAnthropic(base_url=wire.root, api_key=KEY, max_retries=0)

    async def call() -> None:
        stream = await client.messages.create(
            model="claude-sonnet-4-6", messages=[{"role": "user", "content": f"job 1\n{CANDIDATE}"}], stream=True,
            max_tokens=1000,
        )  # fmt: skip
        async for _ in stream:
            pass

    return call


def _call(model: Any) -> Callable[[], Awaitable[None]]:
    from pydantic_ai.messages import ModelRequest, UserPromptPart
    from pydantic_ai.models import ModelRequestParameters

    async def call() -> None:
        request = ModelRequest(parts=[UserPromptPart(f"job 1\n{CANDIDATE}")])
        await model.request([request], None, ModelRequestParameters())

    return call


def _session(model: Any) -> Callable[[], Awaitable[None]]:
    from pydantic_ai import Agent

    agent = Agent(model)

    @agent.tool_plain
    def check(source: str) -> str:
        """Looks at a source."""
        return f"nothing to object to in {len(source)} characters"

    async def session() -> None:
        result = await agent.run(f"job 1\n{CANDIDATE}")
        assert result.usage.requests == STEPS, result.usage

    return session


if __name__ == "__main__":
    main()
