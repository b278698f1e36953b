"""Building every launch of a plan for a target, and reading from the binary what it uses.

In: launches as Triton specialised them. Out: `Resources` per launch. Left to others: caching (the host keeps results by
content), deciding what is too much. Nothing here needs a device: registers, spills and shared memory come from the
binary itself, through the `cuobjdump` that Triton carries (NVIDIA) or the code object's metadata (AMD).
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernelevolve.evaluation import Resources, Verdict
from kernelevolve.hardware import HardwareFigures, Target
from kernelevolve.worker.fault import Fault, blame
from kernelevolve.worker.plan import Compilable

_NVIDIA_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def build(compilable: Compilable, target: Target, figures: HardwareFigures) -> Resources:
    """Compiles one launch for `target`.

    Raises:
        Fault: `COMPILE_ERROR` with Triton's message, or more shared memory than the platform has.
    """
    name = compilable.function.__name__
    kernel = compiled(compilable, target)
    if target.backend == "cuda":
        _ready_launcher(kernel)
    shared = int(kernel.metadata.shared)
    if shared > figures.shared_bytes_per_block:
        limit = figures.shared_bytes_per_block
        raise Fault(
            Verdict.COMPILE_ERROR, f"kernel {name} asks for {shared} bytes of shared memory; {target.name} has {limit}"
        )
    warps = int(kernel.metadata.num_warps)
    if target.backend == "cuda":
        registers, spills, code, instructions = _read_cubin(kernel.asm["cubin"])
    else:
        registers, spills, code, instructions = _read_code_object(kernel.asm["amdgcn"])
    # Only the instructions are hashed: the file around them names the candidate's path and lines.
    digest = hashlib.sha256(code.encode()).hexdigest()
    occupancy = _occupancy(registers, shared, warps, target, figures)
    return Resources(name, target.name, digest, registers, spills, shared, warps, occupancy, instructions)


def compiled(compilable: Compilable, target: Target) -> Any:
    """Triton's compiled kernel for one launch; a second time it comes from Triton's own cache.

    Raises:
        Fault: `COMPILE_ERROR` with Triton's message.
    """
    source = ASTSource(compilable.function, compilable.signature, compilable.constants, compilable.attributes)
    gpu = GPUTarget(target.backend, target.arch, target.warp_size)
    try:
        return triton.compile(source, target=gpu, options=compilable.options.__dict__)
    except (Exception, SystemExit) as error:
        raise blame(error, Verdict.COMPILE_ERROR) from error


def _ready_launcher(kernel: Any) -> None:
    """Has Triton compile the host code that starts a kernel, so that nobody waits for it on a device.

    Older versions write C for each signature and run a C compiler. It is linked against the driver's library: where
    there is none, there is no device to wait for either.
    """
    nvidia = triton.backends.backends["nvidia"].driver
    module = sys.modules[nvidia.__module__]
    if not hasattr(module, "make_launcher"):
        return
    with contextlib.suppress(AssertionError, OSError, RuntimeError, subprocess.SubprocessError):
        module.CudaUtils()
        module.CudaLauncher(kernel.src, kernel.metadata)


_RESOURCE = re.compile(r"REG:(\d+)\s+STACK:(\d+)\s+SHARED:(\d+)\s+LOCAL:(\d+)")
_SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
_NVIDIA_CLASSES = (
    ("matrix", ("HGMMA", "QGMMA", "IGMMA", "HMMA", "IMMA", "DMMA", "QMMA", "UTCHMMA", "UTCQMMA", "UTCMMA")),
    ("async_copy", ("LDGSTS", "UTMALDG", "UTMASTG", "UBLKCP")),
    ("load", ("LDG", "LD.", "LDL", "LDS", "LDSM", "LDC")),
    ("store", ("STG", "ST.", "STL", "STS", "STSM", "RED", "ATOM")),
    ("barrier", ("BAR", "SYNCS", "WARPSYNC", "DEPBAR", "MEMBAR")),
    ("fma", ("FFMA", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2", "DFMA", "DADD", "DMUL")),
    ("special", ("MUFU",)),
    ("integer", ("IMAD", "IADD", "LEA", "SHF", "LOP", "ISETP", "IABS", "PRMT", "VIADD")),
)
_AMD_CLASSES = (
    ("matrix", ("v_mfma", "v_smfmac", "v_wmma")),
    ("async_copy", ("buffer_load_dword_lds", "global_load_lds")),
    ("load", ("global_load", "buffer_load", "flat_load", "scratch_load", "ds_read", "ds_load", "s_load")),
    ("store", ("global_store", "buffer_store", "flat_store", "scratch_store", "ds_write", "ds_store", "global_atomic")),
    ("barrier", ("s_barrier", "s_waitcnt")),
    ("fma", ("v_fma", "v_pk_fma", "v_add_f", "v_mul_f", "v_pk_add", "v_pk_mul", "v_mac", "v_sub_f")),
    ("special", ("v_exp", "v_log", "v_rcp", "v_rsq", "v_sqrt", "v_sin", "v_cos")),
    ("integer", ("v_add_u", "v_mad_u", "v_mul_lo", "v_lshl", "v_and", "v_or", "v_add_co", "s_add", "s_mul")),
)


def _count(opcodes: list[str], classes: tuple[tuple[str, tuple[str, ...]], ...]) -> dict[str, int]:
    counts: collections.Counter[str] = collections.Counter()
    for opcode in opcodes:
        counts[next((label for label, heads in classes if opcode.startswith(heads)), "other")] += 1
    return dict(sorted(counts.items()))


def _tool(name: str, *arguments: str) -> str:
    path = _NVIDIA_TOOLS / name
    done = subprocess.run([str(path), *arguments], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed with {done.returncode}: {done.stderr.strip()[:200]}")
    return done.stdout


def _read_cubin(binary: bytes) -> tuple[int, int, str, dict[str, int]]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        listing = _tool("cuobjdump", "-sass", file.name)
    found = _RESOURCE.search(usage)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {usage[:200]!r}")
    registers, stack, _, local = (int(g) for g in found.groups())
    code = "\n".join(line.strip() for line in listing.splitlines() if line.lstrip().startswith("/*"))
    return registers, max(stack, local), code, _count(_SASS.findall(listing), _NVIDIA_CLASSES)


def _read_code_object(text: str) -> tuple[int, int, str, dict[str, int]]:
    def field(name: str) -> int:
        found = re.search(rf"^\s*\.?{name}:\s*(\d+)", text, re.MULTILINE)
        return int(found.group(1)) if found else 0

    lines = [line.split(";")[0].strip() for line in text.splitlines() if re.match(r"\s+[a-z][a-z0-9_]+\s", line)]
    # On CDNA the accumulation registers come out of the same file: `.vgpr_count` already counts both.
    opcodes = [line.split()[0] for line in lines if line]
    return field("vgpr_count"), field("private_segment_fixed_size"), "\n".join(lines), _count(opcodes, _AMD_CLASSES)


def _occupancy(registers: int, shared: int, warps: int, target: Target, figures: HardwareFigures) -> float:
    """Resident warps over the most that a unit can hold, by registers, shared memory and block limits."""
    if target.backend == "cuda":
        per_warp = max(1, math.ceil(registers * target.warp_size / 256)) * 256  # allocated in units of 256 per warp
        by_registers = figures.registers_per_unit // (per_warp * warps) if registers else figures.max_blocks_per_unit
    else:
        per_simd = 512 // max(8, math.ceil(registers / 8) * 8)  # CDNA: 512 vector registers per lane and SIMD, 4 SIMDs
        by_registers = (min(8, per_simd) * 4) // warps
    by_shared = figures.shared_bytes_per_unit // shared if shared else figures.max_blocks_per_unit
    by_warps = figures.max_warps_per_unit // warps
    blocks = min(by_registers, by_shared, by_warps, figures.max_blocks_per_unit)
    return round(blocks * warps / figures.max_warps_per_unit, 4)
