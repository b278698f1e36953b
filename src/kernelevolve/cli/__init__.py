"""The command line: a door that asks for runs and shows them.

In: arguments. Out: what a person reads on stdout (stderr with `--json`), one result object as the last line of stdout
with `--json`, and an exit code (`errors`). Left to others: all work; this door imports the public names only.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence

from kernelevolve import KernelEvolveError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and leaves the process with its exit code; an expected error is one line, never a traceback.

    An unexpected one is told with its traceback, which is kept, and has an exit code of its own.
    """
    # Imported here so that importing the package stays fast.
    from kernelevolve.cli import summary
    from kernelevolve.cli.app import app
    from kernelevolve.cli.door import UNEXPECTED, Door, unexpected

    os.environ.setdefault("PYDANTIC_AI_NO_BANNER", "1")  # the screen is the run's
    given = list(sys.argv[1:] if arguments is None else arguments)
    door = Door(json="--json" in given)
    try:
        app(given, obj=door)
    except SystemExit as ended:
        # What the parser refuses, it says itself; scripts still get their object.
        if ended.code and door.json and not door.finished:
            print(json.dumps({"verdict": None, "correct": False, "error": "see stderr", "kind": "UsageError"}))
        raise
    except KernelEvolveError as error:
        if door.debug and not door.json:
            raise
        if door.debug:
            traceback.print_exception(error)
        print(f"error: {error}", file=sys.stderr)
        # A run without a correct candidate has its own result object already.
        if door.json and not door.finished:
            print(json.dumps(summary.failure(error)))
        sys.exit(error.exit_code)
    except Exception as error:
        # The last door: a script must get its object even where our own code or a plugin is wrong.
        if door.debug and not door.json:
            raise
        data = unexpected(door, error)
        if door.json and not door.finished:
            print(json.dumps(data))
        sys.exit(UNEXPECTED)
