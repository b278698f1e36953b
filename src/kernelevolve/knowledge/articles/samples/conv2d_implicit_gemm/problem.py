"""A 3 x 3 convolution with bias and ReLU in bf16, tensors in the memory format channels-last."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, channels, filters, size, padding):
        super().__init__()
        conv = nn.Conv2d(channels, filters, size, padding=padding)
        self.conv = conv.to(memory_format=torch.channels_last)

    def forward(self, x):
        return torch.relu(self.conv(x))


batch = 32
channels = 128
filters = 256
height = 56
width = 64
size = 3
padding = 1


def get_inputs():
    return [torch.randn(batch, channels, height, width).contiguous(memory_format=torch.channels_last)]


def get_init_inputs():
    return [channels, filters, size, padding]
