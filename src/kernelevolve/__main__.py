"""`python -m kernelevolve` is the command line."""

from __future__ import annotations

from kernelevolve.cli import main

if __name__ == "__main__":
    main()
