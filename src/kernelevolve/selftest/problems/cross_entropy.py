"""Mean cross entropy of classes: one number."""

import torch
import torch.nn as nn

ROWS, CLASSES = 96, 40


class Model(nn.Module):
    def forward(self, x, wanted):
        return torch.nn.functional.cross_entropy(x, wanted)


def get_inputs():
    return [torch.randn(ROWS, CLASSES), torch.randint(0, CLASSES, (ROWS,))]
