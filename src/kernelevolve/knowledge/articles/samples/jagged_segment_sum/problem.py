"""Rows of differing length, stored one after the other, each summed to one vector.

`offsets` [batch + 1] says where rows begin: row i is values[offsets[i] : offsets[i + 1]]. Empty rows give 0.
"""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, values, offsets):
        return torch.segment_reduce(values, "sum", offsets=offsets, axis=0, initial=0)


batch = 8192
dim = 128
mean_length = 64


def get_inputs():
    total = batch * mean_length
    inner = torch.sort(torch.randint(0, total + 1, (batch - 1,))).values
    offsets = torch.cat([torch.tensor([0]), inner, torch.tensor([total])])
    return [torch.randn(total, dim), offsets]


def get_init_inputs():
    return []
