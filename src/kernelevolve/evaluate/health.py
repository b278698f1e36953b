"""Whether a device still computes after a candidate crashed or hung on it.

In: a device's name, and what to ask it with. Out: nothing, or `SeatLost` from then on: the device is quarantined. Left
to others: the asking itself (`worker.health`, a process of its own), whose fault the first failure was (`asking`). A
device is never reset here: others may be using it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from kernelevolve.errors import SeatLost
from kernelevolve.evaluate.asking import Failed
from kernelevolve.evaluation import Verdict

PROBE_SECONDS = 120.0  # to import torch; on the device a probe has ten
_WAIT_SECONDS = 5.0
# How a candidate ends that may have left the device in a bad state.
SUSPECT = frozenset((Verdict.CRASH, Verdict.TIMEOUT, Verdict.OOM, Verdict.MEM_RACE))


class Prober:
    """A warm process that forks one probe for each question; started when first asked, ends with this one.

    Importing torch takes longer than the probe itself, and in a search many candidates crash.
    """

    def __init__(self, seconds: float = PROBE_SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, device: str) -> str:
        """Why the device does not compute, in one line; empty where it does.

        A fresh process allocates 64 MiB there, adds, synchronises and compares.
        """
        with self._lock:
            answer = self._answer(device)
            if answer is None:  # it may have ended since the last question
                self.close()
                answer = self._answer(device)
            if answer is None:
                self.close()
                return f"no process could be asked, or none answered within {self._seconds:g} s"
            return answer

    def _answer(self, device: str) -> str | None:
        """One line of the process; None where none comes."""
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-P", "-m", "kernelevolve.worker.health"]
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is the host's to handle
            )
        asked, told = self._process.stdin, self._process.stdout
        if asked is None or told is None:
            return None
        try:
            asked.write(f"{device}\n".encode())
        except OSError:
            return None
        text, deadline = b"", time.monotonic() + self._seconds
        while not text.endswith(b"\n"):
            if not select.select([told], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            part = os.read(told.fileno(), 4096)
            if not part:
                return None
            text += part
        return str(json.loads(text))

    def close(self) -> None:
        """Ends the process; the next question starts another one."""
        if self._process is not None:
            self._process.kill()
            with self._process:  # closes its pipes and waits for it
                self._process = None


ask = Prober().ask


def suspect(failed: Failed) -> bool:
    """Whether a candidate ended in one of these ways, whatever that is called in the end: a crash at a size that nobody
    declared is a lack of generality, and may be a neighbour's doing all the same."""
    cause: BaseException | None = failed
    while cause is not None:
        if isinstance(cause, Failed) and cause.verdict in SUSPECT:
            return True
        cause = cause.__cause__
    return False


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
        if suspect(failed):
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
