"""Namespaces: a process of its own mounts, processes, network, host name and shared memory.

In: the trees that stay visible. Out: `leave` unshares, `enter` builds a root that holds these trees read-only and one
fresh temporary file system. Left to others: who forks in between (a new process namespace begins with the next child),
and giving up the capabilities by which all this could be undone (`keeper`).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kernelevolve.seal import kernel
from kernelevolve.seal.limits import THREADS
from kernelevolve.seal.trees import Trees

_FLAGS = kernel.NEWNS | kernel.NEWIPC | kernel.NEWPID | kernel.NEWNET | kernel.NEWUTS
_HOME = "/tmp"
SCRATCH = f"{_HOME}/.triton"
_SHARED_MEMORY = f"{_HOME}/.shm"
_TEMPORARY_BYTES = 4 << 30
# Of /proc: user 0 may write to these even without capabilities.
_MACHINE = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi", "driver", "mtrr")
_LEAST_PIDS = 301  # the kernel takes no smaller limit for one process namespace


def leave() -> None:
    """Unshares, as root without a user namespace where that is allowed, else with one; the next child is process 1.

    Raises:
        OSError: the kernel refuses both.
    """
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        try:
            kernel.unshare(_FLAGS)
            return
        except PermissionError:
            pass  # root of a container: it may have a user namespace of its own
    kernel.unshare(_FLAGS | kernel.NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def enter(trees: Trees, scratch: str, processes: int = 0) -> bool:
    """Builds and enters the new root; to be called by process 1.

    Args:
        scratch: a folder outside that stays writable, as home of Triton's cache; empty for none.
        processes: most processes and threads, where the kernel can limit them for one namespace.

    Returns:
        whether all that is visible is read-only except the temporary files.

    Raises:
        OSError: the kernel refuses; this process is good for nothing then.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    wanted = [(path, path) for path in (*trees.read, "/sys")] + [(path, path) for path in trees.devices]
    opened = [(target, os.open(source, os.O_PATH | os.O_CLOEXEC)) for source, target in wanted]
    cache = os.open(scratch, os.O_PATH | os.O_CLOEXEC) if scratch else -1
    folder = "/tmp"  # any folder does: it is hidden from this process only
    # Mounted while the old root is here: the kernel gives an unprivileged process a view of /proc only where one is.
    kernel.mount("tmpfs", folder, "tmpfs", kernel.MS_NOSUID, "size=16m,mode=755")
    _processes(folder, processes)
    for name in ("dev", "tmp", "var"):
        os.mkdir(f"{folder}/{name}")
    size = f"size={_TEMPORARY_BYTES},mode=1777"
    kernel.mount("tmpfs", f"{folder}/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)
    protected = [_bind(handle, folder + target, device=target in trees.devices) for target, handle in opened]
    for name, to in trees.links:
        os.symlink(to, folder + name)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{folder}/dev/{name}")
    os.symlink("/proc/self/fd", f"{folder}/dev/fd")
    os.symlink("/tmp", f"{folder}/var/tmp")
    os.mkdir(folder + _SHARED_MEMORY, 0o1777)
    os.mkdir(f"{folder}/dev/shm")
    kernel.mount(folder + _SHARED_MEMORY, f"{folder}/dev/shm", None, kernel.MS_BIND)
    if cache >= 0:
        os.mkdir(folder + SCRATCH)
        kernel.mount(f"/proc/self/fd/{cache}", folder + SCRATCH, None, kernel.MS_BIND)
        os.close(cache)
    for _, handle in opened:
        os.close(handle)
    protected.append(kernel.read_only(folder, below=False))
    kernel.pivot_root(folder)
    os.chdir(_HOME)
    # Triton has read the old home at import; a cache that outlives this process could hold another candidate's kernel.
    os.environ |= {"HOME": _HOME, "TMPDIR": _HOME, "TRITON_HOME": _HOME}
    return all(protected)


def _processes(folder: str, limit: int) -> None:
    """A /proc of this namespace; what in it belongs to the machine is read-only once the limit is set.

    The rest stays writable, as in a container: CUDA names its threads there and gives up where it may not.
    """
    os.mkdir(f"{folder}/proc")
    kernel.mount("proc", f"{folder}/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    if limit:
        try:
            # Since Linux 6.14 each process namespace has a limit of its own; before, this is the whole machine's.
            if tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 14):
                Path(f"{folder}/proc/sys/kernel/pid_max").write_text(str(max(THREADS * limit, _LEAST_PIDS)))
        except OSError:
            pass  # the keeper counts them, too
    for name in _MACHINE:
        place = f"{folder}/proc/{name}"
        if os.path.exists(place):
            kernel.mount(place, place, None, kernel.MS_BIND)
            if not kernel.read_only(place):
                kernel.mount("none", place, None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY)


def _bind(handle: int, target: str, *, device: bool) -> bool:
    """Mounts what `handle` is open on; whether it is read-only, where it is no device."""
    source = f"/proc/self/fd/{handle}"
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    try:
        kernel.mount(source, target, None, kernel.MS_BIND)
    except OSError:
        # What lies mounted below may not be left out by one who does not own it.
        kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
    return device or kernel.read_only(target)
