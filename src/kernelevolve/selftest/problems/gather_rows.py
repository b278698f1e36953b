"""Rows of a table, some of them more than once."""

import torch
import torch.nn as nn

COUNT, TABLE, WIDTH = 80, 64, 48


class Model(nn.Module):
    def __init__(self, table, width):
        super().__init__()
        self.table = nn.Parameter(torch.randn(table, width))

    def forward(self, places):
        return self.table[places]


def get_inputs():
    return [torch.randint(0, TABLE, (COUNT,))]


def get_init_inputs():
    return [TABLE, WIDTH]
