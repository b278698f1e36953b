"""Tokens sorted by expert, each multiplied by the weight of its own: experts get unequal shares, some none."""

import torch
import torch.nn as nn

TOKENS, INNER, WIDTH = 96, 32, 24
EXPERTS = 5


class Model(nn.Module):
    def __init__(self, experts, inner, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, inner, width))

    def forward(self, x, offsets):
        token = torch.arange(x.shape[0], device=x.device)
        expert = torch.searchsorted(offsets[1:].contiguous(), token, right=True)
        return torch.bmm(x.unsqueeze(1), self.weight[expert]).squeeze(1)


def get_inputs():
    cuts = torch.sort(torch.randint(0, TOKENS + 1, (EXPERTS - 1,))).values
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), cuts, torch.full((1,), TOKENS)])
    return [torch.randn(TOKENS, INNER), offsets]


def get_init_inputs():
    return [EXPERTS, INNER, WIDTH]
