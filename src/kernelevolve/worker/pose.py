"""Meta tensors that pose as tensors of a device that is not here.

In: the answers that a stand-in device gives (`Platform.device_answers`). Out: a context in which a candidate's host
code runs at full size without memory: `is_cuda`, `.device`, `device="cuda"` and `torch.cuda` queries answer as the
platform. Left to others: recording the launches (`worker.plan`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

_CUDA = torch.device("cuda", 0)


class _Pose(TorchFunctionMode):  # type: ignore[misc]
    """Answers `is_cuda` and `device` as a GPU would and sends factories for it to the meta device.

    Attributes:
        addresses: how often somebody else than Triton asked for a tensor's address, which is not the device's here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.addresses = 0

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # A descriptor's `__get__` is made anew each time that it is asked for: equal, never the same.
        if function == _IS_CUDA:
            return True
        if function == _DEVICE:
            return _CUDA
        if function is _GET_DEVICE:
            return 0
        if function is torch.Tensor.cuda:
            return args[0]
        if function is torch.Tensor.data_ptr:
            # Triton looks at addresses for their divisibility, partly from code without a module.
            caller = str(sys._getframe(1).f_globals.get("__name__", "triton"))
            self.addresses += not caller.startswith("triton")
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _elsewhere(kwargs["device"])}
        places = (torch.device, str) if function is torch.Tensor.to else torch.device
        return function(*(_elsewhere(a) if isinstance(a, places) else a for a in args), **kwargs)


_IS_CUDA = torch.Tensor.is_cuda.__get__
_DEVICE = torch.Tensor.device.__get__
_GET_DEVICE = torch.Tensor.get_device


def _elsewhere(device: Any) -> Any:
    if device is None:
        return None
    if isinstance(device, int):
        return torch.device("meta")
    return torch.device("meta") if torch.device(device).type == "cuda" else device


class _Stream:
    """A stream or an event of the device that is not here: nothing runs, so there is nothing to wait for."""

    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = _CUDA

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """What would order work on a device."""

    synchronize = wait = wait_stream = wait_event = record = _nothing

    def record_event(self, event: Any = None) -> Any:
        return event or _Stream()

    def query(self) -> bool:
        return True

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


class Tape(Protocol):
    """What is recorded of a call, as far as graphs need it."""

    def mark(self) -> Any:
        """Where the recording is now."""

    def cut(self, mark: Any) -> Any:
        """What was recorded since, which is taken out: capturing runs nothing."""

    def play(self, part: Any) -> None:
        """Records that part again."""


class _Graph:
    """A CUDA graph of the device that is not here: a part of the tape."""

    def __init__(self, tape: Tape, *args: Any, **kwargs: Any) -> None:
        self._tape = tape
        self._since: Any = None
        self._part: Any = None

    def capture_begin(self, *args: Any, **kwargs: Any) -> None:
        self._since = self._tape.mark()

    def capture_end(self) -> None:
        self._part = self._tape.cut(self._since)

    def replay(self) -> None:
        if self._part is None:
            raise RuntimeError("CUDAGraph.replay before a capture has ended")
        self._tape.play(self._part)

    def reset(self) -> None:
        self._part = None

    def pool(self) -> tuple[int, int]:
        return (0, 0)

    @contextlib.contextmanager
    def capturing(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """What `torch.cuda.graph` does with it."""
        self.capture_begin()
        yield
        self.capture_end()


@contextlib.contextmanager
def posing(answers: Mapping[str, Any], tape: Tape) -> Iterator[_Pose]:
    """Within this context meta tensors and `torch.cuda` answer as the device that `answers` describes.

    Args:
        answers: `multi_processor_count`, `name`, `total_memory`, `major`, `minor`, `warp_size`,
            `shared_memory_per_block_optin` and so on, as `torch.cuda.get_device_properties` has them.
        tape: on which launches are recorded.
    """
    properties = SimpleNamespace(**answers)
    capability = (int(answers.get("major", 9)), int(answers.get("minor", 0)))
    stand_ins: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: answers.get("name", "stand-in"),
        "current_stream": lambda device=None: _Stream(),
        "default_stream": lambda device=None: _Stream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "set_stream": lambda stream: None,
        "Stream": _Stream,
        "Event": _Stream,
        "synchronize": lambda device=None: None,
        "CUDAGraph": partial(_Graph, tape),
        "graph": lambda graph, *args, **kwargs: graph.capturing(),
        "graph_pool_handle": lambda: (0, 0),
    }
    with contextlib.ExitStack() as stack:
        for name, answer in stand_ins.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch.cuda, "device", return_value=contextlib.nullcontext()))
        # Its arguments are read before a mode is asked.
        stack.enter_context(mock.patch.object(torch.Tensor, "record_stream", return_value=None))
        yield stack.enter_context(_Pose())
