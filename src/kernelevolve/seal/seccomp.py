"""seccomp: system calls that no kernel needs fail with EPERM from here on, in this process and all that it starts.

In: nothing. Out: the filter in place, for good. Left to others: files and namespaces. The filter is classic BPF over
`struct seccomp_data` (https://docs.kernel.org/userspace-api/seccomp_filter.html), assembled here; calls that are
refused return an error and raise no SIGSYS, so a handler for it sees nothing and fakes nothing.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from dataclasses import dataclass

from kernelevolve.seal import kernel

# Numbers on x86_64 and aarch64; None where the machine has no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes' memory and descriptors
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "kcmp": (312, 272), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # large surfaces of the kernel
    "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "seccomp": (317, 277), "fanotify_init": (300, 262),
    "memfd_secret": (447, 447), "lookup_dcookie": (212, 18), "modify_ldt": (154, None), "nfsservctl": (180, 42),
    # namespaces and mounts
    "mount": (165, 40), "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    # keys
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    # the machine
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116), "vhangup": (153, 58),
    "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip
_CLONE, _CLONE3, _SOCKET, _IOCTL, _PRCTL = (56, 220), (435, 435), (41, 198), (16, 29), (157, 167)
_ARCH = (0xC000003E, 0xC00000B7)
_X32 = 0x40000000
_NAMESPACES = (
    kernel.NEWNS | kernel.NEWCGROUP | kernel.NEWUTS | kernel.NEWIPC | kernel.NEWUSER | kernel.NEWPID | kernel.NEWNET
)
_LOCAL_FAMILIES = (1, 16)  # AF_UNIX; AF_NETLINK, by which the C library lists interfaces
_TTY_IOCTLS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing into somebody's terminal
_PR_SET_SECCOMP = 22

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# Of the arguments the low words, as both machines are little-endian.
_NUMBER_AT, _ARCH_AT, _FIRST_AT, _SECOND_AT = 0, 4, 16, 24
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_SET_MODE_FILTER, _GET_ACTION_AVAILABLE = 1, 2


@dataclass(frozen=True)
class _Jump:
    """A comparison whose way on is the name of a place; empty for the next instruction."""

    code: int
    operand: int
    then: str = ""
    otherwise: str = ""


@dataclass(frozen=True)
class _Load:
    offset: int


@dataclass(frozen=True)
class _Place:
    name: str


@dataclass(frozen=True)
class _Return:
    action: int


_Line = _Jump | _Load | _Place | _Return


def _lines(machine: str, local: bool) -> list[_Line]:
    index = kernel.MACHINES.index(machine)
    lines: list[_Line] = [_Load(_ARCH_AT), _Jump(_JUMP_EQUAL, _ARCH[index], otherwise="kill"), _Load(_NUMBER_AT)]
    if machine == "x86_64":
        lines.append(_Jump(_JUMP_AT_LEAST, _X32, then="deny"))
    for numbers in DENIED.values():
        number = numbers[index]
        if number is not None:
            lines.append(_Jump(_JUMP_EQUAL, number, then="deny"))
    for call, place in ((_CLONE3, "absent"), (_CLONE, "clone"), (_SOCKET, "socket"), (_IOCTL, "ioctl")):
        lines.append(_Jump(_JUMP_EQUAL, call[index], then=place))
    lines.append(_Jump(_JUMP_EQUAL, _PRCTL[index], then="prctl", otherwise="allow"))
    lines += [_Place("clone"), _Load(_FIRST_AT), _Jump(_JUMP_ANY_BIT, _NAMESPACES, then="deny", otherwise="allow")]
    lines += [_Place("socket"), _Load(_FIRST_AT)]
    lines += [_Jump(_JUMP_EQUAL, family, then="allow") for family in _LOCAL_FAMILIES if local]
    lines += [_Return(_ERRNO | errno.EACCES), _Place("ioctl"), _Load(_SECOND_AT)]
    lines += [_Jump(_JUMP_EQUAL, request, then="deny") for request in _TTY_IOCTLS]
    lines += [_Return(_ALLOW), _Place("prctl"), _Load(_FIRST_AT)]
    lines.append(_Jump(_JUMP_EQUAL, _PR_SET_SECCOMP, then="deny", otherwise="allow"))
    for name, action in (("allow", _ALLOW), ("deny", _ERRNO | errno.EPERM), ("absent", _ERRNO | errno.ENOSYS)):
        lines += [_Place(name), _Return(action)]
    return [*lines, _Place("kill"), _Return(_KILL)]


def program(machine: str, *, local: bool = True) -> bytes:
    """The filter for `x86_64` or `aarch64`, as an array of `struct sock_filter`; see `restrict` for `local`.

    `clone3` is answered as an unknown call, because its flags lie in memory that a filter cannot read: the C library
    goes back to `clone`, whose flags it can.
    """
    places: dict[str, int] = {}
    instructions: list[_Jump | _Load | _Return] = []
    for line in _lines(machine, local):
        if isinstance(line, _Place):
            places[line.name] = len(instructions)
        else:
            instructions.append(line)

    def ahead(name: str, at: int) -> int:
        distance = places[name] - at - 1 if name else 0
        if not 0 <= distance < 256:
            raise ValueError(f"seccomp filter: {name} is {distance} instructions ahead; a jump reaches 255")
        return distance

    code = bytearray()
    for at, one in enumerate(instructions):
        if isinstance(one, _Load):
            code += struct.pack("=HBBI", _LOAD, 0, 0, one.offset)
        elif isinstance(one, _Return):
            code += struct.pack("=HBBI", _RETURN, 0, 0, one.action)
        else:
            code += struct.pack("=HBBI", one.code, ahead(one.then, at), ahead(one.otherwise, at), one.operand)
    return bytes(code)


def available() -> bool:
    """Whether this kernel can filter here."""
    if platform.machine() not in kernel.MACHINES:
        return False
    action = ctypes.c_uint(_ERRNO)
    try:
        kernel.call("seccomp", ctypes.c_uint(_GET_ACTION_AVAILABLE), ctypes.c_uint(0), ctypes.byref(action))
    except OSError:
        return False
    return True


def restrict(*, local: bool = True) -> None:
    """Puts the filter in place; `no_new_privs` must be set.

    Args:
        local: whether new local sockets may be made. Landlock does not see a connection to a socket in the file system,
            such as that of a container engine, so where no namespace hides those there must be none.

    Raises:
        OSError: the kernel refuses; the process is as restricted as before.
    """
    code = program(platform.machine(), local=local)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    kernel.call("seccomp", ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(0), header)
