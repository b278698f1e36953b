"""What the judge's driver hands to libcuda is, byte by byte, what Triton's own launcher would: parameters, tensor maps,
grid, shared memory and launch attributes, for the Triton that is installed."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from planned import generated
from test_plan_lane import CANDIDATE, POINTWISE, scheme_of

LAUNCH = "relu_kernel[grid](between, out, x.numel(), BLOCK=256, num_warps=8)"
MATMUL = """import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, a, b):
        return torch.relu(torch.bmm(a, b))


def get_inputs():
    return [torch.rand(4, 512, 1024), torch.rand(4, 1024, 768)]


def get_init_inputs():
    return []
"""
# A negative number, a bool, a null pointer, a view with an offset, floats as such.
ODD = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def odd_kernel(x, out, nothing, shift, flag, wide, scale, small: tl.float64, pair, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at + shift + 3, mask=at < count) * scale + small + pair[0] + (wide % 7)
    if flag:
        value = value * 2
    tl.store(out + at, tl.maximum(value, 0.0), mask=at < count)


class ModelNew(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x):
        out = torch.empty(24 * 640 + 8, device=x.device)[8:]
        odd_kernel[(60,)](x.view(-1)[3:], out, None, -3, x.shape[0] > 5, 1 << 40, 0.3, -1e-9, (5, 1), 24 * 640 - 3, 256)
        return out
"""
SOURCES = {"odd": POINTWISE, "plain": POINTWISE, "attributes": POINTWISE, "planes": MATMUL}
CANDIDATES = {
    "odd": ODD,
    "plain": CANDIDATE.replace("EXTRA", ""),
    "attributes": CANDIDATE.replace("EXTRA", "").replace(
        LAUNCH, LAUNCH[:-1] + ", num_ctas=2, launch_cooperative_grid=True, launch_pdl=True)"
    ),
    "planes": generated(MATMUL, scheme_of("planes")) if __name__ == "test_plan_lane_launcher" else "",
}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler for the stand-in")
def test_the_driver_is_given_what_tritons_launcher_gives(tmp_path: Path) -> None:
    script = Path(__file__).with_name("launched.py")
    paths = [str(script.parent), str(tmp_path), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": ":".join(paths[1:])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path), "13000"],
        capture_output=True, text=True, env=environment, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one["candidate"] for one in found] == ["odd", *["plain"] * 2, *["attributes"] * 2, *["planes"] * 3]
    for one in found:
        assert one["judge"] == one["triton"], (one["candidate"], one["kernel"])
    heads = [numbers(one["judge"]) for one in found]
    # Grid, block, shared memory, number of launch attributes: two of the cluster, and two flags.
    assert heads[0] == [60, 1, 1, 128, 1, 1, 0, 0]
    assert heads[4] == [120, 1, 1, 256, 1, 1, 0, 4]
    assert all(head[0] and head[3] for head in heads)
    assert heads[7][6] > 48 << 10


def numbers(text: str) -> list[int]:
    """The first eight 32-bit numbers."""
    return list(struct.unpack_from("<8I", bytes.fromhex(text)))
