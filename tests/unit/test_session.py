"""The writer `model`: sessions with tools and in single completions, driven by scripted models with fake tools."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

import pytest

from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.errors import BudgetSpent, MachineError, ModelFault, SeatLost, UnknownName, UsageError, WriterError
from kernelevolve.problem import Problem, Workload
from kernelevolve.propose import Workbench
from kernelevolve.tools import Report

pydantic_ai = pytest.importorskip("pydantic_ai")
from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelResponse, TextPart, ToolCallPart  # noqa: E402
from pydantic_ai.models.function import FunctionModel  # noqa: E402
from pydantic_ai.usage import RequestUsage  # noqa: E402

from kernelevolve.propose.model import ModelWriter, model_named  # noqa: E402


def kernel(number=0, extra=""):
    return (
        "import torch\nimport triton\n\n"
        f"SIZE = {number}\n{extra}\n"
        "@triton.jit\ndef k(x):\n    pass\n\n\n"
        "class ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return x\n"
    )


GOOD, PARENT = kernel(1), kernel(0)
NO_COMPILE = kernel(2, "NO_COMPILE = True")
NO_INTERPRET = kernel(3, "NO_INTERPRET = True")
NO_CHECK = "def f(:\n"


class Trials:
    """Tools that read their verdict out of the source, and keep what they were asked."""

    targets = ("h100", "mi300x")

    def __init__(self, machine=None):
        self.asked = []
        self.machine = machine

    async def check(self, source):
        self.asked.append("check")
        ok = "ModelNew" in source and "(:" not in source
        return Report(ok, "check passed: 1 kernel: k" if ok else "check failed: line 1: not Python")

    async def compile(self, source, platforms=()):
        self.asked.append(f"compile {','.join(platforms)}")
        if self.machine == "compile":
            raise SeatLost("the builder died")
        ok = "NO_COMPILE" not in source
        return Report(ok, "h100: 32 registers a thread (compiled)" if ok else "COMPILE_ERROR: has no attribute 'lode'")

    async def interpret(self, source):
        self.asked.append("interpret")
        ok = "NO_INTERPRET" not in source
        return Report(ok, "12 comparisons passed" if ok else "WRONG_VALUE: rms 0.3, limit 0.01" + "x" * 9000)


@dataclass
class Shelf:
    """A library with one article."""

    asked: list = field(default_factory=list)

    def search(self, query, *, platform="", limits=(), topics=(), most=10):
        self.asked.append((query, platform))

        @dataclass
        class Hit:
            path: str = "guidance/fusion.md"
            heading: str = "When to fuse"
            score: float = 1.0
            snippet: str = "fuse what is read twice"

        return (Hit(),) if "fus" in query else ()

    def article(self, path):
        if path != "guidance/fusion.md":
            raise UnknownName("article", path, ["guidance/fusion.md"])

        @dataclass
        class Article:
            text: str = "# Fusion\nall of it"

        return Article()


def call(tool, **args):
    return ToolCallPart(tool, args)


def say(text):
    return TextPart(text)


DONE = [say("Fused the two loads to halve traffic.")]


def scripted(*turns, usage=(100, 10), finish=None, seen=None, last=None):
    """A model that plays these turns, by the number of its earlier answers; then `last`, or the last one again."""

    def answer(messages, info):
        if seen is not None:
            seen.append(messages)
        turn = sum(m.kind == "response" for m in messages)
        parts = turns[turn] if turn < len(turns) else (last or turns[-1])
        if isinstance(parts, BaseException):
            raise parts
        parts = [ToolCallPart(p.tool_name, p.args) if isinstance(p, ToolCallPart) else p for p in parts]
        return ModelResponse(parts, usage=RequestUsage(input_tokens=usage[0], output_tokens=usage[1]),
                             finish_reason=finish)  # fmt: skip

    return FunctionModel(answer, model_name="scripted")


class Graphs:
    """What a writer reads of a graph."""

    def __init__(self, **sources):
        class Node:
            def __init__(self, name, source):
                self.candidate = Candidate(name, "b0", "x", source)

        self.nodes = {name: Node(name, source) for name, source in sources.items()}


class Scene:
    """A writer on a bench whose blobs are kept in memory."""

    def __init__(self, model, tools="real", library=None, parents=(), **args):
        self.kept = {}
        self.tools = Trials() if tools == "real" else tools
        problem = Problem(
            name="p", suite="folder", path="p.py", source="class Model: reference", workloads=(Workload("declared"),)
        )
        bench = Workbench(problem, "h100", 0, tools=self.tools, library=library, keep=self.keep)
        self.writer = ModelWriter(bench, opened=model, **args)
        self.graph = Graphs(n0=PARENT)
        self.brief = Brief("b1", 1, tuple(parents), "the prompt")

    def keep(self, data):
        name = f"sha256:{len(self.kept)}"
        self.kept[name] = json.loads(data)
        return name

    def write(self):
        return asyncio.run(self.writer.write(self.brief, self.graph))

    def said(self, reference):
        """Everything that was said to the model after the prompt, as text."""
        messages = self.kept[reference]["messages"]
        return "\n".join(str(p.get("content", "")) for m in messages if m["kind"] == "request" for p in m["parts"])


def test_a_clean_session_gives_the_file_with_note_cost_and_session():
    scene = Scene(scripted([call("write", source=GOOD)], [call("compile")], [call("interpret")], DONE))
    answer = scene.write()
    assert answer.source == GOOD
    assert answer.note == "Fused the two loads to halve traffic."
    assert (answer.cost.tokens_in, answer.cost.tokens_out, answer.cost.calls) == (400, 40, 4)
    assert answer.cost.seconds > 0
    kept = scene.kept[answer.session]
    messages = ModelMessagesTypeAdapter.validate_python(kept["messages"])
    assert len(messages) == 8 and kept["writer"] == "model:scripted" and kept["ended"] == "done"
    assert scene.tools.asked == ["check", "compile h100", "interpret"]
    assert "registers a thread" in scene.said(answer.session)
    assert "Next: look at registers" in scene.said(answer.session)


def test_what_was_not_tried_before_done_is_tried_then():
    scene = Scene(scripted([call("write", source=GOOD)], DONE))
    assert scene.write().source == GOOD
    assert scene.tools.asked == ["check", "compile h100", "interpret"]


def test_a_failure_is_told_and_repaired():
    repair = [call("replace", old="NO_COMPILE = True", new="")]
    turns = [[call("write", source=NO_COMPILE)], [call("compile")], repair, [call("compile")], [call("interpret")]]
    scene = Scene(scripted(*turns, DONE))
    answer = scene.write()
    assert "NO_COMPILE" not in answer.source
    assert "has no attribute 'lode'" in scene.said(answer.session)
    assert "Repair the file" in scene.said(answer.session)


def test_done_is_refused_while_a_check_fails():
    scene = Scene(
        scripted([call("write", source=NO_INTERPRET)], DONE, [call("replace", old="NO_INTERPRET = True", new="")], DONE)
    )
    answer = scene.write()
    assert "NO_INTERPRET" not in answer.source
    assert "interpret failed" in scene.said(answer.session) and "WRONG_VALUE" in scene.said(answer.session)


def test_results_are_short():
    scene = Scene(scripted([call("write", source=NO_INTERPRET)], [call("interpret")], DONE), steps=3)
    answer = scene.write()
    results = [p for m in scene.kept[answer.session]["messages"] for p in m["parts"] if p["part_kind"] == "tool-return"]
    assert max(len(p["content"]) for p in results) < 4300
    assert "characters left out" in scene.said(answer.session)


def test_going_on_from_a_parent_begins_with_its_file():
    scene = Scene(scripted([call("replace", old="SIZE = 0", new="SIZE = 8")], DONE), parents=("n0",))
    assert scene.write().source == PARENT.replace("SIZE = 0", "SIZE = 8")


def test_a_parent_unchanged_is_no_answer():
    scene = Scene(scripted(DONE, last=DONE), parents=("n0",), steps=5)
    with pytest.raises(WriterError, match="without a file") as caught:
        scene.write()
    assert "which the run has already" in scene.said(caught.value.session)


def test_files_can_be_read_and_unknown_ones_are_told():
    scene = Scene(
        scripted(
            [call("read", file="reference.py"), call("read", file="n0.py"), call("read", file="kernel.py")],
            [call("read", file="n9.py")], [call("write", source=GOOD)], DONE,
        ),
        parents=("n0",),
    )  # fmt: skip
    answer = scene.write()
    said = scene.said(answer.session)
    assert "class Model: reference" in said and said.count("SIZE = 0") == 2
    assert "there is no file 'n9.py'" in said and "files: kernel.py, reference.py, n0.py" in said


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (call("replace", old="nowhere at all", new="x"), "not found"),
        (call("replace", old="return", new="return"), "the same"),
        (call("replace", old="x", new="y"), "occurs 3 times"),
        (call("replace", old="", new="y"), "`old` is empty"),
        (call("compile", targets=["h2000"]), "targets: h100, mi300x"),
        (call("compile", targets="h100"), "list"),
        (call("write"), "Field required"),
        (call("write", source="  "), "empty"),
        (ToolCallPart("write", '{"source": "impo'), "Invalid JSON"),
        (ToolCallPart("write", "[1, 2]"), "object"),
        (call("shell", command="rm -rf /"), "Unknown tool name"),
    ],
)
def test_a_wrong_call_is_told_and_the_session_goes_on(wrong, told):
    scene = Scene(scripted([wrong], [call("write", source=GOOD)], DONE), parents=("n0",))
    answer = scene.write()
    assert answer.source == GOOD
    assert told in scene.said(answer.session)


@pytest.mark.parametrize(
    "wrong",
    [call("replace", old="nowhere", new="x"), call("shell", x=1), ToolCallPart("write", "{"), call("read", file="z")],
)
def test_the_same_wrong_call_three_times_ends_the_session(wrong):
    scene = Scene(scripted([wrong]), parents=("n0",))
    with pytest.raises(WriterError, match="the same wrong call") as caught:
        scene.write()
    kinds = [message["kind"] for message in scene.kept[caught.value.session]["messages"]]
    assert kinds == [*["request", "response"] * 3, "request"]
    assert caught.value.cost.calls == 3


def test_asking_the_same_again_and_again_ends_the_session_with_the_file_so_far():
    scene = Scene(scripted([call("write", source=GOOD)], [call("compile")]))
    answer = scene.write()
    assert answer.source == GOOD and "same wrong call of compile" in answer.note
    assert scene.tools.asked == ["check", "compile h100"]


def test_out_of_steps_gives_the_last_that_was_interpreted_before_one_that_only_compiled():
    turns = [[call("write", source=GOOD)], [call("interpret")], [call("write", source=NO_INTERPRET)], [call("compile")]]
    scene = Scene(scripted(*turns, [call("interpret")]), steps=4)
    answer = scene.write()
    assert answer.source == GOOD and "out of steps (4)" in answer.note and "interpreted" in answer.note


def test_out_of_steps_gives_the_last_that_compiled():
    turns = [[call("write", source=GOOD)], [call("compile")], [call("write", source=NO_COMPILE)], [call("compile")]]
    scene = Scene(scripted(*turns, [call("check")]), steps=4)
    answer = scene.write()
    assert answer.source == GOOD and "compiled, not interpreted" in answer.note


def test_out_of_steps_gives_the_last_if_it_passes_check():
    scene = Scene(scripted([call("write", source=GOOD)], [call("read", file="reference.py")]), steps=2)
    assert "neither compiled nor interpreted" in scene.write().note
    scene = Scene(scripted([call("write", source=NO_CHECK)], [call("read", file="reference.py")]), steps=2)
    with pytest.raises(WriterError, match=r"out of steps \(2\)") as caught:
        scene.write()
    assert caught.value.session in scene.kept and caught.value.cost.calls == 3


def test_calls_beyond_the_steps_are_not_carried_out():
    calls = [call("write", source=GOOD), call("compile"), call("interpret")]
    scene = Scene(scripted(calls, [call("check")]), steps=1)
    answer = scene.write()
    assert scene.tools.asked == ["check"]
    assert "no steps left" in scene.said(answer.session)


def test_several_calls_in_one_answer_are_carried_out_in_order():
    calls = [call("write", source=NO_COMPILE), call("replace", old="NO_COMPILE = True", new="pass"), call("compile")]
    scene = Scene(scripted([*calls, call("interpret")], DONE))
    assert scene.write().source == NO_COMPILE.replace("NO_COMPILE = True", "pass")
    assert scene.tools.asked == ["check", "check", "compile h100", "interpret"]


def test_compiling_for_all_targets():
    scene = Scene(scripted([call("write", source=GOOD)], [call("compile", targets=["all"])], DONE))
    scene.write()
    assert scene.tools.asked == ["check", "compile h100", "compile mi300x", "interpret"]


def test_a_file_in_the_last_word_is_taken_as_written():
    scene = Scene(scripted([say(f"Here it is:\n```python\n{GOOD}```\nI fused the loads to save traffic.")], DONE))
    answer = scene.write()
    assert answer.source == GOOD and answer.note == "I fused the loads to save traffic."


def test_a_file_written_within_a_fence_is_read():
    scene = Scene(scripted([call("write", source=f"```python\n{GOOD}```")], DONE))
    answer = scene.write()
    assert answer.source == GOOD and "read as one block" in scene.said(answer.session)


def test_knowledge_is_offered_where_there_is_some():
    shelf = Shelf()
    turns = [[call("look_up", query="fusion")], [call("look_up", path="guidance/fusion.md")],
             [call("look_up", path="x.md")], [call("look_up")], [call("write", source=GOOD)], DONE]  # fmt: skip
    scene = Scene(scripted(*turns), library=shelf)
    answer = scene.write()
    said = scene.said(answer.session)
    assert shelf.asked == [("fusion", "h100")]
    assert "guidance/fusion.md: When to fuse" in said and "all of it" in said
    assert "unknown article 'x.md'" in said and "give either" in said
    assert "look_up" in scene.kept[answer.session]["tools"]
    without = Scene(scripted([call("look_up", query="x")], [call("write", source=GOOD)], DONE))
    answer = without.write()
    assert "Unknown tool name" in without.said(answer.session)


def test_the_knowledge_base_that_is_shipped_can_be_looked_up():
    from kernelevolve.knowledge.library import open_library

    library = open_library()
    path = library.search("coalesced access to global memory", platform="h100")[0].path
    turns = [[call("look_up", query="coalesced access to global memory")], [call("look_up", path=path)]]
    scene = Scene(scripted(*turns, [call("look_up", query='"odd AND (query')], [call("write", source=GOOD)], DONE),
                  library=library)  # fmt: skip
    answer = scene.write()
    results = [p["content"] for m in scene.kept[answer.session]["messages"] for p in m["parts"]
               if p["part_kind"] == "tool-return"]  # fmt: skip
    assert path in results[0] and "Open one with path=" in results[0] and len(results[0]) < 3000
    assert library.article(path).title in results[1]


def test_without_tools_the_file_need_only_be_one():
    scene = Scene(scripted([call("write", source=NO_CHECK)], DONE, [call("write", source=GOOD)], DONE), tools=None)
    answer = scene.write()
    assert answer.source == GOOD and scene.kept[answer.session]["tools"] == ["read", "write", "replace"]


def test_the_machines_fault_is_raised_and_what_was_spent_is_not_forgotten():
    scene = Scene(scripted([call("write", source=GOOD)], [call("compile")], [call("interpret")], DONE))
    scene.tools.machine = "compile"
    with pytest.raises(MachineError, match="the builder died"):
        scene.write()
    scene.tools.machine = None
    assert scene.write().source == GOOD


def test_a_model_that_fails_after_a_good_file_still_answers():
    fault = ModelFault("scripted: HTTP 500 again and again", Cost(money_usd=0.5), kind="network")
    scene = Scene(scripted([call("write", source=GOOD)], [call("compile")], fault))
    answer = scene.write()
    assert answer.source == GOOD and "Ended early, compiled" in answer.note and "HTTP 500" in answer.note


@pytest.mark.parametrize("mode", ["tools", "single"])
@pytest.mark.parametrize("kind", ["key", "rate", "overflow", "refused", "empty", "cut"])
def test_a_fault_has_its_kind_its_cost_and_its_session(mode, kind):
    scene = Scene(scripted(ModelFault("scripted: no", kind=kind)), mode=mode)
    with pytest.raises(ModelFault, match="scripted: no") as caught:
        scene.write()
    assert caught.value.kind == kind
    assert scene.kept[caught.value.session]["messages"][0]["parts"][0]["content"] == "the prompt"


@pytest.mark.parametrize("mode", ["tools", "single"])
def test_money_spent_ends_the_session(mode):
    scene = Scene(scripted(BudgetSpent("the next call may need 1 of 1", "tokens")), mode=mode)
    with pytest.raises(BudgetSpent) as caught:
        scene.write()
    assert caught.value.limit == "tokens" and caught.value.session in scene.kept


def test_money_spent_after_a_good_file_gives_the_file():
    scene = Scene(scripted([call("write", source=GOOD)], [call("interpret")], BudgetSpent("no more")))
    assert scene.write().source == GOOD


def test_nothing_useful_ten_times_in_a_row():
    scene = Scene(scripted([say("Let me think about it.")]))
    with pytest.raises(ModelFault, match="nothing useful 10 times in a row") as caught:
        scene.write()
    assert caught.value.kind == "useless" and caught.value.cost.calls == 10
    scene = Scene(scripted([]))
    with pytest.raises(ModelFault, match="nothing useful 10 times in a row"):
        scene.write()


def test_answers_that_pydantic_ai_refuses_are_faults():
    scene = Scene(scripted([], finish="content_filter"))
    with pytest.raises(ModelFault) as caught:
        scene.write()
    assert caught.value.kind == "refused"
    scene = Scene(scripted([ToolCallPart("write", '{"source": "imp')], finish="length"))
    with pytest.raises(WriterError):
        scene.write()


# -- single completions --


def test_a_single_completion():
    scene = Scene(scripted([say(f"```python\n{GOOD}```\nOne kernel instead of two saves a launch.")]), mode="single")
    answer = scene.write()
    assert answer.source == GOOD and answer.note == "One kernel instead of two saves a launch."
    assert answer.cost.calls == 1 and scene.tools.asked == ["check"]


def test_an_answer_that_cannot_be_used_is_told_why():
    seen = []
    turns = [[say("I would fuse the loads.")], [say("```python\nx = 1\n```")], [say(f"```python\n{PARENT}```")],
             [say(f"```python\n{GOOD}```")]]  # fmt: skip
    model = FunctionModel(lambda messages, info: ModelResponse(turns[len(seen)]) if not seen.append(0) else None)
    turns.insert(0, [])
    scene = Scene(model, mode="single", parents=("n0",))
    answer = scene.write()
    said = scene.said(answer.session)
    assert answer.source == GOOD
    assert "no code" in said and "no class ModelNew" in said and "that of n0" in said


def test_auto_takes_completions_where_a_model_has_no_tools():
    def answer(messages, info):
        assert not info.function_tools
        return ModelResponse([say(f"```python\n{GOOD}```")])

    model = FunctionModel(answer, profile={"supports_tools": False})
    assert Scene(model).write().source == GOOD


def test_auto_goes_on_in_completions_where_the_service_takes_no_tools():
    def answer(messages, info):
        if info.function_tools:
            raise ModelFault("ollama: HTTP 400: this model does not support tools", kind="model")
        return ModelResponse([say(f"```python\n{GOOD}```")])

    scene = Scene(FunctionModel(answer))
    assert scene.write().source == GOOD
    assert scene.write().source == GOOD
    with pytest.raises(ModelFault, match="does not support tools"):
        Scene(FunctionModel(answer), mode="tools").write()


def test_a_diff_of_the_parent_is_applied():
    diff = "```diff\n--- a/n0.py\n+++ b/n0.py\n@@ -4,1 +4,1 @@\n-SIZE = 0\n+SIZE = 4\n```\nLarger blocks."
    scene = Scene(scripted([say(diff)]), mode="single", parents=("n0",))
    assert scene.write().source == PARENT.replace("SIZE = 0", "SIZE = 4")


@pytest.mark.parametrize("said", ["", "no", "```python\nimport torch\n```"])
def test_ten_useless_completions(said):
    scene = Scene(scripted([say(said)] if said else []), mode="single")
    with pytest.raises(ModelFault, match="nothing useful 10 times in a row") as caught:
        scene.write()
    assert caught.value.kind == "useless" and caught.value.cost.calls == 10


def test_a_refusal_ends_single_completions_at_once():
    scene = Scene(scripted([say("I must decline.")], finish="content_filter"), mode="single")
    with pytest.raises(ModelFault, match="refused") as caught:
        scene.write()
    assert caught.value.kind == "refused" and caught.value.cost.calls == 1


# -- the writer --


def test_secrets_do_not_get_into_a_session(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdefghijklmnop")
    key = "sk-planted-0123456789abcdefghijklmnop"
    scene = Scene(scripted([call("write", source=GOOD)], [say(f"The key {key} was in the prompt of this run.")]))
    scene.brief = Brief("b1", 1, (), f"prompt with {key}")
    answer = scene.write()
    assert key not in json.dumps(scene.kept) and key not in answer.note
    assert "[key]" in json.dumps(scene.kept) and "[key]" in answer.note


def test_many_write_at_once():
    scene = Scene(scripted([call("write", source=GOOD)], [call("interpret")], DONE))

    async def many():
        briefs = [Brief(f"b{i}", i, (), f"prompt {i}") for i in range(64)]
        return await asyncio.gather(*(scene.writer.write(brief, scene.graph) for brief in briefs))

    answers = asyncio.run(many())
    assert {answer.source for answer in answers} == {GOOD}
    assert [answer.cost.calls for answer in answers] == [3] * 64
    assert len({answer.session for answer in answers}) == 64


@pytest.mark.parametrize("mode", ["tools", "single"])
def test_cancelling_is_heeded_within_a_second(mode):
    async def never(messages, info):
        await asyncio.sleep(60)

    scene = Scene(FunctionModel(never), mode=mode)

    async def cancelled():
        task = asyncio.create_task(scene.writer.write(scene.brief, scene.graph))
        await asyncio.sleep(0.2)
        start = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - start

    assert asyncio.run(cancelled()) < 1.0


def test_the_temperature_goes_with_every_call():
    seen = []

    def answer(messages, info):
        seen.append(info.model_settings)
        return ModelResponse([say(f"```python\n{GOOD}```")])

    Scene(FunctionModel(answer), mode="single", temperature=0.0).write()
    assert seen[0]["temperature"] == 0.0


@pytest.mark.parametrize(
    ("args", "kind", "told"),
    [
        ({"mode": "both"}, UnknownName, "auto, single, tools"),
        ({"steps": 0}, UsageError, "steps=0"),
        ({"useless": True}, UsageError, "useless=True"),
    ],
)
def test_odd_arguments_are_refused(args, kind, told):
    with pytest.raises(kind, match=told):
        Scene(scripted(DONE), **args)


def test_a_writer_needs_a_model():
    with pytest.raises(UsageError, match="--model PROVIDER:NAME"):
        ModelWriter(Scene(scripted(DONE)).writer._bench)


def test_a_component_from_the_command_line():
    made = model_named("openai:gpt-5,max_tokens=4000,steps=8,mode=single,timeout=9,temperature=0.5")
    assert made.name == "model"
    assert made.args == {
        "model": "openai:gpt-5,timeout=9", "max_tokens": 4000, "steps": 8, "mode": "single", "temperature": 0.5,
    }  # fmt: skip
    with pytest.raises(UnknownName, match="provider"):
        model_named("nobody:gpt-5")
    with pytest.raises(UsageError, match="twice"):
        model_named("openai:gpt-5,steps=8,steps=9")
