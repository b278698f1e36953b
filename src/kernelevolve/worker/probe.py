"""What torch and triton can do on this machine, asked in a process of its own.

In: targets as arguments, `h100=cuda:90:32 mi300x=hip:gfx942:64`. Out: one line of JSON on stdout: versions, devices,
and per target how long a small kernel took to build, or why it did not. Left to others: judging it (`doctor` of the
command line). No foreign code runs here.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit  # type: ignore[untyped-decorator]
def _double(source, target, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < count
    tl.store(target + offsets, 2 * tl.load(source + offsets, mask=inside), mask=inside)


def build(target: str) -> dict[str, Any]:
    """Compiles a small kernel for `backend:arch:warp_size`: `{"seconds": ...}` or `{"error": ...}`."""
    backend, arch, warp_size = target.split(":")
    gpu = GPUTarget(backend, int(arch) if arch.isdigit() else arch, int(warp_size))
    signature = {"source": "*fp32", "target": "*fp32", "count": "i32", "BLOCK": "constexpr"}
    start = time.monotonic()
    try:
        triton.compile(ASTSource(_double, signature, {(3,): 1024}), target=gpu)
    except (Exception, SystemExit) as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    return {"seconds": round(time.monotonic() - start, 2)}


def devices() -> list[dict[str, Any]]:
    """The accelerators that torch sees."""
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "arch": getattr(properties, "gcnArchName", "") if torch.version.hip else "",
                "capability": [properties.major, properties.minor],
            }
        )
    return found


def main() -> None:
    """Prints what was found."""
    targets = dict(argument.split("=", 1) for argument in sys.argv[1:])
    print(
        json.dumps(
            {
                "torch": str(torch.__version__),
                "triton": str(triton.__version__),
                "devices": devices(),
                "targets": {name: build(target) for name, target in targets.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
