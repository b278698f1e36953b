"""What host, judge, builder and worker say to each other: messages over a socket of their own, never stdout.

In: a connected AF_UNIX stream socket. Out: `Channel.send` and `Channel.receive` of a kind, a JSON body and named
attachments. Left to others: what the messages mean. Large data travels as memory files (memfd) whose descriptors are
passed with SCM_RIGHTS, so the host can hand a tensor's bytes from worker to judge without reading them. Nothing is ever
unpickled. A frame is: magic, length of the JSON, number of descriptors; then the JSON.
"""

from __future__ import annotations

import array
import json
import mmap
import os
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from kernelevolve.errors import SeatLost

_HEAD = struct.Struct("<4sIH")
_MAGIC = b"KEw1"
_MAX_JSON = 256 << 20
_MAX_FDS = 200


class WireError(SeatLost):
    """The other side closed the channel, sent something that is no frame, or did not answer in time."""


class WireTimeout(WireError):
    """The other side did not answer in time."""


@dataclass
class Attachment:
    """Bytes in a memory file; the receiver owns the descriptor and closes it."""

    fd: int
    size: int

    def read(self) -> bytes:
        """All bytes, copied."""
        if self.size == 0:
            return b""
        with mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ) as view:
            return view[:]

    def map(self) -> mmap.mmap:
        """The bytes, mapped privately: writes stay with this process; the caller closes it. `size` must be above 0."""
        return mmap.mmap(self.fd, self.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)

    def close(self) -> None:
        """Closes the descriptor; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def memory_file(size: int, name: str = "kernelevolve") -> Attachment:
    """A new memory file of `size` bytes, all zero."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    if size:
        os.ftruncate(fd, size)
    return Attachment(fd, size)


def memory_bytes(data: bytes | memoryview, name: str = "kernelevolve") -> Attachment:
    """A new memory file that holds `data`."""
    view = memoryview(data).cast("B")
    attachment = memory_file(len(view), name)
    done = 0
    while done < len(view):
        done += os.pwrite(attachment.fd, view[done:], done)
    return attachment


@dataclass(frozen=True)
class Message:
    """One frame: what is asked or answered, its JSON body, and its attachments by name."""

    kind: str
    body: Mapping[str, Any]
    attachments: Mapping[str, Attachment] = field(default_factory=dict)

    def close(self) -> None:
        """Closes all attachments."""
        for attachment in self.attachments.values():
            attachment.close()


class Channel:
    """A two-way line to another role; not thread-safe, one conversation at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._pending = b""
        self._fds: list[int] = []

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected channels, for a process and its child."""
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(a), cls(b)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """The channel on an inherited or received descriptor."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        """Closes the socket and any descriptor that arrived without a frame."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self.sock.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(
        self, kind: str, body: Mapping[str, Any] | None = None, attachments: Mapping[str, Attachment] | None = None
    ) -> None:
        """Sends one frame; the attachments stay open on this side.

        Raises:
            WireError: the other side is gone.
            ValueError: a body with NaN or a value that is no JSON.
        """
        attachments = attachments or {}
        if len(attachments) > _MAX_FDS:
            raise ValueError(f"{len(attachments)} attachments in one frame; at most {_MAX_FDS}")
        sizes = [[name, a.size] for name, a in attachments.items()]
        text = json.dumps({"kind": kind, "body": dict(body or {}), "attachments": sizes}, allow_nan=False).encode()
        head = _HEAD.pack(_MAGIC, len(text), len(attachments))
        fds = [a.fd for a in attachments.values()]
        try:
            self.sock.settimeout(None)
            if fds:
                socket.send_fds(self.sock, [head], fds)
            else:
                self.sock.sendall(head)
            self.sock.sendall(text)
        except OSError as error:
            raise WireError(f"cannot send {kind!r}: the other side is gone ({error.strerror or error})") from error

    def receive(self, timeout: float | None = None) -> Message:
        """The next frame; waits at most `timeout` seconds.

        Raises:
            WireTimeout: nothing, or not all of a frame, came in time.
            WireError: the other side closed the channel or sent something that is no frame.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        head = self._take(_HEAD.size, deadline)
        magic, length, count = _HEAD.unpack(head)
        if magic != _MAGIC or length > _MAX_JSON or count > _MAX_FDS:
            raise WireError(f"not a frame: {head!r}")
        text = self._take(length, deadline)
        try:
            data = _unicode(json.loads(text))
            kind, body, sizes = data["kind"], data["body"], data["attachments"]
            named = [(str(name), int(size)) for name, size in sizes]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise WireError(f"not a frame: {text[:80]!r} ({error})") from error
        if len(named) != count or len(self._fds) < count or not isinstance(body, dict):
            raise WireError(f"frame {kind!r} announces {count} attachments, {len(self._fds)} arrived")
        fds, self._fds = self._fds[:count], self._fds[count:]
        attachments = {name: Attachment(fd, size) for (name, size), fd in zip(named, fds, strict=True)}
        for name, attachment in attachments.items():
            actual = os.fstat(attachment.fd).st_size
            if actual != attachment.size:
                raise WireError(f"attachment {name!r} has {actual} bytes, announced {attachment.size}")
        return Message(str(kind), body, attachments)

    def ask(
        self,
        kind: str,
        body: Mapping[str, Any] | None = None,
        attachments: Mapping[str, Attachment] | None = None,
        *,
        timeout: float | None = None,
    ) -> Message:
        """Sends a frame and waits for the answer."""
        self.send(kind, body, attachments)
        return self.receive(timeout)

    def _take(self, size: int, deadline: float | None) -> bytes:
        while len(self._pending) < size:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WireTimeout("no answer in time")
            try:
                self.sock.settimeout(left)
                data, fds, _, _ = socket.recv_fds(self.sock, 1 << 20, _MAX_FDS)
            except TimeoutError:
                raise WireTimeout("no answer in time") from None
            except OSError as error:
                raise WireError(f"the other side is gone ({error.strerror or error})") from error
            self._fds.extend(array.array("i", fds))
            for fd in fds:
                os.set_inheritable(fd, False)
            if not data:
                raise WireError("the other side closed the channel")
            self._pending += data
        taken, self._pending = self._pending[:size], self._pending[size:]
        return taken


def _unicode(data: Any) -> Any:
    """`data` with a question mark for each half of a surrogate pair: JSON can name one, and no file can hold it."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.loads(json.dumps(data, ensure_ascii=False).encode(errors="replace"))
    return data
