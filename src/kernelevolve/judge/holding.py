"""What a worker holds of its timed calls, as tensors: in one piece of its device memory, or as bytes.

In: a question with `calls` (case, metadata, places, sums) and one handle or attachment for all of them. Out: values by
path for each call, and whether they are still what the worker summed up right after the call. Left to others:
comparing (`timed`), the handle itself (`ipc`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kernelevolve import codec
from kernelevolve.judge import ipc
from kernelevolve.protocol import Case
from kernelevolve.tensors import outputs
from kernelevolve.tensors.held import checksum
from kernelevolve.tensors.outputs import TensorMeta
from kernelevolve.wire import Message


@dataclass(frozen=True)
class HeldCall:
    """One timed call as the worker held it.

    Attributes:
        values: by path, of the plain tensors that arrived as announced.
        full: whether it is to be compared in full.
        changed: whether a copy is no longer what its sum said when the call was timed.
    """

    case: Case
    metas: tuple[TensorMeta, ...]
    values: dict[str, Any]
    full: bool
    candidate: str
    changed: bool


@contextlib.contextmanager
def opened(message: Message, device: str) -> Iterator[list[HeldCall]]:
    """The calls of a question, valid inside the `with`.

    Raises:
        MachineError: the driver refuses the handle; ask with bytes instead.
    """
    with contextlib.ExitStack() as stack:
        arena = _arena(stack, message, device)
        yield [_call(message, number, body, arena, device) for number, body in enumerate(message.body["calls"])]


def _arena(stack: contextlib.ExitStack, message: Message, device: str) -> Any:
    handle = message.body.get("handle")
    if handle:
        size = int(handle["nbytes"])
        return stack.enter_context(ipc.opened(handle, TensorMeta("arena", (size,), (1,), "uint8", device=device)))
    file = message.attachments["arena"]
    return outputs.from_attachment(TensorMeta("arena", (file.size,), (1,), "uint8"), file, device)


def _call(message: Message, number: int, body: dict[str, Any], arena: Any, device: str) -> HeldCall:
    metas = tuple(_meta(m) for m in body["metas"])
    sums: Sequence[str] = body.get("sums") or [""] * len(metas)
    values, changed = {}, len(sums) != len(metas)
    for meta, offset, wanted in zip(metas, body["offsets"], sums, strict=False):
        if meta.kind != "Tensor":
            continue
        flat = _flat(message, f"{body.get('number', number)}/{meta.path}", meta, int(offset), arena, device)
        if flat is None:
            continue
        values[meta.path] = flat.view(outputs.dtype_of(meta.dtype)).view(meta.shape) if meta.nbytes else flat
        changed = changed or bool(wanted and meta.nbytes and int(wanted) != int(checksum(flat).item()))
    case = codec.from_data(Case, body["case"])
    candidate = str(message.body.get("candidate", ""))
    return HeldCall(case, metas, values, bool(body.get("full")), candidate, changed)


def _meta(data: Any) -> TensorMeta:
    """The metadata of one output; what is none becomes that of a thing which no rule accepts."""
    try:
        meta = codec.from_data(TensorMeta, data)
        if meta.kind == "Tensor" and (meta.nbytes < 0 or min(meta.shape, default=0) < 0):
            raise ValueError(f"{meta.path}: a shape of {meta.shape}")
    except (ValueError, TypeError, KeyError) as error:
        return TensorMeta("out", (), (), "", f"thing without metadata ({str(error)[:80]})", "")
    return meta


def _flat(message: Message, name: str, meta: TensorMeta, offset: int, arena: Any, device: str) -> Any:
    """The bytes of one output as a flat uint8 tensor (of no bytes: the empty output); None if they did not arrive."""
    size = meta.nbytes
    if size == 0:
        return torch.empty(meta.shape, dtype=outputs.dtype_of(meta.dtype), device=device)
    if 0 <= offset <= arena.numel() - size:
        return arena[offset : offset + size]
    file = message.attachments.get(name)
    if file is None or file.size != size:
        return None
    return outputs.from_attachment(TensorMeta(name, (size,), (1,), "uint8"), file, device)
