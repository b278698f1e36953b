"""All layers of the seal in one answer, for people: what this machine offers, and what to do about the rest.

In: the machine. Out: a `Layer` each, strongest first. Left to others: printing (`doctor`).
"""

from __future__ import annotations

from kernelevolve.seal import bubblewrap, layers
from kernelevolve.seal.layers import Layer


def seal_layers() -> tuple[Layer, ...]:
    """bubblewrap, namespaces, Landlock and seccomp, each tried in a process that is thrown away."""
    found = layers.probe()
    return (bubblewrap.probe(), found.namespaces, found.landlock, found.seccomp)
