"""A product of fp8 numbers, in bf16."""

import torch
import torch.nn as nn

ROWS, INNER, WIDTH = 48, 1024, 32


class Model(nn.Module):
    def forward(self, a, b):
        return (a.float() @ b.float()).to(torch.bfloat16)


def get_inputs():
    return [torch.randn(ROWS, INNER).to(torch.float8_e4m3fn), torch.randn(INNER, WIDTH).to(torch.float8_e4m3fn)]
