"""Machine code that somebody has rewritten is told by name: a real library in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

HEAD = """
import ctypes, ctypes.util, mmap
from kernelevolve.tensors import native

path = ctypes.util.find_library("z") or ctypes.util.find_library("m")
library = ctypes.CDLL(path)
names = [n for n in ("crc32", "adler32", "cosh", "sinh") if hasattr(library, n)][:2]
watched = {path.partition(".so")[0]: (*names, "no_such_function"), "libnobodyhas": ("f",)}
"""
REWRITE = """
{before}
address = ctypes.cast(getattr(library, names[1]), ctypes.c_void_p).value
page = address & ~(mmap.PAGESIZE - 1)
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), 2 * mmap.PAGESIZE, 7) == 0
ctypes.memmove(address, bytes.fromhex("c7076f12833a31c0c3"), 9)
"""


def told(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_code_as_in_the_file_is_nothing_to_tell() -> None:
    assert told(HEAD + "print(native.altered(watched), native.altered(watched), len(names))") == "[] [] 2"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the bytes are those of one architecture")
@pytest.mark.parametrize("before", ["", "native.altered(watched)"], ids=["rewritten first", "looked at before"])
def test_a_rewritten_function_is_named_whenever_that_was(before: str) -> None:
    found = told(HEAD + REWRITE.format(before=before) + "print(native.altered(watched) == names[1:2])")
    assert found == "True"
