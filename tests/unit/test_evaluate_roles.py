"""Roles as real processes: children that die, hang or answer nonsense are told apart, and a lost role starts again.

The role here is a nursery without torch, so that this ring stays without it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelevolve.errors import SeatLost, Unsealed
from kernelevolve.evaluate import roles
from kernelevolve.evaluate.correct import Failed, candidate_asks
from kernelevolve.evaluate.roles import ChildDied, ChildSilent, Conversation, Refusal, Roles
from kernelevolve.evaluation import Verdict
from kernelevolve.seal import bubblewrap, layers
from kernelevolve.seal.limits import Limits, descendants

ROLE = """
import argparse, os, signal, sys, time
from kernelevolve import nursery
from kernelevolve.wire import Channel

def handle(channel):
    while True:
        message = channel.receive()
        if message.kind == "exit":
            print("about to leave", flush=True)
            os._exit(message.body["code"])
        elif message.kind == "signal":
            os.kill(os.getpid(), message.body["number"])
        elif message.kind == "raise":
            raise ValueError("no good")
        elif message.kind == "hang":
            time.sleep(600)
        elif message.kind == "nonsense":
            channel.sock.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        elif message.kind == "refuse":
            channel.send("fault", {"verdict": "POLICY", "message": "not allowed", "line": 3})
        elif message.kind == "hog":
            channel.send("hogged", {"n": len(bytearray(message.body["bytes"]))})
        elif message.kind == "cache":
            folder = os.path.join(os.environ["TRITON_HOME"], ".triton")
            os.makedirs(folder, exist_ok=True)
            was = os.listdir(folder)
            open(os.path.join(folder, message.body["name"]), "w").close()
            channel.send("cached", {"was": was})
        else:
            channel.send("echo", {"pid": os.getpid(), "environment": dict(os.environ)})

parser = argparse.ArgumentParser()
parser.add_argument("--fd", type=int)
parser.add_argument("--role")
with Channel.from_fd(parser.parse_args().fd) as control:
    control.send("ready", {"python": "3"})
    nursery.serve(control, handle)
os._exit(0)
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Roles]:
    (tmp_path / "a_role.py").write_text(ROLE)
    (tmp_path / "a_broken_role.py").write_text("raise RuntimeError('torch is not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SOME_API_KEY", "secret")
    monkeypatch.setitem(roles._MODULE, "worker", "a_role")
    monkeypatch.setitem(roles._MODULE, "judge", "a_broken_role")
    found = Roles()
    yield found
    found.close()


def echo(conversation: Conversation) -> dict[str, object]:
    return dict(conversation.ask("echo", seconds=10).body)


def test_children_start_afresh_and_inherit_no_secret(made: Roles) -> None:
    with made["worker"].open() as one, made["worker"].open() as two:
        environment = echo(one)["environment"]
        assert isinstance(environment, dict) and "SOME_API_KEY" not in environment and "PATH" in environment
        assert environment["TRITON_DEFAULT_FP_FUSION"] == "1"
        assert one.pid != two.pid and echo(two)
    assert made["worker"].known_versions() == {"python": "3"}


@pytest.mark.parametrize(
    ("kind", "body", "words", "verdict"),
    [
        ("exit", {"code": 0}, "exit code 0 (about to leave)", Verdict.CRASH),
        ("exit", {"code": 7}, "exit code 7", Verdict.CRASH),
        ("signal", {"number": int(signal.SIGSEGV)}, "by SIGSEGV", Verdict.CRASH),
        ("signal", {"number": int(signal.SIGKILL)}, "by SIGKILL", Verdict.OOM),
        ("raise", {}, "ValueError: no good", Verdict.CRASH),
        ("hog", {"bytes": 4 << 30}, "MemoryError", Verdict.OOM),
        ("nonsense", {}, "worker child ended", Verdict.CRASH),
    ],
)
def test_a_child_that_dies_is_told_how(
    made: Roles, kind: str, body: dict[str, int], words: str, verdict: Verdict
) -> None:
    for asks in (Conversation.ask, candidate_asks):
        with made["worker"].open(Limits(memory_bytes=1 << 30)) as child:
            with pytest.raises((ChildDied, Failed)) as caught:
                asks(child, kind, body, seconds=20)
            assert words in str(caught.value)
            if isinstance(caught.value, Failed):
                assert caught.value.verdict is verdict
    with made["worker"].open() as next_one:
        assert echo(next_one)


def test_only_children_of_one_candidate_share_a_cache(made: Roles, tmp_path: Path) -> None:
    with made["worker"].open() as child:
        if "namespaces" not in child.isolation:
            pytest.skip("namespaces are not to be had here")
    seen = []
    for scratch in ("one", "one", "other", None, None):
        folder = tmp_path / scratch if scratch else None
        if folder is not None:
            folder.mkdir(exist_ok=True)
        with made["worker"].open(scratch=folder) as child:
            seen.append(child.ask("cache", {"name": f"kernel{len(seen)}"}, seconds=10).body["was"])
    assert seen == [[], ["kernel0"], [], [], []]


def test_a_child_that_hangs_is_ended(made: Roles) -> None:
    start = time.monotonic()
    with made["worker"].open() as child, pytest.raises(ChildSilent, match=r"'hang' within 0\.3 s"):
        child.ask("hang", seconds=0.3)
    with made["worker"].open() as child, pytest.raises(Failed, match="the process was killed") as caught:
        candidate_asks(child, "hang", {}, seconds=0.3)
    assert caught.value.verdict is Verdict.TIMEOUT
    assert time.monotonic() - start < 10


def test_a_refusal_leaves_the_conversation_open(made: Roles) -> None:
    with made["worker"].open() as child:
        with pytest.raises(Refusal, match="not allowed") as caught:
            child.ask("refuse", seconds=10)
        assert (caught.value.verdict, caught.value.facts["line"]) == ("POLICY", 3)
        assert echo(child)


def test_hanging_up_frees_who_waits(made: Roles) -> None:
    child = made["worker"].open()
    timer = threading.Timer(0.3, made.hang_up)
    timer.start()
    start = time.monotonic()
    with pytest.raises(ChildDied):
        child.ask("hang", seconds=60)
    assert time.monotonic() - start < 15
    timer.join()
    with made["worker"].open() as next_one:
        assert echo(next_one)


def test_a_lost_role_is_the_machines_fault_and_starts_again(made: Roles) -> None:
    child = made["worker"].open()
    assert echo(child)
    lost = made["worker"]
    os.kill(lost.process_id, signal.SIGKILL)
    with pytest.raises(SeatLost, match="worker process is gone"):
        child.ask("hang", seconds=60)
    with pytest.raises(SeatLost, match="worker process is gone"):
        lost.open()
    assert lost.gone
    with made["worker"].open() as next_one:
        assert echo(next_one)


def test_a_role_that_does_not_start_says_why(made: Roles) -> None:
    with pytest.raises(SeatLost, match=r"judge process did not start: RuntimeError: torch is not installed.*doctor"):
        made["judge"].open()


needs_bubblewrap = pytest.mark.skipif(not bubblewrap.probe().holds, reason=bubblewrap.probe().found)


@needs_bubblewrap
def test_for_publishing_each_child_has_a_fresh_process_in_bubblewrap(made: Roles, tmp_path: Path) -> None:
    made.lane = "publish"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = set(os.listdir("/proc"))
    seen = []
    for name in ("one", "two"):
        with made["worker"].open(Limits(memory_bytes=1 << 30), scratch) as child:
            assert child.isolation == "+".join(["bwrap", *layers.probe().isolation.split("+")[1:]])
            assert made.isolation == child.isolation
            environment = echo(child)["environment"]
            assert isinstance(environment, dict) and "SOME_API_KEY" not in environment
            assert str(environment["HOME"]).startswith("/tmp/") and not Path(str(environment["HOME"])).exists()
            seen.append(child.ask("cache", {"name": name}, seconds=10).body["was"])
            with pytest.raises(ChildDied, match="by SIGSEGV"):
                child.ask("signal", {"number": int(signal.SIGSEGV)}, seconds=10)
    assert seen == [[], ["one"]]
    with made["worker"].open() as child, pytest.raises(ChildSilent):
        child.ask("hang", seconds=0.3)
    made.close()
    left = {p for p in set(os.listdir("/proc")) - before if p.isdigit()}
    assert not [p for p in left if "a_role" in _command(p)]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_where_nothing_can_be_had_nothing_foreign_runs_unless_it_was_asked_for(
    made: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = ROLE.replace("nursery.serve(control, handle)", "nursery.serve(control, handle, offered=NOTHING)").replace(
        "from kernelevolve.wire",
        "from kernelevolve.seal.layers import Layers, absent\nNOTHING = Layers(*[absent('x')] * 3)\n"
        "from kernelevolve.wire",
    )
    (tmp_path / "a_bare_role.py").write_text(bare)
    monkeypatch.setitem(roles._MODULE, "worker", "a_bare_role")
    with pytest.raises(Unsealed, match="--unsealed"):
        made["worker"].open()
    unsealed = Roles(seal=False)
    with unsealed["worker"].open() as child:
        assert child.isolation == "none" == unsealed.isolation
        assert echo(child)
    unsealed.close()


def test_a_worker_that_takes_the_devices_memory_is_ended(made: Roles) -> None:
    looks = iter([0.1, 0.7, 0.9])
    roots: dict[str, int] = {}
    worker = made["worker"]

    def shares() -> list[dict[int, float]]:
        if len(roots) < 2:
            return []
        # Another device is full, but not by its doing; a neighbour holds most of its own, and of that half in a child.
        own = {roots["greedy"]: next(looks, 0.9), roots["modest"]: 0.05}
        return [own, {1: 0.99, roots["modest"]: 0.4, **dict.fromkeys(descendants(roots["modest"]), 0.1)}]

    worker.shares = shares
    with worker.open(Limits(device=True)) as modest:
        roots["modest"] = modest.root
        with worker.open(Limits(device=True)) as child:
            roots["greedy"] = child.root
            with pytest.raises(Failed, match="90% of a device's memory") as caught:
                candidate_asks(child, "hang", {}, seconds=20)
        assert caught.value.verdict is Verdict.OOM
        time.sleep(0.3)
        assert echo(modest)
    asked = threading.active_count()
    for _ in range(3):
        with worker.open(Limits(device=True)) as one, worker.open(Limits(device=True)) as other:
            assert threading.active_count() <= asked + 1, "one thread looks at all of them"
            assert echo(one) and echo(other)
