"""The seal with real processes: what code like a candidate's tries against the machine, with all layers and with fewer.

No torch here. Each attack is the text of a function that returns what it got hold of; nothing of it may be there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelevolve import nursery
from kernelevolve.cli import main, public
from kernelevolve.errors import UsageError
from kernelevolve.seal import cgroup, kernel, layers, seccomp
from kernelevolve.seal.layers import NO_LAYERS, Layers, absent
from kernelevolve.seal.limits import Limits
from kernelevolve.testing import fake_folder
from kernelevolve.wire import Channel, WireError

OFFERED = layers.probe()
NO_NAMESPACES = Layers(absent("namespaces"), OFFERED.landlock, OFFERED.seccomp)
NO_LANDLOCK = Layers(OFFERED.namespaces, absent("landlock"), OFFERED.seccomp)
KINDS = {"all": OFFERED, "no namespaces": NO_NAMESPACES, "no Landlock": NO_LANDLOCK}

needs_namespaces = pytest.mark.skipif(not OFFERED.namespaces.holds, reason=OFFERED.namespaces.found)
needs_landlock = pytest.mark.skipif(not OFFERED.landlock.holds, reason=OFFERED.landlock.found)
needs_seccomp = pytest.mark.skipif(not OFFERED.seccomp.holds, reason=OFFERED.seccomp.found)


def serve(channel: Channel) -> None:
    """A conversation that runs what it is told, as a candidate could."""
    while True:
        message = channel.receive()
        scope: dict[str, Any] = {}
        try:
            exec(message.body["code"], scope)
            channel.send("done", {"got": scope["attack"](**message.body["given"])})
        except (OSError, RuntimeError, MemoryError, ImportError) as error:
            channel.send("failed", {"error": type(error).__name__, "errno": getattr(error, "errno", None)})


class Child:
    """One sealed child and the nursery it came from."""

    def __init__(self, control: Channel, body: dict[str, object]) -> None:
        self.control = control
        message = control.ask("spawn", body, timeout=20)
        assert message.kind == "spawned", message.body
        self.channel = Channel.from_fd(os.dup(message.attachments["socket"].fd))
        message.close()
        self.pid, self.isolation = int(message.body["pid"]), str(message.body["isolation"])

    def run(self, code: str, *, seconds: float = 20, **given: object) -> dict[str, Any]:
        answer = self.channel.ask("run", {"code": textwrap.dedent(code), "given": given}, timeout=seconds)
        return dict(answer.body)

    def end(self, grace: float = 0.0) -> dict[str, Any]:
        self.channel.close()
        return dict(self.control.ask("end", {"pid": self.pid, "grace": grace}, timeout=20).body)


Spawn = Callable[..., Child]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Makes children; a nursery for each set of layers."""
    controls: dict[str, Channel] = {}
    pids: list[int] = []

    def made(offered: Layers = OFFERED, **body: object) -> Child:
        if repr(offered) not in controls:
            ours, theirs = Channel.pair()
            pid = os.fork()
            if pid == 0:
                for control in (ours, *controls.values()):
                    control.sock.close()
                nursery.serve(theirs, serve, offered=offered)
                os._exit(0)
            theirs.sock.close()
            pids.append(pid)
            controls[repr(offered)] = ours
        return Child(controls[repr(offered)], body)

    yield made
    for control in controls.values():
        control.close()
    for pid in pids:
        os.waitpid(pid, 0)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.replace(" ", "-"))
def child(request: pytest.FixtureRequest, spawn: Spawn) -> Iterator[Child]:
    """A child for each set of layers; that which is missing here is not tried."""
    made = spawn(KINDS[request.param])
    if made.isolation != OFFERED.isolation and request.param == "all":
        pytest.fail(f"{made.isolation} held, {OFFERED.isolation} was offered")
    yield made
    made.end()


READ = """
def attack(path):
    import os
    return os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(64).decode(errors="replace")
"""


def test_what_held_is_said(spawn: Spawn) -> None:
    for offered in (OFFERED, NO_NAMESPACES, NO_LANDLOCK, Layers(*[absent("x")] * 3)):
        made = spawn(offered)
        assert made.isolation == offered.isolation
        made.end()
    assert spawn(OFFERED, seal=False).isolation == "none"


@needs_landlock
def test_the_home_the_checkout_and_the_runs_cannot_be_read(child: Child, tmp_path: Path) -> None:
    canaries = [Path.home() / f".netrc-canary-{os.getpid()}", tmp_path / "run" / "log.db", tmp_path / "problem.toml"]
    checkout = Path(__file__).parents[2]
    for canary in canaries:
        canary.parent.mkdir(exist_ok=True)
        canary.write_text("secret")
    try:
        for path in (*canaries, checkout / ".git", checkout / "pyproject.toml", "/etc/shadow"):
            answer = child.run(READ, path=str(path))
            assert answer.get("error") in ("PermissionError", "FileNotFoundError"), (path, answer)
        for folder in (tmp_path, Path.home(), checkout):
            # What Python needs may lie below, so a bare folder may be there: with nothing else in it.
            seen = set(child.run(READ, path=str(folder)).get("got", ()))
            assert not seen & {"run", "problem.toml", canaries[0].name, ".bashrc", ".git", "README.md"}
        assert "python" in child.run("def attack():\n import sys; return sys.executable")["got"]
        assert child.run(READ, path=os.path.realpath("/bin/sh"))["got"].startswith("\x7fELF")
        assert child.run("def attack():\n import subprocess; return subprocess.run(['true']).returncode")["got"] == 0
    finally:
        canaries[0].unlink()


@needs_landlock
def test_nothing_is_written_outside(child: Child, tmp_path: Path) -> None:
    write = "def attack(path):\n open(path, 'w').write('x')"
    package = Path(nursery.__file__).parent / "shadow.py"
    for path in (
        tmp_path / "file",
        package,
        Path.home() / "file",
        "/usr/file",
        "/etc/file",
        "/proc/sys/kernel/hostname",
    ):
        assert "error" in child.run(write, path=str(path)), path
        assert not os.path.isfile(path) or path == "/proc/sys/kernel/hostname"
    assert not (Path.home() / "file").exists()
    own = "def attack():\n import tempfile; f = tempfile.NamedTemporaryFile(); f.write(b'x'); return f.name"
    assert not os.path.exists(child.run(own)["got"])
    device = "def attack():\n import os; os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))"
    assert "error" in child.run(device)
    assert "error" in child.run(READ, path="/dev/vda") and "error" in child.run(READ, path="/dev/mem")


@needs_seccomp
def test_other_processes_are_out_of_reach(child: Child) -> None:
    judge = os.getpid()
    trace = """
    def attack(pid, request):
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(request, pid, 0, 0):
            raise OSError(ctypes.get_errno(), "ptrace")
        return "attached"
    """
    remote = """
    def attack(pid, number):
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(number, pid, 0, 0, 0, 0, 0) < 0:
            raise OSError(ctypes.get_errno(), "call")
        return "reached"
    """
    index = kernel.MACHINES.index(os.uname().machine)
    for pid in (judge, os.getppid(), 1):
        assert child.run(trace, pid=pid, request=16).get("errno") == 1
        assert "error" in child.run(READ, path=f"/proc/{pid}/mem")
        assert "error" in child.run("def attack(pid):\n open(f'/proc/{pid}/mem', 'r+b').write(b'x')", pid=pid)
        assert "error" in child.run(READ, path=f"/proc/{pid}/environ")
        for name in ("process_vm_readv", "process_vm_writev", "pidfd_getfd", "bpf", "userfaultfd", "io_uring_setup"):
            assert child.run(remote, pid=pid, number=seccomp.DENIED[name][index]).get("errno") == 1
    if "namespaces" in child.isolation or OFFERED.landlock.found.endswith("abstract sockets"):
        assert "error" in child.run("def attack(pid):\n import os; os.kill(pid, 0)", pid=judge)


@needs_seccomp
def test_the_walls_stay_up(child: Child) -> None:
    """Neither mounts nor namespaces nor capabilities come back, also not by executing a program as root."""
    for body in ("l.unshare(0x10000000)", "l.umount2(b'/tmp', 2)", "l.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
                 "l.chroot(b'/')", "l.prctl(22, 1, 0, 0, 0)", "l.syscall(56, 0x10000011, 0, 0, 0, 0)"):  # fmt: skip
        code = f"""
        def attack():
            import ctypes
            l = ctypes.CDLL(None, use_errno=True)
            if {body} < 0:
                raise OSError(ctypes.get_errno(), "refused")
            return "done"
        """
        assert child.run(code).get("errno") == 1, body
    look = "grep -h -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs|Seccomp)' /proc/self/status"
    status = child.run(f'def attack():\n import subprocess; return subprocess.getoutput("{look}")')["got"]
    held = dict(line.split(":\t") for line in status.splitlines())
    assert held["CapEff"] == held["CapPrm"] == "0" * 16
    assert held["NoNewPrivs"] == "1" and held["Seccomp"] == "2"


@needs_seccomp
def test_a_handler_for_sigsys_sees_and_fakes_nothing(child: Child) -> None:
    code = """
    def attack():
        import ctypes, os, signal
        seen = []
        signal.signal(signal.SIGSYS, lambda *a: seen.append(1))
        l = ctypes.CDLL(None, use_errno=True)
        answers = [l.ptrace(0, 0, 0, 0), l.unshare(0x20000), l.setns(0, 0)]
        return {"seen": seen, "answers": answers, "errno": ctypes.get_errno()}
    """
    assert child.run(code)["got"] == {"seen": [], "answers": [-1, -1, -1], "errno": 1}


@needs_seccomp
def test_there_is_no_network(child: Child) -> None:
    with (
        socket.socket() as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.bind(("127.0.0.1", 0))
        name = f"\0kernelevolve-{os.getpid()}"
        abstract.bind(name)
        abstract.listen()
        for family, kind, address in (
            ("AF_INET", "SOCK_STREAM", tcp.getsockname()),
            ("AF_INET", "SOCK_DGRAM", udp.getsockname()),
            ("AF_INET6", "SOCK_STREAM", ("::1", 1)),
            ("AF_PACKET", "SOCK_RAW", ("lo", 0)),
        ):
            code = """
            def attack(family, kind, address):
                import socket
                s = socket.socket(getattr(socket, family), getattr(socket, kind))
                s.connect(tuple(address)); s.send(b"x"); return "sent"
            """
            assert "error" in child.run(code, family=family, kind=kind, address=address), family
        if "namespaces" in child.isolation or OFFERED.landlock.found.endswith("abstract sockets"):
            code = "def attack(name):\n import socket; socket.socket(socket.AF_UNIX).connect(name); return 'connected'"
            assert "error" in child.run(code, name=name)


@needs_seccomp
def test_a_socket_in_the_file_system_is_out_of_reach(child: Child, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "docker.sock"))
        engine.listen()
        code = "def attack(name):\n import socket; socket.socket(socket.AF_UNIX).connect(name); return 'connected'"
        assert "error" in child.run(code, name=str(tmp_path / "docker.sock"))


DAEMON = """
def attack(beat):
    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if beat:
                os.execvp("sleep", ["sleep", beat])
            time.sleep(600)
        os._exit(0)
    os.wait()
    return "left"
"""


def alive(word: str) -> list[int]:
    """Processes with `word` as an argument."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def test_no_process_is_left_after_a_child_was_ended(child: Child) -> None:
    word = f"600.{os.getpid()}{time.monotonic_ns()}"
    assert child.run(DAEMON, beat=word)["got"] == "left"
    deadline = time.monotonic() + 5
    while not alive(word) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert alive(word)
    child.end()
    deadline = time.monotonic() + 2
    while alive(word) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(word)


BOMB = "def attack():\n import os\n while True: os.fork()"
FLOOD = """
def attack():
    import os
    for _ in range(10 << 10): os.write(1, bytes(1 << 20))
    return "printed"
"""
DISK = """
def attack():
    import os, tempfile
    fd, _ = tempfile.mkstemp()
    os.ftruncate(fd, 100 << 30)
    return "written"
"""
FILL = """
def attack():
    import os, tempfile
    while True:
        fd, _ = tempfile.mkstemp()
        os.posix_fallocate(fd, 0, 60 << 20)
"""
MEMORY = "def attack():\n return len(bytearray(100 << 30))"
SHARED = """
def attack():
    import mmap
    held = [mmap.mmap(-1, 200 << 20, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE) for _ in range(3)]
    import time; time.sleep(60)
"""


@pytest.mark.parametrize(
    ("code", "ending"),
    [(BOMB, "processes"), (FLOOD, "printed more than"), (DISK, None), (MEMORY, None), (SHARED, "hold")],
    ids=["fork-bomb", "flood", "disk", "memory", "shared-memory"],
)
def test_greed_ends_the_child_and_nobody_else(spawn: Spawn, code: str, ending: str | None) -> None:
    for offered in (OFFERED, NO_NAMESPACES):
        limits = {"memory_bytes": 512 << 20, "file_bytes": 64 << 20, "processes": 64, "output_bytes": 64 << 20}
        if code in (BOMB, FLOOD):  # a child of this process has what this process has: not to be taken for its greed
            limits["memory_bytes"] = 8 << 30
        greedy = spawn(offered, **limits)
        start = time.monotonic()
        try:
            answer = greedy.run(code, seconds=10)
        except WireError:
            answer = {}
        log = greedy.end(grace=1.0)["log"]
        assert time.monotonic() - start < 10
        if ending is None:
            assert answer.get("error") in ("OSError", "MemoryError")
        elif code is BOMB and answer:
            assert answer["error"] == "BlockingIOError"  # where the kernel counts a user's processes by namespace
        else:
            assert not answer and (ending in log or code is BOMB), log[-300:]
        with_next = spawn(offered, **limits)
        assert with_next.run("def attack():\n return 1 + 1")["got"] == 2
        with_next.end()


def test_what_is_printed_is_kept_from_its_end(spawn: Spawn) -> None:
    made = spawn()
    made.run("def attack():\n for i in range(400_000): print(i)\n print('last words')")
    log = made.end()["log"]
    assert log.endswith("399999\nlast words\n") and len(log) <= 16_384


def test_a_child_that_cannot_be_sealed_is_not_run(spawn: Spawn, tmp_path: Path) -> None:
    ours, theirs = Channel.pair()
    pid = os.fork()
    if pid == 0:
        ours.sock.close()
        nursery.serve(theirs, serve, offered=OFFERED)
        os._exit(0)
    theirs.sock.close()
    answer = ours.ask("spawn", {"scratch": str(tmp_path / "absent")}, timeout=20)
    if OFFERED.namespaces.holds:
        assert answer.kind == "unsealed" and "absent" in answer.body["message"]
    ours.close()
    os.waitpid(pid, 0)


def test_a_control_group_is_made_only_below_ones_own(tmp_path: Path) -> None:
    """Against a folder that stands for the cgroup file system: which files are written, and where none is."""
    own = tmp_path / "a" / "b"
    own.mkdir(parents=True)
    asked = Limits(memory_bytes=1 << 30, processes=10)
    assert cgroup.make(asked, "child", mount=tmp_path, own="/a/b") is None
    (own / "cgroup.subtree_control").write_text("cpu pids")
    assert cgroup.make(asked, "child", mount=tmp_path, own="/a/b") is None
    (own / "cgroup.subtree_control").write_text("cpu memory pids")
    group = cgroup.make(asked, "child", mount=tmp_path, own="/a/b")
    assert group is not None and group.folder == own / "child"
    group.join()
    written = {file.name: file.read_text() for file in group.folder.iterdir()}
    assert written == {
        "pids.max": "80", "memory.max": str(1 << 30), "memory.swap.max": "0", "cgroup.procs": str(os.getpid())
    }  # fmt: skip
    assert cgroup.make(asked, "child", mount=tmp_path, own="/a/b") is None, "it is there already"
    group.end()
    assert (group.folder / "cgroup.kill").read_text() == "1"
    for file in group.folder.iterdir():
        file.unlink()  # the kernel's own files go with their folder, and its last process
    group.end()


@pytest.mark.parametrize("machine", kernel.MACHINES)
def test_the_filter_decides_as_it_is_told_to(machine: str) -> None:
    """The filter's instructions, run here: every denied call of both machines, and some that must pass."""
    code = seccomp.program(machine)
    index = kernel.MACHINES.index(machine)
    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    allow, eperm, enosys, eacces, kill = 0x7FFF0000, 0x50001, 0x50026, 0x5000D, 0x80000000
    for name, numbers in seccomp.DENIED.items():
        if numbers[index] is not None:
            assert decide(code, numbers[index], arch) == eperm, name
    execve, clone, socket_call, clone3 = ((59, 221)[index], (56, 220)[index], (41, 198)[index], 435)
    assert decide(code, execve, arch) == allow
    assert decide(code, clone, arch, 17) == allow and decide(code, clone, arch, 17 | 0x10000000) == eperm
    assert decide(code, clone3, arch) == enosys
    assert [decide(code, socket_call, arch, family) for family in (1, 2, 10, 17)] == [allow, eacces, eacces, eacces]
    assert decide(seccomp.program(machine, local=False), socket_call, arch, 1) == eacces
    assert decide(code, execve, arch ^ 1) == kill
    if machine == "x86_64":
        assert decide(code, 0x40000000 | execve, arch) == eperm


def decide(code: bytes, number: int, arch: int, first: int = 0, second: int = 0) -> int:
    """What a filter returns: the interpreter of classic BPF for the instructions that are used."""
    import struct

    data = struct.pack("=iIQ6Q", number, arch, 0, first, second, 0, 0, 0, 0)
    at = accumulator = 0
    while True:
        op, then, otherwise, operand = struct.unpack_from("=HBBI", code, at * 8)
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif op == 0x06:
            return int(operand)
        else:
            true = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}[op]
            at += then if true else otherwise


def test_signals_end_a_child_by_their_name(spawn: Spawn) -> None:
    for offered in KINDS.values():
        made = spawn(offered)
        with pytest.raises(WireError):
            made.run(f"def attack():\n import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})")
        assert made.end(grace=2)["signal"] == "SIGSEGV"
    assert NO_LAYERS.isolation == "none"


@pytest.mark.parametrize("flags", [(), ("--unsealed",)])
def test_only_the_flag_takes_the_seal_off(
    flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken: list[dict[str, object]] = []

    def workshop(problem: object, device: str, **more: object) -> contextlib.AbstractContextManager[object]:
        taken.append(more)
        raise UsageError("enough seen")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(public, "workshop", workshop)
    fake_folder(tmp_path)
    for command in (["optimize", "relu.py"], ["evaluate", "relu.py", "--problem", "relu.py"]):
        with pytest.raises(SystemExit):
            main([*command, *flags])
    assert taken == [{"seal": False} if flags else {}] * 2


MOUNTED = """
import os, sys
from kernelevolve.seal import kernel, namespaces
from kernelevolve.seal.trees import needed

# As in a container: the driver's libraries are a mount of their own inside of /usr.
namespaces.leave()
if os.fork() == 0:
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/usr/share", "tmpfs", 0)
    open("/usr/share/libcuda.so.1", "w").write("driver")
    trees = needed(["/usr/share"])
    namespaces.leave()
    if os.fork() == 0:
        namespaces.enter(trees, "")
        print(open("/usr/share/libcuda.so.1").read(), flush=True)
        try:
            open("/usr/share/more", "w")
        except OSError:
            print("read-only", flush=True)
        os._exit(0)
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@needs_namespaces
def test_what_is_mounted_inside_of_a_needed_folder_is_there(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MOUNTED], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.split() == ["driver", "read-only"], done.stderr
