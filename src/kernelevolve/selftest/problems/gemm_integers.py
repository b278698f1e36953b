"""A product of int8 numbers, kept in int32: exact."""

import torch
import torch.nn as nn

ROWS, INNER, WIDTH = 64, 96, 48


class Model(nn.Module):
    def forward(self, a, b):
        return (a.double() @ b.double()).to(torch.int32)


def get_inputs():
    a = torch.randint(-128, 128, (ROWS, INNER), dtype=torch.int8)
    return [a, torch.randint(-128, 128, (INNER, WIDTH), dtype=torch.int8)]
