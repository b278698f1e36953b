"""Rotary position embedding: each head's first and second half are turned by an angle that depends on the position."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, cos, sin):
        first, second = x.chunk(2, dim=-1)
        c, s = cos[None, :, None, :], sin[None, :, None, :]
        return torch.cat((first * c - second * s, second * c + first * s), dim=-1)


batch = 8
length = 4096
heads = 32
half = 64


def get_inputs():
    angle = torch.rand(length, half) * 6.0
    return [torch.randn(batch, length, heads, 2 * half), torch.cos(angle), torch.sin(angle)]


def get_init_inputs():
    return []
