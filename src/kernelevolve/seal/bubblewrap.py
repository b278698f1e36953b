"""bubblewrap: a command of its own in namespaces that a small, much-read program builds.

In: a command, and what it may see. Out: the command line that runs it sealed. Left to others: what runs in there, which
still puts Landlock, seccomp and limits around its children (`keeper`). A process in here starts from nothing: a fresh
interpreter, an environment that was listed word by word, a home and caches that vanish with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from kernelevolve.seal.layers import Layer
from kernelevolve.seal.trees import Trees, needed

SCRATCH = "/scratch"
_HOME = "/tmp/home"
_PROBE_SECONDS = 20
_REMEDY = "install bubblewrap (`apt install bubblewrap`, `dnf install bubblewrap`); it needs user namespaces or root"


def command(
    inner: Sequence[str], environment: Mapping[str, str], scratch: str, *, binary: str, trees: Trees | None = None
) -> list[str]:
    """The command line that runs `inner` sealed; descriptors that it inherits stay open.

    Args:
        environment: all that it finds in its own.
        scratch: a folder outside that it may write to, as `SCRATCH`; empty for none.
        binary: of bubblewrap.
        trees: what it may see; what this Python needs if None.
    """
    trees = trees or needed()
    made = [binary, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "worker"]
    made += ["--clearenv"]
    for name, value in {**environment, "HOME": _HOME, "TMPDIR": "/tmp"}.items():
        made += ["--setenv", name, value]
    made += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", _HOME, "--symlink", "/tmp", "/var/tmp"]
    for path in (*trees.read, "/sys"):
        made += ["--ro-bind", path, path]
    for node in trees.devices:
        made += ["--dev-bind-try", node, node]
    for name, to in trees.links:
        made += ["--symlink", to, name]
    if scratch:
        made += ["--bind", scratch, SCRATCH]
    return [*made, "--remount-ro", "/", "--chdir", _HOME, "--", *inner]


def find(binary: str = "") -> str:
    """Where bubblewrap is: `binary` if that is given, else on the path; empty where there is none."""
    return shutil.which(binary or "bwrap") or ""


def probe(binary: str = "") -> Layer:
    """Whether bubblewrap is here and works."""
    found = find(binary)
    if not found:
        return Layer("bwrap", False, f"no {binary or 'bwrap'} on the path", _REMEDY)
    try:
        tried = subprocess.run(
            command(["true"], {"PATH": os.environ.get("PATH", os.defpath)}, "", binary=found),
            capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False,
        )  # fmt: skip
        version = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=_PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Layer("bwrap", False, f"{found}: {error}", _REMEDY)
    if tried.returncode:
        why = (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
        return Layer("bwrap", False, f"{found}: {why[:200]}", _REMEDY)
    return Layer("bwrap", True, f"{version.stdout.strip()} at {found}")
