"""Causal depthwise convolution with bias and SiLU: taps are unrolled, and shifted reads of the same line hit the L1.

There is no product to speak of, so matrix units are no help; the kernel is one read and one write per element.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK": [1024, 2048, 512], "num_warps": [4, 8, 2]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def causal_conv(x, w, bias, y, channels, length, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    line = tl.program_id(1).to(tl.int64)  # batch * channels + channel
    channel = line % channels
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32) + tl.load(bias + channel).to(tl.float32)
    # From memory only the first of these reads costs: the others are shifted by one element and hit the L1. The weight
    # is a scalar per tap, read once per program.
    for tap in tl.static_range(TAPS):
        at = t - (TAPS - 1 - tap)
        v = tl.load(x + line * length + at, mask=(at >= 0) & (at < length), other=0.0).to(tl.float32)
        acc += v * tl.load(w + channel * TAPS + tap).to(tl.float32)
    out = acc / (1.0 + tl.exp(-acc))
    tl.store(y + line * length + t, out.to(y.dtype.element_ty), mask=t < length)


class ModelNew(nn.Module):
    def __init__(self, channels, taps):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, taps, groups=channels, padding=taps - 1)

    def forward(self, x):
        knobs = chosen(x)
        x = x.contiguous()
        batch, channels, length = x.shape
        if batch * channels > 65535:
            raise ValueError(f"{batch} x {channels} lines exceed the grid's second dimension")
        y = torch.empty_like(x)
        grid = (triton.cdiv(length, knobs["BLOCK"]), batch * channels)
        weight = self.conv.weight  # [channels, 1, taps]
        causal_conv[grid](x, weight, self.conv.bias, y, channels, length, TAPS=weight.shape[2], **knobs)
        return y
