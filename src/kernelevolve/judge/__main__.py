"""Starts the judge: a warm parent with torch imported, which forks a sealed child per conversation.

In: `--fd N`, the socket to the host. Out: nothing on stdout. Left to others: the questions, see `answers`.
"""

from __future__ import annotations

import argparse
import os
import platform

import numpy
import torch

# The first tensor operation under a dispatch mode imports this, which takes seconds: once here, not in every child.
# Not so torch.compile's back end: importing it asks for devices, after which no child may use one.
import torch._dynamo

from kernelevolve import nursery
from kernelevolve.judge import answers
from kernelevolve.wire import Channel


def main() -> None:
    """Announces itself with its versions, then serves until the host hangs up."""
    parser = argparse.ArgumentParser(prog="python -m kernelevolve.judge")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--role", choices=("judge",), default="judge")
    arguments = parser.parse_args()
    with Channel.from_fd(arguments.fd) as control:
        versions = {"torch": str(torch.__version__), "numpy": str(numpy.__version__)}
        control.send("ready", {"python": platform.python_version(), **versions})
        nursery.serve(control, answers.serve, pid_offset=1)

    os._exit(0)  # nothing is left to save, and taking torch down in good order takes seconds


main()
