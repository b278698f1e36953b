"""A warm parent that forks one sealed child per conversation.

In: a control channel to the host and a function that serves one conversation. Out: for each `spawn` a forked child with
a socket of its own, handed to the host. Left to others: what is said (`judge`, `worker`), deadlines (the host's clock).

The parent has imported torch but never ran a tensor operation: a forked child of a parent that had started torch's
thread pool dead-locks. The child unshares its namespaces before it imports anything foreign. What held is reported with
every child, so an evaluation can print it; nothing here claims to stop a determined attacker on its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kernelevolve.wire import Attachment, Channel, WireError, memory_file

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = 442, -100, 0x8000, 1
_SEALED = "namespaces"
_SCRATCH = "/tmp/.triton"
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_TMPFS = ("/tmp", "/dev/shm", "/var/tmp")
_LOG_TAIL = 16_384
_KILL_PATIENCE = 5.0


@dataclass(frozen=True)
class Limits:
    """What a child may use: bytes of private memory, of one file, and open processes; 0 = no limit set here."""

    memory_bytes: int = 0
    file_bytes: int = 0
    processes: int = 0


@dataclass(frozen=True)
class _Kept:
    """What a child leaves behind: its log, and the folder of one that is not sealed."""

    log: Attachment
    folder: str


def serve(control: Channel, handle: Callable[[Channel], None], *, pid_offset: int = 0) -> None:
    """Answers `spawn` and `end` until the host closes the control channel, then ends every child.

    Args:
        pid_offset: process numbers to leave out in each child's namespace. Two processes that share device memory must
            not have the same number: CUDA takes the importer of a handle for its exporter when their numbers are equal.

    `spawn {memory_bytes, file_bytes, processes, seal, scratch}` answers `spawned {pid, isolation}` with the attachment
    `socket`.
    `end {pid, grace}` gives the child `grace` seconds to end by itself, kills what is left of it and answers `ended
    {status, signal, log}`: how it ended, and the end of what it printed.
    """
    children: dict[int, _Kept] = {}
    try:
        while True:
            try:
                message = control.receive()
            except WireError:
                return
            if message.kind == "spawn":
                _spawn(control, handle, message.body, children, pid_offset)
            elif message.kind == "end":
                grace = float(message.body.get("grace", 0.0))
                control.send("ended", _end(int(message.body["pid"]), children, grace))
            else:
                control.send("unknown", {"kind": message.kind})
    finally:
        for pid in list(children):
            _end(pid, children, 0.0)


def _spawn(
    control: Channel,
    handle: Callable[[Channel], None],
    body: Mapping[str, object],
    children: dict[int, _Kept],
    pid_offset: int,
) -> None:
    ours, theirs = Channel.pair()
    log = memory_file(0, "child-log")
    ready_read, ready_write = os.pipe()
    limits = Limits(*(int(str(body.get(k, 0))) for k in ("memory_bytes", "file_bytes", "processes")))
    sealed = bool(body.get("seal", True)) and _sealable()
    folder = "" if sealed else tempfile.mkdtemp(prefix="kernelevolve-child-")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(ready_read)
        control.sock.close()
        ours.sock.close()
        _child(theirs, handle, log.fd, ready_write, limits, pid_offset, str(body.get("scratch", "")), folder)
    os.close(ready_write)
    theirs.sock.close()
    with os.fdopen(ready_read, "rb") as ready:
        isolation = ready.read().decode() or "none"
    children[pid] = _Kept(log, folder)
    control.send("spawned", {"pid": pid, "isolation": isolation}, {"socket": Attachment(ours.fileno(), 0)})
    ours.sock.close()


def _child(
    channel: Channel,
    handle: Callable[[Channel], None],
    log: int,
    ready: int,
    limits: Limits,
    pid_offset: int,
    scratch: str,
    folder: str,
) -> None:
    """Never returns: serves one conversation and leaves without running the parent's exit handlers.

    Args:
        folder: takes what the child writes where it is not sealed; empty for a sealed child.
    """
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if folder:
            isolation = "rlimits"
            os.chdir(folder)
            tempfile.tempdir = folder
            os.environ |= {"HOME": folder, "TMPDIR": folder, "TRITON_HOME": scratch or folder}
        else:
            isolation = _seal(scratch)
            _become_init(ready, pid_offset)
        _limit(limits)
        os.write(ready, isolation.encode())
        os.close(ready)
        handle(channel)
        status = 0
    except WireError:
        status = 0  # the host hung up: an ordinary end
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = (
        source.encode(),
        target.encode(),
        kind and kind.encode(),
        ctypes.c_ulong(flags),
        data and data.encode(),
    )
    if _libc().mount(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"mount {kind or 'bind'} on {target}: {os.strerror(error)}")


def _seal(scratch: str) -> str:
    """Unshares mount, pid, ipc, net and host name, and makes all files but the fresh temporary ones read-only.

    Args:
        scratch: a folder that stays writable, as home of Triton's cache; empty for a fresh one.

    Returns:
        `namespaces` if all of it held, with `files writable` if only that did not.

    Raises:
        OSError: the kernel refuses; this process is good for nothing then.
    """
    uid, gid = os.getuid(), os.getgid()
    flags = _NEWNS | _NEWIPC | _NEWPID | _NEWNET | _NEWUTS | (0 if uid == 0 else _NEWUSER)
    if _libc().unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    handle = os.open(scratch, os.O_PATH) if scratch else -1
    read_only = _protect("/", _ATTR_RDONLY, 0)
    for folder in _TMPFS:
        if os.path.isdir(folder) and not os.path.islink(folder):
            _fresh_tmpfs(folder)
    if scratch:
        os.mkdir(_SCRATCH)
        _mount(f"/proc/self/fd/{handle}", _SCRATCH, None, _MS_BIND)
        _protect(_SCRATCH, 0, _ATTR_RDONLY)
        os.close(handle)
    os.chdir("/tmp")
    # Triton has read the old home at import; a cache that outlives this process could hold another candidate's kernel.
    os.environ |= {"HOME": "/tmp", "TRITON_HOME": "/tmp"}
    return _SEALED if read_only else f"{_SEALED}, files writable"


@functools.cache
def _sealable() -> bool:
    """Whether a child can be sealed here, tried in one that is thrown away.

    Asking to unshare is not enough: Ubuntu's AppArmor grants an unprivileged user namespace and then refuses each mount
    in it, and a child that is sealed by half cannot go on.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _seal("")
            inner = os.fork()
            if inner == 0:
                _mount("proc", "/proc", "proc", 0)
                status = 0
            else:
                status = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
        except OSError:
            status = 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def _protect(folder: str, given: int, taken: int) -> bool:
    """Gives attributes to everything mounted at and below `folder`, and takes some; false before Linux 5.12."""
    attributes = struct.pack("=QQQQ", given, taken, 0, 0)
    call = _libc().syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        folder.encode(),
        ctypes.c_uint(_AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    return bool(call == 0)


def _fresh_tmpfs(folder: str) -> None:
    """Hides `folder` under an empty tmpfs, but keeps what Python itself is running from, where that lies inside."""
    needed = {os.path.realpath(p) for p in (*sys.path, sys.prefix, sys.base_prefix, os.path.dirname(__file__)) if p}
    inside = sorted(p for p in needed if p.startswith(folder + "/"))
    kept = [p for p in inside if not any(p != q and p.startswith(q + "/") for q in inside)]
    handles = [(p, os.open(p, os.O_PATH)) for p in kept]
    _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=4g,mode=1777")
    for path, handle in handles:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(path).touch()
        _mount(f"/proc/self/fd/{handle}", path, None, _MS_BIND | _MS_REC)
        os.close(handle)


def _become_init(ready: int, pid_offset: int) -> None:
    """Enters the new pid namespace: an init that only waits, and below it the process that goes on.

    The init is needed because the first process of a pid namespace ignores most signals, its own included.
    """
    status_read, status_write = os.pipe()
    if os.fork():
        os.close(ready)
        os.close(status_write)
        os.closerange(status_read + 1, 256)
        with os.fdopen(status_read, "rb") as pipe:
            text = pipe.read()
        _leave(int(text) if text else int(signal.SIGKILL))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.close(status_read)
    _mount("proc", "/proc", "proc", 0)
    for _ in range(pid_offset):
        if (number := os.fork()) == 0:
            os._exit(0)
        os.waitpid(number, 0)
    worker = os.fork()
    if worker:
        os.close(ready)
        os.closerange(status_write + 1, 256)
        pid = 0
        while pid != worker:
            pid, status = os.wait()
        os.write(status_write, str(status).encode())
        os._exit(0)
    os.close(status_write)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave(status: int) -> NoReturn:
    """Ends this process the way that `status`, a wait status, says another one ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def _limit(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for which, value in (
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NPROC, limits.processes),
    ):
        if value:
            resource.setrlimit(which, (value, value))


def _end(pid: int, children: dict[int, _Kept], grace: float) -> dict[str, object]:
    kept = children.pop(pid, None)
    if kept is None:
        return {"status": None, "signal": None, "log": ""}
    log = kept.log
    done, status = os.waitpid(pid, os.WNOHANG)
    deadline = time.monotonic() + grace
    while done == 0 and time.monotonic() < deadline:
        time.sleep(0.002)
        done, status = os.waitpid(pid, os.WNOHANG)
    killed = done == 0
    if killed:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # where the child has not made its own group yet
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILL_PATIENCE
        while done == 0 and time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.002 if done == 0 else 0)
    size = os.fstat(log.fd).st_size
    tail = os.pread(log.fd, _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace")
    log.close()
    if kept.folder:
        shutil.rmtree(kept.folder, ignore_errors=True)
    code = None if killed or done == 0 else os.waitstatus_to_exitcode(status)
    return {
        "status": code if code is not None and code >= 0 else None,
        "signal": signal.Signals(-code).name if code is not None and code < 0 else None,
        "log": tail,
    }
