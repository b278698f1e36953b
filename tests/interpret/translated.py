"""Runs translated candidates on the CPU under Triton's interpreter and compares them with fp64 PyTorch.

In: pairs of a reference's source and a candidate's source. Out: for each the largest normalised rms error, and the ATen
ops that the candidate's ``forward`` called. It is a script because the interpreter must be chosen before triton is
imported: ``run`` starts it in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

#: Sizes that keep the interpreter fast; a product's split schemes need tensor cores.
SMALL = {"PRECISION": "ieee", "PARTS": 4, "BLOCK": 64, "BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16, "COLUMNS": 16}

#: ATen ops that move no data and compute nothing.
FREE = {
    "empty", "view", "expand", "permute", "transpose", "t", "as_strided", "select", "slice", "unsqueeze", "squeeze",
    "detach", "alias", "is_contiguous", "_reshape_alias", "sym_size", "sym_stride", "sym_numel", "prim",
}  # fmt: skip


def run(cases: list[dict[str, object]], timeout: float = 240) -> list[dict[str, object]]:
    """Runs cases with the keys ``reference``, ``candidate`` and optionally ``seed``, in another process."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__], input=json.dumps(cases), capture_output=True, text=True,
        env=environment, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def load(source: str, folder: Path, name: str) -> types.ModuleType:
    """Imports a source from a file, as triton needs one."""
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(module: types.ModuleType) -> None:
    """Chooses small knobs."""
    for knob in module.KNOBS:
        for suffix, value in SMALL.items():
            if knob == suffix or (knob.endswith(f"_{suffix}") and not knob.endswith("SPLIT_BLOCK")):
                module.CHOICE[knob] = value


def error_of(want: object, got: object) -> float:
    """The rms of the difference over the rms of the wanted, infinite where shape or dtype differ."""
    import torch

    assert isinstance(want, torch.Tensor)
    assert isinstance(got, torch.Tensor)
    if want.shape != got.shape:
        return float("inf")
    if not want.is_floating_point():
        return float((want != got).double().mean()) if want.numel() else 0.0
    want, got = want.double(), got.double()
    same = (want == got) | (want.isnan() & got.isnan())
    difference = torch.where(same, 0.0, want - got)
    size = torch.where(want.isfinite(), want, 0.0)
    if not want.numel():
        return 0.0
    return float(difference.pow(2).mean().sqrt() / size.pow(2).mean().sqrt().clamp_min(1e-3))


def compare(reference: types.ModuleType, candidate: types.ModuleType, seed: int) -> dict[str, object]:
    """Runs both on the same inputs and weights."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    called: list[str] = []

    class Census(TorchDispatchMode):
        def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            called.append(func.__name__.split(".")[0])
            return func(*args, **(kwargs or {}))

    torch.manual_seed(seed)
    inputs = list(reference.get_inputs())
    torch.manual_seed(seed)
    exact = reference.Model(*reference.get_init_inputs()).double()
    torch.manual_seed(seed)
    plain = reference.Model(*reference.get_init_inputs())
    torch.manual_seed(seed)
    ours = candidate.ModelNew(*reference.get_init_inputs())
    ours.load_state_dict(plain.state_dict(), strict=True)
    wide = [i.double() if isinstance(i, torch.Tensor) and i.dtype == torch.float32 else i for i in inputs]
    leaves = torch.utils._pytree.tree_leaves
    with torch.no_grad():
        want, usual = leaves(exact(*wide)), leaves(plain(*inputs))
        with interpreted(), Census():
            got = ours(*inputs)
    results = leaves(got)
    assert len(results) == len(want), (len(results), len(want))
    dtypes = [str(t.dtype) for t in results] == [str(t.dtype) for t in usual]
    errors = [error_of(a, b) for a, b in zip(want, results, strict=True)]
    errors += [error_of(a, b) for a, b in zip(exact.buffers(), ours.buffers(), strict=True)]
    baseline = [error_of(a, b) for a, b in zip(want, usual, strict=True)]
    return {
        "error": max(errors), "torch": max(baseline, default=0.0), "dtypes": dtypes,
        "calls": sorted(set(called) - FREE),
    }  # fmt: skip


class interpreted:  # noqa: N801 - reads as a statement
    """Hides the interpreter's own tensor copies from the census: it works on numpy arrays behind torch tensors."""

    def __enter__(self) -> None:
        from triton.runtime import interpreter

        self.original = interpreter.GridExecutor.__call__

        def quiet(executor, *args, **kwargs):  # type: ignore[no-untyped-def]
            from torch.utils._python_dispatch import _disable_current_modes

            with _disable_current_modes():
                return self.original(executor, *args, **kwargs)

        interpreter.GridExecutor.__call__ = quiet

    def __exit__(self, *exception: object) -> None:
        from triton.runtime import interpreter

        interpreter.GridExecutor.__call__ = self.original


def main() -> None:
    """Reads cases from stdin and prints one list of results."""
    import torch

    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for position, case in enumerate(json.load(sys.stdin)):
            reference = load(case["reference"], Path(folder), f"reference_{position}")
            candidate = load(case["candidate"], Path(folder), f"candidate_{position}")
            small(candidate)
            results.append(compare(reference, candidate, case.get("seed", 0)))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
