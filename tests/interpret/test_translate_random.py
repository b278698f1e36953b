"""Random references, each captured, planned, written and interpreted, against PyTorch in fp64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# So many in continuous integration; the script by itself takes any number.
EXAMPLES = 100


def test_random_references_come_out_right() -> None:
    script = Path(__file__).with_name("random_graphs.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(EXAMPLES)],
        capture_output=True, text=True, timeout=420, cwd=script.parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout.splitlines()[-1].startswith(f"checked {EXAMPLES} "), done.stdout[-500:]
