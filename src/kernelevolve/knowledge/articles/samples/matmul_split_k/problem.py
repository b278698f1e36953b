"""A product with a long inner dimension and a small result, as in the gradient of a weight over many tokens."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, dy):
        return x.t() @ dy


tokens = 131072
inner = 256
width = 512


def get_inputs():
    return [torch.randn(tokens, inner), torch.randn(tokens, width)]


def get_init_inputs():
    return []
