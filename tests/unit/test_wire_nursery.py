"""The wire and the nursery with real processes: frames, attachments, sealed children, how a child ended."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelevolve import nursery
from kernelevolve.seal.layers import Layers, absent
from kernelevolve.wire import Channel, WireError, WireTimeout, memory_bytes


def test_frames_carry_json_and_memory_files() -> None:
    a, b = Channel.pair()
    big = os.urandom(3 << 20)
    a.send("outputs", {"n": 1, "text": "ü"}, {"y": memory_bytes(big), "empty": memory_bytes(b"")})
    a.send("second", {})
    first, second = b.receive(1), b.receive(1)
    assert first.kind == "outputs" and first.body == {"n": 1, "text": "ü"}
    assert first.attachments["y"].read() == big and first.attachments["empty"].read() == b""
    assert second.kind == "second"
    first.close()


def test_text_that_no_file_can_hold_comes_without_what_is_wrong_with_it() -> None:
    a, b = Channel.pair()
    a.send("fault", {"message": "half \ud800 of a pair", "\udfff": ["whole \U0001f600", 1.5, None]})
    assert b.receive(1).body == {"message": "half ? of a pair", "?": ["whole \U0001f600", 1.5, None]}


def test_silence_and_a_closed_line_are_told_apart() -> None:
    a, b = Channel.pair()
    with pytest.raises(WireTimeout):
        b.receive(0.05)
    a.close()
    with pytest.raises(WireError, match="closed"):
        b.receive(1)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<4sIH", b"KEw1", 2**31, 0),
        struct.pack("<4sIH", b"KEw1", 3, 0) + b"{a}",
        struct.pack("<4sIH", b"KEw1", 50_000, 0) + b"[" * 50_000,
    ],
)
def test_what_is_no_frame_is_refused(raw: bytes) -> None:
    left, right = socket.socketpair()
    left.sendall(raw)
    with pytest.raises(WireError):
        Channel(right).receive(1)


READY: list[float] = []


def _serve(channel: Channel) -> None:
    """One conversation: does what the test asks."""
    while True:
        message = channel.receive()
        if message.kind == "die":
            os.write(2, b"about to die\n")
            os.kill(os.getpid(), int(message.body["signal"]))
        elif message.kind == "exit":
            os._exit(int(message.body["code"]))
        elif message.kind == "hog":
            hog = bytearray(int(message.body["bytes"]))
            channel.send("hogged", {"n": len(hog)})
        else:
            interfaces = sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else []
            Path("/dev/shm/kernelevolve-leak").write_text("x")
            facts = {"ready": READY, "net": interfaces, "pid": os.getpid(), "home": os.environ["HOME"]}
            facts["tmp"] = os.listdir("/tmp")
            channel.send("facts", {**facts, "nice": os.getpriority(os.PRIO_PROCESS, 0)})


@pytest.fixture
def control() -> Iterator[Channel]:
    yield from started()


def started(offered: Layers | None = None, idle: Callable[[], None] | None = None) -> Iterator[Channel]:
    ours, theirs = Channel.pair()
    pid = os.fork()
    if pid == 0:
        ours.sock.close()
        nursery.serve(theirs, _serve, offered=offered, idle=idle)
        os._exit(0)
    theirs.sock.close()
    yield ours
    ours.close()
    os.waitpid(pid, 0)


def _spawn(control: Channel, **body: object) -> tuple[Channel, int, str]:
    message = control.ask("spawn", body, timeout=10)
    channel = Channel.from_fd(os.dup(message.attachments["socket"].fd))
    return channel, int(message.body["pid"]), str(message.body["isolation"])


def test_a_sealed_child_sees_nothing_of_ours_and_leaves_nothing(control: Channel) -> None:
    channel, pid, isolation = _spawn(control)
    facts = channel.ask("facts", {}, timeout=10).body
    if isolation.startswith("namespaces"):
        assert facts["pid"] == 2 and facts["home"] == "/tmp"
        assert not Path("/dev/shm/kernelevolve-leak").exists()
    else:
        assert "namespaces" not in isolation
        Path("/dev/shm/kernelevolve-leak").unlink(missing_ok=True)
    channel.close()
    assert control.ask("end", {"pid": pid}, timeout=10).body["signal"] is None


def test_what_children_need_is_done_once_while_nothing_is_asked_for() -> None:
    for control in started(idle=lambda: READY.append(time.monotonic())):
        found = []
        for pause in (0.0, 3 * nursery.IDLE_SECONDS, 3 * nursery.IDLE_SECONDS):
            time.sleep(pause)
            channel, _, _ = _spawn(control)
            found.append(channel.ask("facts", {}, timeout=10).body["ready"])
            channel.close()
        first, *later = found
        assert first == [], "who asks at once does not wait for it"
        assert len(later[0]) == 1 and later[1] == later[0]


def test_where_nothing_can_be_had_children_run_under_limits_alone_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nursery.tempfile, "tempdir", str(tmp_path))
    for control in started(Layers(absent("namespaces"), absent("landlock"), absent("seccomp"))):
        channel, pid, isolation = _spawn(control)
        facts = channel.ask("facts", {}, timeout=10).body
        assert isolation == "rlimits"
        assert Path(str(facts["home"])).parent == tmp_path and Path(str(facts["home"])).is_dir()
        channel.close()
        control.ask("end", {"pid": pid}, timeout=10)
        assert not list(tmp_path.iterdir())
    Path("/dev/shm/kernelevolve-leak").unlink()


@pytest.mark.parametrize(("question", "body", "status", "signal"), [
    ("die", {"signal": 11}, None, "SIGSEGV"),
    ("exit", {"code": 3}, 3, None),
])  # fmt: skip
def test_how_a_child_ended_is_reported(
    control: Channel, question: str, body: dict[str, int], status: int | None, signal: str | None
) -> None:
    channel, pid, _ = _spawn(control)
    with pytest.raises(WireError):
        channel.ask(question, body, timeout=10)
    threading.Event().wait(0.2)
    ended = control.ask("end", {"pid": pid}, timeout=10).body
    assert (ended["status"], ended["signal"]) == (status, signal)
    assert ("about to die" in ended["log"]) == (question == "die")


@pytest.mark.parametrize("nice", [0, 5])
def test_a_child_stands_in_line_for_processors_where_it_is_put(control: Channel, nice: int) -> None:
    channel, _, _ = _spawn(control, nice=nice)
    assert channel.ask("facts", {}, timeout=10).body["nice"] == nice + os.getpriority(os.PRIO_PROCESS, 0)


def test_memory_is_limited(control: Channel) -> None:
    channel, pid, _ = _spawn(control, memory_bytes=512 << 20)
    with pytest.raises(WireError):
        channel.ask("hog", {"bytes": 4 << 30}, timeout=10)
    threading.Event().wait(0.2)
    # The limit on its addresses or the look at its memory, whichever comes first.
    assert "memory" in control.ask("end", {"pid": pid}, timeout=10).body["log"].lower()
