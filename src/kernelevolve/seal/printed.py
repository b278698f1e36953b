"""What a child printed: the last mebibyte of it, in a memory file that two processes share.

In: bytes, from whoever drains the child's pipe. Out: the end of them. Left to others: reading sense into it, which
nobody does: what a child prints is shown to people and never parsed for a result.
"""

from __future__ import annotations

import os
import struct

from kernelevolve.wire import memory_file

_COUNT = struct.Struct("=Q")
_KEPT = 1 << 20


class Printed:
    """A ring of bytes; one process adds, another one reads."""

    def __init__(self) -> None:
        self._file = memory_file(_COUNT.size + _KEPT, "child-log")
        self.count = 0

    def fileno(self) -> int:
        """The memory file's descriptor."""
        return self._file.fd

    def add(self, data: bytes) -> None:
        """Appends; the oldest bytes go."""
        self.count += len(data)
        data = data[-_KEPT:]
        at = (self.count - len(data)) % _KEPT
        first = data[: _KEPT - at]
        os.pwrite(self._file.fd, first, _COUNT.size + at)
        os.pwrite(self._file.fd, data[len(first) :], _COUNT.size)
        os.pwrite(self._file.fd, _COUNT.pack(self.count), 0)

    def tail(self, most: int) -> str:
        """At most the last `most` bytes, as text."""
        (count,) = _COUNT.unpack(os.pread(self._file.fd, _COUNT.size, 0))
        size = min(most, count, _KEPT)
        at = (count - size) % _KEPT
        data = os.pread(self._file.fd, min(size, _KEPT - at), _COUNT.size + at)
        data += os.pread(self._file.fd, size - len(data), _COUNT.size)
        return data.decode(errors="replace")

    def close(self) -> None:
        """Gives the memory back."""
        self._file.close()
