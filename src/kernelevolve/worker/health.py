"""Whether a device computes: `python -m kernelevolve.worker.health` answers one line for each device named on stdin.

In: torch's names of devices, a line each. Out: a line of JSON each: why the device does not compute, empty where it
does. Left to others: what follows from that (`evaluate.health`). No foreign code runs here. Each answer comes from a
fresh process, forked from this one, which has imported torch and never touches a device: what a device did to an
earlier one is gone with it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from typing import NoReturn

import torch

SECONDS = 10.0
_BYTES = 64 << 20
_LONGEST = 300  # characters


def main() -> None:
    """Answers until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(answer(line.strip())), flush=True)


def answer(name: str) -> str:
    """Why the device does not compute, in one line, from a process of its own; empty where it does."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _probe(name, tell)
    os.close(tell)
    text, ended = b"", False
    deadline = time.monotonic() + SECONDS
    while not ended and select.select([told], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(told, 4096)
        text, ended = text + part, not part
    os.close(told)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        return f"no answer within {SECONDS:g} s"  # it may never end: nobody waits for it
    _, status = os.waitpid(pid, 0)
    if text or status == 0:
        return text.decode(errors="replace")
    return f"the probe ended with {os.waitstatus_to_exitcode(status)}"


def _probe(name: str, tell: int) -> NoReturn:
    """Allocates, adds, synchronises, compares; says what went wrong and ends the process."""
    status = 1
    try:
        device = torch.device(name)
        ones = torch.ones(_BYTES // 4, dtype=torch.float32, device=device)
        total = (ones + ones).sum(dtype=torch.float64).item()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if total != 2 * (_BYTES // 4):
            raise RuntimeError(f"{device}: {_BYTES // 4} sums of 1 + 1 add up to {total}")
        status = 0
    except (AssertionError, RuntimeError) as error:  # what torch raises, without a build for the device too
        text = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
        os.write(tell, text.encode())
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
