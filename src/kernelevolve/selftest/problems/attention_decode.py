"""One step of attention for a batch of queries over given keys and values."""

import torch
import torch.nn as nn

QUERIES, TOKENS, WIDTH = 32, 96, 32


class Model(nn.Module):
    def forward(self, query, keys, values):
        weights = torch.softmax(query @ keys.T / WIDTH**0.5, dim=-1)
        return weights @ values


def get_inputs():
    return [torch.randn(QUERIES, WIDTH), torch.randn(TOKENS, WIDTH), torch.randn(TOKENS, WIDTH)]
