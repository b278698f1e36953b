"""Mean over the valid elements of each row."""

import torch
import torch.nn as nn

ROWS, WIDTH = 72, 56


class Model(nn.Module):
    def forward(self, x, valid):
        return torch.where(valid, x, 0.0).sum(dim=-1) / valid.sum(dim=-1).clamp(min=1)


def get_inputs():
    return [torch.randn(ROWS, WIDTH), torch.randint(0, 2, (ROWS, WIDTH)) > 0]
