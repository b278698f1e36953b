"""A linear layer without bias, in bf16: many more tiles than multiprocessors, but few for each of them."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        self.linear = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.linear(x)


tokens = 4096
inner = 2048
width = 6144


def get_inputs():
    return [torch.randn(tokens, inner)]


def get_init_inputs():
    return [inner, width]
