"""NVIDIA's data centre accelerators.

In: NVIDIA's public data sheets, architecture white papers, tuning guides and the CUDA programming guide. Out: one
`Accelerator` per product. Left to others: everything that must be measured (`benchmarks`).

Capacities on the sheets' "GB" are GiB here, as the driver reports them. Peaks are dense: half of what a sheet prints
with 2:4 sparsity.
"""

from __future__ import annotations

from kernelevolve.hardware import HardwareFigures, Target
from kernelevolve.platforms.accelerator import Accelerator
from kernelevolve.platforms.cost import Efficiency

_GIB, _MIB, _KIB = 1 << 30, 1 << 20, 1 << 10

_LIMITS = (
    "CUDA C++ Programming Guide, appendix Compute Capabilities, table Technical Specifications per Compute Capability"
)
_LAUNCH = (
    "working figure, between the 0.9 us that a back-to-back launch adds in NVIDIA's 'Getting Started with CUDA Graphs' "
    "(developer blog, 2019) and the 14 us of a single event-timed PyTorch call on an H200"
)
# One H200, torch 2.11, Triton 3.6, cuBLAS of CUDA 13.0.
_MEASURED = "one H200"
_EFFICIENCY = Efficiency(
    memory=4.2 / 4.8,
    library={"fp32": 51 / 66.9, "tf32": 382 / 494.7, "bf16": 800 / 989.4, "fp16": 800 / 989.4, "other": 0.75},
    generated={
        "fp32": 45 / 66.9,
        "tf32": 86 / 494.7,
        "tf32x3": 3 * 53 / 494.7,
        "bf16x3": 3 * 104 / 989.4,
        "bf16x6": 6 * 67 / 989.4,
        "bf16": 0.55,
        "fp16": 0.55,
        "other": 0.5,
    },
    sources={
        "memory": f"copy of 512 MB at 4.2 TB/s on {_MEASURED}",
        "library": f"cuBLAS on {_MEASURED}: 4096^3 in fp32, tf32; 8192^3 in bf16; fp16 as bf16; other: working figure",
        "generated": f"plain Triton kernel on {_MEASURED}: 4096^3, best of 7 tiles; bf16, fp16, other: working figures",
    },
)
_ALL_PRECISIONS = ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")

A100 = Accelerator(
    name="a100",
    vendor="nvidia",
    figures=HardwareFigures(
        name="NVIDIA A100 SXM4 80 GB",
        units=108,
        clock_hz=1.41e9,
        memory_bytes=80 * _GIB,
        bandwidth=2.039e12,
        l2_bytes=40 * _MIB,
        shared_bytes_per_block=163 * _KIB,
        shared_bytes_per_unit=164 * _KIB,
        registers_per_unit=65536,
        max_warps_per_unit=64,
        max_blocks_per_unit=32,
        peak_flops={"fp64": 9.7e12, "fp32": 19.5e12, "tf32": 156e12, "fp16": 312e12, "bf16": 312e12, "int8": 624e12},
        launch_seconds=2e-6,
        sources={
            "all": "NVIDIA A100 80GB data sheet; NVIDIA A100 Tensor Core GPU Architecture white paper",
            "shared_bytes_per_block": f"{_LIMITS}, 8.0",
            "shared_bytes_per_unit": f"{_LIMITS}, 8.0",
            "registers_per_unit": f"{_LIMITS}, 8.0",
            "max_warps_per_unit": f"{_LIMITS}, 8.0",
            "max_blocks_per_unit": f"{_LIMITS}, 8.0",
            "launch_seconds": _LAUNCH,
        },
    ),
    target=Target("cuda", 80, 32),
    efficiency=_EFFICIENCY,
    input_precisions=_ALL_PRECISIONS,
    knowledge="hardware/nvidia/ampere",
    capability=(8, 0),
)

_HOPPER_PEAKS = {
    "fp64": 33.5e12,
    "fp32": 66.9e12,
    "tf32": 494.7e12,
    "fp16": 989.4e12,
    "bf16": 989.4e12,
    "fp8": 1978.9e12,
    "int8": 1978.9e12,
}
_HOPPER_SOURCES = {
    "clock_hz": "NVIDIA H100 Tensor Core GPU Architecture white paper: boost clock outside of tensor operations",
    "peak_flops": "NVIDIA H100 Tensor Core GPU Architecture white paper, dense, SXM5",
    "shared_bytes_per_block": f"{_LIMITS}, 9.0",
    "shared_bytes_per_unit": f"{_LIMITS}, 9.0",
    "registers_per_unit": f"{_LIMITS}, 9.0",
    "max_warps_per_unit": f"{_LIMITS}, 9.0",
    "max_blocks_per_unit": f"{_LIMITS}, 9.0",
    "launch_seconds": _LAUNCH,
}

H100 = Accelerator(
    name="h100",
    vendor="nvidia",
    figures=HardwareFigures(
        name="NVIDIA H100 SXM5 80 GB",
        units=132,
        clock_hz=1.98e9,
        memory_bytes=80 * _GIB,
        bandwidth=3.35e12,
        l2_bytes=50 * _MIB,
        shared_bytes_per_block=227 * _KIB,
        shared_bytes_per_unit=228 * _KIB,
        registers_per_unit=65536,
        max_warps_per_unit=64,
        max_blocks_per_unit=32,
        peak_flops=_HOPPER_PEAKS,
        launch_seconds=2e-6,
        sources={"all": "NVIDIA H100 Tensor Core GPU data sheet, SXM", **_HOPPER_SOURCES},
    ),
    target=Target("cuda", 90, 32),
    efficiency=_EFFICIENCY,
    input_precisions=_ALL_PRECISIONS,
    knowledge="hardware/nvidia/hopper",
    capability=(9, 0),
)

H200 = Accelerator(
    name="h200",
    vendor="nvidia",
    figures=HardwareFigures(
        name="NVIDIA H200 SXM 141 GB",
        units=132,
        clock_hz=1.98e9,
        memory_bytes=141 * _GIB,
        bandwidth=4.8e12,
        l2_bytes=50 * _MIB,
        shared_bytes_per_block=227 * _KIB,
        shared_bytes_per_unit=228 * _KIB,
        registers_per_unit=65536,
        max_warps_per_unit=64,
        max_blocks_per_unit=32,
        peak_flops=_HOPPER_PEAKS,
        launch_seconds=2e-6,
        sources={
            "all": "NVIDIA H200 Tensor Core GPU data sheet, SXM",
            **_HOPPER_SOURCES,
            "l2_bytes": "as H100 (same die); the driver of one H200 answers 60 MiB, which the stand-in device repeats",
        },
    ),
    target=Target("cuda", 90, 32),
    efficiency=_EFFICIENCY,
    input_precisions=_ALL_PRECISIONS,
    knowledge="hardware/nvidia/hopper",
    capability=(9, 0),
    queried_l2_bytes=60 * _MIB,
)

B200 = Accelerator(
    name="b200",
    vendor="nvidia",
    figures=HardwareFigures(
        name="NVIDIA B200 SXM 180 GB",
        units=148,
        clock_hz=1.965e9,
        memory_bytes=180 * _GIB,
        bandwidth=7.7e12,
        l2_bytes=126 * _MIB,
        shared_bytes_per_block=227 * _KIB,
        shared_bytes_per_unit=228 * _KIB,
        registers_per_unit=65536,
        max_warps_per_unit=64,
        max_blocks_per_unit=32,
        peak_flops={
            "fp64": 37e12,
            "fp32": 75e12,
            "tf32": 1100e12,
            "fp16": 2250e12,
            "bf16": 2250e12,
            "fp8": 4500e12,
            "int8": 4500e12,
        },
        launch_seconds=2e-6,
        sources={
            "all": "NVIDIA Blackwell data sheet, HGX B200 column, per accelerator; peaks are half of the sparse ones",
            "units": "streaming multiprocessors that the driver reports; the sheet does not print them",
            "clock_hz": "from the sheet's 75 TFLOP/s in fp32: 148 units x 128 lanes x 2 x clock",
            "l2_bytes": "both dies together: Blackwell Tuning Guide, 'Increased L2 Capacity'",
            "shared_bytes_per_block": f"{_LIMITS}, 10.0",
            "shared_bytes_per_unit": f"{_LIMITS}, 10.0",
            "registers_per_unit": f"{_LIMITS}, 10.0",
            "max_warps_per_unit": f"{_LIMITS}, 10.0",
            "max_blocks_per_unit": f"{_LIMITS}, 10.0",
            "launch_seconds": _LAUNCH,
        },
    ),
    target=Target("cuda", 100, 32),
    efficiency=_EFFICIENCY,
    input_precisions=_ALL_PRECISIONS,
    knowledge="hardware/nvidia/blackwell",
    capability=(10, 0),
)
