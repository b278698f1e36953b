"""Scaled dot-product attention with as many key heads as query heads, causal or not."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, causal):
        super().__init__()
        self.causal = causal

    def forward(self, q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


batch = 8
heads = 16
length = 4096
dim = 128
causal = True


def get_inputs():
    shape = (batch, heads, length, dim)
    return [torch.randn(shape), torch.randn(shape), torch.randn(shape)]


def get_init_inputs():
    return [causal]
