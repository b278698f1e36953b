"""What kinds of accelerator exist: figures, compile target, rules for writers, and a model of their time.

In: public data sheets. Out: `Platform` values that are complete without a device. Left to others: finding platforms by
name (`plugins`), building for their target (`worker`), measuring (`judge`, `worker`). A new accelerator is one value in
one file and one line of entry points; nothing here imports torch or triton.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from kernelevolve.evaluation import Figure, Resources
from kernelevolve.hardware import HardwareFigures, Target, Vendor
from kernelevolve.platforms.cost import Efficiency, Work


@runtime_checkable
class Platform(Protocol):
    """One kind of accelerator. Values are immutable; all methods are pure and work without the device.

    Attributes:
        name: as given on the command line: `h100`, `mi300x`.
        vendor: chooses the section of `KNOBS`.
        figures: the vendor's public sheet.
        target: what Triton compiles for.
        efficiency: shares of the sheet's ceilings that real launches reach.
        input_precisions: values of `tl.dot(input_precision=...)` that build for the target.
        knowledge: folder of the knowledge library that describes this hardware, e.g. `hardware/nvidia/hopper`.
        rules: what a writer must respect here, as Markdown.
    """

    @property
    def name(self) -> str: ...
    @property
    def vendor(self) -> Vendor: ...
    @property
    def figures(self) -> HardwareFigures: ...
    @property
    def target(self) -> Target: ...
    @property
    def efficiency(self) -> Efficiency: ...
    @property
    def input_precisions(self) -> tuple[str, ...]: ...
    @property
    def knowledge(self) -> str: ...
    @property
    def rules(self) -> str: ...

    def device_answers(self) -> Mapping[str, Any]:
        """What `torch.cuda.get_device_properties` answers on a stand-in for this device, as flat JSON data.

        Fields are torch's own: `name`, `major`, `minor`, `total_memory` (bytes), `multi_processor_count`, `warp_size`,
        `shared_memory_per_block_optin` (bytes), `clock_rate` (kHz), ...
        """
        ...

    def modelled(self, works: Sequence[Work], resources: Sequence[Resources | None] = ()) -> Figure:
        """The modelled time in milliseconds of launches that run one after the other."""
        ...

    def floor(self, works: Sequence[Work]) -> Figure:
        """The least time in milliseconds that physics allows for the same bytes and FLOPs, by the sheet's ceilings."""
        ...
