"""What the built-in engineer raises when it cannot translate."""

from __future__ import annotations


class TranslateError(Exception):
    """The reference could not be captured, planned or written; the message says what and what to do next."""


class UncoveredOp(TranslateError):
    """An ATen op without a lowering: nothing falls back to PyTorch silently.

    Attributes:
        op: the op's full name, such as ``aten.fft_fft.default``.
        line: the reference's source line that called it, "" where it is not known.
    """

    def __init__(self, op: str, line: str, reason: str = "") -> None:
        self.op, self.line = op, line
        where = f" (from {line})" if line else ""
        why = f": {reason}" if reason else ""
        super().__init__(
            f"the built-in engineer has no lowering for {op}{where}{why}; use a model or guest writer for "
            f"this problem, or register one with kernelevolve.translate.lower.lowers({op!r})"
        )
