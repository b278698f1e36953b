"""A worker's tensors as they arrived: attached bytes, or handles of its device memory.

In: a message with metadata and bytes or handles. Out: for each metadata its tensor, while the message lives. Left to
others: what they are compared with (`accept`, `structure`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from kernelevolve import codec
from kernelevolve.judge import ipc
from kernelevolve.tensors import outputs
from kernelevolve.wire import Message

Values = Callable[[outputs.TensorMeta], Any]


def metas_of(message: Message) -> list[outputs.TensorMeta]:
    """The metadata that the message announces."""
    return [codec.from_data(outputs.TensorMeta, m) for m in message.body["metas"]]


@contextlib.contextmanager
def arrived(message: Message, device: str) -> Iterator[Values]:
    """Gives the tensor of a meta; a ValueError where neither bytes nor a handle arrived for it."""
    handles = message.body.get("handles") or {}
    with contextlib.ExitStack() as stack:

        def values(meta: outputs.TensorMeta) -> Any:
            if meta.path in handles:
                return stack.enter_context(ipc.opened(handles[meta.path], meta))
            if meta.path in message.attachments:
                return outputs.from_attachment(meta, message.attachments[meta.path], device)
            if meta.nbytes == 0:
                return torch.empty(meta.shape, dtype=outputs.dtype_of(meta.dtype), device=device)
            raise ValueError(f"{meta.path}: neither bytes nor a handle arrived for it")

        yield values
