"""Hardware queues of a process's context on a device.

In: how many, before the process has touched a device. Out: nothing. Left to others: who gets how many (`room`). The
driver makes eight, of which kernels on one stream use one. Making them takes most of the time that a context takes,
and everybody else on the device waits meanwhile: on an idle H200 eight contexts at once take 1.0 to 1.6 s with eight
queues each, 0.6 s with two.
"""

from __future__ import annotations

import os

_CUDA = "CUDA_DEVICE_MAX_CONNECTIONS"  # read by the driver when it is first asked for a device


def limit_queues(queues: int) -> None:
    """Has the context that this process will make have so many; 0 for as many as the driver likes."""
    if queues:
        os.environ[_CUDA] = str(queues)
