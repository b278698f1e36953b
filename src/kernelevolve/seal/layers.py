"""Which layers of the seal this machine offers, each tried, each absent one with its remedy.

In: the machine. Out: `Layers`. Left to others: putting them in place (`keeper`), printing them (`doctor`). Whoever
seals takes a `Layers` as an argument, so that a machine with fewer of them is a value and no trick.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

from kernelevolve.evaluation import Guard
from kernelevolve.seal import kernel, landlock, namespaces, seccomp
from kernelevolve.seal.trees import Trees, needed

_USERNS = (
    "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1; on Ubuntu 23.10 and newer "
    "kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile that grants `userns`), in a container add "
    "--cap-add SYS_ADMIN or use a machine of its own"
)


NO_WALL = "rlimits"  # the isolation where limits are all that held


@dataclass(frozen=True)
class Layer:
    """One layer: whether it can be had here, what was found, and what to do where it cannot."""

    name: str
    holds: bool
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Layers:
    """The layers to use for a child.

    Attributes:
        outer: the name of what is around the whole process already, such as `bwrap`; empty for nothing.
        bare: whether the user asked for no seal at all.
    """

    namespaces: Layer
    landlock: Layer
    seccomp: Layer
    outer: str = ""
    bare: bool = False

    @property
    def isolation(self) -> str:
        """What will hold: `namespaces+landlock+seccomp` down to `rlimits`, and `none`."""
        held = [layer.name for layer in (self.namespaces, self.landlock, self.seccomp) if layer.holds]
        return "+".join(filter(None, [self.outer, *held])) or ("none" if self.bare else NO_WALL)


def absent(name: str) -> Layer:
    """A layer that is not to be used."""
    return Layer(name, False, "not used")


NO_LAYERS = Layers(absent("namespaces"), absent("landlock"), absent("seccomp"), bare=True)


_WALLS = {
    "bwrap": "a fresh process in bubblewrap",
    "namespaces": "mounts, processes, network and shared memory of its own",
    "landlock": "only named files are opened",
    "seccomp": "system calls that no kernel needs are refused",
}


def seal_guards(isolation: str) -> tuple[Guard, ...]:
    """What each layer did, as guards of an evaluation; bubblewrap and namespaces stand for each other."""
    held = isolation.split("+")
    outer = "bwrap" if "bwrap" in held else "namespaces"
    return tuple(
        Guard(f"seal-{name}", "held" if any(h.startswith(name) for h in held) else "not run", text)
        for name, text in _WALLS.items()
        if name in (outer, "landlock", "seccomp")
    )


@functools.cache
def probe() -> Layers:
    """Tries each layer in a process that is thrown away; the answer is remembered."""
    return Layers(_namespaces(), _landlock(), _seccomp())


def _namespaces() -> Layer:
    """Asking to unshare is not enough: AppArmor may grant a user namespace and then refuse each mount in it."""

    def work() -> None:
        trees = needed()
        namespaces.leave()
        inner = os.fork()
        if inner == 0:
            _report(lambda: _enter(trees), 2)
        if os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]):
            raise OSError(1, "the mounts are refused")

    failed = _tried(work)
    if failed:
        return Layer("namespaces", False, failed, _USERNS)
    return Layer("namespaces", True, "mount, pid, ipc, net and uts of its own")


def _enter(trees: Trees) -> None:
    namespaces.enter(trees, "")


def _landlock() -> Layer:
    version = landlock.abi()
    if version == 0:
        remedy = "use Linux 5.13 or newer with `landlock` in its list of security modules (boot with lsm=landlock,...)"
        return Layer("landlock", False, "this kernel has none", remedy)

    def work() -> None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict(["/usr"], ["/tmp"], [], version)

    if failed := _tried(work):
        return Layer("landlock", False, failed, "a container's profile may forbid it: allow the landlock_* calls")
    return Layer("landlock", True, landlock.describe(version))


def _seccomp() -> Layer:
    if not seccomp.available():
        return Layer("seccomp", False, "this kernel or machine has no filters", "use Linux on x86_64 or aarch64")

    def work() -> None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.restrict()

    if failed := _tried(work):
        return Layer("seccomp", False, failed, "a container's profile may forbid it: allow the seccomp system call")
    return Layer("seccomp", True, f"{len(seccomp.DENIED)} system calls refused")


def _tried(work: Callable[[], None]) -> str:
    """Why `work` fails in a process of its own; empty where it does not."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _report(work, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return text or (f"ended with {status}" if status else "")


def _report(work: Callable[[], None], to: int) -> None:
    """Ends this process: 0 where `work` does its part, else 1 with the reason written to `to`."""
    status = 1
    try:
        work()
        status = 0
    except OSError as error:
        os.write(to, (error.strerror or str(error)).encode())
    finally:
        os._exit(status)
