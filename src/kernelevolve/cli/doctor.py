"""What this machine has and lacks for KernelEvolve, each missing thing with its remedy.

In: the machine. Out: `Finding` values. Left to others: printing and the exit code (`app`). torch and triton are asked
in a process of their own (`worker.probe`), because this door imports neither.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from kernelevolve import Layer, Target, seal_layers
from kernelevolve.cli import words

State = Literal["ok", "note", "missing"]

_PACKAGES = ("numpy", "optuna", "sqlalchemy", "fsspec", "typer", "rich")
_OLDEST_PYTHON = (3, 11)
_ROOM_NEEDED = 2 << 30
_PROBE_SECONDS = 300


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: `ok`; `note` where something works less well; `missing` where something does not work at all.
        remedy: what to do about it; empty where nothing is to do.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(targets: Mapping[str, Target], folder: Path) -> list[Finding]:
    """Looks at everything; `targets` are the platforms to build for, `folder` is where runs are written."""
    findings = [_system(), _python(), *(_package(name) for name in _PACKAGES)]
    findings += _accelerators(targets)
    findings += [
        *_seal(seal_layers()),
        _room(folder, "runs"),
        _room(_triton_cache(), "Triton's cache"),
    ]
    return findings


def _system() -> Finding:
    name = platform.system()
    if name != "Linux":
        return Finding(
            "system",
            "missing",
            name,
            "KernelEvolve needs Linux, because Triton has no wheels elsewhere; on Windows use WSL2",
        )
    return Finding("system", "ok", f"{name} {platform.release()} {platform.machine()}")


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        return Finding("python", "missing", found, "install Python 3.11 or newer")
    return Finding("python", "ok", found)


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", "not installed", f"pip install {name}")


def _accelerators(targets: Mapping[str, Target]) -> list[Finding]:
    asked = [f"{name}={t.backend}:{t.arch}:{t.warp_size}" for name, t in sorted(targets.items())]
    with tempfile.TemporaryDirectory(prefix="kernelevolve-doctor-") as cache:
        # A cache of its own, so that the build is tried now and not remembered.
        environment = {**os.environ, "TRITON_CACHE_DIR": cache, "TRITON_DEFAULT_FP_FUSION": "1"}
        command = [sys.executable, "-m", "kernelevolve.worker.probe", *asked]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, env=environment)
        except subprocess.TimeoutExpired:
            silent = f"no answer within {_PROBE_SECONDS} s"
            return [Finding("torch and triton", "missing", silent, "run `python -c 'import torch, triton'` and look")]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [Finding("torch and triton", "missing", last, "pip install 'torch>=2.9' 'triton>=3.6'")]
    return _probed(json.loads(done.stdout.splitlines()[-1]))


def _probed(found: Mapping[str, Any]) -> list[Finding]:
    findings = [Finding("torch", "ok", found["torch"]), Finding("triton", "ok", found["triton"])]
    for device in found["devices"]:
        arch = device["arch"] or f"compute capability {device['capability'][0]}.{device['capability'][1]}"
        findings.append(Finding("device", "ok", f"{device['name']}, {words.size(device['memory_bytes'])}, {arch}"))
    if not found["devices"]:
        findings.append(
            Finding(
                "device",
                "note",
                "none: correctness is interpreted on scaled workloads, time is modelled",
                "for measured figures use a machine with an NVIDIA or AMD accelerator and a torch build for it",
            )
        )
    for name, built in found["targets"].items():
        if "error" in built:
            remedy = "this Triton cannot build for it; try another Triton between 3.6 and 3.9"
            findings.append(Finding(f"builds for {name}", "note", built["error"], remedy))
        else:
            findings.append(Finding(f"builds for {name}", "ok", f"small kernel in {built['seconds']:.2f} s"))
    return findings


_SEAL = {
    "bwrap": "the publish lane runs workers in forked namespaces in place of bubblewrap",
    "namespaces": "foreign code sees this machine's processes, network and temporary files as far as Landlock lets it",
    "landlock": "files are hidden by namespaces alone",
    "seccomp": "every system call is open to foreign code",
}


def _seal(layers: Sequence[Layer]) -> list[Finding]:
    """Each layer of the seal, and what all of them together come to."""
    findings = []
    for layer in layers:
        if layer.holds:
            findings.append(Finding(f"seal: {layer.name}", "ok", layer.found))
        else:
            lost = f"{layer.found}; without it {_SEAL[layer.name]}"
            findings.append(Finding(f"seal: {layer.name}", "note", lost, layer.remedy))
    held = [layer.name for layer in layers if layer.holds and layer.name != "bwrap"]
    if held:
        return [*findings, Finding("isolation", "ok", "+".join(held))]
    remedy = "see the layers above; with --unsealed foreign code runs all the same, and may do all that you may"
    return [*findings, Finding("isolation", "missing", "limits alone, so no foreign code is run", remedy)]


def _room(folder: Path, what: str) -> Finding:
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Finding(f"room for {what}", "missing", f"{existing} cannot be written", "choose another folder")
    if free < _ROOM_NEEDED:
        remedy = f"free some space or choose another folder; {words.size(_ROOM_NEEDED)} are enough for most runs"
        return Finding(f"room for {what}", "note", f"{words.size(free)} free in {existing}", remedy)
    return Finding(f"room for {what}", "ok", f"{words.size(free)} free in {existing}")


def _triton_cache() -> Path:
    return Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")


def sound(findings: Iterable[Finding]) -> bool:
    """Whether nothing that is needed is missing."""
    return all(f.state != "missing" for f in findings)
