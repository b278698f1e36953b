"""The last two dimensions of a batch of matrices exchanged in memory."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        return x.transpose(1, 2).contiguous()


batch = 64
rows = 2048
width = 1024


def get_inputs():
    return [torch.randn(batch, rows, width)]


def get_init_inputs():
    return []
