"""Rows of differing length, stored one after the other, padded to one dense tensor.

A user's history of items is as long as it is, so a batch of histories is stored as `values` [total, dim] and `offsets`
[batch + 1]: row i is values[offsets[i] : offsets[i + 1]]. Layers that need a rectangle get [batch, max_length, dim]:
longer rows are cut, shorter ones (also empty ones) filled with `padding`.

Written with a gather and a mask, so that no shape depends on data and the graph can be captured.
"""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, max_length, padding):
        super().__init__()
        self.max_length = max_length
        self.padding = padding

    def forward(self, values, offsets):
        start, end = offsets[:-1].unsqueeze(1), offsets[1:].unsqueeze(1)
        position = start + torch.arange(self.max_length, device=values.device).unsqueeze(0)
        inside = position < end
        rows = values[position.clamp(max=values.shape[0] - 1)]
        return torch.where(inside.unsqueeze(2), rows, self.padding)


batch = 4096
dim = 64
max_length = 128
mean_length = 32


def get_inputs():
    # The total is fixed, the borders between rows are random: lengths are close to exponential, some rows are empty
    # and about 2 % are longer than max_length.
    total = batch * mean_length
    values = torch.randn(total, dim)
    inner = torch.sort(torch.randint(0, total + 1, (batch - 1,))).values
    offsets = torch.cat([torch.tensor([0]), inner, torch.tensor([total])])
    return [values, offsets]


def get_init_inputs():
    return [max_length, 0.0]
