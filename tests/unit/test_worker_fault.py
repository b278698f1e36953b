"""What a candidate's fault says in one line: the reason, wherever in its text whoever raised it put that."""

from __future__ import annotations

import pytest

from kernelevolve.evaluation import Verdict
from kernelevolve.worker.fault import blame

DRIVER = """CUDA error: an illegal memory access was encountered
Search for `cudaErrorIllegalAddress' in https://docs.nvidia.com/cuda/cuda-runtime-api for more information.
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."""
COMPILER = "at 12:8:\ndef kernel(x):\n    for i in range(4):\n        y = z\n\nNameError('z is not defined')"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DRIVER, "RuntimeError: CUDA error: an illegal memory access was encountered"),
        (DRIVER.replace("CUDA", "HIP"), "RuntimeError: HIP error: an illegal memory access was encountered"),
        (COMPILER, "NameError('z is not defined')"),
        ("", "RuntimeError: "),
    ],
)
def test_the_reason_is_in_the_message(text: str, said: str) -> None:
    fault = blame(RuntimeError(text), Verdict.CRASH)
    assert fault.verdict is Verdict.CRASH and said in str(fault) and "TORCH_USE" not in str(fault)
    assert text in fault.detail


def test_memory_that_ran_out_is_named_so() -> None:
    fault = blame(RuntimeError("CUDA error: out of memory\nSearch for more"), Verdict.CRASH)
    assert fault.verdict is Verdict.OOM and str(fault) == "RuntimeError: CUDA error: out of memory"
