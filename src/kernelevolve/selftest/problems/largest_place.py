"""Where the largest value of each row stands."""

import torch
import torch.nn as nn

ROWS, WIDTH = 96, 80


class Model(nn.Module):
    def forward(self, x):
        return torch.argmax(x, dim=-1)


def get_inputs():
    return [torch.randn(ROWS, WIDTH)]
