"""Seeds that no candidate can foresee: drawn from a secret that never leaves the host while a candidate is judged.

In: 16 random bytes, new for each evaluation, or those of an earlier one to replay it. Out: Cases and other draws, each
from its own label. Left to others: drawing tensors from a Case (`tensors.draw`), recording which seeds were used (every
`Check` has its own).

A seed is the first 63 bits of HMAC-SHA256(secret, label): who sees some seeds learns nothing of the others. Knowing the
seed of one call is knowing its inputs, so a worker is told a seed only when that call is due.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import random

from kernelevolve.protocol import Case

SECRET_BYTES = 16


class Seeds:
    """The secret of one evaluation and what follows from it.

    Args:
        secret: 16 bytes of an earlier evaluation, to replay it; new ones from the system where left out.

    Raises:
        ValueError: a secret of another length.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self.secret = os.urandom(SECRET_BYTES) if secret is None else secret
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes, got {len(self.secret)}")

    def __repr__(self) -> str:
        return "Seeds(secret not shown)"  # what prints a Seeds by accident must not give it away

    def seed(self, label: str) -> int:
        """63 bits for `label`; the same label gives the same seed."""
        return int.from_bytes(hmac.digest(self.secret, label.encode(), hashlib.sha256)[:8], "big") >> 1

    def case(self, label: str, distribution: str = "declared") -> Case:
        """Inputs of one call."""
        return Case(self.seed(f"{label}/{distribution}"), distribution)

    def stream(self, label: str) -> random.Random:
        """A generator of the host's own choices: which calls are looked at, in which order slots are visited."""
        return random.Random(self.seed(label))
