"""A warm parent that forks one sealed child per conversation.

In: a control channel to the host and a function that serves one conversation. Out: for each `spawn` a forked child with
a socket of its own, handed to the host. Left to others: how a child is sealed (`seal`), what is said (`judge`,
`worker`), deadlines (the host's clock).

The parent has imported torch but never ran a tensor operation: a forked child of a parent that had started torch's
thread pool dead-locks. What held is reported with every child, so an evaluation can print it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from kernelevolve import codec
from kernelevolve.seal import cgroup, kernel, layers, trees
from kernelevolve.seal.cgroup import Group
from kernelevolve.seal.keeper import Sealing, end_all, keep
from kernelevolve.seal.layers import NO_LAYERS, Layers, absent
from kernelevolve.seal.limits import Limits as Limits
from kernelevolve.seal.printed import Printed
from kernelevolve.wire import Attachment, Channel, WireError

_LOG_TAIL = 16_384
_ASKED_SECONDS = 1.0
_KILL_PATIENCE = 5.0
IDLE_SECONDS = 0.2


@dataclass(frozen=True)
class _Kept:
    """What a child leaves behind: what it printed, the folder of one without temporary files of its own, its group."""

    printed: Printed
    folder: str
    group: Group | None


class _Nursery:
    """The children of one warm parent."""

    def __init__(self, control: Channel, handle: Callable[[Channel], None], pid_offset: int, offered: Layers) -> None:
        self.control, self.handle, self.pid_offset, self.offered = control, handle, pid_offset, offered
        self.children: dict[int, _Kept] = {}
        self.born = 0

    def spawn(self, body: Mapping[str, object]) -> None:
        """Answers `spawned`, with an error where the child could not be sealed as it should have been."""
        ours, theirs = Channel.pair()
        printed = Printed()
        used = self.offered if body.get("seal", True) else NO_LAYERS
        if outer := str(body.get("outer", "")):
            used = replace(used, outer=outer, namespaces=absent("namespaces"))
        folder = "" if used.namespaces.holds else tempfile.mkdtemp(prefix="kernelevolve-child-")
        given = {k: v for k, v in body.items() if k not in ("seal", "scratch", "outer")}
        sealing = Sealing(
            used,
            trees.needed(),
            codec.from_data(Limits, given),
            scratch=str(body.get("scratch", "")),
            folder=folder,
            pid_offset=self.pid_offset,
        )
        if used is not NO_LAYERS:
            sealing = replace(sealing, group=cgroup.make(sealing.limits, f"kernelevolve-{os.getpid()}-{self.born}"))
        self.born += 1
        ready, told = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            keep(lambda: _converse(self.handle, theirs), sealing, printed, told, frozenset((theirs.fileno(),)))
        os.close(told)
        theirs.sock.close()
        with os.fdopen(ready, "rb") as pipe:
            isolation = pipe.read().decode(errors="replace")
        self.children[pid] = _Kept(printed, folder, sealing.group)
        if isolation and not isolation.startswith("!"):
            line = {"socket": Attachment(ours.fileno(), 0)}
            self.control.send("spawned", {"pid": pid, "isolation": isolation}, line)
        else:
            why = isolation[1:] or str(self.end(pid, 0.0)["log"])[-400:] or "it ended at once"
            self.end(pid, 0.0)
            self.control.send("unsealed", {"message": why})
        ours.sock.close()

    def end(self, pid: int, grace: float) -> dict[str, object]:
        """Ends the child and all that it started; how it ended."""
        kept = self.children.get(pid)
        if kept is None:
            return {"status": None, "signal": None, "log": ""}
        status = _wait(pid, grace)
        killed = status is None
        if killed:
            os.kill(pid, signal.SIGTERM)  # its keeper ends what the child has started, and itself
            if (status := _wait(pid, _ASKED_SECONDS)) is None:
                os.kill(pid, signal.SIGKILL)
                status = _wait(pid, _KILL_PATIENCE)
        del self.children[pid]
        end_all(os.getpid(), self.children)
        if kept.group is not None:
            kept.group.end()
        log = kept.printed.tail(_LOG_TAIL)
        kept.printed.close()
        if kept.folder:
            shutil.rmtree(kept.folder, ignore_errors=True)
        code = None if killed or status is None else os.waitstatus_to_exitcode(status)
        return {
            "status": code if code is not None and code >= 0 else None,
            "signal": signal.Signals(-code).name if code is not None and code < 0 else None,
            "log": log,
        }


def serve(
    control: Channel,
    handle: Callable[[Channel], None],
    *,
    pid_offset: int = 0,
    offered: Layers | None = None,
    idle: Callable[[], None] | None = None,
) -> None:
    """Answers `spawn` and `end` until the host closes the control channel, then ends every child.

    Args:
        pid_offset: process numbers to leave out in each child's namespace. Two processes that share device memory must
            not have the same number: CUDA takes the importer of a handle for its exporter when their numbers are equal.
        offered: layers of the seal to use; those that this machine has if None.
        idle: called once, as soon as nothing is asked for: what most children need, so that they find it done.

    `spawn {memory_bytes, file_bytes, processes, output_bytes, device, seal, scratch, outer}` answers `spawned {pid,
    isolation}` with the attachment `socket`, or `unsealed {message}` where a layer that was tried before is refused.
    `outer` names what is around this whole process already; then its children need no namespaces of their own.
    `end {pid, grace}` gives the child `grace` seconds to end by itself, ends what is left of it and answers `ended
    {status, signal, log}`: how it ended, and the end of what it printed.
    """
    with contextlib.suppress(OSError):
        # What a child leaves behind is adopted here, and ended.
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    nursery = _Nursery(control, handle, pid_offset, offered or layers.probe())
    try:
        while True:
            if idle is not None and not select.select([control], [], [], IDLE_SECONDS)[0]:
                idle()
                idle = None
            try:
                message = control.receive()
            except WireError:
                return
            if message.kind == "spawn":
                nursery.spawn(message.body)
            elif message.kind == "end":
                grace = float(message.body.get("grace", 0.0))
                control.send("ended", nursery.end(int(message.body["pid"]), grace))
            else:
                control.send("unknown", {"kind": message.kind})
    finally:
        for pid in list(nursery.children):
            nursery.end(pid, 0.0)


def _converse(handle: Callable[[Channel], None], channel: Channel) -> None:
    try:
        handle(channel)
    except WireError:
        return  # the host hung up: an ordinary end


def _wait(pid: int, seconds: float) -> int | None:
    """The wait status of a child that ends within `seconds`, else None."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.002)
