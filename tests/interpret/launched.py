"""Launches the same plans twice on a stand-in for libcuda: by Triton's own launcher, and by the judge's driver.

A script, because the stand-in has to be found before anything loads libcuda. It compiles the stand-in into the folder
given as argument and prints, as JSON, what each of both handed to the driver at every launch: grid, block, shared
memory, launch attributes, the bytes of every parameter. A tensor map is what `cuTensorMapEncodeTiled` was asked for,
written into its 128 bytes.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STUB = r"""
#include <stdint.h>
#include <string.h>
typedef struct { int id; char pad[4]; char value[64]; } Attribute;
typedef struct { unsigned g[3], b[3], shared; void *stream; Attribute *attributes; unsigned count; } Config;
static int count = 0, sizes[64];
static unsigned char seen[8192];
static long length = 0;
void stub_expect(int n, const int *s) { count = n; memcpy(sizes, s, n * sizeof(int)); }
long stub_take(unsigned char *out) { long n = length; memcpy(out, seen, n); length = 0; return n; }
static void put(const void *from, int n) { memcpy(seen + length, from, n); length += n; }
int cuLaunchKernelEx(const Config *c, void *f, void **params, void **extra) {
  put(c->g, 12); put(c->b, 12); put(&c->shared, 4); put(&c->count, 4);
  for (unsigned i = 0; i < c->count; ++i) { put(&c->attributes[i].id, 4); put(c->attributes[i].value, 12); }
  for (int i = 0; i < count; ++i) put(params[i], sizes[i]);
  return 0;
}
int cuTensorMapEncodeTiled(uint64_t *map, int type, uint32_t rank, void *address, const uint64_t *dims,
    const uint64_t *strides, const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int l2,
    int fill) {
  unsigned char *at = (unsigned char *)map;
  memset(at, 0xff, 128);
  memcpy(at, &type, 4); memcpy(at + 4, &rank, 4); memcpy(at + 16, &address, 8);
  memcpy(at + 24, dims, 8 * rank); memcpy(at + 64, strides, 8 * (rank - 1)); memcpy(at + 96, box, 4 * rank);
  at[116] = interleave; at[117] = swizzle; at[118] = l2; at[119] = fill; at[120] = steps[0]; at[121] = steps[rank - 1];
  return 0;
}
int cuPointerGetAttribute(void *data, int attribute, uint64_t address) { *(uint64_t *)data = address; return 0; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuGetErrorString(int status, const char **text) { *text = "stand-in"; return 0; }
"""
BASES = 0x7F0000000000


def built(folder: Path, version: int) -> Any:
    """The stand-in as `libcuda.so.1`, loaded."""
    from triton.backends.nvidia import driver

    known = set(re.findall(r"\bint (cu\w+)\(", STUB))
    asked = set(re.findall(r"\b(cu[A-Z]\w+)\s*\(", (Path(driver.__file__).parent / "driver.c").read_text()))
    names = sorted(n + suffix for n in asked - known for suffix in ("", "_v2", "_v3"))
    rest = "\n".join(f"int {name}() {{ return 0; }}" for name in names)
    (folder / "stub.c").write_text(STUB.replace("VERSION", str(version)) + rest)
    library = folder / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-w", "-O1", "-Wl,-soname,libcuda.so.1", "-o", str(library)]
    subprocess.run([*command, str(folder / "stub.c")], check=True)
    (folder / "libcuda.so").symlink_to(library)
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def taken(stub: Any) -> str:
    room = ctypes.create_string_buffer(8192)
    length = stub.stub_take(room)
    return room.raw[:length].hex()


def main(folder: Path, version: int) -> None:
    import torch
    import triton
    from planned import opened_for, recorded
    from test_plan_lane_launcher import CANDIDATES, SOURCES
    from triton.backends.nvidia import driver as nvidia

    from kernelevolve.judge import cubin
    from kernelevolve.judge.driver import CudaDriver, Shape
    from kernelevolve.judge.parameters import parameter_bytes
    from kernelevolve.packed import PackedLaunch
    from kernelevolve.platforms.nvidia import H200
    from kernelevolve.worker.build import compiled
    from kernelevolve.worker.pack import pack
    from kernelevolve.worker.plan import LaunchStep

    stub = built(folder, version)
    ours: Any = object.__new__(CudaDriver)
    ours._cuda, ours._index, ours._version, ours._launch = stub, 0, version, stub.cuLaunchKernelEx
    torch.cuda.current_stream = lambda device=None: SimpleNamespace(cuda_stream=0)
    utils = nvidia.CudaUtils()
    found = []
    for name, candidate in CANDIDATES.items():
        recording, model, inputs = recorded(opened_for(SOURCES[name]), candidate, folder)
        plan, binaries = pack(recording, model, inputs, workload="declared", platform="h200", target=H200.target)
        bases = {s.name: BASES + (i << 32) for i, s in enumerate(plan.stores)}
        stores = addresses_of(recording, plan, model, inputs, bases)
        triton.runtime.driver.set_active(SimpleNamespace(utils=utils))
        steps = [s for s in recording.steps if isinstance(s, LaunchStep)]
        packed = [s for s in plan.steps if isinstance(s, PackedLaunch)]
        for step, launch in zip(steps, packed, strict=True):
            kernel = plan.kernels[launch.kernel]
            sizes = cubin.parameter_sizes(binaries[kernel.digest], kernel.symbol)
            stub.stub_expect(len(sizes), (ctypes.c_int * len(sizes))(*sizes))
            theirs = compiled(step.compilable, H200.target)
            launcher = nvidia.CudaLauncher(theirs.src, theirs.metadata)
            values = [value_of(step, parameter, stores) for parameter in step.compilable.function.params]
            launcher(*step.grid, 0, 1, theirs.packed_metadata, None, None, None, *values)
            wanted = taken(stub)
            x, y, z = launch.grid
            shape = Shape(
                (x * kernel.ctas, y, z), 32 * kernel.warps, kernel.shared, kernel.ctas, kernel.cooperative,
                kernel.dependent,
            )  # fmt: skip
            places = {"global scratch": 0, "profile scratch": 0}
            ours.prepare(
                ctypes.c_void_p(1), shape, [parameter_bytes(p, bases, places, ours) for p in launch.parameters]
            )()
            found.append({"candidate": name, "kernel": kernel.symbol, "triton": wanted, "judge": taken(stub)})
    print(json.dumps(found))


def addresses_of(recording: Any, plan: Any, model: Any, inputs: Any, bases: dict[str, int]) -> dict[int, int]:
    """Where each storage of the recording lies, by what the plan's launches say of it."""
    from kernelevolve.packed import PackedLaunch
    from kernelevolve.worker.plan import LaunchStep

    stores: dict[int, int] = {}
    steps = [s for s in recording.steps if isinstance(s, LaunchStep)]
    for step, launch in zip(steps, [s for s in plan.steps if isinstance(s, PackedLaunch)], strict=True):
        tensors = [t for v in step.bound.values() if (t := tensor_of(v)) is not None]
        places = [(p.store, p.offset) for p in launch.parameters if p.kind == "pointer" and p.store]
        places += [(p.map.view.store, p.map.view.offset) for p in launch.parameters if p.map is not None]
        by_pointer = [t for v in step.bound.values() if (t := tensor_of(v)) is not None and t is v]
        by_map = [t for t in tensors if not any(t is other for other in by_pointer)]
        for tensor, (store, offset) in zip((*by_pointer, *by_map), places, strict=True):
            key = tensor.untyped_storage()._cdata
            stores[key] = bases[store] + offset - tensor.storage_offset() * tensor.element_size()
    return stores


def tensor_of(value: Any) -> Any:
    import torch

    base = value if isinstance(value, torch.Tensor) else getattr(value, "base", None)
    return base if isinstance(base, torch.Tensor) else None


def value_of(step: Any, parameter: Any, stores: dict[int, int]) -> Any:
    """The argument as Triton's launcher is given it, with addresses of the stand-in device."""
    value = step.bound.get(parameter.name, parameter.default)
    tensor = tensor_of(value)
    if tensor is None:
        return value
    address = stores[tensor.untyped_storage()._cdata] + tensor.storage_offset() * tensor.element_size()
    if tensor is value:
        return address
    moved = copy.copy(value)
    moved.base = SimpleNamespace(data_ptr=lambda: address, dtype=tensor.dtype)
    return moved


if __name__ == "__main__":
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path(sys.argv[1]) / "cache"))
    os.environ["TRITON_LIBCUDA_PATH"] = sys.argv[1]
    main(Path(sys.argv[1]), int(sys.argv[2]))
