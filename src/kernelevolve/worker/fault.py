"""The candidate's fault as data: the verdict and one line that says what went wrong and where.

In: an exception that the candidate's code raised. Out: `Fault`, which the conversation answers as `fault`. Left to
others: the machine's faults, which end the process and are told apart by the host.
"""

from __future__ import annotations

import traceback

from kernelevolve.evaluation import Verdict

CANDIDATE_FILE = "candidate.py"


class Fault(Exception):
    """The candidate failed with `verdict`; the message names the reason and, where known, its line."""

    def __init__(self, verdict: Verdict, message: str) -> None:
        self.verdict = verdict
        super().__init__(message)


def blame(error: BaseException, verdict: Verdict) -> Fault:
    """The fault for `error`, with the last line of the candidate's file on its traceback."""
    if isinstance(error, Fault):
        return error
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(CANDIDATE_FILE)]
    where = f" (candidate line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    text = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {' '.join(text[-3:])[:600]}{where}"
    if isinstance(error, MemoryError) or "out of memory" in message.lower() or "can't allocate memory" in message:
        verdict = Verdict.OOM
    return Fault(verdict, message)
