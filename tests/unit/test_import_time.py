"""Importing does nothing: it is quick, and heavy packages stay out until they are needed."""

from __future__ import annotations

import subprocess
import sys

BUDGET_SECONDS = 0.2
HEAVY = ("torch", "triton", "sqlalchemy", "optuna", "numpy", "fsspec", "rich", "typer", "kernelevolve.testing")


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_import_is_quick():
    code = "import time; t = time.perf_counter(); import kernelevolve; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(5)) < BUDGET_SECONDS


def test_import_leaves_heavy_packages_alone():
    assert python(f"import sys, kernelevolve; print([m for m in {HEAVY!r} if m in sys.modules])") == "[]"


def test_a_run_needs_neither_torch_nor_optuna():
    heavy = ("torch", "triton", "optuna", "kernelevolve.testing")
    first = "import sys; from kernelevolve import create_run, read_run;"
    assert python(f"{first} print([m for m in {heavy!r} if m in sys.modules])") == "[]"


def test_all_public_names_together_are_still_light():
    code = (
        "import sys, kernelevolve; [getattr(kernelevolve, n) for n in kernelevolve.__all__];"
        "print([m for m in ('torch', 'triton', 'optuna', 'sqlalchemy') if m in sys.modules])"
    )
    assert python(code) == "[]"
