"""Judge, builder and worker as processes of their own, and conversations with their sealed children.

In: the name of a role. Out: `Role.open` gives a `Conversation` with a fresh child. Left to others: what is said. A
child that dies or stays silent is told apart: `ChildDied` and `ChildSilent` carry how it ended and what it printed,
and the caller decides whose fault that was. A role's own death is the machine's fault: `SeatLost`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from kernelevolve import codec
from kernelevolve.errors import KernelEvolveError, SeatLost, Unsealed
from kernelevolve.evaluate.device_memory import DeviceMemoryWatch, Shares, Watched, shares_by_nvml, watch_of
from kernelevolve.seal import bubblewrap
from kernelevolve.seal.layers import NO_WALL, Layer
from kernelevolve.seal.limits import Limits, descendants
from kernelevolve.settings import LaneName
from kernelevolve.wire import Attachment, Channel, Message, WireError, WireTimeout, memory_file

RoleName = Literal["judge", "builder", "worker", "translator"]
_MODULE: dict[RoleName, str] = {
    "judge": "kernelevolve.judge",
    "builder": "kernelevolve.worker",
    "worker": "kernelevolve.worker",
    "translator": "kernelevolve.translate.capture_process",
}
_START_SECONDS = 120.0
_SPAWN_SECONDS = 30.0
_LOG_TAIL = 16_384
_DYING_SECONDS = 2.0  # its line closes a moment before a child has ended


class ChildDied(KernelEvolveError):
    """A child ended in the middle of a conversation.

    Attributes:
        signal: the signal's name, or None.
        log: the end of what it printed.
    """

    def __init__(self, what: str, status: int | None, signal: str | None, log: str) -> None:
        self.status, self.signal, self.log = status, signal, log
        how = f"by {signal}" if signal else f"with exit code {status}"
        last = log.strip().splitlines()[-1:] or ["nothing printed"]
        super().__init__(f"{what} ended {how} ({last[0][:300]})")


class ChildSilent(KernelEvolveError):
    """A child did not answer in time and was killed."""


class Refusal(KernelEvolveError):
    """A child answered `fault`: what it was asked cannot be done, and why; `verdict` and `facts` are its own claims."""

    def __init__(self, verdict: str, message: str, facts: Mapping[str, Any] | None = None) -> None:
        self.verdict, self.message, self.facts = verdict, message, facts or {}
        super().__init__(message)


class Conversation:
    """One child of a role; use it as a context manager, it is ended at the end.

    Not thread-safe: one question at a time.

    Attributes:
        about: what the child holds, as a key of whoever asks it; empty until that is known.
    """

    def __init__(self, role: Role, pid: int, channel: Channel, isolation: str) -> None:
        self.role, self.pid, self.channel, self.isolation = role, pid, channel, isolation
        self._ended: Mapping[str, Any] | None = None
        self.about = ""
        self._reason = ""
        self._watched: tuple[DeviceMemoryWatch, Watched] | None = None
        self._lost = False

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(
        self, kind: str, body: Any = None, attachments: Mapping[str, Attachment] | None = None, *, seconds: float
    ) -> Message:
        """The child's answer to one question.

        Args:
            body: JSON data or a frozen value; it is written by `codec`.
            seconds: how long the child may think.

        Raises:
            Refusal: the child answered `fault`.
            ChildSilent, ChildDied: it did not answer in time, or ended.
            SeatLost: the role's own process is gone, and the child with it.
        """
        try:
            answer = self.channel.ask(kind, codec.to_data(body or {}), attachments, timeout=seconds)
        except WireTimeout:
            self.end()
            raise ChildSilent(f"{self.role.name} did not answer {kind!r} within {seconds:g} s") from None
        except WireError as error:
            ended = self.end(grace=_DYING_SECONDS)
            if self._lost:
                raise SeatLost(f"the {self.role.name} process is gone; it is started again when next needed") from error
            log = self._reason or ended["log"]
            raise ChildDied(f"{self.role.name} child", ended["status"], ended["signal"], log) from error
        if answer.kind == "fault":
            answer.close()
            raise Refusal(str(answer.body.get("verdict", "")), str(answer.body.get("message", "")), answer.body)
        return answer

    def end(self, *, grace: float = 0.0) -> Mapping[str, Any]:
        """Hangs up and ends the child, after `grace` seconds in which it may end by itself; how it ended."""
        if self._ended is None:
            if self._watched is not None:
                watch, watched = self._watched
                watch.remove(watched)
            self.channel.close()
            self._ended = self.role.end(self.pid, grace=grace)
            self._lost = self.role.gone
            self.role.forget(self)
            if self.role.wrapped:
                self.role.close()  # it was there for this child alone
        return self._ended

    def abort(self, reason: str = "") -> None:
        """Kills the child while another thread waits for its answer, which then ends with `ChildDied` and `reason`."""
        if self._ended is None:
            self._reason = reason
            self.role.end(self.pid)

    def watch(self, share: float, watch: DeviceMemoryWatch) -> None:
        """Ends the child once its processes hold more than `share` of a device's memory."""
        root = self.root
        self._watched = watch, Watched(lambda: {root, *descendants(root)}, share, self.abort)
        watch.add(self._watched[1])

    @property
    def root(self) -> int:
        """The process above all of the child's, as this process counts them."""
        return self.role.process_id if self.role.wrapped else self.pid  # in bubblewrap it is counted from 1 again


class Role:
    """A warm process that forks one sealed child per conversation; thread-safe.

    Args:
        seal: false runs foreign code without any isolation.
        wrapped: bubblewrap's binary, where the whole process is to run in it; empty for a process of this system.
        scratch: with `wrapped`, the only folder outside that its children may write to.

    Attributes:
        wrap: bubblewrap's binary, where each conversation is to have a fresh process in it; empty for a forked child.
        shares: how much of each device every process holds; what NVML says if None.
    """

    def __init__(
        self,
        name: RoleName,
        *,
        seal: bool = True,
        environment: Mapping[str, str] | None = None,
        wrapped: str = "",
        scratch: Path | None = None,
    ) -> None:
        self.name = name
        self.seal = seal
        self.wrapped = wrapped
        self.isolation = ""  # of its last child
        self._lock = threading.Lock()
        ours, theirs = Channel.pair()
        # -P: what lies in the current folder is no module of ours.
        command = [sys.executable, "-P", "-m", _MODULE[name], "--fd", str(theirs.fileno()), "--role", name]
        seen = _environment(environment or {})
        if wrapped:
            command = bubblewrap.command(command, seen, str(scratch or ""), binary=wrapped)
        self._printed = memory_file(0, "role-log")  # a pipe that nobody reads would stop a role that prints a lot
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._printed.fd,
            env=seen,
            start_new_session=True,  # a Ctrl-C in the terminal is the host's to handle
        )
        theirs.close()
        self._control = ours
        self._ready = False
        self._lost = False
        self._open: set[Conversation] = set()
        self._fresh: list[Role] = []
        self.wrap = ""
        self.shares: Shares | None = None

    def _wait_ready(self) -> None:
        if self._ready:
            return
        try:
            message = self._control.receive(_START_SECONDS)
        except WireError as error:
            self._process.kill()
            self._process.wait()
            size = os.fstat(self._printed.fd).st_size
            printed = os.pread(self._printed.fd, _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace")
            last = printed.strip().splitlines()[-1:] or ["it printed nothing"]
            raise SeatLost(
                f"the {self.name} process did not start: {last[0][:400]}; run `kernelevolve doctor`"
            ) from error
        self.versions: Mapping[str, str] = dict(message.body)
        self._ready = True

    def known_versions(self) -> Mapping[str, str]:
        """Versions of what the role runs on; starts it if need be."""
        with self._lock:
            try:
                self._wait_ready()
            except WireError as error:
                raise SeatLost(f"the {self.name} process is gone: {error}") from error
        return self.versions

    def open(self, limits: Limits | None = None, scratch: Path | None = None) -> Conversation:
        """A conversation with a fresh child.

        Args:
            scratch: a folder that this child shares with others, for Triton's cache; None for none.

        Raises:
            SeatLost: the role's process is gone.
            Unsealed: nothing would stand between foreign code and this machine, and nobody asked for that.
        """
        if self.wrap:
            fresh = Role(self.name, seal=self.seal, wrapped=self.wrap, scratch=scratch)
            self._fresh = [role for role in self._fresh if not role.gone] + [fresh]
            fresh.shares = self.shares
            made = fresh.open(limits, scratch)
            self.isolation = made.isolation
            return made
        limits = limits or Limits()
        outer, place = ("bwrap", bubblewrap.SCRATCH) if self.wrapped else ("", str(scratch))
        body = {**codec.to_data(limits), "seal": self.seal, "scratch": place if scratch else "", "outer": outer}
        with self._lock:
            try:
                self._wait_ready()
                message = self._control.ask("spawn", body, timeout=_SPAWN_SECONDS)
            except WireError as error:
                self._lost = True
                raise SeatLost(f"the {self.name} process is gone: {error}") from error
        if message.kind != "spawned":
            why = message.body.get("message")
            raise SeatLost(f"a child of the {self.name} could not be sealed: {why}; run `kernelevolve doctor`")
        channel = Channel.from_fd(os.dup(message.attachments["socket"].fd))
        message.close()
        self.isolation = str(message.body["isolation"])
        made = Conversation(self, int(message.body["pid"]), channel, self.isolation)
        if self.seal and self.isolation == NO_WALL:
            made.end()
            raise Unsealed(self.name)
        if limits.device and (shares := self.shares or shares_by_nvml()) is not None:
            made.watch(limits.device_share, watch_of(shares))
        self._open.add(made)
        return made

    @property
    def process_id(self) -> int:
        """Of the warm process."""
        return self._process.pid

    @property
    def gone(self) -> bool:
        """Whether the process ended or no longer listens; a role that is gone stays so."""
        return self._lost or self._process.poll() is not None

    def hang_up(self) -> None:
        """Ends every open conversation, from any thread."""
        for conversation in tuple(self._open):
            conversation.abort()
        for role in tuple(self._fresh):
            role.hang_up()

    def forget(self, conversation: Conversation) -> None:
        """Takes note that a conversation was ended."""
        self._open.discard(conversation)

    def end(self, pid: int, *, grace: float = 0.0) -> Mapping[str, Any]:
        """Ends the child `pid`, after `grace` seconds; how it ended: `status`, `signal`, `log`."""
        with self._lock:
            try:
                return self._control.ask("end", {"pid": pid, "grace": grace}, timeout=_SPAWN_SECONDS).body
            except WireError:
                self._lost = True
                return {"status": None, "signal": None, "log": f"the {self.name} process is gone"}

    def close(self) -> None:
        """Ends the process and all its children; a second call does nothing."""
        for role in self._fresh:
            role.close()
        if self._control.sock.fileno() < 0:
            return
        self._control.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._printed.close()


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a role inherits: nothing that is not on this list, so that no key or token reaches foreign code."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR", "CUDA_HOME")
    devices = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
    environment = {k: os.environ[k] for k in (*kept, *devices) if k in os.environ}
    # Triton's default for fused multiply-add changes in 3.10; results must not depend on the installed release.
    environment |= {"TRITON_DEFAULT_FP_FUSION": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return environment | dict(extra)


class Roles:
    """The roles of one run, started when first needed, again when one was lost, closed together.

    Attributes:
        sealed: whether foreign code runs behind walls; not so only where somebody asked for that.
        lane: in `publish`, each of the worker's children has a fresh process in bubblewrap, where there is one.
        cores: to be held while a candidate is built and interpreted: as many at a time as there are processors, so that
            the first are done early and a device does not wait until all of them are.
    """

    def __init__(self, *, seal: bool = True, lane: LaneName = "screen") -> None:
        self.sealed = seal
        self.lane = lane
        self.cores = threading.BoundedSemaphore(max(2, os.cpu_count() or 2))
        self._roles: dict[RoleName, Role] = {}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def isolation(self) -> str:
        """What held around the foreign code that ran last; empty if none ran yet."""
        names: tuple[RoleName, ...] = ("worker", "builder")
        return next((r.isolation for n in names if (r := self._roles.get(n)) and r.isolation), "")

    def __getitem__(self, name: RoleName) -> Role:
        with self._lock:
            if self._closed:
                raise SeatLost(f"the {name} process was closed with the others")
            if name in self._roles and self._roles[name].gone:
                self._roles.pop(name).close()
            if name not in self._roles:
                self._roles[name] = Role(name, seal=self.sealed)
            if name == "worker":
                wanted = self.lane == "publish" and self.sealed and _bubblewrap().holds
                self._roles[name].wrap = bubblewrap.find() if wanted else ""
            return self._roles[name]

    def hang_up(self) -> None:
        """Ends every open conversation of every role."""
        with self._lock:
            roles = list(self._roles.values())
        for role in roles:
            role.hang_up()

    def warm(self, *names: RoleName) -> None:
        """Starts these roles side by side, without waiting until they are ready."""
        for name in names:
            self[name]

    def close(self) -> None:
        """Ends every role's process; none is started afterwards."""
        with self._lock:
            self._closed = True
            for role in self._roles.values():
                role.close()
            self._roles.clear()


@functools.cache
def _bubblewrap() -> Layer:
    return bubblewrap.probe()


@contextlib.contextmanager
def clocked(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the wall time of its body to `seconds[name]`."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start
