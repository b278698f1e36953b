"""The protocol's door, with the SDK's own client in this process, on fakes in place of seats."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from kernelevolve.errors import RunBusy, SeatLost
from kernelevolve.mcp import server as serving
from kernelevolve.mcp.desk import Desk
from kernelevolve.runs import create_run, open_run, read_run
from kernelevolve.settings import settings_for
from kernelevolve.testing import FakeEvaluator, fake_equip, fake_folder, fake_problem
from kernelevolve.tools import Report

KERNEL = "class ModelNew: ...\n"


class FakeTools:
    """Has no objection to a source that names ModelNew."""

    targets = ("h100", "mi300x")

    async def check(self, source: str) -> Report:
        return Report("ModelNew" in source, "check said", {"hints": []})

    async def compile(self, source: str, platforms: Any = ()) -> Report:
        return Report(True, f"compiled for {', '.join(platforms) or 'h100'}")

    async def interpret(self, source: str) -> Report:
        return Report(True, "interpreted")


class Guest:
    """A client's calls, told apart from protocol."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """The structured result of a call that must go well, with its text as `text`."""
        found = await self.client.call_tool(name, arguments)
        assert not found.is_error, found.content
        return {**found.structured_content, "text": found.content[0].text}

    async def refused(self, name: str, /, **arguments: Any) -> tuple[str, str]:
        """The name and text of the error of a call that must fail."""
        found = await self.client.call_tool(name, arguments)
        assert found.is_error, found
        return (found.structured_content or {}).get("error", ""), found.content[0].text


def desk_in(folder: Path, evaluator: FakeEvaluator | None = None, **more: Any) -> Desk:
    equip = fake_equip(evaluator or FakeEvaluator(faulty=0.0))

    def equipped(problem: Any) -> Any:
        def with_tools(created: Any, builds: Path) -> Any:
            from dataclasses import replace

            return replace(equip(created, builds), tools=FakeTools())

        return contextlib.nullcontext(with_tools)

    return Desk(equipped, folder / "runs", **more)


@contextlib.asynccontextmanager
async def guest_at(desk: Desk, **more: Any) -> Any:
    async with Client(serving.server(desk), **more) as client:
        yield Guest(client)


def play(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


@pytest.fixture
def problem(tmp_path: Path) -> str:
    return str(fake_folder(tmp_path))


def test_a_whole_search(tmp_path: Path, problem: str) -> None:
    async def search() -> None:
        desk = desk_in(tmp_path)
        async with guest_at(desk) as guest:
            run = (await guest("create_run", problem=problem, effort="quick", built_in=False, run="mine"))["run"]
            assert run == str((tmp_path / "runs" / "mine").resolve())
            for number in range(3):
                (brief,) = (await guest("ask", run="mine"))["briefs"]
                assert "What the file must be" in brief["prompt"]
                assert not (await guest("check", run=run, source="nothing"))["ok"]
                assert (await guest("check", run=run, source=KERNEL))["ok"]
                assert "mi300x" in (await guest("compile", run=run, source=KERNEL, platforms=["mi300x"]))["text"]
                assert (await guest("interpret", run=run, source=KERNEL))["ok"]
                found = await guest("submit", run=run, brief=brief["brief"], source=f"{KERNEL}# {number}\n", note="n")
                assert (found["state"], found["correct"]) == ("done", True)
                assert found["fitness"]["evidence"] == "measured"
            shown = await guest("show", run=run)
            assert shown["run"]["candidates"] == 3 and not shown["run"]["waiting"]
            assert (await guest("show", run=run, what="n1"))["source"] == f"{KERNEL}# 1\n"
            best = await guest("best", run=run)
            assert best["node"] == shown["run"]["best"] and Path(best["file"]).read_text() == best["source"]
        await desk.close()
        open_run(tmp_path / "runs" / "mine", fake_equip()).close()

    play(search())
    nodes = read_run(tmp_path / "runs" / "mine").nodes.values()
    assert [n.candidate.writer for n in nodes] == ["guest"] * 3 and all(n.candidate.note == "n" for n in nodes)


def test_every_tool_is_described_and_typed(tmp_path: Path) -> None:
    async def look() -> None:
        async with guest_at(desk_in(tmp_path)) as guest:
            tools = (await guest.client.list_tools()).tools
            assert [tool.name for tool in tools] == [
                "list_problems", "create_run", "ask", "check", "compile", "interpret", "submit", "show", "look_up",
                "best",
            ]  # fmt: skip
            assert all(tool.description and tool.output_schema for tool in tools)
            found = (await guest("look_up", query="coalesced access to global memory", most=3))["passages"]
            assert len(found) == 3 and all(passage["text"] for passage in found)
            (whole,) = (await guest("look_up", query=found[0]["path"]))["passages"]
            assert whole["path"] == found[0]["path"] and len(whole["text"]) > 500
            assert "recsys:rms_norm_residual" in (await guest("list_problems", suite="recsys"))["text"]

    play(look())


def test_a_ticket_is_given_at_once_and_polled_with_progress(tmp_path: Path, problem: str) -> None:
    async def search() -> None:
        desk, said = desk_in(tmp_path, FakeEvaluator(seconds=0.3, faulty=0.0)), list[str]()

        async def progress(value: float, total: float | None, message: str | None) -> None:
            said.append(message or "")

        async with guest_at(desk) as guest:
            run = (await guest("create_run", problem=problem, built_in=False))["run"]
            (brief,) = (await guest("ask", run=run))["briefs"]
            found = await guest("submit", run=run, brief=brief["brief"], source=KERNEL, wait_seconds=0)
            assert found["state"] == "evaluating" and found["ticket"] == brief["brief"]
            assert "look again" in found["text"]
            again = await guest("submit", run=run, brief=brief["brief"], source=KERNEL, wait_seconds=0)
            assert (again["state"], again["node"]) == ("evaluating", "n0")
            arguments = {"run": run, "what": found["ticket"], "wait_seconds": 20}
            done = await guest.client.call_tool("show", arguments, progress_callback=progress)
            assert done.structured_content["ticket"]["state"] == "done"
            assert any("at check" in text or "at correct" in text for text in said)
            same = await guest("submit", run=run, brief=brief["brief"], source=KERNEL, wait_seconds=0)
            assert (same["state"], same["node"]) == ("done", "n0")
        await desk.close()
        assert len(read_run(Path(run)).nodes) == 1

    play(search())


def test_who_disconnects_in_the_middle_comes_back_to_the_verdict(tmp_path: Path, problem: str) -> None:
    async def search() -> None:
        desk = desk_in(tmp_path, FakeEvaluator(seconds=0.2, faulty=0.0))
        async with guest_at(desk) as guest:
            run = (await guest("create_run", problem=problem, built_in=False))["run"]
            one, other = (await guest("ask", run=run, count=2))["briefs"]
            waiting = asyncio.create_task(
                guest("submit", run=run, brief=one["brief"], source=KERNEL, wait_seconds=60)
            )
            await asyncio.sleep(0.1)
            waiting.cancel()
        async with guest_at(desk) as guest:
            shown = await guest("show", run=run)
            assert [t["ticket"] for t in shown["run"]["tickets"]] == [one["brief"]]
            assert shown["run"]["waiting"] == ["b1"]
            assert (await guest("ask", run=run, again=True))["briefs"] == [other]
            assert (await guest("show", run=run, what=one["brief"], wait_seconds=20))["ticket"]["state"] == "done"
        await desk.close()

    play(search())


def test_what_a_desk_left_behind_the_next_one_takes_up(tmp_path: Path, problem: str) -> None:
    async def search() -> None:
        first = desk_in(tmp_path, FakeEvaluator(seconds=30.0))
        async with guest_at(first) as guest:
            run = (await guest("create_run", problem=problem, built_in=False))["run"]
            (brief,) = (await guest("ask", run=run))["briefs"]
            await guest("submit", run=run, brief=brief["brief"], source=KERNEL, wait_seconds=0)
        await first.close()
        assert not read_run(Path(run)).nodes
        second = desk_in(tmp_path)
        async with guest_at(second) as guest:
            assert (await guest("show", run=run))["run"]["tickets"][0]["state"] in ("evaluating", "done")
            found = (await guest("show", run=run, what=brief["brief"], wait_seconds=20))["ticket"]
            assert (found["state"], found["node"]) == ("done", "n0")
        await second.close()

    play(search())


def test_what_a_guest_gets_wrong_is_named(tmp_path: Path, problem: str) -> None:
    async def search() -> None:
        desk = desk_in(tmp_path)
        async with guest_at(desk) as guest:
            assert (await guest.refused("ask", run="none"))[0] == "UsageError"
            run = (await guest("create_run", problem=problem, built_in=False, run="a"))["run"]
            other = (await guest("create_run", problem=problem, built_in=False, run="b"))["run"]
            error, text = await guest.refused("ask", run="c")
            assert error == "UsageError" and "'c' is no run" in text and "a, b" in text
            error, text = await guest.refused("create_run", problem=problem, run="a")
            assert error == "StoreError" and "already" in text
            assert "known: " in (await guest.refused("create_run", problem=problem, platform="h1000"))[1]
            assert (await guest.refused("create_run", problem="absent.py"))[0] == "ProblemError"
            error, text = await guest.refused("submit", run=run, brief="b7", source=KERNEL)
            assert error == "UsageError" and "unknown brief 'b7'" in text and "ask for one first" in text
            (brief,) = (await guest("ask", run=run))["briefs"]
            error, text = await guest.refused("submit", run=other, brief=brief["brief"], source=KERNEL)
            assert error == "ForeignBrief" and "next: give the run that asked" in text
            await guest("submit", run=run, brief=brief["brief"], source=KERNEL)
            error, text = await guest.refused("submit", run=run, brief=brief["brief"], source=KERNEL + "#")
            assert error == "LateAnswer" and "it became n0, OK_" in text and "ask for another brief" in text
            assert "not both" in (await guest.refused("check", run=run, source=KERNEL, file="x.py"))[1]
            assert "cannot be read" in (await guest.refused("check", run=run, file=str(tmp_path / "x.py")))[1]
            assert (await guest.refused("show", run=run, what="n9"))[0] == "UnknownName"
            assert "Input should be" in (await guest.refused("ask", run=run, count="many"))[1]
        await desk.close()

    play(search())


def test_a_run_that_another_process_owns_can_be_looked_at_only(tmp_path: Path) -> None:
    async def search() -> None:
        desk = desk_in(tmp_path)
        folder = tmp_path / "runs" / "mine"
        with create_run(folder, fake_problem(), "h100", fake_equip(), settings=settings_for("quick")) as run:
            run.ask("guest")
            async with guest_at(desk) as guest:
                error, text = await guest.refused("ask", run="mine")
                assert error == RunBusy.__name__ and "next: look with show" in text
                assert (await guest("show", run="mine"))["run"]["waiting"] == ["b0"]
                assert (await guest("show", run="mine", what="b0"))["ticket"]["state"] == "asked"
                assert (await guest("best", run="mine"))["node"] is None
        await desk.close()

    play(search())


def test_two_guests_answer_the_briefs_of_one_run(tmp_path: Path, problem: str) -> None:
    async def search() -> None:
        desk = desk_in(tmp_path)
        async with guest_at(desk) as one, guest_at(desk) as other:
            run = (await one("create_run", problem=problem, built_in=False))["run"]

            async def work(guest: Guest, name: str) -> None:
                for number in range(4):
                    (brief,) = (await guest("ask", run=run, name=name))["briefs"]
                    await guest("submit", run=run, brief=brief["brief"], source=f"# {name} {number}\n{KERNEL}",
                                name=name, tokens_out=10, cost_usd=0.25)  # fmt: skip

            await asyncio.gather(work(one, "ann"), work(other, "bob"))
        await desk.close()
        graph = read_run(Path(run))
        assert len(graph.nodes) == 8 and not graph.pending
        assert {n.candidate.writer for n in graph.nodes.values()} == {"guest:ann", "guest:bob"}
        assert sum(n.candidate.cost.money_usd for n in graph.nodes.values()) == 2.0

    play(search())


def test_a_machine_that_fails_leaves_a_ticket_that_can_be_taken_up(tmp_path: Path, problem: str) -> None:
    class Failing(FakeEvaluator):
        left = 4

        async def evaluate(self, candidate: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left >= 0:
                raise SeatLost("the worker died")
            return await super().evaluate(candidate, **more)

    async def search() -> None:
        desk = desk_in(tmp_path, Failing(faulty=0.0))
        async with guest_at(desk) as guest:
            run = (await guest("create_run", problem=problem, built_in=False))["run"]
            (brief,) = (await guest("ask", run=run))["briefs"]
            found = await guest("submit", run=run, brief=brief["brief"], source=KERNEL)
            assert found["state"] == "stopped" and "the worker died" in found["text"]
            assert "submit the same source again" in found["text"]
            found = await guest("submit", run=run, brief=brief["brief"], source=KERNEL)
            assert (found["state"], found["node"]) == ("done", "n0")
        await desk.close()

    play(search())


def test_a_run_at_its_limit_says_so(tmp_path: Path, problem: str) -> None:
    async def search() -> None:
        desk = desk_in(tmp_path)
        async with guest_at(desk) as guest:
            run = (await guest("create_run", problem=problem, built_in=False, candidates=2))["run"]
            briefs = (await guest("ask", run=run, count=8))["briefs"]
            assert len(briefs) == 2
            error, text = await guest.refused("ask", run=run)
            assert error == "RunEnded" and "2 candidates" in text and "b0, b1" in text
            for number, brief in enumerate(briefs):
                await guest("submit", run=run, brief=brief["brief"], source=f"{KERNEL}# {number}")
            assert (await guest.refused("ask", run=run))[0] == "RunEnded"
            assert "2 candidates" in (await guest("show", run=run))["run"]["ended"]
        await desk.close()

    play(search())


def test_the_built_in_engineer_writes_the_first_kernel(tmp_path: Path, problem: str) -> None:
    async def search() -> None:
        desk = desk_in(tmp_path)
        async with guest_at(desk) as guest:
            run = (await guest("create_run", problem=problem, effort="quick"))["run"]
            found = await guest("show", run=run, what="b0", wait_seconds=20)
            assert found["ticket"]["state"] == "done"
            (brief,) = (await guest("ask", run=run))["briefs"]
            assert brief["parents"] == ["n0"]
        await desk.close()
        assert read_run(Path(run)).nodes["n0"].candidate.writer == "built-in"

    play(search())


def test_runs_that_nobody_asks_about_are_given_back(tmp_path: Path, problem: str) -> None:
    async def search() -> None:
        desk = desk_in(tmp_path, most=2)
        async with guest_at(desk) as guest:
            runs = [(await guest("create_run", problem=problem, built_in=False, run=n))["run"] for n in "abc"]
            assert [desk.is_open(Path(run)) for run in runs] == [False, True, True]
            await guest("ask", run="a")
            assert [desk.is_open(Path(run)) for run in runs] == [True, False, True]
        await desk.close()
        for run in runs:
            open_run(Path(run), fake_equip()).close()

    play(search())
