"""Notes by a person and cancelled briefs, at once or through the inbox of a run that another process owns."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from kernelevolve import codec
from kernelevolve.cli.app import app
from kernelevolve.errors import UsageError
from kernelevolve.events import Asked, Dropped, Noted
from kernelevolve.propose.steering import LONGEST_NOTE, clear, steer
from kernelevolve.runs import create_run, open_run, read_run, tail
from kernelevolve.settings import settings_for
from kernelevolve.steer import add_note, cancel_brief, clear_notes, notes_of_run
from kernelevolve.store import inbox
from kernelevolve.store.inbox import Message
from kernelevolve.testing import FAKE_PLATFORM, FakeEvaluator, fake_equip, fake_problem

SETTINGS = replace(settings_for("quick"), candidates=6, plateau=1000)


def begin(folder, equip=None, settings=SETTINGS):
    return create_run(folder, fake_problem(), FAKE_PLATFORM, equip or fake_equip(), settings=settings)


def asked(folder):
    return [entry.event.brief for entry in tail(folder) if isinstance(entry.event, Asked)]


def command(*words):
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    return done, json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


def elsewhere(folder, code):
    """What a second process does to the run in `folder`."""
    text = f"from pathlib import Path\nfrom kernelevolve.steer import *\nfolder = Path({str(folder)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_note_is_carried_by_every_brief_until_it_is_cleared(tmp_path):
    begin(tmp_path).close()
    assert add_note(tmp_path, "Split the  reduction.\n").at_once
    assert add_note(tmp_path, "Mind the tail.").at_once
    with open_run(tmp_path, fake_equip()) as run:
        brief = run.ask()
        assert "- Split the reduction.\n- Mind the tail." in brief.prompt
        section = next(s for s in brief.sections if s.name == "notes")
        assert section.kept and section.tokens > 0
        run.drop(brief.id, "enough")
    assert clear_notes(tmp_path).at_once
    assert notes_of_run(tmp_path).in_force == ()
    with open_run(tmp_path, fake_equip()) as run:
        assert "reduction" not in run.ask().prompt


def test_a_second_process_steers_a_live_run(tmp_path):
    with begin(tmp_path) as run:
        assert "reduction" not in run.ask().prompt
        acts = ("print(add_note(folder, 'Split the reduction.'))", "print(cancel_brief(folder, 'b0'))")
        said = elsewhere(tmp_path, "\n".join(acts))
        assert said.count("at_once=False") == 2 and "is owned by process" in said
        assert (notes_of_run(tmp_path).waiting, notes_of_run(tmp_path).in_force) == (2, ())
        brief = run.ask()
        assert "Split the reduction." in brief.prompt
        assert list(run.graph.pending) == [brief.id]
        assert not inbox.waiting(tmp_path)
    dropped = [e.event for e in tail(tmp_path) if isinstance(e.event, Dropped)]
    assert [(one.brief, one.reason) for one in dropped] == [("b0", "cancelled by the user")]


def test_a_driven_run_takes_its_inbox_in_while_it_waits(tmp_path):
    slow = fake_equip(FakeEvaluator(seconds=0.4))
    with begin(tmp_path, slow, replace(SETTINGS, candidates=5)) as run:

        async def both():
            driving = asyncio.create_task(run.drive())
            await asyncio.sleep(0.1)
            await asyncio.to_thread(elsewhere, tmp_path, "add_note(folder, 'Mind the tail.')")
            return await driving

        asyncio.run(both())
    told = ["Mind the tail." in brief.prompt for brief in asked(tmp_path)]
    assert not told[0] and told[-1] and told == sorted(told)


def test_what_cannot_be_used_is_set_aside_and_named(tmp_path):
    with begin(tmp_path) as run:
        inbox.leave(tmp_path, Message(steer("A good one.")))
        folder = tmp_path / inbox.FOLDER
        bad = {
            "1.json": "{not json",
            "2.json": codec.dumps(Message()),
            "3.json": codec.dumps(Message(cancel="b77")),
            "4.json": codec.dumps(Message(Noted("settings", "take over", {"candidates": 9999}))),
            "5.json": " " * (inbox.LARGEST + 1),
            "6.json": codec.dumps(Message(Noted("steer", "word " * LONGEST_NOTE))),
        }
        for name, text in bad.items():
            (folder / name).write_text(text)
        (folder / "7.part").write_text("half of a mess")
        (folder / "8.json").mkdir()
        assert "A good one." in run.ask().prompt
        assert run.settings.candidates == SETTINGS.candidates
    aside = dict(inbox.refused(tmp_path))
    assert set(aside) == {*bad, "8.json"} and all(aside.values())
    assert {name: (folder / inbox.REFUSED / name).read_text() for name in bad} == bad, "nothing is lost"
    assert "b77" in aside["3.json"] and "settings" in aside["4.json"]
    named = [e.event.data["file"] for e in tail(tmp_path) if isinstance(e.event, Noted) and e.event.topic == "inbox"]
    assert sorted(named) == sorted(aside)
    assert not inbox.waiting(tmp_path)


def test_a_message_that_is_taken_in_twice_is_told_once(tmp_path, monkeypatch):
    begin(tmp_path).close()
    kept = inbox.leave(tmp_path, Message(steer("Once.")))
    text = kept.read_text()
    with open_run(tmp_path, fake_equip()) as run:
        run.collect()
        kept.write_text(text)  # the owner died between the log and the removal of the file
        assert run.ask().prompt.count("- Once.") == 1


def test_notes_that_are_none(tmp_path):
    begin(tmp_path).close()
    for text in ("", "  \n"):
        with pytest.raises(UsageError, match="needs a text"):
            add_note(tmp_path, text)
    with pytest.raises(UsageError, match="at most"):
        add_note(tmp_path, "x" * (LONGEST_NOTE + 1))
    with pytest.raises(UsageError, match="'b3' waits for no answer; pending: none"):
        cancel_brief(tmp_path, "b3")
    assert clear().data == {"clear": True}
    assert not (tmp_path / inbox.FOLDER).exists()


def test_the_commands_note_and_cancel(tmp_path):
    with begin(tmp_path) as run:
        run.ask()
    done, data = command("note", tmp_path, "Mind the tail.")
    assert done.exit_code == 0 and data["in_force"] == ["Mind the tail."] and data["at_once"]
    assert "- Mind the tail." in CliRunner().invoke(app, ["note", str(tmp_path)]).stdout
    done, data = command("cancel", tmp_path, "b0", "--reason", "too slow")
    assert done.exit_code == 0 and data["at_once"] and not read_run(tmp_path).pending
    assert "too slow" in [e.event.reason for e in tail(tmp_path) if isinstance(e.event, Dropped)]
    assert command("cancel", tmp_path, "b0")[0].exception.exit_code == 2
    done, data = command("note", tmp_path, "--clear")
    assert data["in_force"] == []


def test_the_page_of_a_brief(tmp_path):
    with begin(tmp_path) as run:
        asyncio.run(run.step())
        pending = run.ask()
    for name in ("n0", "b0", pending.id):
        done, data = command("show", tmp_path, name, "--brief")
        assert done.exit_code == 0, done.output
        assert data["brief"]["prompt"].startswith("# Write a Triton kernel")
        assert data["tokens"] == sum(s["tokens"] for s in data["brief"]["sections"] if s["kept"])
        assert data["pending"] is (name == pending.id)
    page = CliRunner().invoke(app, ["show", str(tmp_path), pending.id, "--brief"]).stdout
    assert page.startswith(pending.prompt.rstrip()) and "parent n0" in page and "left out" in page
    assert command("show", tmp_path, "b9", "--brief")[0].exception.exit_code == 2
    assert command("show", tmp_path, "--brief")[0].exception.exit_code == 2


def test_the_command_that_composes_a_run_again(tmp_path, monkeypatch):
    with begin(tmp_path) as run:
        asyncio.run(run.drive())
    done, data = command("replay", tmp_path)
    assert done.exit_code == 0 and (data["status"], data["same"]) == ("reproduced", data["briefs"])
    monkeypatch.setattr("kernelevolve.propose.compose.hardware_text", lambda figures: "Another machine.")
    done, data = command("replay", tmp_path)
    assert done.exception.exit_code == 8 and data["status"] == "different"
    assert data["first"]["section"] == "The accelerator"
