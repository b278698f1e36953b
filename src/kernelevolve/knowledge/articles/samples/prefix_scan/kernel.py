"""Prefix sums of long rows: each program scans its row block by block and carries the total on.

One read and one write per element. The scan of a block needs no neighbour program, so there is no look-back, no flag
and no second pass; that suits many rows. A single huge row wants the three-launch form that the article names.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK": [2048, 4096, 1024], "num_warps": [4, 8, 2]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def running_sum(x, y, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    lane = tl.arange(0, BLOCK)
    carried = 0.0
    # The load of the next block does not depend on the carried sum: asked for one step ahead, it is under way while
    # this block is scanned.
    ahead = tl.load(x + row + lane, mask=lane < width, other=0.0).to(tl.float32)
    for start in range(0, width, BLOCK):
        at = start + lane
        v = ahead
        ahead = tl.load(x + row + at + BLOCK, mask=at + BLOCK < width, other=0.0).to(tl.float32)
        tl.store(y + row + at, (carried + tl.cumsum(v, 0)).to(y.dtype.element_ty), mask=at < width)
        # A sum of its own: reading the last lane of the scan would need a reduction as well.
        carried += tl.sum(v, 0)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        knobs = chosen(x)
        x = x.contiguous()
        y = torch.empty_like(x)
        running_sum[(x.shape[0],)](x, y, x.shape[1], **knobs)
        return y
