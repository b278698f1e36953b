"""A product of fp16 numbers."""

import torch
import torch.nn as nn

ROWS, INNER, WIDTH = 48, 1024, 32


class Model(nn.Module):
    def forward(self, a, b):
        return a @ b


def get_inputs():
    return [torch.randn(ROWS, INNER, dtype=torch.float16), torch.randn(INNER, WIDTH, dtype=torch.float16)]
