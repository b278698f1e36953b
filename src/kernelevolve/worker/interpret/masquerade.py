"""Host memory posing as a device while a candidate runs.

Comes in: answers about the device, the recorder. Goes out: for the time of the context, tensors that say they are on
``cuda:0``, ``device="cuda"`` that means host memory (or no memory, address-only), ``torch.cuda`` and Triton's driver
answering from the answers, and new uninitialised tensors filled with poison. Kernels are left to `launch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from .builder import Options
from .compat import GPUTarget, active_driver, set_driver, target_facts
from .errors import CannotBeSeen, UnansweredDevice
from .launch import Recorder
from .memory import POISON_BYTE

_SAME = {
    "multiprocessor_count": "multi_processor_count",
    "warpSize": "warp_size",
    "max_shared_mem": "shared_memory_per_block_optin",
}


class _Unanswered(UnansweredDevice, AttributeError):
    """Lets ``getattr(properties, name, default)`` of a candidate take its default."""


class Answers:
    """The device's figures by name; a name that is not given raises `UnansweredDevice`."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)
        if "capability" in self._given:
            self._given.setdefault("major", self._given["capability"][0])
            self._given.setdefault("minor", self._given["capability"][1])
        if self._given.get("gcnArchName"):
            # ROCm's own property is the only one that tells an AMD device: "gfx942:sramecc+:xnack-".
            self._given.setdefault("backend", "hip")
            self._given.setdefault("arch", str(self._given["gcnArchName"]).split(":")[0])
        for other, name in _SAME.items():
            for one, two in ((other, name), (name, other)):
                if one in self._given:
                    self._given.setdefault(two, self._given[one])

    def __getattr__(self, name: str) -> Any:
        given = self.__dict__.get("_given", {})
        if name not in given:
            raise _Unanswered(name, tuple(sorted(given)))
        return given[name]

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        return self._given.get(name, default)

    def options(self) -> Options:
        """What the language may ask of this target; everything is allowed where no architecture is given."""
        if "arch" not in self._given and "major" not in self._given:
            return Options()
        facts = target_facts(self.get("backend", "cuda"), self._arch(), self.get("warp_size", 0))
        return Options(**facts)

    def _arch(self) -> Any:
        arch = self.get("arch")
        return 10 * int(self.major) + int(self.minor) if arch is None else arch

    def target(self) -> GPUTarget:
        """Triton's target: backend (cuda unless given), architecture, warp size (32 on cuda, else must be given)."""
        backend = self.get("backend", "cuda")
        return GPUTarget(backend, self._arch(), self.get("warp_size", 32) if backend == "cuda" else self.warp_size)


class _Utils:
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def get_device_properties(self, device: Any = 0) -> Answers:
        return self._answers


class StandInDriver:
    """What ``triton.runtime.driver.active`` is while interpreting."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.utils = _Utils(answers)

    def get_current_target(self) -> GPUTarget:
        return self._answers.target()

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        """There is one device."""

    def get_current_stream(self, device: Any = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        return torch.cuda

    def get_device_capability(self, device: Any = 0) -> tuple[int, int]:
        return int(self._answers.major), int(self._answers.minor)

    def get_benchmarker(self) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise CannotBeSeen("a benchmark", "the candidate's host code")

        return refuse


class Stream:
    """A stream of a device that does everything at once; also stands in for an event."""

    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = torch.device("cuda", 0)

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Work is done when it is asked for, so there is nothing to wait for."""

    synchronize = wait = wait_stream = wait_event = record = _nothing

    def record_event(self, event: Any = None) -> Any:
        return event or Stream()

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        raise CannotBeSeen("elapsed time", "the candidate's host code")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


def _cuda_functions(answers: Answers) -> dict[str, Any]:
    def nothing(*args: Any, **kwargs: Any) -> None:
        """The host has no such state."""

    def always(value: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: value

    def unseen(what: str) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise CannotBeSeen(what, "the candidate's host code")

        return refuse

    return {
        "is_available": always(True),
        "device_count": lambda: answers.get("device_count", 1),
        "current_device": always(0),
        "get_device_name": lambda device=None: answers.name,
        "get_device_capability": lambda device=None: (int(answers.major), int(answers.minor)),
        "get_device_properties": lambda device=None: answers,
        "mem_get_info": lambda device=None: (answers.total_memory, answers.total_memory),
        "is_bf16_supported": lambda *args, **kwargs: answers.get("bf16", True),
        "is_current_stream_capturing": always(False),
        "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(),
        "Stream": Stream,
        "Event": Stream,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
        "device_of": lambda tensor: nullcontext(),
        "set_device": nothing,
        "set_stream": nothing,
        "synchronize": nothing,
        "CUDAGraph": unseen("a CUDA graph"),
        "graph": unseen("a CUDA graph"),
        "empty_cache": nothing,
        "manual_seed": nothing,
        "manual_seed_all": nothing,
        "memory_allocated": always(0),
        "max_memory_allocated": always(0),
        "reset_peak_memory_stats": nothing,
    }


_GETTERS: dict[Any, Any] = {
    torch.Tensor.is_cuda.__get__: True,
    torch.Tensor.is_cpu.__get__: False,
    torch.Tensor.device.__get__: torch.device("cuda", 0),
    torch.Tensor.get_device: 0,
}
_IDENTITY = {torch.Tensor.cuda, torch.Tensor.pin_memory}
_IGNORED = {torch.Tensor.record_stream}
_UNINITIALISED = {
    torch.empty,
    torch.empty_like,
    torch.empty_strided,
    torch.empty_permuted,
    torch.Tensor.new_empty,
    torch.Tensor.new_empty_strided,
}


def fill_with_poison(tensor: torch.Tensor, source: torch.Generator | None = None) -> None:
    """NaN in every float, the byte 0x5B repeated in every integer (True in booleans); with `source` numbers that look
    like a result."""
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return
    tensor = tensor.detach()
    if source is not None and tensor.is_contiguous():
        with _disable_current_modes():  # no op of the candidate's
            if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1:
                tensor.normal_(generator=source)
            else:
                tensor.view(-1).view(torch.uint8).random_(0, 2 if tensor.dtype is torch.bool else 64, generator=source)
        return
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        if tensor.dtype.itemsize == 1:
            tensor.view(torch.uint8).fill_(0x80 if "fnuz" in str(tensor.dtype) else 0x7F)
        else:
            tensor.fill_(float("nan"))
    elif tensor.dtype is torch.bool:
        tensor.fill_(True)
    else:
        value = int.from_bytes(bytes([POISON_BYTE]) * tensor.dtype.itemsize, "little")
        tensor.fill_(value)


class _Pose(TorchFunctionMode):  # type: ignore[misc]
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.real = "meta" if recorder.address_only else "cpu"

    def _device(self, value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device(self.real) if value.type == "cuda" else value
        if isinstance(value, str) and value.split(":")[0] == "cuda":
            return torch.device(self.real)
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _GETTERS:
            return _GETTERS[func]
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        if func in _IDENTITY:
            return args[0]
        if func in _IGNORED:
            return None
        kwargs = dict(kwargs) if kwargs else {}
        if "device" in kwargs:
            device = kwargs["device"]
            kwargs["device"] = self.real if isinstance(device, int) else self._device(device)
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if any(isinstance(a, (torch.device, str)) for a in args):
            args = tuple(self._device(a) for a in args)
        out = func(*args, **kwargs)
        if func is torch.Tensor.data_ptr:
            self.recorder.remember(args[0])
            if self.recorder.address_only and out == 0:
                return self.recorder.region(args[0], "a tensor").first
        elif func in _UNINITIALISED and self.recorder.poison:
            fill_with_poison(out, self.recorder.fill)
        return out


@contextmanager
def posing(answers: Answers, recorder: Recorder) -> Iterator[None]:
    """Host memory poses as a device inside this context."""
    functions = _cuda_functions(answers)
    before = {name: getattr(torch.cuda, name) for name in functions if hasattr(torch.cuda, name)}
    driver = active_driver()
    set_driver(StandInDriver(answers))
    for name in before:
        setattr(torch.cuda, name, functions[name])
    mode = _Pose(recorder)
    apply = BackwardCFunction.apply

    def posing_backward(self: Any, *gradients: Any) -> Any:
        # torch leaves a mode while it runs one of its own functions, `Tensor.backward` too.
        with mode:
            return apply(self, *gradients)

    BackwardCFunction.apply = posing_backward
    try:
        with mode:
            yield
    finally:
        BackwardCFunction.apply = apply
        for name, value in before.items():
            setattr(torch.cuda, name, value)
        set_driver(driver)
