"""y = x @ weight, where the weight does not change between calls."""

import torch
import torch.nn as nn

ROWS, INNER, WIDTH = 64, 48, 32


class Model(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inner, width))

    def forward(self, x):
        return x @ self.weight


def get_inputs():
    return [torch.randn(ROWS, INNER)]


def get_init_inputs():
    return [INNER, WIDTH]
