"""Bags of rows of an embedding table, each bag summed with weights; all bags have the same number of ids."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, table_rows, dim):
        super().__init__()
        self.table = nn.Parameter(torch.randn(table_rows, dim))

    def forward(self, ids, weights):
        return (self.table[ids] * weights.unsqueeze(-1)).sum(dim=1)


batch = 16384
bag = 32
dim = 128
table_rows = 1000000


def get_inputs():
    return [torch.randint(0, table_rows, (batch, bag)), torch.rand(batch, bag)]


def get_init_inputs():
    return [table_rows, dim]
