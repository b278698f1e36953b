"""Whether the machine code of timing functions is still that of their libraries' files.

In: libraries by a part of their file's name, with names of functions. Out: those whose first bytes in memory are others
than in the file. Left to others: Python's own names (`clock.replaced`), what follows from it (`evaluate.session`).

A library's code is the same in memory as in its file (it is not relocated), so nothing has to be remembered from before
foreign code ran. Whoever rewrites code may rewrite this as well: it is one more thing that has to be found and undone.
A debugger or a tracer may have rewritten it, too: that is then so in every process, the judge's as well.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence

BYTES = 48
TIMING: Mapping[str, Sequence[str]] = {
    "libcudart": ("cudaEventElapsedTime", "cudaEventRecord", "cudaEventQuery", "cudaStreamSynchronize",
                  "cudaDeviceSynchronize", "cudaLaunchKernel"),
    "libcuda.so": ("cuEventElapsedTime", "cuEventRecord", "cuEventQuery", "cuStreamSynchronize", "cuCtxSynchronize",
                   "cuLaunchKernel", "cuLaunchKernelEx"),
    "libamdhip64": ("hipEventElapsedTime", "hipEventRecord", "hipEventQuery", "hipStreamSynchronize",
                    "hipDeviceSynchronize", "hipModuleLaunchKernel"),
}  # fmt: skip
_open, _string_at, _cast, _load = open, ctypes.string_at, ctypes.cast, ctypes.CDLL


def altered(functions: Mapping[str, Sequence[str]] = TIMING) -> list[str]:
    """Names of functions in libraries loaded here whose code is not their file's, in the order in which they are given.

    Libraries that are not loaded or cannot be read, and functions that one does not have, are passed over.
    """
    found = []
    for part, names in functions.items():
        for name in names:
            if (part, name) not in _KNOWN:
                _locate(part, names)
            place = _KNOWN.get((part, name))
            if place is not None and _string_at(place[0], BYTES) != place[1]:
                found.append(name)
    return found


_KNOWN: dict[tuple[str, str], tuple[int, bytes] | None] = {}  # where each lies, and its code in the file


def _locate(part: str, names: Sequence[str]) -> None:
    """Once for each library: it is there by the time of the first timed call, or never."""
    _KNOWN.update(dict.fromkeys((part, name) for name in names))
    segments = _segments(part)
    for path in dict.fromkeys(path for _, _, _, path in segments):
        library = _load(path)
        for name in names:
            function = getattr(library, name, None)
            address = _cast(function, ctypes.c_void_p).value or 0 if function is not None else 0
            place = next(((s, o) for s, e, o, p in segments if s <= address < e and p == path), None)
            known = (address, _in_file(path, address - place[0] + place[1])) if place is not None else None
            _KNOWN[part, name] = known or _KNOWN.get((part, name))


def _segments(part: str) -> list[tuple[int, int, int, str]]:
    """Start, end, offset and file of each mapping whose file's name contains `part`."""
    found = []
    try:
        with _open("/proc/self/maps") as file_of_maps:
            lines = file_of_maps.read().splitlines()
    except OSError:
        return []
    for line in lines:
        span, _, offset, _, _, *file = line.split(maxsplit=5)
        path = file[0].strip() if file else ""
        if part in path.rpartition("/")[2] and ".so" in path and os.access(path, os.R_OK):
            start, _, end = span.partition("-")
            found.append((int(start, 16), int(end, 16), int(offset, 16), path))
    return found


def _in_file(path: str, offset: int) -> bytes:
    with _open(path, "rb") as file:
        file.seek(offset)
        return file.read(BYTES)
