"""Whether a device computes: `python -m kernelevolve.worker.health cuda:0` ends with 0 if it does.

In: torch's name of a device. Out: the exit code, and a line on stderr where it does not. Left to others: what follows
from that (`evaluate.health`). No foreign code runs here, in a process that had no part in what went wrong.
"""

from __future__ import annotations

import signal
import sys

import torch

_SECONDS = 10
_BYTES = 64 << 20


def main() -> None:
    """Allocates, adds, synchronises, compares; a device that hangs has the process ended by its own alarm."""
    device = torch.device(sys.argv[1])
    signal.alarm(_SECONDS)
    ones = torch.ones(_BYTES // 4, dtype=torch.float32, device=device)
    total = (ones + ones).sum(dtype=torch.float64).item()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if total != 2 * (_BYTES // 4):
        sys.exit(f"{device}: {_BYTES // 4} sums of 1 + 1 add up to {total}")


main()
