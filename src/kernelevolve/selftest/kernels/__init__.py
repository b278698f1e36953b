"""Texts of honest kernels for the selftest's problems: `products`, `rows`, `elements`, `choices`.

In: nothing. Out: texts. Left to others: what is done to them (`specimens`, the mutants of the tests).
"""

HEAD = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


"""


def forward_of(call: str, *, init: str = "", arguments: str = "x", constructor: str = "") -> str:
    """The text of a `ModelNew` that returns `call`.

    Args:
        init: lines of its constructor.
        arguments: of forward.
        constructor: arguments of the constructor.
    """
    text = "class ModelNew(nn.Module):\n"
    if init:
        lines = "".join(f"        {line}\n" for line in init.splitlines())
        text += f"    def __init__(self, {constructor}):\n        super().__init__()\n{lines}\n"
    return f"{text}    def forward(self, {arguments}):\n        return {call}\n"
