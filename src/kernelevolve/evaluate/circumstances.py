"""What an evaluation rests on: the hash of the harness, the device, its clocks and temperatures.

In: the device at hand. Out: `Circumstances`. Left to others: watching the device while it is measured (`watch`).

Clocks and temperatures come from NVML (`pynvml` of the package nvidia-ml-py) where that is installed, else from
`nvidia-smi`, else they are said to be unknown; nothing is measured worse without them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kernelevolve
from kernelevolve.receipt import Circumstances

JUDGING = ("evaluate", "judge", "worker", "tensors", "seal", "platforms")
_FILES = ("nursery.py", "protocol.py", "settings.py", "wire.py", "codec.py")
_SMI_SECONDS = 20
_CLOCKS = {"graphics": "clocks.gr", "sm": "clocks.sm", "memory": "clocks.mem"}


@functools.cache
def harness() -> str:
    """SHA-256 over the names and contents of the package's source files that decide what an evaluation finds."""
    root = Path(kernelevolve.__file__).parent
    files = [f for folder in JUDGING for f in (root / folder).rglob("*.py")] + [root / name for name in _FILES]
    digest = hashlib.sha256()
    for file in sorted(files):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def circumstances(torch_name: str = "", device: str = "", secret: bytes = b"") -> Circumstances:
    """As of now.

    Args:
        secret: from which the evaluation's inputs were drawn; it has ended.
        torch_name: such as `cuda:0`; empty where there is no device.
        device: the product's name.
    """
    known: dict[str, Any] = {"kernelevolve": version("kernelevolve"), "harness": harness()}
    known |= {"device": device, "secret": secret.hex()}
    if not torch_name.startswith("cuda"):
        return Circumstances(**known, how="no device" if not device else "unknown: no accelerator")
    index = _physical(int(torch_name.partition(":")[2] or 0))
    try:
        return Circumstances(**known, **_nvml(index))
    except (ImportError, OSError, _nvml_error()) as error:
        absent = f"NVML: {error}"
    try:
        return Circumstances(**known, **_smi(index))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return Circumstances(**known, how=f"clocks and temperatures unknown ({absent}; nvidia-smi: {error})")


def _nvml_error() -> type[Exception]:
    try:
        found: type[Exception] = importlib.import_module("pynvml").NVMLError
    except ImportError:
        return ImportError
    return found


def _nvml(index: int) -> Mapping[str, Any]:
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        kinds = {"graphics": nvml.NVML_CLOCK_GRAPHICS, "sm": nvml.NVML_CLOCK_SM, "memory": nvml.NVML_CLOCK_MEM}
        driver = nvml.nvmlSystemGetDriverVersion()
        return {
            "driver": driver.decode() if isinstance(driver, bytes) else str(driver),
            "clocks_mhz": {k: float(nvml.nvmlDeviceGetClockInfo(handle, v)) for k, v in kinds.items()},
            "temperatures_c": {"gpu": float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))},
            "how": "NVML, right after the last rung",
        }
    finally:
        nvml.nvmlShutdown()


def _smi(index: int) -> Mapping[str, Any]:
    if shutil.which("nvidia-smi") is None:
        raise OSError("not installed")
    fields = ["driver_version", *_CLOCKS.values(), "temperature.gpu"]
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
    driver, *numbers = [part.strip() for part in done.stdout.strip().splitlines()[0].split(",")]
    return {
        "driver": driver,
        "clocks_mhz": dict(zip(_CLOCKS, map(float, numbers[:-1]), strict=True)),
        "temperatures_c": {"gpu": float(numbers[-1])},
        "how": "nvidia-smi, right after the last rung",
    }


def _physical(index: int) -> int:
    """The driver counts devices without `CUDA_VISIBLE_DEVICES`."""
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return int(visible[index]) if index < len(visible) and visible[index].isdigit() else index
