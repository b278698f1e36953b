"""A residual added, and the sum normalised by its root mean square; both are given back.

Statistics are taken in float32 whatever the tensors' type, and each result is rounded once.
"""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x, residual):
        added = x + residual
        wide = added.float()
        scale = torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight.float()).to(x.dtype), added


tokens = 16384
width = 4096


def get_inputs():
    return [torch.randn(tokens, width), torch.randn(tokens, width)]


def get_init_inputs():
    return [width, 1e-6]
