"""The bodies of the messages between the roles, as frozen values; `wire` carries them, `codec` writes them.

In: what the host knows. Out: what judge, builder and worker are asked and answer. Left to others: doing it.

Who answers what (each conversation is with one forked child, see `nursery`):

judge    describe -> Description[]        the problem's workloads at full size, scaled for the CPU, and ragged
         oracle (Opened) -> case (Case) -> compare (outputs) -> Check[]        fp64 oracle, error budget, verdict
         baseline (Opened) -> warm, burst        the reference, eager and compiled, on the device
         oracle (Opened) -> admit (distribution) -> Tried        what a kernel that does not do the work would get
builder  capture -> the tensor program of the reference        plan -> LaunchPlan[]        build -> Resources[]
worker   load (Opened) -> call (Case) -> outputs        warm, burst        on CPU under the interpreter or on a device
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kernelevolve.problem import InputKind, RandomPolicy, SpecialValues


@dataclass(frozen=True)
class Variant:
    """A workload at one size, as a problem file's text.

    Attributes:
        workload: the workload's name.
        size: `full`, `scaled` (small enough for the interpreter), `ragged` (scaled, with odd and prime sizes) or
            `hidden` (drawn by a secret).
        source: the problem file's text at this size.
        scaled: what was changed, one line each, e.g. `dim: 4096 -> 64 (line 12, 15)`; empty at full size.
        number: tells hidden ones apart.
    """

    workload: str
    size: Literal["full", "scaled", "ragged", "hidden"]
    source: str
    scaled: tuple[str, ...] = ()
    number: int = 0

    @property
    def label(self) -> str:
        """`declared` or `declared/scaled`: what checks print."""
        if self.size == "hidden":
            return f"{self.workload}/hidden-{self.number}"
        return self.workload if self.size == "full" else f"{self.workload}/{self.size}"


@dataclass(frozen=True)
class InputSpec:
    """One leaf of `forward`'s arguments (flattened as a pytree).

    Attributes:
        name: `forward`'s parameter name, with the path inside it where the argument is a container.
        kind: `values` are redrawn for each case; others are taken from `get_inputs()` under the case's seed.
        shape, stride, dtype: of a tensor; dtype is torch's name without `torch.`; empty for a plain value.
        value: the plain value where it is no tensor.
    """

    name: str
    kind: InputKind | Literal["plain"]
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dtype: str = ""
    value: Any = None


@dataclass(frozen=True)
class StateSpec:
    """One parameter or buffer of the reference and how it is redrawn: `mean + std * N(0, 1)`, absolute if positive.

    `redraw` is `normal` or `positive` for parameters and running statistics, `keep` for buffers that carry structure.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    redraw: Literal["normal", "positive", "keep"]
    mean: float = 0.0
    std: float = 0.0


@dataclass(frozen=True)
class OutputSpec:
    """One leaf of the reference's output (flattened as a pytree); `shares` names the inputs whose memory it shares."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    shares: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """What the reference takes, holds and gives at one size."""

    variant: Variant
    inputs: tuple[InputSpec, ...]
    state: tuple[StateSpec, ...]
    outputs: tuple[OutputSpec, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Patch:
    """One input of a Case that differs from what its seed gives.

    Attributes:
        name: of the input.
        kind: `redrawn` as a whole from another seed; `row`: one row from another seed, which also says which one;
            `scaled` by a power of two; `expanded`: its first row (of the first dimension), repeated by a zero stride.
        number: the other seed; for `scaled` the power.
        distribution: of what is drawn anew; empty for that of the case.
    """

    name: str
    kind: Literal["redrawn", "row", "scaled", "expanded"]
    number: int = 0
    distribution: str = ""


@dataclass(frozen=True)
class Case:
    """One call's inputs: judge and worker draw the same tensors from it.

    Attributes:
        seed: of everything drawn for this call; inputs and state use different streams of it.
        distribution: `declared` (as `get_inputs` draws) or another one of `tensors.draw.DISTRIBUTIONS`.
        redraw_state: whether parameters and statistics are redrawn by their StateSpec.
        state: seed of parameters, statistics and cotangents where it is another one: timed calls share them.
    """

    seed: int
    distribution: str = "declared"
    redraw_state: bool = True
    state: int | None = None
    patches: tuple[Patch, ...] = ()
    cotangents: Literal["plain", "strided", "expanded"] = "plain"


@dataclass(frozen=True)
class Placement:
    """Where the worker puts one call's inputs, and what it does around the call; the call itself is always the same.

    Attributes:
        slot: `fresh` tensors; `kept` ones, which stay for later calls; the `same` as kept before, with other bytes:
            neither their addresses nor their version counters move.
        bands: seed of the bytes before and after each input, which the call must leave alone; None for no bands.
        fill: seed of what uninitialised memory holds; None for NaN in every float.
        layouts: of inputs by name: `transposed`, `offset` (a slice in the middle of a larger tensor), `shifted` (by one
            element, so that it is not aligned).
        hold: whether the results are kept, to be asked for again with `again`.
        back: whether inputs, state and bands are sent back after the call.
    """

    slot: Literal["fresh", "kept", "same"] = "fresh"
    bands: int | None = None
    fill: int | None = None
    layouts: Mapping[str, Literal["transposed", "offset", "shifted"]] = field(default_factory=dict)
    hold: bool = False
    back: bool = False


@dataclass(frozen=True)
class Opened:
    """What an oracle, baseline or worker conversation starts from.

    Attributes:
        description: the size at hand.
        device: `cpu`, `cuda` or `cuda:1`.
        precision, direction, mode, random, special_values: of the problem.
        module_seed: seed under which `Model` and `ModelNew` are constructed.
        candidate: the kernel file's text; empty for the reference.
        choice: knob values to use, by name.
        queues: of the process's context on the device, 0 for as many as usual; see `tensors.queues`.
    """

    description: Description
    device: str
    precision: str
    direction: str
    mode: str
    module_seed: int = 0
    random: RandomPolicy = "refuse"
    special_values: SpecialValues = "finite"
    candidate: str = ""
    choice: Mapping[str, Any] = field(default_factory=dict)
    queues: int = 0


@dataclass(frozen=True)
class Tolerance:
    """The effective rule for one output on one distribution.

    Attributes:
        output: its path, `out` or `out[1]`.
        dtype, precision: what the limit was chosen by.
        rule: `rms` for floating outputs, `exact` for integers, `positions` for indices into other values.
        limit: the most that rms(C - O) may be.
        relative: the same relative to the output's own rms.
        decided: the term of the rule that decides.
    """

    output: str
    dtype: str
    precision: str
    rule: Literal["rms", "exact", "positions"]
    limit: float = 0.0
    relative: float = 0.0
    decided: str = ""


@dataclass(frozen=True)
class NullModel:
    """An answer that was put before the acceptance rule as a candidate's would be.

    Attributes:
        name: `zeros`, `input copy x`, `tf32`, ...
        kind: `null` gives something without doing the work; `precision` does it in a lower precision than declared;
            `control` is honest and has to pass.
        outcome: `skipped` where it does not apply, or is exactly right here.
        detail: the first check that it fails; why it was skipped.
    """

    name: str
    kind: Literal["null", "precision", "control"]
    outcome: Literal["rejected", "accepted", "skipped"]
    detail: str = ""


@dataclass(frozen=True)
class Tried:
    """What admission found about one size under one distribution.

    Attributes:
        distribution: see `Case`.
        unusable: why passing here would mean nothing; empty where it means something.
        models: null models and honest controls, in the order they were tried.
        tolerances: one entry per output.
        labels: facts that describe, such as `NaN in 12 % of out`.
        seconds: wall time.
    """

    distribution: str
    unusable: str
    models: tuple[NullModel, ...]
    tolerances: tuple[Tolerance, ...]
    labels: tuple[str, ...]
    seconds: float
