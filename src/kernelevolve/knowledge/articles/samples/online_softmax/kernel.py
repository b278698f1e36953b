"""Softmax of long rows in two passes over the row: a running maximum with a running sum, then the quotient.

One program per row. Every lane of the block keeps a maximum and a sum of its own, so that the loop has no reduction
across lanes and costs one exponential per element.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK": [4096, 8192, 2048], "num_warps": [8, 16, 4]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def softmax_rows(x, y, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width  # rows * width may pass 2^31
    lane = tl.arange(0, BLOCK)

    # The lowest finite number instead of -inf: no difference below is inf - inf.
    largest = tl.full((BLOCK,), -3.4028234663852886e38, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        at = start + lane
        v = tl.load(x + row + at, mask=at < width, other=-float("inf")).to(tl.float32)
        # Of exp(largest - new) and exp(v - new) one is always exp(0), so a single exponential serves both cases.
        e = tl.exp(-tl.abs(v - largest))
        total = tl.where(v > largest, total * e + 1.0, total + e)
        largest = tl.maximum(largest, v)

    # Lanes are joined once per row, not once per block.
    top = tl.max(largest, 0)
    scale = 1.0 / tl.sum(total * tl.exp(largest - top), 0)

    # Backwards: the end of the row was read last and is the part that the L2 still has.
    blocks = tl.cdiv(width, BLOCK)
    for step in range(blocks):
        at = (blocks - 1 - step) * BLOCK + lane
        v = tl.load(x + row + at, mask=at < width, other=0.0).to(tl.float32)
        tl.store(y + row + at, (tl.exp(v - top) * scale).to(y.dtype.element_ty), mask=at < width)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        knobs = chosen(x)
        x = x.contiguous()
        width = x.shape[-1]
        y = torch.empty_like(x)
        softmax_rows[(x.numel() // width,)](x, y, width, **knobs)
        return y
