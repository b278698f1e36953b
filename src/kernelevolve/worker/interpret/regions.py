"""Functions of the language that take a function: reductions, scans and elementwise maps.

Comes in: tensors and a kernel function. Goes out: tensors. A reduction is a tree over neighbours and a scan doubles its
distance each step, both vectorised, so that operand order is kept and each step rounds to the element type; the exact
order of the hardware's threads cannot be seen. Sums, extrema and bitwise reductions have direct forms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from .compat import tl
from .conversions import unsigned
from .formats import Array
from .semantic import Semantic, Tensor
from .values import Handle

_standard = tl.standard


class AmbiguousTruth(ValueError):
    """A branch on a tensor of several elements."""


class Language(Protocol):
    """What runs a region: the semantics, and calls of kernel functions."""

    @property
    def semantic(self) -> Semantic: ...

    @property
    def call_kernel(self) -> Callable[..., Any]: ...


def _block(like: Any, data: Array, ty: Any = None) -> Tensor:
    """A tensor of ``data`` with the element type of ``like`` (a scalar when ``data`` is 0-d)."""
    dtype = like.dtype if ty is None else ty
    held = like.handle.ty
    if data.ndim == 0:
        return Tensor(Handle(data.reshape(1), held), dtype)
    return Tensor(Handle(data, held), tl.block_type(dtype, list(data.shape)))


def _as_tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, (tuple, list, tl.tuple)) else (values,)


def _readable(t: Any) -> Array:
    """The data of ``t`` as numbers that compare as its type does."""
    data: Array = t.handle.data
    return unsigned(data) if t.dtype.is_int_unsigned() else data


def _tree(data: Array, axis: int, ty: Any) -> Array:
    """The sum over ``axis`` by halves, rounded to the element type at each step."""
    data = np.moveaxis(data, axis, -1)
    while data.shape[-1] > 1:
        data = ty.fit(data[..., 0::2] + data[..., 1::2])
    return np.asarray(data[..., 0])


def _sum(t: Any, axis: int) -> Array:
    held = t.handle.ty
    if held.bits < 32 and held.floating:
        return _tree(t.handle.data, axis, held)
    if held.bits == 1:
        return np.asarray(np.bitwise_xor.reduce(t.handle.data, axis=axis))
    return np.asarray(np.add.reduce(t.handle.data, axis=axis, dtype=held.np))


def _extremum(integer: np.ufunc, real: np.ufunc) -> Callable[[Any, int], Array]:
    def apply(t: Any, axis: int) -> Array:
        op = real if t.handle.ty.floating else integer
        return np.asarray(op.reduce(_readable(t), axis=axis)).astype(t.handle.data.dtype, copy=False)

    return apply


def _bitwise(op: np.ufunc) -> Callable[[Any, int], Array]:
    return lambda t, axis: np.asarray(op.reduce(t.handle.data, axis=axis))


_DIRECT: dict[int, Callable[[Any, int], Array]] = {
    id(_standard._sum_combine): _sum,
    id(_standard._elementwise_max): _extremum(np.maximum, np.fmax),
    id(_standard._elementwise_min): _extremum(np.minimum, np.fmin),
    id(_standard._xor_combine): _bitwise(np.bitwise_xor),
    id(_standard._or_combine): _bitwise(np.bitwise_or),
}

_ARG = {
    id(_standard._argmax_combine_tie_break_left): np.argmax,
    id(_standard._argmax_combine_tie_break_fast): np.argmax,
    id(_standard._argmin_combine_tie_break_left): np.argmin,
    id(_standard._argmin_combine_tie_break_fast): np.argmin,
}


def _combined(language: Language, function: Any, left: Sequence[Any], right: Sequence[Any]) -> list[Array]:
    """``function`` on two groups of equal shape; element by element where it branches on its arguments."""
    try:
        out = _as_tuple(language.call_kernel(function, *left, *right))
    except AmbiguousTruth:
        return _combined_each(language, function, left, right)
    shape = left[0].handle.data.shape
    results = []
    for made, like in zip(out, left, strict=True):
        value = language.semantic.cast(language.semantic.to_tensor(made), like.dtype)
        results.append(np.broadcast_to(value.handle.data, shape))
    return results


def _combined_each(language: Language, function: Any, left: Sequence[Any], right: Sequence[Any]) -> list[Array]:
    shape = left[0].handle.data.shape
    results = [np.empty(shape, t.handle.data.dtype) for t in left]
    for place in np.ndindex(shape):
        scalars = [_block(t, t.handle.data[place]) for t in itertools.chain(left, right)]
        out = _as_tuple(language.call_kernel(function, *scalars))
        for result, made, like in zip(results, out, left, strict=True):
            result[place] = language.semantic.cast(language.semantic.to_tensor(made), like.dtype).handle.data.item()
    return results


def reduce(language: Language, inputs: Any, axis: int | None, function: Any, keep_dims: bool) -> Any:
    """Combines all elements along ``axis`` (all axes when None); a tuple of tensors is reduced together."""
    single = isinstance(inputs, tl.tensor)
    tensors = list(_as_tuple(inputs))
    rank = len(tensors[0].shape)
    if axis is None:
        tensors = [language.semantic.reshape(t, [int(t.numel)], can_reorder=True) for t in tensors]
    along = 0 if axis is None else axis % rank
    direct = _DIRECT.get(id(function))
    if direct is not None and len(tensors) == 1:
        data = [np.asarray(direct(tensors[0], along))]
    else:
        data = _reduce_generic(language, tensors, along, function)
    if keep_dims:
        data = [np.expand_dims(d, along) if axis is not None else d.reshape((1,) * rank) for d in data]
    out = tuple(_block(t, d) for t, d in zip(tensors, data, strict=True))
    return out[0] if single else out


def _reduce_generic(language: Language, tensors: Sequence[Any], axis: int, function: Any) -> list[Array]:
    data = [np.moveaxis(t.handle.data, axis, -1) for t in tensors]
    while data[0].shape[-1] > 1:
        left = [_block(t, d[..., 0::2]) for t, d in zip(tensors, data, strict=True)]
        right = [_block(t, d[..., 1::2]) for t, d in zip(tensors, data, strict=True)]
        data = _combined(language, function, left, right)
    return [d[..., 0] for d in data]


def reduce_with_indices(language: Language, value: Any, axis: int, function: Any, keep_dims: bool) -> tuple[Any, Any]:
    """The extremum along ``axis`` and its position; ties give the first, as the left tie break does."""
    rank = len(value.shape)
    axis = axis % rank
    data = _readable(value)
    positions = np.arange(data.shape[axis], dtype=np.int32).reshape([-1 if d == axis else 1 for d in range(rank)])
    index_type = tl.block_type(tl.int32, list(data.shape))
    held = language.semantic.builder.get_int32_ty()
    index = Tensor(Handle(np.broadcast_to(positions, data.shape), held), index_type)
    pick = _ARG.get(id(function))
    if pick is None or (value.handle.ty.floating and np.isnan(data).any()):
        out = reduce(language, (value, index), axis, function, keep_dims)
        return out[0], out[1]
    place = pick(data, axis=axis, keepdims=True)
    best = np.take_along_axis(value.handle.data, place, axis)
    found = place.astype(np.int32)
    if not keep_dims:
        best, found = best.squeeze(axis), found.squeeze(axis)
    return _block(value, best), _block(index, found)


_RUNNING: dict[int, Callable[..., Array]] = {
    id(_standard._sum_combine): np.cumsum,
    id(_standard._prod_combine): np.cumprod,
}


def scan(language: Language, inputs: Any, axis: int, function: Any, reverse: bool) -> Any:
    """Running combination along ``axis``; ``reverse`` starts at the end."""
    single = isinstance(inputs, tl.tensor)
    tensors = list(_as_tuple(inputs))
    axis = axis % len(tensors[0].shape)
    data = [np.flip(t.handle.data, axis) if reverse else t.handle.data for t in tensors]
    held = tensors[0].handle.ty
    running = _RUNNING.get(id(function))
    if running is not None and len(tensors) == 1 and held.bits >= 32:
        data = [running(data[0], axis=axis, dtype=held.np)]
    else:
        data = _scan_generic(language, tensors, data, axis, function)
    data = [np.flip(d, axis) if reverse else d for d in data]
    out = tuple(_block(t, d) for t, d in zip(tensors, data, strict=True))
    return out[0] if single else out


def _scan_generic(
    language: Language, tensors: Sequence[Any], data: list[Array], axis: int, function: Any
) -> list[Array]:
    length = data[0].shape[axis]
    place = np.arange(length).reshape([-1 if d == axis else 1 for d in range(data[0].ndim)])
    distance = 1
    while distance < length:
        earlier = [_block(t, np.roll(d, distance, axis)) for t, d in zip(tensors, data, strict=True)]
        here = [_block(t, d) for t, d in zip(tensors, data, strict=True)]
        made = _combined(language, function, earlier, here)
        data = [np.where(place >= distance, m, d) for m, d in zip(made, data, strict=True)]
        distance *= 2
    return data


def map_elementwise(language: Language, function: Any, arguments: Sequence[Any], pack: int) -> Any:
    """``function`` of scalars, ``pack`` neighbours at a time, over tensors of equal shape."""
    tensors = list(language.semantic.broadcast_tensors(*(language.semantic.to_tensor(a) for a in arguments)))
    shape = np.broadcast_shapes(*(t.handle.data.shape for t in tensors))
    flat = [np.ascontiguousarray(np.broadcast_to(t.handle.data, shape)).ravel() for t in tensors]
    results: list[list[Any]] = []
    single = False
    kinds: list[Any] = []
    for start in range(0, flat[0].size, pack):
        scalars = [_block(t, d[start + j]) for t, d in zip(tensors, flat, strict=True) for j in range(pack)]
        made = language.call_kernel(function, *scalars)
        single = isinstance(made, tl.tensor)
        out = [language.semantic.to_tensor(v) for v in _as_tuple(made)]
        kinds = out[::pack]
        results.append([v.handle.data.item() for v in out])
    tensors_out = []
    for r, kind in enumerate(kinds):
        values = [row[r * pack + j] for row in results for j in range(pack)]
        data = np.array(values, kind.handle.data.dtype).reshape(shape)
        tensors_out.append(_block(kind, data))
    return tensors_out[0] if single else tuple(tensors_out)
