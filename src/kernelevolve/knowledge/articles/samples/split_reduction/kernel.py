"""One sum over a huge array, in two launches without atomics, with the second stage folded into the consumer.

A fixed number of programs each sums a strided share of the blocks and stores one number. The launch that needs the sum
adds those few numbers itself, in every program: reading a few KB from the L2 costs less than a third launch.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK": [4096, 8192, 2048], "PARTS": [1024, 512, 2048], "num_warps": [8, 4, 16]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def partial_squares(x, sums, count, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    blocks = tl.cdiv(count, BLOCK)
    # Dealt out in turn: at any time all programs read neighbouring blocks, which suits DRAM pages and the TLB. Each
    # lane sums its own numbers, so the chain of additions is short and the rounding error with it.
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        at = block.to(tl.int64) * BLOCK + lane
        v = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
        acc += v * v
    tl.store(sums + tl.program_id(0), tl.sum(acc, 0))


@triton.jit
def divide(x, sums, y, count, parts, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    part = tl.arange(0, PARTS)
    squares = tl.load(sums + part, mask=part < parts, other=0.0)
    # From the end: what the first launch read last is still in the L2.
    block = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
    norm = tl.sqrt(tl.sum(squares, 0))
    tl.store(y + at, (v / norm).to(y.dtype.element_ty), mask=at < count)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        knobs = chosen(x)
        PARTS, BLOCK = knobs.pop("PARTS"), knobs["BLOCK"]
        x = x.contiguous()
        count = x.numel()
        blocks = triton.cdiv(count, BLOCK)
        parts = min(PARTS, blocks)
        sums = torch.empty((parts,), device=x.device, dtype=torch.float32)
        y = torch.empty_like(x)
        partial_squares[(parts,)](x, sums, count, **knobs)
        divide[(blocks,)](x, sums, y, count, parts, PARTS=PARTS, **knobs)
        return y
