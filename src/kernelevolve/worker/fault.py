"""The candidate's fault as data: the verdict, one line that says what went wrong and where, and the whole text of it.

In: an exception that the candidate's code raised. Out: `Fault`, which the conversation answers as `fault`. Left to
others: the machine's faults, which end the process and are told apart by the host.
"""

from __future__ import annotations

import re
import traceback

from kernelevolve.evaluation import Verdict

CANDIDATE_FILE = "candidate.py"
_LONGEST = 1 << 20  # characters


class Fault(Exception):
    """The candidate failed with `verdict`; the message names the reason and, where known, its line.

    Attributes:
        refused: whether it is a ValueError or NotImplementedError that the candidate's own line raised.
        detail: the traceback with everything that the compiler or the interpreter said; empty where the message is all.
    """

    def __init__(self, verdict: Verdict, message: str, detail: str = "", *, refused: bool = False) -> None:
        self.verdict, self.detail, self.refused = verdict, detail, refused
        super().__init__(message)


def blame(error: BaseException, verdict: Verdict) -> Fault:
    """The fault for `error`, with the last line of the candidate's file on its traceback."""
    if isinstance(error, Fault):
        return error
    stack = traceback.extract_tb(error.__traceback__)
    frames = [f for f in stack if f.filename.endswith(CANDIDATE_FILE)]
    own = bool(stack) and stack[-1].filename.endswith(CANDIDATE_FILE)
    where = f" (candidate line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    message = f"{type(error).__name__}: {_said(error)[:600]}{where}"
    if isinstance(error, MemoryError) or "out of memory" in message.lower() or "can't allocate memory" in message:
        verdict = Verdict.OOM
    refused = own and isinstance(error, (ValueError, NotImplementedError))
    return Fault(verdict, message, _whole(error), refused=refused)


def _said(error: BaseException) -> str:
    """What an error says, in few lines: compilers come to the point at the end, the driver at the beginning."""
    text = str(error).strip().splitlines()
    return text[0] if text and text[0].startswith(("CUDA error:", "HIP error:")) else " ".join(text[-3:])


def _whole(error: BaseException) -> str:
    """The traceback of `error`, with the candidate's file by its bare name: its folder is another one each time."""
    text = "".join(traceback.format_exception(error))[-_LONGEST:]
    return re.sub(rf"[^\s\"']*/{re.escape(CANDIDATE_FILE)}", CANDIDATE_FILE, text)
