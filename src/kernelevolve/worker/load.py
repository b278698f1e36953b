"""Loading a candidate's file and constructing its `ModelNew`.

In: the file's text, the problem module that says how to construct. Out: a module and a model. Left to others: the
problem's side (`tensors.load`), what is done with the model (`plan`, `run`). The file is written to the process's own
temporary folder because Triton reads a kernel's source back from its file.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from triton.runtime.autotuner import Autotuner, Heuristics

from kernelevolve.candidate import CONFIG_SUFFIX, ENTRY, TABLE
from kernelevolve.evaluation import Verdict
from kernelevolve.worker.fault import CANDIDATE_FILE, Fault, blame

_ALL_CONFIGS = "kernelevolve_configs"


def load_candidate(source: str, choice: Mapping[str, Any]) -> ModuleType:
    """The candidate's module, with `choice` as the values of its knobs.

    Raises:
        Fault: `LOAD_ERROR` with the candidate's line, or that `ModelNew` is missing.
    """
    folder = Path(tempfile.mkdtemp(prefix="candidate-"))
    path = folder / CANDIDATE_FILE
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("kernelevolve_candidate", path)
    if spec is None or spec.loader is None:
        raise Fault(Verdict.LOAD_ERROR, f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise blame(error, Verdict.LOAD_ERROR) from error
    if not isinstance(getattr(module, ENTRY, None), type):
        raise Fault(Verdict.LOAD_ERROR, f"the file defines no class {ENTRY}(nn.Module)")
    choose(module, choice)
    return module


def choose(module: ModuleType, choice: Mapping[str, Any]) -> None:
    """Sets the knobs that host code reads at each launch, for every workload; an empty choice leaves the file's own.

    Raises:
        Fault: `LOAD_ERROR` when an autotuned kernel has no configuration of the index chosen.
    """
    kernels = {name: kernel for name in choice if (kernel := _autotuner(module, name)) is not None}
    for name, kernel in kernels.items():
        _choose_config(kernel, name, choice[name])
    own, table = getattr(module, "CHOICE", None), getattr(module, TABLE, None)
    rest = {name: value for name, value in choice.items() if name not in kernels}
    if rest and isinstance(own, dict):
        own.clear()
        own.update(rest)
        if isinstance(table, dict):
            table.clear()


def _autotuner(module: ModuleType, knob: str) -> Autotuner | None:
    """The autotuner whose configuration this knob chooses, also beneath `@triton.heuristics`."""
    found = vars(module).get(knob.removesuffix(CONFIG_SUFFIX)) if knob.endswith(CONFIG_SUFFIX) else None
    while isinstance(found, Heuristics):
        found = found.fn
    return found if isinstance(found, Autotuner) else None


def _choose_config(kernel: Any, knob: str, index: int) -> None:
    """Leaves the chosen configuration alone in the list, as a tuned file does."""
    if not hasattr(kernel, _ALL_CONFIGS):
        setattr(kernel, _ALL_CONFIGS, list(kernel.configs))
    configs = getattr(kernel, _ALL_CONFIGS)
    if not 0 <= index < len(configs):
        raise Fault(Verdict.LOAD_ERROR, f"{knob} = {index}: the kernel has {len(configs)} configurations")
    kernel.configs = [configs[index]]


def build_candidate(module: ModuleType, init_inputs: Any, seed: int, device: str) -> torch.nn.Module:
    """`ModelNew(*init_inputs)` under `seed`, on `device`.

    Args:
        init_inputs: what the problem's `get_init_inputs()` returned: positional arguments, or `[args, kwargs]`.

    Raises:
        Fault: `LOAD_ERROR` when the constructor raises or gives no module.
    """
    torch.manual_seed(seed)
    try:
        args, kwargs = split_init(init_inputs)
        if device == "meta":
            with torch.device("meta"):
                model = module.ModelNew(*args, **kwargs)
        else:
            model = module.ModelNew(*args, **kwargs)
    except (Exception, SystemExit) as error:
        raise blame(error, Verdict.LOAD_ERROR) from error
    if not isinstance(model, torch.nn.Module):
        raise Fault(Verdict.LOAD_ERROR, f"{ENTRY} is no torch.nn.Module but {type(model).__name__}")
    return model if device == "meta" else model.to(device)


def split_init(init_inputs: Any) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of the constructor, in either form that KernelBench files use."""
    if isinstance(init_inputs, (list, tuple)):
        if len(init_inputs) == 2 and isinstance(init_inputs[0], (list, tuple)) and isinstance(init_inputs[1], dict):
            return list(init_inputs[0]), dict(init_inputs[1])
        return list(init_inputs), {}
    raise Fault(Verdict.LOAD_ERROR, f"get_init_inputs() must return a list, got {type(init_inputs).__name__}")


def silence_autotune() -> None:
    """Makes `@triton.autotune` run the chosen configuration, else its first: in this process nobody benchmarks."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = self.configs[0]
        self.best_config = config
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        if config.pre_hook is not None:
            config.pre_hook({**self.nargs, **kwargs, **config.all_kwargs()})
        return self.fn.run(*args, **kwargs, **config.all_kwargs())

    Autotuner.run = run
