"""A candidate's calls in a process of its own under compute-sanitizer, inside the seal of the child that is asked.

In: `sanitize {opened, answers, cases, binary, tool, seconds}`. Out: the tool's report as text, or why there is none.
Left to others: where the tool is, and what its report means (`evaluate.sanitizer`).

The child that answers holds no candidate: it starts the tool, and the tool starts this file as a program, which loads
the candidate and calls it. Both inherit every layer of the seal, so nothing is weakened for it. What the tool reports
is written where the candidate could write, too: it finds faults of those who do not mean to hide them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from kernelevolve import codec
from kernelevolve.protocol import Case, Opened
from kernelevolve.wire import Channel, Message

_PRINTED = 10  # findings; the first one decides
_REPORT = 1 << 18  # characters, from its beginning, and as many from its end
_SAID = 400
_OWN: dict[str, tuple[str, ...]] = {"memcheck": ("--report-api-errors", "no")}  # torch asks for what may not be there
# With torch's pool of memory one tensor's end is not the end of what may be read, and old values look like new ones.
# Frontend and target are in one network namespace that has no TCP.
_ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "NV_COMPUTE_SANITIZER_LOCAL_CONNECTION_OVERRIDE": "uds"}


def sanitize(state: dict[str, Any], message: Message, channel: Channel) -> None:
    """`sanitize {...}` answers `sanitized {report, why}`; `why` is empty where the tool ran to its end."""
    body = message.body
    with tempfile.TemporaryDirectory(prefix="sanitized-") as folder:
        question, log = Path(folder, "question.json"), Path(folder, "report.txt")
        asked = {key: body[key] for key in ("opened", "answers", "cases")}
        question.write_text(json.dumps(asked), encoding="utf-8")
        command = command_of(str(body["binary"]), str(body["tool"]), str(log), str(question))
        said = _run(command, Path(folder, "printed.txt"), float(body["seconds"]))
        report = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        failed, printed = Path(f"{question}.failed"), Path(folder, "printed.txt")
        if not said and failed.is_file():
            said = failed.read_text(encoding="utf-8", errors="replace")[:_SAID]
        if not said and not report:
            last = printed.read_text(encoding="utf-8", errors="replace").strip()[-_SAID:]
            said = f"it wrote no report: {last or 'nothing was printed'}"
    if len(report) > 2 * _REPORT:
        report = f"{report[:_REPORT]}\n{report[-_REPORT:]}"
    channel.send("sanitized", {"report": report, "why": said})


def command_of(binary: str, tool: str, log: str, question: str) -> list[str]:
    """The command line: the tool with its options, then this file as a program."""
    options = ["--tool", tool, "--log-file", log, "--print-limit", str(_PRINTED), *_OWN.get(tool, ())]
    options += ["--show-backtrace", "no", "--target-processes", "application-only"]
    return [binary, *options, sys.executable, "-P", "-m", "kernelevolve.worker.sanitized", question]


def _run(command: Sequence[str], printed: Path, seconds: float) -> str:
    """Why the tool did not come to its end; empty where it did, whatever it found."""
    try:
        with printed.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT}, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        return f"{command[0]} cannot be started here: {error.strerror}"
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"it took longer than {seconds:g} s"
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    return ""


def main(question: str) -> None:
    """Loads the candidate and calls it on each case; leaves the reason in `QUESTION.failed` where that fails."""
    import torch._dynamo  # noqa: F401  the first operation under a dispatch mode needs it, before torch is changed

    from kernelevolve.worker.fault import Fault
    from kernelevolve.worker.interpret import interpreting
    from kernelevolve.worker.load import silence_autotune
    from kernelevolve.worker.run import Runner

    body = json.loads(Path(question).read_text(encoding="utf-8"))
    opened, answers = codec.from_data(Opened, body["opened"]), body["answers"]
    silence_autotune()
    on_cpu = opened.device == "cpu"
    try:
        runner = Runner(opened, lambda: interpreting(device_answers=answers) if on_cpu else nullcontext())
        for case in body["cases"]:
            runner.call(codec.from_data(Case, case))
    except Fault as fault:
        Path(f"{question}.failed").write_text(f"the call failed under the tool: {fault}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
