"""y = relu(x @ weight), large enough for calls of several milliseconds."""

import torch
import torch.nn as nn

ROWS, INNER, WIDTH = 6144, 6144, 6144


class Model(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inner, width))

    def forward(self, x):
        return torch.relu(x @ self.weight)


def get_inputs():
    return [torch.randn(ROWS, INNER)]


def get_init_inputs():
    return [INNER, WIDTH]
