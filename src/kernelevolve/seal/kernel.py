"""The few kernel calls of the seal that Python's standard library lacks, by ctypes, with errors that name the call.

In: numbers and paths. Out: nothing, or an OSError with the call's name. Left to others: when to make which call.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path
from typing import Any

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 0x2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 4, 24, 28
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# SECBIT_NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each locked: execve gives user 0 no capability back
_SECURE = 0b1100_1111
_CAPABILITY_VERSION_3 = 0x20080522
_AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY, _ATTR_NOSUID = -100, 0x8000, 1, 2

MACHINES = ("x86_64", "aarch64")
_NUMBERS = {
    "capset": (126, 91),
    "pivot_root": (155, 41),
    "seccomp": (317, 277),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}


def libc() -> ctypes.CDLL:
    """The C library, with errno kept."""
    return ctypes.CDLL(None, use_errno=True)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def call(name: str, *arguments: Any) -> int:
    """A system call that the C library may not know.

    Raises:
        OSError: it failed, or its number on this machine is not known.
    """
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(38, f"{name}: its number is not known on {machine}")
    number = _NUMBERS[name][MACHINES.index(machine)]
    result = libc().syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise _error(name)
    return int(result)


def prctl(option: int, value: int) -> None:
    """One setting of this process."""
    if libc().prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise _error(f"prctl({option})")


def unshare(flags: int) -> None:
    """Leaves namespaces behind."""
    if libc().unshare(flags):
        raise _error("unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mounts `source` on `target`."""
    given = (source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), data and data.encode())
    if libc().mount(*given):
        raise _error(f"mount {kind or 'bind'} on {target}")


def detach(target: str) -> None:
    """Takes a mount away; what is open in it stays usable."""
    if libc().umount2(target.encode(), MNT_DETACH):
        raise _error(f"umount {target}")


def pivot_root(folder: str) -> None:
    """Makes the mount `folder` the root and takes the old root away."""
    os.chdir(folder)
    call("pivot_root", b".", b".")
    detach(".")
    os.chdir("/")


def read_only(folder: str, *, below: bool = True) -> bool:
    """Makes the mount at `folder`, and those `below` it, read-only and without set-user-id; false before Linux 5.12."""
    attributes = struct.pack("=QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0)
    flags = ctypes.c_uint(_AT_RECURSIVE if below else 0)
    size = ctypes.c_size_t(len(attributes))
    try:
        call("mount_setattr", ctypes.c_int(_AT_FDCWD), folder.encode(), flags, attributes, size)
    except OSError:
        return False
    return True


def drop_capabilities() -> None:
    """Gives every capability up, for this process and whatever it executes.

    A process of user 0, or the first of a user namespace, could else take the walls around it down again.
    """
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        libc().prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)  # refused where it is not ours already
    libc().prctl(PR_SET_SECUREBITS, ctypes.c_ulong(_SECURE), 0, 0, 0)
    libc().prctl(PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    call("capset", header, struct.pack("=6I", *[0] * 6))
