"""The Description of a Variant: what the reference takes, holds and gives, and how its state is redrawn.

In: the problem and one Variant of it; at full size also the Description of the small one, for statistics of weights too
large to be built here. Out: a Description. Left to others: drawing (`draw`), what a degenerate output means (`judge`).
"""

from __future__ import annotations

import math
import traceback
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernelevolve.errors import ProblemError
from kernelevolve.problem import InputKind, Problem
from kernelevolve.protocol import Case, Description, InputSpec, OutputSpec, StateSpec, Variant
from kernelevolve.tensors.call import run
from kernelevolve.tensors.draw import draw_cotangents, draw_inputs
from kernelevolve.tensors.load import blamed, build_model, load_module, seeded
from kernelevolve.tensors.outputs import dtype_name
from kernelevolve.tensors.probe import Probe, probe

BUILT = 1 << 24  # larger sets of weights are not built only to take their statistics
NOISE = 0.1  # standard deviation given to weights that are all equal, such as an affine layer's ones and zeros


def describe(problem: Problem, variant: Variant, small: Description | None = None) -> Description:
    """The Description of `variant`, at any size without running it for real.

    Args:
        small: the scaled Description; its weights' statistics stand in where the full ones are too large to build.

    Raises:
        ProblemError: the file cannot be run, or an input is neither a tensor nor a plain value.
    """
    seen = probe(variant.source, problem)
    inputs = tuple(_input(problem, i, name, leaf) for i, (name, leaf) in enumerate(seen.inputs))
    _check_kinds(problem, inputs)
    outputs = tuple(_output(path, leaf, seen) for path, leaf in seen.outputs)
    _check_aliases(problem, inputs, outputs)
    return Description(variant, inputs, _state(problem, variant, seen, small), outputs)


def _output(path: str, leaf: Any, seen: Probe) -> OutputSpec:
    # Fake tensors have no addresses; that they are views of one storage is known all the same.
    storage = leaf.untyped_storage()._cdata
    tensors = [(name, t) for name, t in seen.inputs if isinstance(t, torch.Tensor)]
    shares = tuple(name for name, t in tensors if path.startswith("out") and t.untyped_storage()._cdata == storage)
    return OutputSpec(path, tuple(leaf.shape), dtype_name(leaf.dtype), shares)


def _check_aliases(problem: Problem, inputs: tuple[InputSpec, ...], outputs: tuple[OutputSpec, ...]) -> None:
    count = sum(o.path.startswith("out") for o in outputs)
    names = [s.name for s in inputs if s.dtype]
    for index, name in problem.aliases:
        if not 0 <= index < count or name not in names:
            raise ProblemError(
                f"{problem.path}: the sidecar's aliases name output {index} and input {name!r}; forward has {count} "
                f"output{'s' * (count != 1)}, counted from 0, and these tensor inputs: {', '.join(names)}"
            )


def check_random(problem: Problem, description: Description) -> None:
    """Runs the reference twice at this size on the CPU and refuses undeclared random numbers.

    Raises:
        ProblemError: it moves the generator's state or gives two results for the same inputs and state; the message
            names the op that draws and its line.
    """
    module = load_module(description.variant.source, problem.path)
    model = build_model(module, seed=0, precision=problem.precision, mode=problem.mode)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    case, results, drawn = Case(1), [], _Drawn(module.__file__ or "")
    for _ in range(2):
        arguments = draw_inputs(description, case, "cpu", module, requires_grad=problem.direction != "forward")
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.copy_(before[name])
        with seeded(7), blamed(module.__file__ or "", problem.path, "forward"):
            state = torch.get_rng_state()
            with drawn:
                results.append(run(model, arguments, problem.direction, draw_cotangents(case, "cpu")))
            moved = not torch.equal(state, torch.get_rng_state())
        if moved and problem.random == "statistical":
            return
        if moved:
            dropout = any(m.training and _drops(m) for m in model.modules())
            fix = 'write mode = "eval" in the sidecar, which turns dropout off, or ' if dropout else ""
            raise ProblemError(
                f"{problem.path}: forward is random: {drawn.first or 'it draws random numbers'}; outputs are "
                f"compared value by value; {fix}draw the numbers in get_inputs and pass them to forward, or write "
                'random = "statistical" to have distributions compared'
            )
    if problem.random == "statistical":
        raise ProblemError(
            f'{problem.path}: random = "statistical", but forward draws no random numbers; leave the field out'
        )
    for (path, first), (_, second) in zip(*results, strict=True):
        same = torch.nan_to_num(first.double()), torch.nan_to_num(second.double())
        largest = same[0].abs().max().item() if first.numel() else 0.0
        if first.numel() and (same[0] - same[1]).abs().max().item() > 1e-3 * largest:
            raise ProblemError(
                f"{problem.path}: {path} differs between two runs on the same inputs; a reference must be deterministic"
            )


class _Drawn(TorchDispatchMode):  # type: ignore[misc]
    """Notes the first op that draws from a generator, and the line of `file` that called it."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file, self.first = file, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = None if self.first else torch.get_rng_state()
        out = func(*args, **(kwargs or {}))
        if before is not None and not torch.equal(before, torch.get_rng_state()):
            lines = [f"line {f.lineno}: {f.line}" for f in traceback.extract_stack() if f.filename == self.file]
            self.first = f"{func} ({lines[-1]})" if lines else str(func)
        return out


def _drops(module: Any) -> bool:
    """Whether a module's own settings make it drop values in training."""
    rates = [getattr(module, "p", 0)] if "Dropout" in type(module).__name__ else [getattr(module, "dropout", 0)]
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)


def _input(problem: Problem, position: int, name: str, leaf: Any) -> InputSpec:
    if not isinstance(leaf, torch.Tensor):
        if leaf is not None and not isinstance(leaf, (bool, int, float, str)):
            raise ProblemError(
                f"{problem.path}: input {name} is a {type(leaf).__name__}; inputs are tensors, numbers, text or None"
            )
        return InputSpec(name, "plain", value=leaf)
    default: InputKind = "values" if leaf.is_floating_point() else "mask" if leaf.dtype is torch.bool else "index"
    argument = name.split("[")[0]
    kind = problem.kinds.get(name) or problem.kinds.get(argument) or problem.kinds.get(str(position)) or default
    return InputSpec(name, kind, tuple(leaf.shape), tuple(leaf.stride()), dtype_name(leaf.dtype))


def _check_kinds(problem: Problem, inputs: tuple[InputSpec, ...]) -> None:
    known = {s.name for s in inputs} | {s.name.split("[")[0] for s in inputs} | {str(i) for i in range(len(inputs))}
    for kind in ("inputs", "mutates"):
        named = problem.kinds if kind == "inputs" else ()
        unknown = sorted(set(named) - known)
        if unknown:
            raise ProblemError(
                f"{problem.path}: the sidecar's [{kind}] names {unknown[0]!r}; forward's inputs: "
                f"{', '.join(s.name for s in inputs)}"
            )


def _state(problem: Problem, variant: Variant, seen: Probe, small: Description | None) -> tuple[StateSpec, ...]:
    total = sum(t.numel() for t, _ in seen.state.values())
    real: dict[str, Any] = {}
    if total <= BUILT:
        module = load_module(variant.source, problem.path)
        real = build_model(module, seed=0, precision=problem.precision, mode=problem.mode).state_dict(keep_vars=True)
    known = {s.name: s for s in small.state} if small else {}
    owners = [id(t) for t, _ in seen.state.values()]
    specs = []
    for name, (tensor, parameter) in seen.state.items():
        shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
        tied = owners.count(id(tensor)) > 1
        statistic = name.endswith(("running_mean", "running_var"))
        if tied or not tensor.is_floating_point() or not (parameter or statistic) or tensor.numel() == 0:
            specs.append(StateSpec(name, shape, dtype, "keep"))
            continue
        if name in real:
            mean, std = _statistics(real[name])
        elif name in known:
            mean, std = _stand_in(known[name], shape)
        else:
            specs.append(StateSpec(name, shape, dtype, "keep"))
            continue
        if not (math.isfinite(mean) and math.isfinite(std)):
            specs.append(StateSpec(name, shape, dtype, "keep"))
            continue
        redraw: Literal["normal", "positive"] = "positive" if name.endswith("running_var") else "normal"
        specs.append(StateSpec(name, shape, dtype, redraw, mean, std if std > 1e-12 * abs(mean) else NOISE))
    return tuple(specs)


def _statistics(tensor: Any) -> tuple[float, float]:
    values = tensor.detach().reshape(-1)
    mean = values.mean(dtype=torch.float64).item()
    square = sum((part.double() - mean).square().sum().item() for part in values.split(1 << 24))
    return mean, math.sqrt(square / values.numel())


def _stand_in(spec: StateSpec, shape: tuple[int, ...]) -> tuple[float, float]:
    """Statistics of the small weight; the usual 1/sqrt(3 fan-in) of torch's layers follows the full fan-in."""
    fan_small, fan_full = math.prod(spec.shape[1:]), math.prod(shape[1:])
    usual = len(shape) > 1 and abs(spec.std * math.sqrt(3 * fan_small) - 1) < 0.25
    return spec.mean, spec.std * math.sqrt(fan_small / fan_full) if usual else spec.std
