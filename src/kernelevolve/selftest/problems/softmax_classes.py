"""Softmax over very many classes: every output is far below 1e-2."""

import torch
import torch.nn as nn

ROWS, CLASSES = 2, 20000


class Model(nn.Module):
    def forward(self, x):
        return torch.softmax(x, dim=-1)


def get_inputs():
    return [torch.rand(ROWS, CLASSES)]
