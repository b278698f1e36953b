"""AMD's data centre accelerators.

In: AMD's public data sheets, the CDNA 3 and CDNA 4 white papers and instruction set documents, the ROCm hardware table.
Out: one `Accelerator` per product. Left to others: everything that must be measured (`benchmarks`).

The last cache before memory is the Infinity Cache; the driver's L2 query answers the 4 MiB of one die. A wavefront
counts as a warp, local data share (LDS) as shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernelevolve.hardware import HardwareFigures, Target
from kernelevolve.platforms.accelerator import Accelerator
from kernelevolve.platforms.cost import Efficiency

_GIB, _MIB, _KIB = 1 << 30, 1 << 20, 1 << 10

_TABLE = "ROCm documentation, AMD GPU specifications"
_WAVES = "8 wavefronts on each of 4 SIMD units: AMD CDNA 3 white paper"
_BLOCKS = "one wavefront each at least, so as many as wavefronts"
_LAUNCH = "working figure, the same as on NVIDIA's platforms, so that no vendor gains by it; AMD publishes none"
_COMPILED = "benchmarks/results/amd_dot_census.json"


def _efficiency(passes: Mapping[str, tuple[int, int]]) -> Efficiency:
    """The shares of a generation.

    Args:
        passes: for each arithmetic whose operands are taken apart in the loop the cycles of the matrix unit and of the
            vector unit, for one wavefront and step of a 128 x 128 x 32 tile with 8 wavefronts. The vector unit is the
            slower one of the two, so the matrix unit waits.
    """
    plain = 0.55
    return Efficiency(
        memory=0.8,
        library={"fp32": 0.7, "other": 0.6},
        generated={
            "fp32": plain,
            **{name: plain * min(1.0, matrix / vector) for name, (matrix, vector) in passes.items()},
            "other": 0.4,
        },
        sources={
            "memory": "working figure: a little under the share measured on an H200",
            "library": "working figure, not yet measured",
            "generated": "working figure: two thirds to four fifths of the library's share, as measured on an H200 in "
            f"fp32; bf16x3 and bf16x6: as fp32, times what their vector instructions leave ({_COMPILED})",
        },
    )


_CDNA3 = _efficiency({"bf16x3": (768, 2872), "bf16x6": (1536, 4212)})
_CDNA4 = _efficiency({"bf16x3": (384, 948), "bf16x6": (768, 1408)})

MI300X = Accelerator(
    name="mi300x",
    vendor="amd",
    figures=HardwareFigures(
        name="AMD Instinct MI300X 192 GB",
        units=304,
        clock_hz=2.1e9,
        memory_bytes=192 * _GIB,
        bandwidth=5.3e12,
        l2_bytes=256 * _MIB,
        shared_bytes_per_block=64 * _KIB,
        shared_bytes_per_unit=64 * _KIB,
        registers_per_unit=131072,
        max_warps_per_unit=32,
        max_blocks_per_unit=32,
        peak_flops={
            "fp64": 81.7e12,
            "fp32": 163.4e12,
            "tf32": 653.7e12,
            "fp16": 1307.4e12,
            "bf16": 1307.4e12,
            "fp8": 2614.9e12,
            "int8": 2614.9e12,
        },
        launch_seconds=2e-6,
        sources={
            "all": "AMD Instinct MI300X data sheet",
            "l2_bytes": f"Infinity Cache: {_TABLE}",
            "shared_bytes_per_block": f"LDS: {_TABLE}",
            "shared_bytes_per_unit": f"LDS: {_TABLE}",
            "registers_per_unit": f"vector register file of 512 KiB: {_TABLE}",
            "max_warps_per_unit": _WAVES,
            "max_blocks_per_unit": _BLOCKS,
            "launch_seconds": _LAUNCH,
        },
    ),
    target=Target("hip", "gfx942", 64),
    efficiency=_CDNA3,
    input_precisions=("ieee", "tf32", "bf16x3", "bf16x6"),
    knowledge="hardware/amd/cdna3",
    capability=(9, 4),
    queried_l2_bytes=4 * _MIB,
)

MI350X = Accelerator(
    name="mi350x",
    vendor="amd",
    figures=HardwareFigures(
        name="AMD Instinct MI350X 288 GB",
        units=256,
        clock_hz=2.2e9,
        memory_bytes=288 * _GIB,
        bandwidth=8e12,
        l2_bytes=256 * _MIB,
        shared_bytes_per_block=160 * _KIB,
        shared_bytes_per_unit=160 * _KIB,
        registers_per_unit=131072,
        max_warps_per_unit=32,
        max_blocks_per_unit=32,
        peak_flops={
            "fp64": 72.1e12,
            "fp32": 144.2e12,
            "fp16": 2306.9e12,
            "bf16": 2306.9e12,
            "fp8": 4613.7e12,
            "int8": 4613.7e12,
        },
        launch_seconds=2e-6,
        sources={
            "all": "AMD Instinct MI350X data sheet; CDNA 4 has no tf32",
            "l2_bytes": f"Infinity Cache: {_TABLE}",
            "shared_bytes_per_block": f"LDS: {_TABLE}; AMD CDNA 4 white paper",
            "shared_bytes_per_unit": f"LDS: {_TABLE}; AMD CDNA 4 white paper",
            "registers_per_unit": f"vector register file of 512 KiB: {_TABLE}",
            "max_warps_per_unit": _WAVES,
            "max_blocks_per_unit": _BLOCKS,
            "launch_seconds": _LAUNCH,
        },
    ),
    target=Target("hip", "gfx950", 64),
    efficiency=_CDNA4,
    input_precisions=("ieee", "bf16x3", "bf16x6"),
    knowledge="hardware/amd/cdna4",
    capability=(9, 5),
    queried_l2_bytes=4 * _MIB,
)
