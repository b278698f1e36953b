"""Whether a device still computes after a candidate crashed or hung on it.

In: a device's name, and what to ask it with. Out: nothing, or `SeatLost` from then on: the device is quarantined. Left
to others: the asking itself (`worker.health`, a process of its own), whose fault the first failure was (`asking`). A
device is never reset here: others may be using it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from kernelevolve.errors import SeatLost
from kernelevolve.evaluate.asking import Failed
from kernelevolve.evaluation import Verdict

PROBE_SECONDS = 120  # to import torch; on the device the probe gives itself ten
_WAIT_SECONDS = 5.0
# How a candidate ends that may have left the device in a bad state.
SUSPECT = frozenset((Verdict.CRASH, Verdict.TIMEOUT, Verdict.OOM, Verdict.MEM_RACE))


def ask(device: str) -> str:
    """Why the device does not compute, in one line; empty where it does.

    A fresh process allocates 64 MiB there, adds, synchronises and compares.
    """
    command = [sys.executable, "-P", "-m", "kernelevolve.worker.health", device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_SECONDS} s"
    if done.returncode == 0:
        return ""
    return ((done.stderr or done.stdout).strip().splitlines() or [f"ended with {done.returncode}"])[-1][:300]


class Health:
    """Of one device.

    Args:
        probe: why the device of a name does not compute; empty where it does.
        wait: seconds before it is asked again.
    """

    def __init__(self, device: str, probe: Callable[[str], str] = ask, *, wait: float = _WAIT_SECONDS) -> None:
        self.device, self._probe, self._wait = device, probe, wait
        self.quarantined = ""

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Around work on the device: after a candidate that crashed or hung, the device is asked.

        Raises:
            SeatLost: it is quarantined, now or since before; what was under way is not scored.
        """
        if self.quarantined:
            raise SeatLost(self.quarantined)
        try:
            yield
        except Failed as failed:
            self.after(failed)
            raise

    def after(self, failed: Failed) -> None:
        """Asks the device, if a candidate failed in a way that may have left it in a bad state.

        Raises:
            SeatLost: it is quarantined from now on.
        """
        if failed.verdict in SUSPECT:
            self._check(str(failed))

    def _check(self, after: str) -> None:
        if not self._probe(self.device):
            return
        time.sleep(self._wait)
        if why := self._probe(self.device):
            self.quarantined = (
                f"{self.device} is quarantined: asked twice after a candidate failed ({after[:200]}), it does not "
                f"compute ({why}); look at `nvidia-smi -q` or `rocm-smi` and the kernel's log for Xid or ring errors, "
                "and start again on another device"
            )
            raise SeatLost(self.quarantined)
