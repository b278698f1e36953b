"""Models that diagnose and look up: what they say is in the log, and where they fail the rules stay in force."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pydantic_ai")
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel

from kernelevolve.briefs import replay_briefs
from kernelevolve.candidate import Cost
from kernelevolve.errors import ModelFault, UsageError
from kernelevolve.events import ANALYSIS, LOOKUP, Asked, Noted
from kernelevolve.knowledge.library import open_library
from kernelevolve.propose.asking import Asker, asker_for
from kernelevolve.propose.deep import look_up, wanted
from kernelevolve.propose.diagnose import LIMITS
from kernelevolve.propose.subject import operations_of
from kernelevolve.run import Equipment
from kernelevolve.runs import create_run, open_run, read_run, tail
from kernelevolve.settings import settings_for
from kernelevolve.testing import FAKE_PLATFORM, FakeEvaluator, FakeTranslator, fake_problem

SETTINGS = replace(settings_for("quick"), candidates=6, plateau=1000)
ARTICLE = """---
title: {title}
summary: When to open {title}.
platforms: [any]
topics: [{topic}]
helps: [{limit}]
languages: [triton]
sources: [https://example.org/x]
reviewed: 2026-11-01
---
# {title}
About {title}.
## How to {title}
Do {title} with care. Neither profile, nor resources, nor instruction mix say more.

```python
x = 1
```
## Why {title}
Because of {title}.
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    folder = tmp_path / "articles"
    (folder / "guidance").mkdir(parents=True)
    for name, limit in (("fusion", "launch"), ("coalescing", "bandwidth"), ("unknowns", "unknown")):
        (folder / "guidance" / f"{name}.md").write_text(ARTICLE.format(title=name, topic=name, limit=limit))
    monkeypatch.setenv("KERNELEVOLVE_KNOWLEDGE", str(folder))
    return open_library()


def model(*answers):
    """A model that calls its output tool with each answer in turn, the last one again and again; text is said as is."""
    left = list(answers)

    def said(messages, info):
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            return ModelResponse(parts=[TextPart(answer)])
        return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, json.dumps(answer))])

    return FunctionModel(said)


def analysis(**more):
    return {"limit": "bandwidth", "evidence": ["k moves 3 GB (measured)"], "directive": "Read each row once.",
            "avoid": ["n0: larger blocks lost"], "later": ["latency: long chains"], **more}  # fmt: skip


def equip(library=None):
    def made(created, builds):
        return Equipment(FakeEvaluator(), translator=FakeTranslator(), library=library)

    return made


def run_with(folder: Path, monkeypatch, *, analyst=None, searcher=None, library=None, settings=SETTINGS):
    """A run whose sub-agents are these models; the notes of its log by topic, and its briefs."""
    models = {name: one for name, one in (("a:analyst", analyst), ("a:searcher", searcher)) if one is not None}
    monkeypatch.setattr(
        "kernelevolve.runs.asker_for", lambda name, ledger=None: Asker(name, lambda: models[name], ledger)
    )
    named = {"analysis": "a:analyst" if analyst else "rules", "lookup": "a:searcher" if searcher else "rules"}
    chosen = replace(settings, **named)
    with create_run(folder, fake_problem(), FAKE_PLATFORM, equip(library), settings=chosen) as run:
        asyncio.run(run.drive())
    events = [entry.event for entry in tail(folder)]
    notes = [e for e in events if isinstance(e, Noted)]
    return notes, [e.brief for e in events if isinstance(e, Asked)]


def test_what_a_model_says_is_in_the_log_and_in_the_briefs(tmp_path, monkeypatch):
    notes, briefs = run_with(tmp_path / "run", monkeypatch, analyst=model(analysis()))
    said = [note for note in notes if note.topic == ANALYSIS]
    assert [note.data["candidate"] for note in said] == [f"n{i}" for i in range(6)]
    going_on = [brief for brief in briefs if brief.parents]
    assert going_on and all(brief.move["limit"] == "bandwidth" for brief in going_on)
    for text in ("Limited by **bandwidth**: k moves 3 GB (measured).", "Do this next: Read each row once.",
                 "n0: larger blocks lost", "latency: long chains", "by a:analyst; rules say: unknown"):  # fmt: skip
        assert text in going_on[0].prompt
    graph = read_run(tmp_path / "run")
    assert graph.tokens == sum(note.data["cost"]["tokens_in"] + note.data["cost"]["tokens_out"] for note in said) > 0
    done = replay_briefs(tmp_path / "run")
    assert done.briefs == done.same, "what models said is in the log: none is asked to compose the briefs again"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ModelFault("the provider refused", Cost(), kind="refused"), "the provider refused"),
        ("just prose, no answer of the form", "Exceeded maximum"),
        (analysis(limit="moonlight"), "no known limit"),
        (analysis(directive="  "), "no directive"),
        ({"limit": 3}, "Exceeded maximum"),
    ],
    ids=["fault", "prose", "limit", "empty", "form"],
)
def test_where_a_model_fails_the_rules_stay_and_the_brief_says_so(tmp_path, monkeypatch, answer, why):
    short = replace(SETTINGS, candidates=3)
    notes, briefs = run_with(tmp_path / "run", monkeypatch, analyst=model(answer), settings=short)
    said = [note for note in notes if note.topic == ANALYSIS]
    assert len(said) == 3 and all(why in note.data["why"] for note in said)
    going_on = next(brief for brief in briefs if brief.parents)
    assert "by rules: a:analyst was asked and failed: " in going_on.prompt and going_on.move["limit"] == "unknown"
    done = replay_briefs(tmp_path / "run")
    assert done.briefs == done.same


def test_rules_choose_what_briefs_quote(tmp_path, monkeypatch, library):
    notes, briefs = run_with(tmp_path / "run", monkeypatch, library=library)
    assert [note.topic for note in notes] == ["made from"] and notes[0].data["library"] == library.digest
    going_on = next(brief for brief in briefs if brief.parents)
    assert "From `guidance/unknowns.md`" in going_on.prompt and "Do unknowns with care." in going_on.prompt
    assert any(s.name.startswith("knowledge guidance/unknowns.md") and s.kept for s in going_on.sections)
    done = replay_briefs(tmp_path / "run")
    assert done.briefs == done.same


def test_nobody_looks_anything_up(tmp_path, library):
    settings = replace(SETTINGS, lookup="none")
    with create_run(tmp_path / "none", fake_problem(), FAKE_PLATFORM, equip(library), settings=settings) as run:
        brief = run.ask()
    assert [s.why for s in brief.sections if s.name == "knowledge"] == ["lookup is none"]


def test_a_model_looks_up_in_two_steps(tmp_path, monkeypatch, library):
    opened = {"paths": ["guidance/fusion.md", "no/such.md"]}
    chosen = {"response": [{"path": "guidance/fusion.md", "heading": "Why fusion", "why": "few launches"},
                           {"path": "guidance/fusion.md", "heading": "Made up", "why": "?"}]}  # fmt: skip
    notes, briefs = run_with(
        tmp_path / "run", monkeypatch, searcher=model(*[opened, chosen] * 6), library=library
    )
    said = [note for note in notes if note.topic == LOOKUP]
    assert said[0].data["passages"] == [["guidance/fusion.md", "Why fusion", "few launches"]]
    prompt = next(brief for brief in briefs if brief.parents).prompt
    assert "From `guidance/fusion.md` (few launches):\n\n### Why fusion\n\nBecause of fusion." in prompt
    assert prompt.index("Why fusion") < prompt.index("How to unknowns"), "what rules choose stands behind it"
    done = replay_briefs(tmp_path / "run")
    assert done.briefs == done.same


def test_a_model_that_finds_nothing_leaves_it_to_the_rules(tmp_path, monkeypatch, library):
    notes, briefs = run_with(tmp_path / "run", monkeypatch, searcher=model({"paths": ["nowhere.md"]}), library=library)
    assert all(note.data["why"] == "it names no article of the library" for note in notes if note.topic == LOOKUP)
    assert "From `guidance/unknowns.md`" in next(brief for brief in briefs if brief.parents).prompt


def test_another_library_is_the_reason_that_is_told(tmp_path, monkeypatch, library):
    run_with(tmp_path / "run", monkeypatch, library=library)
    (tmp_path / "articles" / "guidance" / "unknowns.md").write_text(
        ARTICLE.format(title="unknowns", topic="x", limit="unknown").replace("with care", "quickly")
    )
    done = replay_briefs(tmp_path / "run")
    assert done.same < done.briefs and "the library here is another one" in done.first.why
    assert done.first.section and "KERNELEVOLVE_KNOWLEDGE" in done.first.why
    with open_run(tmp_path / "run", equip(open_library())) as run:
        again = [note for note in run.graph.notes if note.topic == "made from"]
    assert len(again) == 2, "a run that goes on with another library says so"


def test_a_question_has_an_end(tmp_path):
    async def never(messages, info):
        await asyncio.sleep(60)

    reply = asyncio.run(Asker("slow", lambda: FunctionModel(never), seconds=0.05).ask("?", dict[str, str]))
    assert reply.said is None and "0.05 s" in reply.why


def test_a_name_that_is_no_model_is_refused_before_the_run(tmp_path):
    with pytest.raises(UsageError):
        asker_for("no such thing")
    for wrong in ({"analysis": "none"}, {"lookup": ""}):
        with pytest.raises(UsageError, match="analysis"):
            replace(SETTINGS, **wrong)
    settings = replace(SETTINGS, analysis="nobody")
    with pytest.raises(UsageError):
        create_run(tmp_path / "r", fake_problem(), FAKE_PLATFORM, equip(), settings=settings)
    assert not (tmp_path / "r").exists()


def test_what_is_looked_for(library):
    source = "import torch\nclass Model:\n    def forward(self, x):\n        return torch.softmax(x.cumsum(1), -1)\n"
    problem = replace(fake_problem(), source=source)
    assert operations_of(problem) == ("softmax", "cumsum")
    want = wanted(problem, "h100", None)
    assert want.drafting and want.topics == ("scan", "cumsum", "softmax", "reductions") and not want.limit
    assert "bandwidth" in LIMITS
    assert look_up(library, replace(want, limit="bandwidth", query=""))[0].why.startswith("helps against bandwidth")
