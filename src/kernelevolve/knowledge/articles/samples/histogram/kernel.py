"""Histogram with private counts: programs count in registers and shared memory, and add to memory once at the end.

Integer atomics give the same result in any order, so this is deterministic. A program makes BINS atomic additions in
all, however many numbers it counts: contention does not depend on the data.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK": [4096, 8192, 2048], "PROGRAMS": [1024, 512, 2048], "num_warps": [8, 4]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def count_bins(x, counts, count, bins, BINS: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    mine = tl.zeros((BINS,), tl.int32)
    for block in range(tl.program_id(0), tl.cdiv(count, BLOCK), tl.num_programs(0)):
        at = block.to(tl.int64) * BLOCK + lane
        inside = at < count
        v = tl.load(x + at, mask=inside, other=0)
        # The mask again: what stands in for a lane beyond the end must not be counted.
        mine += tl.histogram(v.to(tl.int32), BINS, mask=inside)
    bin_ = tl.arange(0, BINS)
    # 32 bits suffice within a program, not for the total.
    tl.atomic_add(counts + bin_, mine.to(tl.int64), mask=(bin_ < bins) & (mine > 0), sem="relaxed")


class ModelNew(nn.Module):
    def __init__(self, bins):
        super().__init__()
        self.bins = bins

    def forward(self, x):
        knobs = chosen(x)
        programs = knobs.pop("PROGRAMS")
        x = x.contiguous()
        count = x.numel()
        counts = torch.zeros((self.bins,), device=x.device, dtype=torch.int64)
        BINS = max(2, triton.next_power_of_2(self.bins))
        if BINS > 1024:
            raise ValueError(f"{self.bins} bins do not fit into a program: add to memory by each number instead")
        grid = (min(programs, triton.cdiv(count, knobs["BLOCK"])),)
        count_bins[grid](x, counts, count, self.bins, BINS=BINS, **knobs)
        return counts
