"""A causal depthwise convolution over time with SiLU, as in front of a state-space layer."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, channels, taps):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, taps, groups=channels, padding=taps - 1)

    def forward(self, x):
        return torch.nn.functional.silu(self.conv(x)[:, :, : x.shape[2]])


batch = 8
channels = 4096
length = 4096
taps = 4


def get_inputs():
    return [torch.randn(batch, channels, length)]


def get_init_inputs():
    return [channels, taps]
