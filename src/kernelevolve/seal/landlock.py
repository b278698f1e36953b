"""Landlock: from here on this process, and all that it starts, opens only the files that are named.

In: paths to read and paths to write. Out: the process restricted, for good. Left to others: which paths (`trees`).
Works without any privilege since Linux 5.13; TCP since ABI 4 (6.7), signals and abstract sockets since ABI 6 (6.12).
The calls and their structures: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Sequence

from kernelevolve.seal import kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_RIGHTS_OF_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_SINCE = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract sockets, signals
_VERSION = 1
_PATH_BENEATH = 1


def abi() -> int:
    """The version that this kernel offers; 0 where there is none."""
    try:
        return kernel.call("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION))
    except OSError:
        return 0


def describe(version: int) -> str:
    """What a version covers, in words."""
    covers = ["files", *(["TCP"] if version >= 4 else []), *(["signals", "abstract sockets"] if version >= 6 else [])]
    return f"ABI {version}: {', '.join(covers)}"


def restrict(read: Sequence[str], write: Sequence[str], devices: Sequence[str], version: int) -> None:
    """Denies what is not below one of these paths; `no_new_privs` must be set.

    Args:
        devices: written to and asked by ioctl, but nothing is created there.

    Raises:
        OSError: the kernel refuses; the process is as restricted as before.
    """
    handled = _RIGHTS_OF_1
    for since, right in _SINCE:
        handled |= right if version >= since else 0
    network, scopes = (_TCP if version >= 4 else 0), (_SCOPES if version >= 6 else 0)
    attributes = struct.pack("=QQQ", handled, network, scopes)[: 24 if scopes else 16 if network else 8]
    size = ctypes.c_size_t(len(attributes))
    ruleset = kernel.call("landlock_create_ruleset", attributes, size, ctypes.c_uint(0))
    try:
        used = _READ | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
        for paths, rights in ((read, _READ), (write, handled), (devices, used)):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        kernel.call("landlock_restrict_self", ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, handle)
        kernel.call("landlock_add_rule", ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint(0))
    finally:
        os.close(handle)
