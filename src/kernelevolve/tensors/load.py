"""From a problem file's text to its module, its model and its declared inputs.

In: the text (a Variant's source), the name to print in errors, a seed. Out: the executed module under a private name
(registered with `linecache` and `sys.modules`, so that tracebacks, `inspect` and Triton's source reader work) and the
built `Model`. Left to others: drawing inputs from a Case (`draw`), running (`call`), candidates' faults (`worker`).
What a problem file raises becomes a `ProblemError` with the file's line; running out of memory is the machine's fault.
"""

from __future__ import annotations

import hashlib
import linecache
import random
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from kernelevolve.errors import MachineError, ProblemError

CAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


def file_name(source: str, name: str) -> str:
    """The private file name under which `source` is known to `linecache`: same text, same name."""
    stem = name.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".py") or "problem"
    return f"kernelevolve-{hashlib.sha256(source.encode()).hexdigest()[:12]}/{stem}.py"


def execute(source: str, name: str) -> ModuleType:
    """Runs `source` as a module of its own; whatever it raises passes through.

    The module's name is private and depends on the text, so two sizes of one problem live side by side.
    """
    file = file_name(source, name)
    module = ModuleType("_kernelevolve_" + file.split("/")[0].split("-")[1])
    module.__file__ = file
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    sys.modules[module.__name__] = module
    exec(compile(source, file, "exec"), module.__dict__)
    return module


def load_module(source: str, name: str = "problem") -> ModuleType:
    """The executed problem module; `get_init_inputs` is added where the file has none.

    Raises:
        ProblemError: the text does not compile, raises, or lacks `Model` or `get_inputs`.
    """
    with blamed(file_name(source, name), name, "the file"):
        module = execute(source, name)
    module.__dict__["_kernelevolve_name"] = name
    for required in ("Model", "get_inputs"):
        if not callable(getattr(module, required, None)):
            raise ProblemError(f"{name}: defines no {required}; a problem file defines class Model and get_inputs()")
    if not hasattr(module, "get_init_inputs"):
        module.__dict__["get_init_inputs"] = list
    return module


def build_model(
    module: ModuleType, *, seed: int, device: str = "cpu", precision: str = "fp32-strict", mode: str = "as-built"
) -> Any:
    """`Model(*get_init_inputs())` built on the CPU under `seed`, then cast, moved and put in its mode.

    With precision `fp16` or `bf16` parameters and buffers in float32 become that type; others keep the file's.

    Raises:
        ProblemError: `get_init_inputs` or the constructor raises, or `Model` is no `torch.nn.Module`.
    """
    file, name = module.__file__ or "", problem_name(module)
    with blamed(file, name, "get_init_inputs()"), seeded(seed):
        arguments = module.get_init_inputs()
    if not isinstance(arguments, (list, tuple)):
        raise ProblemError(f"{name}: get_init_inputs() gave {type(arguments).__name__}; it returns a list of arguments")
    positional, named = arguments, {}
    if len(arguments) == 2 and isinstance(arguments[0], (list, tuple)) and isinstance(arguments[1], dict):
        positional, named = arguments  # the other form that KernelBench files use: [args, kwargs]
    with blamed(file, name, "Model(...)"), seeded(seed):
        model = module.Model(*positional, **named)
    if not isinstance(model, torch.nn.Module):
        raise ProblemError(
            f"{name}: Model is a {type(model).__name__}, not a torch.nn.Module; derive it from nn.Module"
        )
    return prepare(model, device=device, precision=precision, mode=mode)


def prepare(model: Any, *, device: str, precision: str, mode: str) -> Any:
    """`model` cast for `precision`, moved to `device` and put in `mode`; the worker does the same with `ModelNew`."""
    if precision in CAST:
        _cast(model, CAST[precision])
    if device != "cpu":
        model = model.to(device)
    if mode == "train":
        model.train()
    elif mode == "eval":
        model.eval()
    return model


def _cast(model: Any, target: Any) -> None:
    """Replaces float32 parameters and buffers; not by `Module.to`, which cannot swap fake parameters."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter.dtype is torch.float32:
                if id(parameter) not in made:
                    values = parameter.detach().to(target)
                    made[id(parameter)] = torch.nn.Parameter(values, requires_grad=parameter.requires_grad)
                setattr(module, name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            if buffer.dtype is torch.float32:
                made.setdefault(id(buffer), buffer.to(target))
                setattr(module, name, made[id(buffer)])


def declared_inputs(module: ModuleType, *, seed: int, device: str = "cpu") -> list[Any]:
    """`get_inputs()` under `seed` with `device` as the default device: large tensors are made where they are used.

    Raises:
        ProblemError: it raises or returns no list.
    """
    file, name = module.__file__ or "", problem_name(module)
    with blamed(file, name, "get_inputs()"), seeded(seed), torch.device(device):
        inputs = module.get_inputs()
    if not isinstance(inputs, (list, tuple)):
        raise ProblemError(
            f"{name}: get_inputs() gave {type(inputs).__name__}; it returns the list of forward's arguments"
        )
    return list(inputs)


def problem_name(module: ModuleType) -> str:
    """What errors call this module."""
    return str(module.__dict__.get("_kernelevolve_name", module.__name__))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All global generators (torch on every device, numpy, random) seeded; those of the CPU are restored after."""
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    _seed_torch(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(saved[0])
        np.random.set_state(saved[1])
        random.setstate(saved[2])


def _seed_torch(seed: int) -> None:
    """What `torch.manual_seed` does, for the devices in use. The function itself notes down, with the whole stack, what
    is to be seeded on each kind of device that is not; a draw takes three times as long with it, and the notes are
    never taken away."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        for source in torch.cuda.default_generators:
            source.manual_seed(seed)
    elif torch.accelerator.current_accelerator() is not None:
        torch.manual_seed(seed)  # this may be the first that is heard of that device


@contextmanager
def blamed(file: str, name: str, what: str) -> Iterator[None]:
    """Turns whatever foreign code raises into a `ProblemError` that names `file`'s last line in the traceback."""
    try:
        yield
    except ProblemError:
        raise
    except torch.OutOfMemoryError as error:
        raise MachineError(f"{name}: {what} ran out of device memory: {first_line(error)}") from error
    except MemoryError as error:
        raise MachineError(f"{name}: {what} ran out of memory; scale the problem or use a larger machine") from error
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        line = line_of(error, file)
        where = f"{name}:{line}" if line else name
        raise ProblemError(f"{where}: {what} raised {type(error).__name__}: {first_line(error)}") from error


def line_of(error: BaseException, file: str) -> int | None:
    """The innermost line of `file` in the error's traceback; for a syntax error, its own line."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return lines[-1] if lines else None


def first_line(error: BaseException) -> str:
    """The error's first line, at most 300 characters."""
    return (str(error).strip().splitlines() or [""])[0][:300]


def set_precision(precision: str) -> None:
    """Sets this process's arithmetic flags: TF32 only with precision `tf32`, never reduced-precision accumulation."""
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
