"""Scores of attention with -inf above the diagonal."""

import torch
import torch.nn as nn

SIDE, WIDTH = 48, 32


class Model(nn.Module):
    def forward(self, q, k):
        scores = q @ k.transpose(0, 1)
        above = torch.ones(scores.shape, dtype=torch.bool, device=q.device).triu(1)
        return scores.masked_fill(above, -float("inf"))


def get_inputs():
    return [torch.randn(SIDE, WIDTH), torch.randn(SIDE, WIDTH)]
