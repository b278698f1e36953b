"""y = gelu(x @ weight + bias), where library calls are allowed."""

import torch
import torch.nn as nn

ROWS, INNER, WIDTH = 64, 48, 32


class Model(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inner, width))
        self.bias = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return torch.nn.functional.gelu(x @ self.weight + self.bias)


def get_inputs():
    return [torch.randn(ROWS, INNER)]


def get_init_inputs():
    return [INNER, WIDTH]
