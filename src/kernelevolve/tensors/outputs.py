"""Tensors as exact metadata and bytes, and back.

In: named leaves of a call. Out: `TensorMeta` values for the JSON body and memory files with the contiguous bytes (every
dtype, through uint8). Left to others: comparing (`judge.accept`), CUDA IPC (`judge.ipc`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kernelevolve.wire import Attachment, memory_bytes


@dataclass(frozen=True)
class TensorMeta:
    """What is exactly compared of an output before its values.

    Attributes:
        path: `out`, `out[0]`, `grad:x`, `state:bn.running_mean` or `input:x`; also the name of its attachment.
        shape, stride: in elements.
        dtype: torch's name without `torch.`.
        kind: `Tensor`, or the class's name where it is a subclass (never accepted).
        device: `cpu`, `cuda:0`, ...
    """

    path: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    kind: str = "Tensor"
    device: str = "cpu"

    @property
    def nbytes(self) -> int:
        """Bytes of the contiguous values."""
        return math.prod(self.shape) * int(dtype_of(self.dtype).itemsize)


def dtype_name(dtype: Any) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> Any:
    """`torch.float32` for `float32`; raises ValueError for a name that is no dtype of this torch."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"unknown dtype {name!r} in torch {torch.__version__}")
    return dtype


def meta_of(path: str, leaf: Any) -> TensorMeta:
    """The metadata of one leaf; a leaf that is no tensor at all gets its class as `kind` and no shape."""
    if not issubclass(type(leaf), torch.Tensor):  # `isinstance` believes an object that says it is one
        return TensorMeta(path, (), (), "", type(leaf).__name__, "")
    plain = type(leaf) in (torch.Tensor, torch.nn.Parameter) and leaf.layout is torch.strided
    return TensorMeta(
        path,
        tuple(leaf.shape),
        tuple(leaf.stride()) if leaf.layout is torch.strided else (),
        dtype_name(leaf.dtype),
        "Tensor" if plain else f"{type(leaf).__name__} ({dtype_name(leaf.layout)})",
        str(leaf.device),
    )


def shared_memory(outputs: Sequence[tuple[str, Any]], inputs: Sequence[tuple[str, Any]]) -> list[tuple[str, str]]:
    """The (path, name) of each output whose storage overlaps an input's in memory."""
    found = []
    for path, output in outputs:
        for name, given in inputs:
            (start, end), (first, last) = _extent(output), _extent(given)
            if max(start, first) < min(end, last):
                found.append((path, name))
    return found


def _extent(leaf: Any) -> tuple[int, int]:
    """First byte and end of a plain tensor's storage; empty for anything else."""
    if type(leaf) not in (torch.Tensor, torch.nn.Parameter) or leaf.layout is not torch.strided:
        return 0, 0
    storage = torch.Tensor.untyped_storage(leaf)
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def to_bytes(leaf: Any) -> memoryview:
    """The leaf's values, contiguous, as bytes in host memory."""
    flat = torch.Tensor.detach(leaf).contiguous().cpu().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")


def to_attachments(leaves: Sequence[tuple[str, Any]]) -> tuple[list[TensorMeta], dict[str, Attachment]]:
    """Metadata of all leaves, and the bytes of the plain tensors among them by path; the caller closes them."""
    metas = [meta_of(path, leaf) for path, leaf in leaves]
    files = {m.path: memory_bytes(to_bytes(t)) for m, (_, t) in zip(metas, leaves, strict=True) if m.kind == "Tensor"}
    return metas, files


def from_attachment(meta: TensorMeta, attachment: Attachment, device: str = "cpu") -> Any:
    """The contiguous tensor of `meta` with the attachment's bytes, which it keeps mapped.

    Raises:
        ValueError: the bytes do not fit the metadata.
    """
    if attachment.size != meta.nbytes:
        raise ValueError(f"{meta.path}: {attachment.size} bytes, but {meta.dtype}{list(meta.shape)} has {meta.nbytes}")
    if attachment.size == 0:
        return torch.empty(meta.shape, dtype=dtype_of(meta.dtype), device=device)
    flat = torch.frombuffer(attachment.map(), dtype=torch.uint8)
    return flat.view(dtype_of(meta.dtype)).reshape(meta.shape).to(device)


def from_attachments(
    metas: Sequence[TensorMeta], files: Mapping[str, Attachment], device: str = "cpu"
) -> dict[str, Any]:
    """The tensors that arrived, by path; those without bytes are absent."""
    return {m.path: from_attachment(m, files[m.path], device) for m in metas if m.path in files}
