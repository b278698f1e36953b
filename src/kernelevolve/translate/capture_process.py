"""The capturing process: a warm parent with torch imported, which forks a sealed child per reference.

In: `--fd N`, the socket to the host. Out: nothing on stdout. Left to others: capturing itself (`capture`). A reference
is foreign code, so it runs in a child, and what comes back is the program as JSON text. `python -m` starts it.
"""

from __future__ import annotations

import argparse
import os
import platform

import torch

# Exporting imports these, which takes seconds: once here, not in every child.
import torch._dynamo
import torch.export._trace

from kernelevolve import nursery
from kernelevolve.translate.capture import capture_source
from kernelevolve.translate.capture_reference import Rules
from kernelevolve.translate.errors import TranslateError, UncoveredOp
from kernelevolve.wire import Channel, memory_bytes


def handle(channel: Channel) -> None:
    """Answers `capture {source, path, precision, mode}` with the attachment `program`, or `fault` with the reason."""
    while True:
        message = channel.receive()
        try:
            rules = Rules(str(message.body["precision"]), str(message.body["mode"]))
            program = capture_source(str(message.body["source"]), path=str(message.body["path"]), rules=rules)
        except UncoveredOp as error:
            channel.send("fault", {"verdict": "UNCOVERED", "message": str(error), "op": error.op, "line": error.line})
        except TranslateError as error:
            channel.send("fault", {"verdict": "TASK_INVALID", "message": str(error)})
        else:
            channel.send("captured", {}, {"program": memory_bytes(program.to_json().encode())})


def main() -> None:
    """Announces itself with its versions, then serves until the host hangs up."""
    parser = argparse.ArgumentParser(prog="python -m kernelevolve.translate.capture_process")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--role", choices=("translator",), default="translator")
    arguments = parser.parse_args()
    with Channel.from_fd(arguments.fd) as control:
        control.send("ready", {"python": platform.python_version(), "torch": str(torch.__version__)})
        nursery.serve(control, handle)
    os._exit(0)  # nothing is left to save, and taking torch down in good order takes seconds


if __name__ == "__main__":
    main()
