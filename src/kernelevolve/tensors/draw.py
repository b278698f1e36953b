"""Draws a call's inputs and a model's state from a Case: the same tensors on the judge's and on the worker's side.

In: Description, Case, device, the problem's module. Out: forward's arguments; values for parameters and statistics.
Left to others: which cases are drawn (`evaluate`), whether an oracle on them says anything (`judge`).

How: every stream of numbers has its own `torch.Generator` on the target device, seeded with the first 63 bits of
SHA-256("CASE_SEED/STREAM"). `declared` is `get_inputs()` itself under the stream `inputs`. The other distributions run
`get_inputs()` too, but answer its calls of `rand`, `randn`, `uniform_`, `normal_` and the like with numbers of the
asked distribution. So whatever the file does with its random numbers (triangular, symmetric, softmax-ed, scaled) still
holds, and strides, integers and constants stay as written. Numbers are drawn in chunks, so little memory is needed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kernelevolve.errors import ProblemError
from kernelevolve.protocol import Case, Description, Patch, StateSpec
from kernelevolve.tensors.load import declared_inputs, problem_name
from kernelevolve.tensors.outputs import dtype_of

CHUNK = 1 << 22
DISTRIBUTIONS = {
    "declared": "as get_inputs draws",
    "D1": "N(0, 1)",
    "D2": "U(0, 1)",
    "D3": "1e-3 N(0, 1)",
    "D4": "64 N(0, 1), 8 N(0, 1) for fp16",
    "D5": "Student-t with 3 degrees of freedom",
    "D5p": "Pareto, scale 0.01, exponent 1.5",
    "D6": "N(0, 1) up to a random boundary, 8 N(0, 1) after it",
    "D7": "per row a N(0, 1) + b, a in [0.5, 8], b in [-3, 3]",
    "D8": "integers -2 .. 2",
    "D8b": "Bernoulli 0, 1",
    "D9": "one 1 per row, in the first drawn tensor on its diagonal, in others at random or N(0, 1) by chance",
    "D10": "by row: one constant, or one of five values, so that most elements are ties",
    "D11": "by row: ascending, descending, all below 0, or N(0, 1) with its largest values side by side",
    "D12": "N(0, 1) with one NaN, +Inf and -Inf, and -0 or a denormal in 1 of 16 elements",
}
INTEGERS = ("D8", "D8b")  # of which sums of products are exact
SPECIAL = "D12"
# D12 with other numbers in place of its NaN and infinities, within the range of float16 and far from each other in sign
# and size, so that whatever depends on one of those places differs between two of them.
REPLACED = {f"{SPECIAL}/large": 30000.0, f"{SPECIAL}/negative": -20000.0, f"{SPECIAL}/small": 0.25}
StateKey = tuple[int, bool] | None
FLUSHED = f"{SPECIAL}/flushed"  # D12 with +0 in place of -0 and of its denormals


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one stream of a case: the first 63 bits of SHA-256("SEED/STREAM")."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, stream: str, device: str) -> Any:
    """The stream's generator on `device`."""
    made = torch.Generator(device=device)
    made.manual_seed(stream_seed(seed, stream))
    return made


def draw_inputs(
    description: Description, case: Case, device: str, module: ModuleType, *, requires_grad: bool = False
) -> list[Any]:
    """Forward's arguments for `case` on `device`, in the dtypes of the description.

    Args:
        module: the problem's executed module at the description's size (`load.load_module`).
        requires_grad: for a backward direction; set on the floating tensors of kind `values`.

    Raises:
        ProblemError: an unknown distribution, or `get_inputs` gives other shapes than described.
    """
    leaves, tree = _leaves(description, case, device, module)
    for patch in case.patches:
        index = next((i for i, s in enumerate(description.inputs) if s.name == patch.name and s.dtype), None)
        if index is None:
            raise ProblemError(f"{problem_name(module)}: forward has no tensor input {patch.name!r} to patch")
        leaves[index] = _patched(leaves[index], patch, index, (description, case, device, module))
    if requires_grad:
        for spec, leaf in zip(description.inputs, leaves, strict=True):
            if spec.kind == "values":
                leaf.requires_grad_()
    return list(pytree.tree_unflatten(leaves, tree))


def _leaves(description: Description, case: Case, device: str, module: ModuleType) -> tuple[list[Any], Any]:
    """The flattened arguments without patches, and how they are nested."""
    seed = stream_seed(case.seed, "inputs")
    if case.distribution not in DISTRIBUTIONS and case.distribution not in (*REPLACED, FLUSHED):
        known = ", ".join(DISTRIBUTIONS)
        raise ProblemError(f"{problem_name(module)}: unknown distribution {case.distribution!r}; known: {known}")
    fixed = any(s.kind != "values" and is_floating(s.dtype) for s in description.inputs)
    if case.distribution == "declared":
        arguments = declared_inputs(module, seed=seed, device=device)
    else:
        half = any(s.dtype == "float16" for s in description.inputs)
        with _Redraw(case, 8.0 if half else 64.0):
            arguments = declared_inputs(module, seed=seed, device=device)
    leaves, tree = pytree.tree_flatten(arguments)
    if fixed and case.distribution != "declared":
        kept = pytree.tree_leaves(declared_inputs(module, seed=seed, device=device))
        leaves = [k if s.kind != "values" else v for s, k, v in zip(description.inputs, kept, leaves, strict=True)]
    if len(leaves) != len(description.inputs):
        found = f"{len(leaves)} values, described {len(description.inputs)}"
        raise ProblemError(f"{problem_name(module)}: get_inputs() gave {found}; it must not depend on the seed")
    finished = []
    for spec, leaf in zip(description.inputs, leaves, strict=True):
        if isinstance(leaf, torch.Tensor):
            if tuple(leaf.shape) != spec.shape:
                raise ProblemError(
                    f"{problem_name(module)}: input {spec.name} has shape {list(leaf.shape)}, described "
                    f"{list(spec.shape)}; shapes must not depend on the seed"
                )
            leaf = leaf.detach().to(device=device, dtype=dtype_of(spec.dtype))
        finished.append(leaf)
    return finished, tree


def _patched(leaf: Any, patch: Patch, index: int, drawn: tuple[Description, Case, str, ModuleType]) -> Any:
    """`leaf` as a patch has it; what is drawn anew has the case's distribution."""
    description, case, device, module = drawn
    if patch.kind == "scaled":
        return leaf * 2.0**patch.number
    if patch.kind == "expanded":
        return leaf[:1].expand(leaf.shape) if leaf.dim() and leaf.shape[0] else leaf
    other_case = Case(patch.number, patch.distribution or case.distribution)
    other = _leaves(description, other_case, device, module)[0][index]
    if patch.kind == "redrawn":
        return other
    first, count = row_of(leaf.shape, patch.number)
    flat = leaf.contiguous().reshape(-1).clone()
    flat[first : first + count] = other.contiguous().reshape(-1)[first : first + count]
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=device).copy_(flat.view(leaf.shape))


def row_of(shape: Sequence[int], seed: int) -> tuple[int, int]:
    """First element and length of the row that `Patch.kind == "row"` changes: of the last dimension, and of a vector
    an eighth."""
    total = math.prod(shape)
    length = shape[-1] if len(shape) > 1 else -(-total // 8)
    rows = max(1, total // max(1, length))
    return stream_seed(seed, "row") % rows * length, length


def state_key(case: Case) -> StateKey:
    """What `draw_state` depends on: cases of one key begin with the same state; None where it is the model's own."""
    if not case.redraw_state:
        return None
    return (case.seed if case.state is None else case.state), case.distribution in INTEGERS


def draw_state(specs: Sequence[StateSpec], case: Case, device: str) -> dict[str, Any]:
    """New values of the parameters and statistics that are redrawn, by name; empty where the case keeps the state.

    `mean + std * N(0, 1)` from the stream `state/NAME`, absolute and at least a tenth of the mean for `positive`; small
    integers where the inputs are such, so that sums of products are exact.
    """
    if not case.redraw_state:
        return {}
    drawn = {}
    for spec in specs:
        if spec.redraw == "keep":
            continue
        values = torch.empty(spec.shape, dtype=dtype_of(spec.dtype), device=device)
        source = generator(case.seed if case.state is None else case.state, f"state/{spec.name}", device)
        normal = _normal(source, device, spec.mean, spec.std)
        _fill(values, sampler("D8", source, device, spec.shape) if case.distribution in INTEGERS else normal)
        if spec.redraw == "positive":
            values = values.abs().clamp_(min=max(abs(spec.mean) / 10, 1e-3))
        drawn[spec.name] = values
    return drawn


def apply_state(model: Any, drawn: Mapping[str, Any]) -> list[str]:
    """Copies the drawn values into the model's parameters and buffers of these names, in place.

    Returns:
        the names that the model does not have, or has with another shape; a candidate's are its fault.
    """
    held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    absent = []
    with torch.no_grad():
        for name, values in drawn.items():
            if name in held and held[name].shape == values.shape:
                held[name].copy_(values)
            else:
                absent.append(name)
    return absent


def draw_cotangents(case: Case, device: str) -> Callable[[str, Any], Any]:
    """Gives N(0, 1) cotangents of an output leaf's shape and dtype, from the stream `cotangent/PATH`."""

    def cotangent(path: str, leaf: Any) -> Any:
        values = torch.empty(leaf.shape, dtype=leaf.dtype, device=leaf.device)
        source = generator(case.seed if case.state is None else case.state, f"cotangent/{path}", device)
        _fill(values, _normal(source, device, 0.0, 1.0))
        if case.cotangents == "expanded" and values.dim() and values.shape[0]:
            return values[:1].expand(values.shape)
        if case.cotangents == "strided" and values.dim():
            wide = torch.zeros((*values.shape, 2), dtype=leaf.dtype, device=leaf.device)
            return wide[..., 0].copy_(values)
        return values

    return cotangent


def is_floating(dtype: str) -> bool:
    """Whether a dtype's name is a floating type; an empty name is not."""
    return bool(dtype) and bool(dtype_of(dtype).is_floating_point)


Sampler = Callable[[int, int], Any]  # (first index, count) -> float32 values


def _fill(values: Any, sampler: Sampler) -> None:
    """Fills a contiguous tensor with what `sampler` gives, chunk by chunk in memory order."""
    flat = values.view(-1)
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK]
        part.copy_(sampler(start, part.numel()))


def _normal(source: Any, device: str, mean: float, std: float) -> Sampler:
    return lambda _, count: torch.randn(count, generator=source, device=device).mul_(std).add_(mean)


def sampler(
    distribution: str, source: Any, device: str, shape: Sequence[int], large: float = 64.0, place: int = 0
) -> Sampler:
    """The numbers of a distribution for a tensor of `shape`, in memory order.

    Args:
        large: the factor of D4.
        place: how many tensors were drawn for this call before.
    """
    if distribution in _SHAPED:
        return _SHAPED[distribution](source, device, shape, place)
    total, row = max(math.prod(shape), 1), max(shape[-1] if shape else 1, 1)

    def normal(count: int) -> Any:
        return torch.randn(count, generator=source, device=device)

    def uniform(count: int) -> Any:
        return torch.rand(count, generator=source, device=device)

    if distribution == "D6":
        boundary = int(torch.randint(0, total, (1,), generator=source, device=device).item())
    if distribution == "D7":
        gains = uniform(-(-total // row)) * 7.5 + 0.5
        shifts = uniform(-(-total // row)) * 6.0 - 3.0

    def draw(start: int, count: int) -> Any:
        if distribution == "D1":
            return normal(count)
        if distribution == "D2":
            return uniform(count)
        if distribution == "D3":
            return normal(count).mul_(1e-3)
        if distribution == "D4":
            return normal(count).mul_(large)
        if distribution == "D5":
            chi2 = normal(count).square_() + normal(count).square_() + normal(count).square_()
            return normal(count).div_(chi2.div_(3.0).sqrt_().clamp_(min=1e-6))
        if distribution == "D5p":
            return (1.0 - uniform(count)).clamp_(min=2.0**-24).pow_(-1 / 1.5).mul_(0.01)
        if distribution == "D8":
            return torch.randint(-2, 3, (count,), generator=source, device=device).float()
        if distribution == "D8b":
            return torch.randint(0, 2, (count,), generator=source, device=device).float()
        index = torch.arange(start, start + count, device=device)
        if distribution == "D6":
            return torch.where(index < boundary, 1.0, 8.0).mul_(normal(count))
        index = index.div_(row, rounding_mode="floor")  # D7
        return normal(count).mul_(gains[index]).add_(shifts[index])

    return draw


def _probes(source: Any, device: str, shape: Sequence[int], place: int) -> Sampler:
    """D9."""
    row = max(shape[-1] if shape else 1, 1)
    rows = -(-max(math.prod(shape), 1) // row)
    luck = torch.rand(2, generator=source, device=device).tolist()
    if place and luck[0] < 0.5:
        return lambda start, count: torch.randn(count, generator=source, device=device)
    if place:
        column = torch.randint(0, row, (rows,), generator=source, device=device)
    else:
        column = (torch.arange(rows, device=device) + int(luck[1] * row)) % row

    def draw(start: int, count: int) -> Any:
        index = torch.arange(start, start + count, device=device)
        return (column[index.div(row, rounding_mode="floor")] == index % row).float()

    return draw


def _ties(source: Any, device: str, shape: Sequence[int], place: int) -> Sampler:
    """D10."""
    row = max(shape[-1] if shape else 1, 1)
    rows = -(-max(math.prod(shape), 1) // row)
    levels = torch.tensor([-1.5, -0.25, 0.5, 1.0, 2.0], device=device)
    constant = levels[torch.randint(0, 5, (rows,), generator=source, device=device)]
    flat = torch.rand(rows, generator=source, device=device) < (0.25 if rows > 1 else 0.0)

    def draw(start: int, count: int) -> Any:
        at = torch.arange(start, start + count, device=device).div(row, rounding_mode="floor")
        some = levels[torch.randint(0, 5, (count,), generator=source, device=device)]
        return torch.where(flat[at], constant[at], some)

    return draw


def _ordered(source: Any, device: str, shape: Sequence[int], place: int) -> Sampler:
    """D11: the quantiles of N(0, 1) in order, so that no row has to be sorted."""
    row = max(shape[-1] if shape else 1, 1)
    rows = -(-max(math.prod(shape), 1) // row)
    first = int(torch.randint(0, 4, (1,), generator=source, device=device).item())
    peak = torch.randint(0, row, (rows,), generator=source, device=device)
    gain = torch.rand(rows, generator=source, device=device) + 0.5

    def draw(start: int, count: int) -> Any:
        index = torch.arange(start, start + count, device=device)
        at, column = index.div(row, rounding_mode="floor"), index % row
        kind = (at + first) % 4
        rising = torch.special.ndtri((column.double() + 0.5) / row).float() * gain[at]
        noise = torch.randn(count, generator=source, device=device)
        peaked = noise + 8.0 * ((column - peak[at]).abs() <= row // 64)
        found = torch.where(kind == 0, rising, -rising)
        return torch.where(kind == 2, -noise.abs() - 0.1, torch.where(kind == 3, peaked, found))

    return draw


def _special(source: Any, device: str, shape: Sequence[int], place: int) -> Sampler:
    """D12: few of what spreads, so that most of the output can still be compared."""
    return _with_special(source, device, shape, (math.nan, math.inf, -math.inf), (-0.0, 1e-40))


def _with_special(
    source: Any, device: str, shape: Sequence[int], special: tuple[float, ...], tiny: tuple[float, float]
) -> Sampler:
    """N(0, 1) with the numbers `special` at one place each and each of `tiny` in 1 of 32 elements."""
    total = max(math.prod(shape), 1)
    places = torch.randint(0, total, (3,), generator=source, device=device).tolist()

    def draw(start: int, count: int) -> Any:
        values = torch.randn(count, generator=source, device=device)
        luck = torch.rand(count, generator=source, device=device)
        values = torch.where(luck < 1 / 32, tiny[0], torch.where(luck > 31 / 32, tiny[1], values))
        for where, value in zip(places, special, strict=True):
            if start <= where < start + count:
                values[where - start] = value
        return values

    return draw


def _replaced(name: str) -> Callable[[Any, str, Sequence[int], int], Sampler]:
    """D12 as `REPLACED` and `FLUSHED` name it."""
    special = (REPLACED[name],) * 3 if name in REPLACED else (math.nan, math.inf, -math.inf)
    tiny = (0.0, 0.0) if name == FLUSHED else (-0.0, 1e-40)
    return lambda source, device, shape, place: _with_special(source, device, shape, special, tiny)


_SHAPED = {"D9": _probes, "D10": _ties, "D11": _ordered, SPECIAL: _special} | {
    name: _replaced(name) for name in (*REPLACED, FLUSHED)
}


class _Redraw(TorchDispatchMode):  # type: ignore[misc]
    """Answers floating random factories and in-place fills with numbers of the case's distribution."""

    _FACTORIES = ("aten::rand", "aten::randn", "aten::normal")
    _LIKE = ("aten::rand_like", "aten::randn_like")
    _FILLS = ("aten::uniform_", "aten::normal_")

    def __init__(self, case: Case, large: float) -> None:
        super().__init__()
        self.case, self.large, self.calls = case, large, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name
        if name in self._FILLS and args[0].is_floating_point():
            args[0].copy_(self._drawn(args[0].shape, args[0].dtype, str(args[0].device)))
            return args[0]
        if name in self._LIKE and (kwargs.get("dtype") or args[0].dtype).is_floating_point:
            dtype = kwargs.get("dtype") or args[0].dtype
            return self._drawn(args[0].shape, dtype, str(kwargs.get("device") or args[0].device))
        if name in self._FACTORIES and "out" not in kwargs:
            return self._like_factory(func, args, kwargs)
        return func(*args, **kwargs)

    def _like_factory(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs.pop("generator", None)
        if func._schema.name == "aten::normal":
            pattern = func(*args, **kwargs)
            return self._drawn(pattern.shape, pattern.dtype, str(pattern.device))
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        return self._drawn(args[0], dtype, str(kwargs.get("device") or "cpu"))

    def _drawn(self, shape: Sequence[int], dtype: Any, device: str) -> Any:
        values = torch.empty(tuple(shape), dtype=dtype, device=device)
        source = generator(self.case.seed, f"values/{self.calls}", device)
        self.calls += 1
        _fill(values, sampler(self.case.distribution, source, device, tuple(shape), self.large, self.calls - 1))
        return values
