"""Gather and weighted sum of rows of a table: each program keeps many independent row reads in flight.

The ids of a bag are read as one vector, so that the gather of LINES rows is a single two-dimensional load: its
addresses do not wait for each other, which is what hides the latency of random reads.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"LINES": [16, 8, 32], "num_warps": [2, 4, 1]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def bag_sum(table, ids, weights, y, bag, dim, DIM: tl.constexpr, LINES: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, DIM)
    acc = tl.zeros((LINES, DIM), tl.float32)
    for start in range(0, bag, LINES):
        place = start + tl.arange(0, LINES)
        present = place < bag
        # Ids and weights are read once and streamed; table rows may recur and are left to the L2.
        which = tl.load(ids + row * bag + place, mask=present, other=0, eviction_policy="evict_first")
        weight = tl.load(weights + row * bag + place, mask=present, other=0.0, eviction_policy="evict_first")
        # 64-bit addresses: rows * dim of a large table passes 2^31.
        at = which.to(tl.int64)[:, None] * dim + col[None, :]
        line = tl.load(table + at, mask=present[:, None] & (col < dim)[None, :], other=0.0)
        acc += line.to(tl.float32) * weight.to(tl.float32)[:, None]
    tl.store(y + row * dim + col, tl.sum(acc, 0).to(y.dtype.element_ty), mask=col < dim)


class ModelNew(nn.Module):
    def __init__(self, table_rows, dim):
        super().__init__()
        self.table = nn.Parameter(torch.randn(table_rows, dim))

    def forward(self, ids, weights):
        knobs = chosen(ids, weights)
        batch, bag = ids.shape
        dim = self.table.shape[1]
        y = torch.empty((batch, dim), device=ids.device, dtype=self.table.dtype)
        DIM = triton.next_power_of_2(dim)
        bag_sum[(batch,)](self.table, ids.contiguous(), weights.contiguous(), y, bag, dim, DIM=DIM, **knobs)
        return y
