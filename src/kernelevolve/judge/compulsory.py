"""The bytes that any correct kernel must move for a case, as far as trying proves it.

In: an opened reference and a case. Out: `Compulsory`. Left to others: the bandwidth, what is made of it (the floor).

That an input is declared does not mean that it must be read: half of a triangular matrix, the table rows that no index
names. An element on whose value the output depends, everything else as it is, must be read by a kernel that is right.
So elements are drawn at random and changed one at a time; the share that moves the output, less what a sample of that
size leaves open at 95 %, counts. Integer inputs are left out: another index may lie outside of its table. What is
counted too low makes the floor lower, which is still a floor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kernelevolve.judge.reference import Reference
from kernelevolve.protocol import Case
from kernelevolve.tensors import call, draw

SAMPLES, GIVEN_UP = 32, 8
_LEVEL = 0.05
Leaves = list[tuple[str, Any]]


@dataclass(frozen=True)
class Compulsory:
    """Bytes that must be read and written, and the share of each input and parameter of which that is proved."""

    read: float
    written: float
    shares: tuple[tuple[str, float], ...]


def compulsory(reference: Reference, case: Case, seconds: float) -> Compulsory:
    """Tries the elements of every input and parameter, the largest first, for about `seconds`."""
    arguments = reference.arguments(case)

    def run() -> Leaves:
        return reference.rerun(case, arguments, keep_state=True)

    base = reference.rerun(case, arguments)
    names = call.forward_names(reference.model, len(arguments))
    tensors = [(n, t) for n, t in call.named_leaves(arguments, names) if isinstance(t, torch.Tensor)]
    tensors += list(reference.model.named_parameters())
    written = sum(_bytes(leaf) for path, leaf in base if path.startswith(("out", "grad:")) and _apart(leaf, tensors))
    if not _same(base, run()):
        return Compulsory(0.0, float(written), ())
    deadline, shares, read = time.monotonic() + seconds, [], 0.0
    for name, tensor in sorted(tensors, key=lambda pair: -_bytes(pair[1])):
        floating = tensor.is_floating_point() and tensor.is_contiguous() and tensor.numel()
        share = _share(tensor, base, run, case.seed, name, deadline) if floating else 0.0
        shares.append((name, share))
        read += share * _bytes(tensor)
    return Compulsory(read, float(written), tuple(shares))


def _share(tensor: Any, base: Leaves, run: Callable[[], Leaves], seed: int, name: str, deadline: float) -> float:
    flat = tensor.data.view(-1)
    source = draw.generator(seed, f"compulsory/{name}", "cpu")
    large = 8.0 * float(flat.float().abs().max().item()) + 1.0  # fp8 has no maximum of its own
    moved = tried = 0
    while tried < SAMPLES and time.monotonic() < deadline and (moved or tried < GIVEN_UP):
        place = int(torch.randint(0, flat.numel(), (1,), generator=source).item())
        was = flat[place].clone()
        for value in (large, -large):
            flat[place] = value
            if not _same(base, run()):
                moved += 1
                break
        flat[place] = was
        tried += 1
    return lower_bound(moved, tried)


def lower_bound(moved: int, tried: int) -> float:
    """The smallest share that explains `moved` of `tried` with at least 5 % (Clopper and Pearson, one-sided)."""
    if not moved:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        at_least = sum(math.comb(tried, k) * share**k * (1 - share) ** (tried - k) for k in range(moved, tried + 1))
        low, high = (share, high) if at_least < _LEVEL else (low, share)
    return low


def _same(one: Leaves, other: Leaves) -> bool:
    return all(
        torch.equal(a.detach().nan_to_num(), b.detach().nan_to_num())
        for (path, a), (_, b) in zip(one, other, strict=True)
        if path.startswith(("out", "grad:"))
    )


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _apart(leaf: Any, tensors: Leaves) -> bool:
    """Whether a kernel must write this output: it is no input's memory, and no element stands for several."""
    repeated = any(s == 0 and n > 1 for s, n in zip(leaf.stride(), leaf.shape, strict=True))
    mine = leaf.untyped_storage().data_ptr()
    return not repeated and all(t.untyped_storage().data_ptr() != mine for _, t in tensors)
