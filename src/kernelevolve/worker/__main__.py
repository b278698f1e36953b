"""Starts a builder or worker: a warm parent with torch and triton imported, which forks a sealed child per
conversation.

In: `--fd N`, the socket to the host. Out: nothing on stdout. Left to others: everything foreign, see `conversation`.
"""

from __future__ import annotations

import argparse
import os
import platform

import numpy
import torch

# The first tensor operation under a dispatch mode imports this, which takes seconds: once here, not in every child.
import torch._dynamo
import triton
import triton.compiler.code_generator
import triton.language
import triton.runtime.cache

from kernelevolve import nursery
from kernelevolve.wire import Channel
from kernelevolve.worker.conversation import handle


def main() -> None:
    """Announces itself with its versions, then serves until the host hangs up."""
    parser = argparse.ArgumentParser(prog="python -m kernelevolve.worker")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--role", choices=("builder", "worker"), required=True)
    arguments = parser.parse_args()
    with Channel.from_fd(arguments.fd) as control:
        control.send(
            "ready",
            {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "triton": str(triton.__version__),
                "numpy": str(numpy.__version__),
            },
        )
        # Triton reads its whole library for a key of its cache: once here, not in every child that compiles something.
        nursery.serve(control, handle, idle=triton.runtime.cache.triton_key)

    os._exit(0)  # nothing is left to save, and taking torch down in good order takes seconds


main()
