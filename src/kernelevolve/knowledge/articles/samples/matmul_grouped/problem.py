"""A linear layer with bias and GELU, as in the first half of a transformer's feed-forward block."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        self.linear = nn.Linear(inner, width)

    def forward(self, x):
        return torch.nn.functional.gelu(self.linear(x))


tokens = 8192
inner = 4096
width = 16384


def get_inputs():
    return [torch.randn(tokens, inner)]


def get_init_inputs():
    return [inner, width]
