"""The one place that knows where Triton's versions differ (3.6 to 3.9).

Comes in: an installed Triton. Goes out: the names the interpreter builds on. Semantics are left to the other modules.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl
from triton._C.libtriton import interpreter as native
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.language.semantic import TritonSemantic
from triton.runtime.autotuner import Autotuner
from triton.runtime.driver import driver
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, TensorWrapper
from triton.tools.tensor_descriptor import TensorDescriptor

KERNELS = (JITFunction, InterpretedFunction)

__all__ = [
    "KERNELS",
    "Autotuner",
    "GPUTarget",
    "InterpretedFunction",
    "JITFunction",
    "TensorDescriptor",
    "TensorWrapper",
    "TritonSemantic",
    "active_driver",
    "driver",
    "ir",
    "is_builtin",
    "native",
    "set_driver",
    "target_facts",
    "tl",
]


_FACTS = (
    "arch",
    "supported_fp8_dtypes",
    "deprecated_fp8_dot_operand_dtypes",
    "default_dot_input_precision",
    "allowed_dot_input_precisions",
    "max_num_imprecise_acc_default",
)


def target_facts(backend: str, arch: Any, warp_size: int) -> dict[str, Any]:
    """What the compiler's backend for a target tells the language: types and input precisions it takes."""
    options = make_backend(GPUTarget(backend, arch, warp_size)).parse_options({})
    return {name: getattr(options, name) for name in _FACTS if getattr(options, name, None) is not None}


def is_builtin(value: Any) -> bool:
    """True for a function of the language that the compiler implements itself."""
    return callable(value) and bool(getattr(value, "__triton_builtin__", False))


def active_driver() -> Any:
    """The driver set now, or None; never starts one."""
    return driver._active


def set_driver(value: Any) -> None:
    """Makes ``value`` (a driver or None) what ``triton.runtime.driver.active`` answers with."""
    driver._active = value
