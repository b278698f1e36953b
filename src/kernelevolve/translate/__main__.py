"""``python -m kernelevolve.translate PROBLEM.py [PLATFORM]`` prints the first candidate."""

from __future__ import annotations

import sys
from pathlib import Path

from kernelevolve.translate.capture import capture
from kernelevolve.translate.first import first_plan
from kernelevolve.translate.render import render


def main(arguments: list[str]) -> None:
    """Prints the candidate of a problem file."""
    path = Path(arguments[0])
    program = capture(path)
    plan = first_plan(program, arguments[1] if len(arguments) > 1 else "nvidia")
    print(render(program, plan, reference_source=path.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
