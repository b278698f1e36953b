"""The interaction layer of DLRM: dot products between all pairs of a request's feature vectors.

The dense feature's vector and the `features` embedding vectors of each request are stacked to [features + 1, dim]; the
products of all pairs i > j are put behind the dense vector: [batch, dim + (features + 1) * features / 2].
"""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        rows, columns = torch.tril_indices(features + 1, features + 1, offset=-1)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    def forward(self, dense, sparse):
        stacked = torch.cat([dense.unsqueeze(1), sparse], dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))
        return torch.cat([dense, products[:, self.rows, self.columns]], dim=1)


batch = 8192
features = 26
dim = 128


def get_inputs():
    return [torch.randn(batch, dim), torch.randn(batch, features, dim)]


def get_init_inputs():
    return [features]
