"""The bytes of a kernel's parameters, as Triton's own launcher passes them.

In: a `packed.Parameter`, where memory lies. Out: its bytes. Left to others: whether the kernel takes such parameters
(`claims`), launching (`driver`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from kernelevolve.evaluation import Verdict
from kernelevolve.judge.claims import INTEGERS, NotCovered, PlanFault
from kernelevolve.judge.driver import Driver, Encoded
from kernelevolve.packed import Parameter, TensorMap

_FLOATS = {"fp32": "<f", "f32": "<f", "fp64": "<d", "fp16": "<e"}
_DIVISIBLE = 16  # what Triton compiles for where an address is a multiple of it; tensor maps need it, too


def parameter_bytes(
    parameter: Parameter, addresses: Mapping[str, int], places: Mapping[str, int], driver: Driver
) -> bytes:
    """The bytes of one parameter.

    Args:
        addresses: of each store.
        places: of `global scratch` and `profile scratch`; 0 where a kernel has none.

    Raises:
        NotCovered: an address is not what the kernel was compiled for.
        PlanFault: a number that its type cannot hold.
        DriverRefused: the driver makes no such tensor map.
    """
    if parameter.kind in places:
        return struct.pack("<Q", places[parameter.kind])
    if parameter.kind == "map":
        if parameter.map is None:
            raise PlanFault(Verdict.TAMPER, "a tensor map without a description")
        return driver.encode(_encoded(parameter.map, addresses))
    if parameter.kind == "scalar":
        return scalar_bytes(parameter.type, parameter.value)
    if not parameter.store:
        return bytes(8)
    address = addresses[parameter.store] + parameter.offset
    if parameter.divisible and address % _DIVISIBLE:
        raise NotCovered(f"a kernel was compiled for an address that is a multiple of 16 bytes, {address:#x} is not")
    return struct.pack("<Q", address)


def _encoded(wanted: TensorMap, addresses: Mapping[str, int]) -> Encoded:
    view = wanted.view
    address = addresses[view.store] + view.offset
    if address % _DIVISIBLE:
        raise NotCovered(f"a tensor map begins at {address:#x}, which is no multiple of 16 bytes")
    return Encoded(
        address,
        wanted.element,
        tuple(reversed(view.shape)),
        tuple(s * wanted.element_bytes for s in reversed(view.stride[:-1])),
        tuple(reversed(wanted.box)),
        wanted.swizzle,
        wanted.nan_fill,
        wanted.element_bytes,
    )


def scalar_bytes(kind: str, value: bool | int | float) -> bytes:
    """A number as Triton's launcher packs it: integers keep their low bits, bf16 is cut off.

    Raises:
        PlanFault: a number that its type cannot hold.
    """
    try:
        if kind == "bf16":
            return struct.pack("<f", value)[2:]
        if kind in _FLOATS:
            return struct.pack(_FLOATS[kind], value)
        width = INTEGERS[kind]
        return (int(value) % (1 << 8 * width)).to_bytes(width, "little")
    except (OverflowError, struct.error, ValueError) as error:
        raise PlanFault(Verdict.TAMPER, f"{value!r} is no {kind}: {error}") from error
