"""A linear layer whose weight is kept as int8 with one scale per output, for a small batch."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, weight, scale):
        return torch.nn.functional.linear(x, weight.to(x.dtype) * scale.to(x.dtype)[:, None])


tokens = 32
inner = 8192
width = 28672


def get_inputs():
    x = torch.randn(tokens, inner)
    weight = torch.randint(-127, 128, (width, inner), dtype=torch.int8)
    scale = torch.rand(width) * 0.01 + 0.001
    return [x, weight, scale]


def get_init_inputs():
    return []
