"""What a sealed process may see of the file system: one list for namespaces, Landlock and bubblewrap.

In: this process's own paths and the machine. Out: `Trees`. Left to others: enforcing it. The list names what is needed
(system libraries, Python's environment, devices), so what it does not name is hidden without being known: the home, the
checkout with its tests and its history, the runs, the problem's folder.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import kernelevolve

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
_SETTINGS = (
    "alternatives", "debian_version", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
    "nsswitch.conf", "nvidia", "OpenCL", "os-release", "passwd", "timezone", "vulkan",
)  # fmt: skip
_VENDORS = ("/opt/rocm*", "/opt/cuda*", "/opt/nvidia*", "/opt/amdgpu*", "/usr/local/cuda*", "/usr/local/nvidia*")
_NODES = ("null", "zero", "full", "random", "urandom")
_DEVICES = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm*", "nvidia-modeset", "nvidia-caps*", "kfd", "dri", "dxg")
_ENVIRONMENT = ("CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "VIRTUAL_ENV", "CONDA_PREFIX")
_TOO_MUCH = frozenset(("/", "/home", "/root", "/tmp", "/var", "/opt", "/mnt", "/srv", "/etc", "/work", "/workspace"))
# A folder of packages holds one of these; a source tree that is on the path holds this package alone.
_PACKAGES = ("torch", "triton", "numpy")


@dataclass(frozen=True)
class Trees:
    """Paths that exist here, absolute, as they are spelled by those who open them.

    Attributes:
        read: folders and files that may be read and executed.
        devices: nodes and folders of nodes that may also be written to.
        links: symbolic links at the root of a system whose `/bin` lies in `/usr`: name to target.
    """

    read: tuple[str, ...]
    devices: tuple[str, ...]
    links: tuple[tuple[str, str], ...]


def needed(extra: Iterable[str] = ()) -> Trees:
    """What a process of this Python needs here, and `extra`."""
    links = tuple((p, os.readlink(p)) for p in _SYSTEM if os.path.islink(p))
    system = [p for p in _SYSTEM if os.path.isdir(p) and not os.path.islink(p)]
    settings = [f"/etc/{name}" for name in _SETTINGS]
    vendors = [p for pattern in _VENDORS for p in glob.glob(pattern)]
    named = [os.environ[k] for k in _ENVIRONMENT if os.environ.get(k)]
    wanted = [*settings, *vendors, *named, *_libraries(), *_python(), *extra]
    spelled = dict.fromkeys(q for p in wanted for q in (os.path.abspath(p), os.path.realpath(p)))
    linked = tuple(f"{name}/" for name, _ in links)
    read = [p for p in spelled if os.path.exists(p) and p not in _exposing() and not p.startswith(linked)]
    nodes = [p for name in (*_NODES, *_DEVICES) for p in sorted(glob.glob(f"/dev/{name}"))]
    return Trees(_outermost([*system, *read]), tuple(nodes), links)


def _exposing() -> frozenset[str]:
    """Folders that hold too much: the usual ones, and the home and whatever it lies in."""
    home = Path.home()
    return _TOO_MUCH | {str(home), *map(str, home.parents)}


def _python() -> list[str]:
    """Where this interpreter and its packages live."""
    own = Path(kernelevolve.__file__).parent
    found = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, sys.executable, str(own)]
    asked = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # of the processes that this one starts
    for entry in (e for e in (*sys.path, *asked) if e):
        if any((Path(entry) / name).exists() for name in _PACKAGES) or not _is_source(Path(entry), own.parent):
            found.append(entry)
    return found


def _is_source(entry: Path, own: Path) -> bool:
    """Whether a folder on the path is somebody's work and no installed package: a checkout, or where a command was
    typed, which `python -m` puts on the path.
    """
    return entry in (own, Path.cwd()) or any((entry / name).exists() for name in (".git", "pyproject.toml"))


def _libraries() -> list[str]:
    """Folders that the dynamic loader looks into."""
    found = [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p.startswith("/")]
    for name in ("/etc/ld.so.conf", *sorted(glob.glob("/etc/ld.so.conf.d/*.conf"))):
        if os.path.isfile(name):
            lines = Path(name).read_text(errors="replace").splitlines()
            found += [line.strip() for line in lines if line.strip().startswith("/")]
    return found


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """`paths` without those that lie in another one, sorted; what is mounted there stays, for nobody else brings it.

    In a container the driver's libraries are often a mount inside of `/usr`.
    """
    kept: list[str] = []
    for path in sorted(set(paths)):
        inside = any(path == k or path.startswith(k + "/") for k in kept)
        if not inside or os.path.ismount(path):
            kept.append(path)
    return tuple(kept)
