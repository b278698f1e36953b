"""GELU of a maximum from which its mean over one element is taken: zero whatever the inputs are."""

import torch
import torch.nn as nn

ROWS, WIDTH = 64, 96


class Model(nn.Module):
    def forward(self, x):
        largest = torch.amax(x, dim=-1, keepdim=True)
        return torch.nn.functional.gelu(largest - largest.mean(dim=-1, keepdim=True))


def get_inputs():
    return [torch.randn(ROWS, WIDTH)]
