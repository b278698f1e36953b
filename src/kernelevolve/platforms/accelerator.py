"""Accelerator: a platform that is described by its figures alone.

In: the figures of one product. Out: a `Platform`. Left to others: the figures (`nvidia`, `amd`), the model (`cost`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from kernelevolve.evaluation import Evidence, Figure, Resources
from kernelevolve.hardware import HardwareFigures, Target, Vendor
from kernelevolve.platforms.cost import Efficiency, Work, modelled_time, physics_floor


@dataclass(frozen=True)
class Accelerator:
    """A platform as data; see `Platform` for the attributes.

    Attributes:
        capability: what `torch.cuda.get_device_capability` answers.
        queried_l2_bytes: what the driver answers for the L2 cache, where it differs from the sheet's last cache.
    """

    name: str
    vendor: Vendor
    figures: HardwareFigures
    target: Target
    efficiency: Efficiency
    input_precisions: tuple[str, ...]
    knowledge: str
    capability: tuple[int, int]
    queried_l2_bytes: int = 0

    @property
    def rules(self) -> str:
        """What a writer must respect here, as a Markdown list: the vendor's rules, then what builds for this target."""
        text = files("kernelevolve.platforms").joinpath("rules", f"{self.vendor}.md").read_text(encoding="utf-8")
        builds = ", ".join(f"`{precision}`" for precision in self.input_precisions)
        return f"{text.rstrip()}\n- `tl.dot` of fp32 builds here with `input_precision` {builds}.\n"

    def device_answers(self) -> Mapping[str, Any]:
        """See `Platform.device_answers`."""
        f = self.figures
        on_nvidia = self.vendor == "nvidia"
        return {
            "name": f.name,
            "major": self.capability[0],
            "minor": self.capability[1],
            "total_memory": f.memory_bytes,
            "multi_processor_count": f.units,
            "max_threads_per_multi_processor": f.max_warps_per_unit * self.target.warp_size,
            "max_threads_per_block": 1024,
            "regs_per_multiprocessor": f.registers_per_unit,
            # Without opting in, a CUDA kernel has 48 KiB (CUDA C++ Programming Guide, Shared Memory, 9.x).
            "shared_memory_per_block": 48 << 10 if on_nvidia else f.shared_bytes_per_block,
            "shared_memory_per_block_optin": f.shared_bytes_per_block,
            "shared_memory_per_multiprocessor": f.shared_bytes_per_unit,
            "L2_cache_size": self.queried_l2_bytes or f.l2_bytes,
            "warp_size": self.target.warp_size,
            "clock_rate": round(f.clock_hz / 1e3),
            "is_integrated": False,
            "is_multi_gpu_board": False,
            "gcnArchName": "" if on_nvidia else str(self.target.arch),
        }

    def modelled(self, works: Sequence[Work], resources: Sequence[Resources | None] = ()) -> Figure:
        """See `Platform.modelled`."""
        return modelled_time(self.figures, self.efficiency, self.target.warp_size, works, resources)

    def floor(self, works: Sequence[Work]) -> Figure:
        """See `Platform.floor`."""
        seconds = physics_floor(self.figures, works)
        return Figure(seconds * 1e3, "ms", Evidence.MODELLED, f"bytes and FLOPs at the ceilings of {self.figures.name}")
