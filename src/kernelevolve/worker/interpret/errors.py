"""Faults that the interpreter names.

Comes in: what was accessed or computed, where. Goes out: one exception class per kind of fault, each with the values
that explain it. What to do about a fault (verdict, report) is left to the caller.
"""

from __future__ import annotations


class InterpretFault(Exception):
    """A fault of the candidate that hardware would meet too."""


class OutOfBounds(InterpretFault):
    """An access outside the storage of the tensor that the pointer came from.

    ``element`` counts from the tensor's first element (negative when before it), ``count`` is how many elements lie
    from there to the end of its storage.
    """

    def __init__(self, kind: str, argument: str, element: int, count: int, where: str) -> None:
        super().__init__(f"{kind} out of bounds: argument {argument!r} element {element} of {count} at {where}")
        self.kind, self.argument, self.element, self.count, self.where = kind, argument, element, count, where


class Misaligned(InterpretFault):
    """An address that is no multiple of the element's size: hardware stops with 'misaligned address'."""

    def __init__(self, kind: str, argument: str, address: int, size: int, where: str) -> None:
        super().__init__(
            f"{kind} misaligned: argument {argument!r} address {address:#x} for {size}-byte elements at {where}"
        )
        self.kind, self.argument, self.address, self.size, self.where = kind, argument, address, size, where


class IndexOverflow(InterpretFault):
    """A 32-bit index that wrapped around and then fed an address."""

    def __init__(self, operation: str, value: int, where: str, access: str, access_where: str) -> None:
        super().__init__(
            f"index overflow: int32 {operation} at {where} should give {value} but wraps around, and feeds the address"
            f" of the {access} at {access_where}; compute it in int64, e.g. x.to(tl.int64)"
        )
        self.operation, self.value, self.where = operation, value, where
        self.access, self.access_where = access, access_where


class AssumptionFailed(InterpretFault):
    """A promise to the compiler, such as ``tl.assume`` or ``tl.multiple_of``, does not hold: it would build on it."""

    def __init__(self, promise: str, where: str) -> None:
        super().__init__(f"{promise} does not hold at {where}")
        self.promise, self.where = promise, where


class InvalidDescriptor(InterpretFault):
    """A tensor descriptor that the hardware's copy engine refuses."""


class CannotBeSeen(Exception):
    """The candidate uses something that no interpreter can execute (inline assembly, an unknown device function)."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where} cannot be seen by the interpreter; it needs a device")
        self.what, self.where = what, where


class TooManyPrograms(Exception):
    """A launch wants more programs than the caller allowed."""

    def __init__(self, kernel: str, wanted: int, limit: int) -> None:
        super().__init__(
            f"kernel {kernel!r} wants {wanted} programs, {limit} are left of the limit; scale the workload down or"
            f" raise program_limit"
        )
        self.kernel, self.wanted, self.limit = kernel, wanted, limit


class UnansweredDevice(Exception):
    """The candidate asks the device for a figure that ``device_answers`` does not give."""

    def __init__(self, question: str, known: tuple[str, ...]) -> None:
        given = ", ".join(known) if known else "nothing"
        super().__init__(f"the candidate asks the device for {question!r}; device_answers gives {given}: add it")
        self.question = question
