"""Attention in which each sequence of the batch has a length of its own."""

import torch
import torch.nn as nn

BATCH, KEYS, WIDTH = 6, 40, 16


class Model(nn.Module):
    def forward(self, q, k, v, lengths):
        scores = q @ k.transpose(-1, -2) * 0.25
        place = torch.arange(k.shape[1], device=k.device)
        scores = scores.masked_fill(place[None, None, :] >= lengths[:, None, None], -float("inf"))
        return torch.softmax(scores, dim=-1) @ v


def get_inputs():
    lengths = torch.randint(1, KEYS + 1, (BATCH,))
    q, k, v = (torch.randn(BATCH, KEYS, WIDTH) for _ in range(3))
    return [q, k, v, lengths]
