"""silu(x * gain) and its gradients with respect to x and gain."""

import torch
import torch.nn as nn

ROWS, WIDTH = 64, 96


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return torch.nn.functional.silu(x * self.gain)


def get_inputs():
    return [torch.randn(ROWS, WIDTH)]


def get_init_inputs():
    return [WIDTH]
