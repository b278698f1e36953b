"""The largest values of each row and where they stand."""

import torch
import torch.nn as nn

ROWS, WIDTH = 48, 128
KEPT = 6


class Model(nn.Module):
    def forward(self, x):
        values, places = torch.topk(x, KEPT, dim=-1)
        return values, places


def get_inputs():
    return [torch.randn(ROWS, WIDTH)]
