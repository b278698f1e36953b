"""Cross entropy of each token over a large vocabulary, from a bf16 model's logits."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, logits, target):
        return torch.nn.functional.cross_entropy(logits.float(), target, reduction="none")


tokens = 4096
vocabulary = 128256


def get_inputs():
    return [torch.randn(tokens, vocabulary), torch.randint(0, vocabulary, (tokens,))]


def get_init_inputs():
    return []
