"""A linear map of fp32 matrices, both with the inner dimension contiguous, to be computed with fp32 accuracy."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, a, b):
        return a @ b.T


rows = 4096
inner = 4096
width = 4096


def get_inputs():
    return [torch.randn(rows, inner), torch.randn(width, inner)]


def get_init_inputs():
    return []
