"""y = x @ weight with one output column."""

import torch
import torch.nn as nn

ROWS, INNER = 96, 80


class Model(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inner, 1))

    def forward(self, x):
        return x @ self.weight


def get_inputs():
    return [torch.randn(ROWS, INNER)]


def get_init_inputs():
    return [INNER]
