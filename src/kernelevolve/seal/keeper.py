"""The keeper: between the parent that forks and the child that runs foreign code, and around all that the child starts.

In: what the child is to do, and how it is sealed. Out: the child sealed and at work; what it prints kept; all its
processes ended when it ends, when they use too much, or when the keeper is told to stop. Left to others: what the child
does, and time (the host's clock).

With namespaces the keeper is process 1 of the child's: when it ends, the kernel ends every process in there, whatever
they did to get away. Without, it adopts what its descendants leave behind, and ends it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from kernelevolve.seal import kernel, landlock, limits, namespaces, seccomp
from kernelevolve.seal.cgroup import Group
from kernelevolve.seal.layers import NO_WALL, Layers
from kernelevolve.seal.limits import Limits
from kernelevolve.seal.printed import Printed
from kernelevolve.seal.trees import Trees

_LOOK_MILLISECONDS = 50
_ENDING_SECONDS = 5.0
_READ = 1 << 16
_READS = 64
_MOST_DESCRIPTORS = 1 << 16


@dataclass(frozen=True)
class Sealing:
    """How one child is sealed.

    Attributes:
        layers: those that are to be used; see `layers.probe`.
        trees: what it may see.
        scratch: a folder outside that it may write to, as home of Triton's cache; empty for none.
        folder: where it writes else, where it has no temporary file system of its own; empty where it has.
        pid_offset: process numbers to leave out, see `nursery.serve`.
        group: a control group for all of it, where one could be made.
    """

    layers: Layers
    trees: Trees
    limits: Limits
    scratch: str
    folder: str
    pid_offset: int
    group: Group | None = None


def keep(work: Callable[[], None], sealing: Sealing, printed: Printed, ready: int, kept: frozenset[int]) -> NoReturn:
    """Runs `work` in a sealed child, in a process that was just forked for this; ends the way that the child ends.

    Args:
        ready: a pipe that is told what held once the child is sealed, or `!` and the reason why it could not be.
        kept: descriptors that the child needs; it has no other ones.
    """
    try:
        os.setsid()
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # where memory runs out, the child is the first to go
        if sealing.group is not None:
            with contextlib.suppress(OSError):  # moving is refused where only the making was not
                sealing.group.join()
        output, theirs = os.pipe()
        if sealing.layers.namespaces.holds:
            namespaces.leave()
            told, tell = os.pipe()
            if os.fork():
                _only({told})
                with os.fdopen(told, "rb") as pipe:
                    text = pipe.read()
                _leave(int(text) if text else int(signal.SIGKILL))
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            held = namespaces.enter(sealing.trees, sealing.scratch, sealing.limits.processes)
            name = "namespaces" if held else "namespaces, files writable"
            for _ in range(sealing.pid_offset):
                if (number := os.fork()) == 0:
                    os._exit(0)
                os.waitpid(number, 0)
        else:
            tell, name = -1, ""
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
            signal.signal(signal.SIGTERM, _stop)
        child = os.fork()
        if child == 0:
            _child(work, sealing, name, theirs, ready, kept)
        _only({output, tell, printed.fileno()})
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    except OSError as error:
        os.write(ready, f"!{error}".encode())
        os._exit(1)
    status = _watch(child, output, printed, sealing)
    if tell >= 0:
        os.write(tell, str(status).encode())
        os._exit(0)
    end_all(os.getpid())
    _leave(status)


def _stop(*_: object) -> NoReturn:
    end_all(os.getpid())
    os._exit(128 + signal.SIGTERM)


def _only(kept: set[int]) -> None:
    """Closes everything but these, and what was standard input, output and error."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    _close_but(kept)


def _close_but(kept: set[int]) -> None:
    low = 3
    for fd in sorted(fd for fd in kept if fd > 2):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, low + _MOST_DESCRIPTORS)


def _child(
    work: Callable[[], None], sealing: Sealing, name: str, output: int, ready: int, kept: frozenset[int]
) -> NoReturn:
    """Seals this process, says what held, and does the work; leaves without running the parent's exit handlers."""
    status = 1
    try:
        os.setsid()  # so that it shares no process group with its keeper
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        for standard, fd in enumerate((null, output, output)):
            os.dup2(fd, standard)
        _close_but({ready, *kept})
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        try:
            held = _seal(sealing, name)
        except OSError as error:
            os.write(ready, f"!{error}".encode())
            os._exit(1)
        os.write(ready, held.encode())
        os.close(ready)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _seal(sealing: Sealing, name: str) -> str:
    """Puts every layer in place, the outermost is there already; what held, strongest first, joined by `+`."""
    held = [sealing.layers.outer, name]
    write = [namespaces.SCRATCH.rpartition("/")[0], "/dev/shm", "/var/tmp"]
    if not name:
        write = [p for p in (sealing.folder, sealing.scratch) if p]
        os.chdir(sealing.folder)
        tempfile.tempdir = sealing.folder
        home = {"HOME": sealing.folder, "TMPDIR": sealing.folder}
        os.environ |= {**home, "TRITON_HOME": sealing.scratch or sealing.folder}
    else:
        tempfile.tempdir = None
    limits.apply(sealing.limits)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if not sealing.layers.bare:
        kernel.drop_capabilities()
    if sealing.layers.landlock.holds:
        read = [*sealing.trees.read, "/proc", "/sys"]
        # CUDA names its threads through /proc/self/task/*/comm and gives up where it may not. A /proc of the child's
        # own holds nobody else, and what belongs to the machine is read-only in it.
        own = "/proc" if name else f"/proc/{os.getpid()}/task"
        os.open(own, os.O_PATH | os.O_CLOEXEC)  # stays open: the rule lasts as long as the folder's inode
        landlock.restrict(read, write, [*sealing.trees.devices, own], landlock.abi())
        held.append("landlock")
    if sealing.layers.seccomp.holds:
        seccomp.restrict(local=bool(name or sealing.layers.outer))
        held.append("seccomp")
    return "+".join(filter(None, held)) or ("none" if sealing.layers.bare else NO_WALL)


def _watch(child: int, output: int, printed: Printed, sealing: Sealing) -> int:
    """Waits for the child while it stays within its limits; its wait status."""
    os.set_blocking(output, False)
    poller = select.poll()
    poller.register(output, select.POLLIN)
    status: int | None = None
    while status is None:
        if poller.poll(_LOOK_MILLISECONDS) and not _drain(output, printed, _READS):
            poller.unregister(output)
            os.close(output)
            output = -1
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    status = ended[1]
        if status is None and (reason := _excess(printed, sealing)):
            printed.add(f"\nended by the seal: {reason}\n".encode())
            os.kill(child, signal.SIGKILL)
            return int(signal.SIGKILL)
    if output >= 0:
        _drain(output, printed, _READS)
    return status


def _drain(output: int, printed: Printed, reads: int) -> bool:
    """Keeps what waits in the pipe; false once nobody holds its other end."""
    for _ in range(reads):
        try:
            data = os.read(output, _READ)
        except BlockingIOError:
            return True
        if not data:
            return False
        printed.add(data)
    return True


def _excess(printed: Printed, sealing: Sealing) -> str:
    """Which limit is exceeded; empty for none."""
    most = sealing.limits
    if most.output_bytes and printed.count > most.output_bytes:
        return f"out of memory: it printed more than {most.output_bytes >> 20} MiB"
    if not (most.processes or most.memory_bytes):
        return ""
    if sealing.layers.namespaces.holds:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    else:
        pids = limits.descendants(os.getpid())
    if most.processes and len(pids) > most.processes:
        return f"out of memory: it started more than {most.processes} processes"
    if most.memory_bytes and (used := limits.used(pids)) > most.memory_bytes:
        return f"out of memory: its processes hold {used >> 20} of {most.memory_bytes >> 20} MiB"
    return ""


def end_all(root: int, spared: Mapping[int, object] | None = None) -> None:
    """Kills and reaps what descends from this process, `root`, except the children `spared` and what they started."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while time.monotonic() < deadline:
        mine = [pid for pid in limits.children(root) if pid not in (spared or {})]
        if not mine:
            return
        for pid in [*mine, *(p for m in mine for p in limits.descendants(m))]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in mine:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _leave(status: int) -> NoReturn:
    """Ends this process the way that `status`, a wait status, says another one ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)
