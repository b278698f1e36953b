"""Reading compute-sanitizer's output: texts in the format that its manual and reports of its users show."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelevolve.evaluate.sanitizer import find, kernels_of, read_report

MEMCHECK = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at add_kernel+0x3c0 in candidate.py:17
=========     by thread (31,0,0) in block (2,0,0)
=========     Address 0x7f4700004f00 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f4700000000 of size 20,224 bytes
=========
========= Invalid __global__ write of size 4 bytes
=========     at add_kernel+0x3c0 in candidate.py:17
=========     by thread (30,0,0) in block (2,0,0)
=========     Address 0x7f4700004efc is out of bounds
=========
========= Program hit unspecified launch failure (error 719) on CUDA API call to cuStreamSynchronize.
=========     Saved host backtrace up to driver entry point at error
=========     Host Frame: [0x2b9d2c]
=========                in /usr/lib/x86_64-linux-gnu/libcuda.so.1
=========
========= Target application returned an error
========= ERROR SUMMARY: 3 errors
"""
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
RACE = """\
========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at reduce_kernel+0x150 in candidate.py:32
=========     and Read access at reduce_kernel+0x1a0 in candidate.py:34 [508 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
STORES_THE_SAME = """\
========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at min_kernel+0x5ad20 in standard.py:237
=========     and Write access at min_kernel+0x5ad20 in standard.py:237 [6136 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
WARNING = """\
========= COMPUTE-SANITIZER
========= Warning: Race reported between Read access at sum_kernel+0x570 in candidate.py:3
=========     and Write access at sum_kernel+0x600 in candidate.py:4 [12 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)
"""
UNWRITTEN = """\
========= COMPUTE-SANITIZER
========= Uninitialized __global__ memory read of size 4 bytes
=========     at sum_kernel+0x70 in candidate.py:41
=========     by thread (31,0,0) in block (1,0,0)
=========     Address 0x7f3c7ec000fc
=========
========= ERROR SUMMARY: 96 errors
"""
IN_A_LIBRARY = UNWRITTEN.replace("sum_kernel", "void at::native::elementwise_kernel<float>(int)")


@pytest.mark.parametrize(
    ("text", "kernel", "errors", "first"),
    [
        (MEMCHECK, "add_kernel", 3, "Invalid __global__ write of size 4 bytes\nat add_kernel+0x3c0 in candidate.py:17"),
        (CLEAN, "add_kernel", 0, ""),
        (RACE, "reduce_kernel", 1, "Error: Race reported between Write access at reduce_kernel+0x150"),
        (STORES_THE_SAME, "min_kernel", 1, ""),
        (WARNING, "sum_kernel", 0, ""),
        (UNWRITTEN, "sum_kernel", 96, "Uninitialized __global__ memory read of size 4 bytes\nat sum_kernel+0x70"),
        (IN_A_LIBRARY, "sum_kernel", 96, ""),
        (UNWRITTEN, "other_sum_kernel", 96, ""),
    ],
)
def test_a_report_is_read_and_convicts_the_kernel_that_it_names(
    text: str, kernel: str, errors: int, first: str
) -> None:
    found = read_report(text)
    assert found.errors == errors
    against = found.against([kernel])
    assert against.startswith(first) and bool(against) == bool(first)


def test_a_finding_has_its_lines_and_no_others() -> None:
    found = read_report(MEMCHECK)
    assert len(found.found) == 2
    assert "is 1 bytes after the nearest allocation" in found.found[0] and "Host Frame" not in "".join(found.found)


def test_without_known_kernels_any_finding_counts() -> None:
    assert "elementwise_kernel" in read_report(IN_A_LIBRARY).against([])


@pytest.mark.parametrize(
    "text", ["", "printed by the candidate", "========= COMPUTE-SANITIZER\n========= Error: process didn't terminate\n"]
)
def test_a_report_without_a_summary_says_nothing(text: str) -> None:
    assert read_report(text).errors is None and not read_report(text).against(["k"])


def test_leaks_are_not_counted_and_several_processes_are() -> None:
    text = "========= LEAK SUMMARY: 48 bytes leaked in 1 allocations\n" + CLEAN + UNWRITTEN
    assert read_report(text).errors == 96


def test_kernels_are_the_functions_with_a_jit_decorator() -> None:
    source = "@triton.jit\ndef a(x): pass\n@triton.autotune(c, key=[])\n@jit\ndef b(x): pass\ndef c(x): pass\n"
    assert kernels_of(source) == ("a", "b")


def test_it_is_found_on_the_path_and_in_the_toolkit(tmp_path: Path) -> None:
    for place in ("path", "cuda/bin"):
        binary = tmp_path / place / "compute-sanitizer"
        binary.parent.mkdir(parents=True)
        binary.write_text("#!/bin/sh\n")
        binary.chmod(0o755)
    seen = {"PATH": str(tmp_path / "path"), "CUDA_HOME": str(tmp_path / "cuda")}
    assert find(seen) == str(tmp_path / "path" / "compute-sanitizer")
    assert find({**seen, "PATH": "/nowhere"}) == str(tmp_path / "cuda" / "bin" / "compute-sanitizer")
