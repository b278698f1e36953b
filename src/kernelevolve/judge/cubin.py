"""What a cubin says of its kernels: the size and order of their parameters, and their static shared memory.

In: an ELF file of NVIDIA's. Out: `parameter_sizes`. Left to others: loading it (`driver`), what a launch may pass
(`claims`). It is read here, beside the driver's own answer, because launching with fewer parameters than the kernel has
would make the driver read past the end of the array. Source of the layout: NVIDIA's `.nv.info.KERNEL` sections, as
`cuobjdump -elf` prints them: entries of format, attribute and length; KPARAM_INFO holds index, ordinal, offset, size.
"""

from __future__ import annotations

import struct

_ELF = b"\x7fELF\x02\x01"  # 64 bit, little endian
_CUDA = 190  # EM_CUDA
_SIZED = 0x04  # the entry's value is the length of what follows it
_KPARAM_INFO = 0x17
_SHORTEST = 64


def sections(binary: bytes) -> dict[str, bytes]:
    """The sections of a 64-bit ELF file for CUDA, by name.

    Raises:
        ValueError: it is none.
    """
    if len(binary) < _SHORTEST or not binary.startswith(_ELF) or struct.unpack_from("<H", binary, 18)[0] != _CUDA:
        raise ValueError(f"no cubin: {len(binary)} bytes that begin with {binary[:8]!r}")
    (table,) = struct.unpack_from("<Q", binary, 40)
    size, count, names = struct.unpack_from("<HHH", binary, 58)
    try:
        headers = [struct.unpack_from("<IIQQQQ", binary, table + i * size) for i in range(count)]
        _, _, _, _, start, length = headers[names]
        text = binary[start : start + length]
        found = {}
        for name, kind, _, _, offset, extent in headers:
            label = text[name : text.index(b"\0", name)].decode()
            found[label] = b"" if kind == 8 else binary[offset : offset + extent]  # SHT_NOBITS takes no room
    except (struct.error, IndexError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"a damaged cubin: {error}") from error
    return found


def symbols(binary: bytes) -> tuple[str, ...]:
    """The kernels in it."""
    return tuple(name.removeprefix(".text.") for name in sections(binary) if name.startswith(".text."))


def parameter_sizes(binary: bytes, symbol: str) -> tuple[int, ...]:
    """Bytes of each parameter of a kernel, in order.

    Raises:
        ValueError: no such kernel, or it does not say.
    """
    found = sections(binary)
    if f".text.{symbol}" not in found:
        known = ", ".join(n.removeprefix(".text.") for n in found if n.startswith(".text."))
        raise ValueError(f"no kernel {symbol!r} in this cubin; it has {known or 'none'}")
    info = found.get(f".nv.info.{symbol}", b"")
    sizes: dict[int, int] = {}
    at = 0
    while at + 4 <= len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != _SIZED:
            continue
        if attribute == _KPARAM_INFO and value >= 12:
            _, ordinal, _, packed = struct.unpack_from("<IHHI", info, at)
            sizes[ordinal] = packed >> 18
        at += value
    if sorted(sizes) != list(range(len(sizes))):
        raise ValueError(f"kernel {symbol!r} does not say what its parameters are")
    return tuple(sizes[i] for i in range(len(sizes)))
