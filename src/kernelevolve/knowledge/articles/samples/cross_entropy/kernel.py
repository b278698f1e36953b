"""Cross entropy over a large vocabulary in one pass: log-sum-exp with a running maximum, and one gather.

Neither probabilities nor an fp32 copy of the logits reach memory. Each lane keeps its own maximum and sum; lanes are
joined once per token.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

KNOBS = {"BLOCK": [8192, 4096, 16384], "num_warps": [8, 16, 4]}
CHOICE = {}
CHOICES = {}


def chosen(*inputs):
    """Knobs by name: the tuner's choice for inputs of these shapes and dtypes, else each knob's first value."""
    first = {name: values[0] for name, values in KNOBS.items() if isinstance(values, list)}
    return first | CHOICES.get(tuple((x.shape, str(x.dtype)) for x in inputs), CHOICE)


@triton.jit
def token_loss(logits, target, loss, vocabulary, stride, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    row = logits + token * stride
    lane = tl.arange(0, BLOCK)
    # Asked for first, so that its latency lies under the loop. An index that is none stops here, not as a wild read.
    wanted = tl.load(target + token)
    inside = (wanted >= 0) & (wanted < vocabulary)
    picked = tl.load(row + wanted, mask=inside, other=float("nan")).to(tl.float32)

    largest = tl.full((BLOCK,), -3.4028234663852886e38, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        at = start + lane
        v = tl.load(row + at, mask=at < vocabulary, other=-float("inf")).to(tl.float32)
        e = tl.exp(-tl.abs(v - largest))  # one of exp(largest - new), exp(v - new) is always 1
        total = tl.where(v > largest, total * e + 1.0, total + e)
        largest = tl.maximum(largest, v)

    top = tl.max(largest, 0)
    # log of the sum first, then the difference of two numbers of the same size: exact where the token is certain.
    tl.store(loss + token, tl.log(tl.sum(total * tl.exp(largest - top), 0)) + (top - picked))


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, logits, target):
        knobs = chosen(logits, target)
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        tokens, vocabulary = logits.shape
        loss = torch.empty((tokens,), device=logits.device, dtype=torch.float32)
        token_loss[(tokens,)](logits, target.contiguous(), loss, vocabulary, logits.stride(0), **knobs)
        return loss
