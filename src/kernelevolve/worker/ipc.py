"""Exports device memory to the judge by CUDA IPC: see `tensors.export`, which the plan lane uses too."""

from __future__ import annotations

from kernelevolve.tensors.export import export, works

__all__ = ["export", "works"]
