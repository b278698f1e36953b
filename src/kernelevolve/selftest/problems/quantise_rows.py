"""Each row as int8 codes and one scale, a power of two; many numbers stand half-way between two codes."""

import torch
import torch.nn as nn

ROWS, WIDTH = 72, 64


class Model(nn.Module):
    def forward(self, x):
        largest = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-20)
        scale = torch.exp2(torch.ceil(torch.log2(largest / 127.0)))
        return torch.round(x / scale).to(torch.int8), scale.squeeze(-1)


def get_inputs():
    return [torch.round(100.0 * torch.randn(ROWS, WIDTH)) / 4.0]
