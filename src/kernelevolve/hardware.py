"""Figures of a platform and the target that its binaries are built for.

In: figures from the vendors' public sheets, each with its source. Out: frozen values. Left to others: which platforms
exist (`platforms`), what a device really reaches (measured, see `benchmarks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Vendor = Literal["nvidia", "amd", "meta", "cpu"]


@dataclass(frozen=True)
class Target:
    """What Triton compiles for: `backend` cuda or hip, `arch` 90 or gfx942, threads per warp."""

    backend: Literal["cuda", "hip"]
    arch: int | str
    warp_size: int

    @property
    def name(self) -> str:
        """`sm_90` or `gfx942`."""
        return f"sm_{self.arch}" if self.backend == "cuda" else str(self.arch)


@dataclass(frozen=True)
class HardwareFigures:
    """One accelerator as its vendor describes it.

    Attributes:
        name: as printed, e.g. `NVIDIA H100 SXM5 80 GB`.
        units: streaming multiprocessors or compute units.
        clock_hz: boost clock.
        memory_bytes: device memory.
        bandwidth: device memory, bytes per second.
        l2_bytes: last cache before memory.
        shared_bytes_per_block: most that one thread block can have.
        shared_bytes_per_unit: per multiprocessor or compute unit.
        registers_per_unit: 32-bit registers per multiprocessor or compute unit.
        max_warps_per_unit: resident warps (wavefronts).
        max_blocks_per_unit: resident thread blocks.
        peak_flops: dense peak, FLOP per second, by arithmetic: fp64, fp32 (vector units), tf32, fp16, bf16, fp8, int8.
        launch_seconds: host cost of one kernel launch, back to back; a working figure, see `sources`.
        sources: where the figures are from, by field name or `all`.
    """

    name: str
    units: int
    clock_hz: float
    memory_bytes: int
    bandwidth: float
    l2_bytes: int
    shared_bytes_per_block: int
    shared_bytes_per_unit: int
    registers_per_unit: int
    max_warps_per_unit: int
    max_blocks_per_unit: int
    peak_flops: Mapping[str, float]
    launch_seconds: float
    sources: Mapping[str, str]
