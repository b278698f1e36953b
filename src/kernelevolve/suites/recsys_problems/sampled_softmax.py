"""Log-probabilities of a retrieval model over a sample of its catalogue.

Each user's vector is scored against the sampled items; the logarithm of the probability with which an item was sampled
is taken off (logQ correction: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
Recommendations", RecSys 2019), and the scores are normalised over the sample.
"""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, users, items, log_sampled):
        scores = users @ items.T / self.temperature - log_sampled
        return torch.log_softmax(scores, dim=-1)


batch = 4096
sampled = 32768
dim = 64


def get_inputs():
    return [torch.randn(batch, dim), torch.randn(sampled, dim), torch.randn(sampled)]


def get_init_inputs():
    return [8.0]
