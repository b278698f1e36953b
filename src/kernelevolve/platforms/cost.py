"""The modelled time: a roofline per launch with what the build already knows.

In: the figures of a platform, what each launch moves and computes (`Work`), what the compiler made of it (`Resources`).
Out: a `Figure` in milliseconds with evidence `modelled`. Left to others: counting bytes and FLOPs (`translate` per
region; `plan_works` for any other candidate), measuring.

The model is S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009: a launch takes the longer of its
memory and its arithmetic time. Added to it: the share of the ceilings that real launches reach, grids too small to fill
the device, caches between launches, spills, and one cost per launch. It ranks and orders; it does not measure. It does
not see bank conflicts, uncoalesced access, divergence, or latency inside a program. Candidate and baselines are
modelled by the same functions, so an error that both share leaves their ratio alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from kernelevolve.evaluation import Evidence, Figure, LaunchPlan, Resources
from kernelevolve.hardware import HardwareFigures

# Arithmetic schemes that build fp32 products from several passes over a narrower type (Triton's input_precision).
SCHEMES: Mapping[str, tuple[str, int]] = {"tf32x3": ("tf32", 3), "bf16x3": ("bf16", 3), "bf16x6": ("bf16", 6)}
# What runs where the platform has no units for an arithmetic.
_FALLBACK: Mapping[str, str] = {"tf32": "fp32", "fp8": "fp16", "bf16": "fp16", "int8": "fp16"}

# Working figures, by reason; none of them is a vendor's figure.
# Half of the units keep the memory busy: one H200 unit draws about twice its share of the 4.2 TB/s copy.
_UNITS_TO_FILL_MEMORY = 0.5
# Below a quarter of the resident warps too few loads are in flight to hide the memory's latency (Little's law with
# 16 bytes per thread: 0.25 * 2048 threads * 16 B = 8 KiB per unit, and software pipelining about doubles that) ...
_OCCUPANCY_TO_FILL_MEMORY = 0.25
# ... but a pipelined loop keeps going with very few warps, so the loss is bounded.
_WORST_OCCUPANCY_LOSS = 2.0
# What the last cache gives over device memory, for data that the launch before has just written: Chips and Cheese
# measured 21 of 7.7 TB/s on a B200 and above 5.5 of 2 TB/s on an H100 PCIe; a mix of hits and misses gets less.
_CACHE_GAIN = 2.0
# Such data is still there if everything the launch touches fits into this share of the cache.
_CACHE_SHARE = 0.5

_DTYPE_BYTES: Mapping[str, float] = {
    "float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "complex128": 16, "float32": 4, "int32": 4, "uint32": 4,
    "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2, "bool": 1, "int8": 1, "uint8": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Efficiency:
    """Shares of the sheet's ceilings that long launches reach, 0..1, by arithmetic.

    Attributes:
        memory: of the bandwidth.
        library: of the peak, in a vendor library's matrix product, by arithmetic; `other` for the rest.
        generated: the same in a plain tuned Triton kernel.
        sources: where each share is from.
    """

    memory: float
    library: Mapping[str, float]
    generated: Mapping[str, float]
    sources: Mapping[str, str]

    def of_peak(self, arithmetic: str, maker: str) -> float:
        """The share for one arithmetic and maker."""
        table = self.library if maker == "library" else self.generated
        return table.get(arithmetic, table["other"])


@dataclass(frozen=True)
class Work:
    """What one launch moves and computes.

    Attributes:
        name: of the kernel, region or ATen op.
        bytes_read, bytes_written: to and from device memory, each element counted once.
        flops: by arithmetic: a key of `HardwareFigures.peak_flops` or of `SCHEMES`.
        programs: size of the grid; None = large enough to fill the device.
        maker: `library` for a vendor library's kernel, `generated` for one that Triton compiled.
        bytes_reused: the part of `bytes_read` that the launches just before have written or read.
        compiled: False for a fill or copy that none of the candidate's kernels does; it has no Resources.
        tiles: equal pieces of work that the programs take in turns; None = one for each program.
    """

    name: str
    bytes_read: float
    bytes_written: float
    flops: Mapping[str, float] = field(default_factory=dict)
    programs: int | None = None
    maker: Literal["library", "generated"] = "generated"
    bytes_reused: float = 0.0
    compiled: bool = True
    tiles: int | None = None

    def __post_init__(self) -> None:
        if min(self.bytes_read, self.bytes_written, self.bytes_reused, *self.flops.values(), 0) < 0:
            raise ValueError(f"work {self.name!r} has a negative number of bytes or FLOPs: {self}")
        if self.bytes_reused > self.bytes_read:
            raise ValueError(f"work {self.name!r} reuses {self.bytes_reused} of {self.bytes_read} bytes read")
        if self.programs is not None and self.programs < 1:
            raise ValueError(f"work {self.name!r} has a grid of {self.programs} programs; leave out empty launches")
        if self.tiles is not None and self.tiles < 1:
            raise ValueError(f"work {self.name!r} has {self.tiles} tiles; leave out empty launches")


@dataclass(frozen=True)
class LaunchTime:
    """The parts of one launch's modelled time, in seconds.

    Attributes:
        memory, compute: the two sides of the roofline, of which the longer counts.
        overhead: what every launch costs.
    """

    memory: float
    compute: float
    overhead: float

    @property
    def seconds(self) -> float:
        return max(self.memory, self.compute) + self.overhead

    @property
    def limit(self) -> Literal["memory", "compute", "launch"]:
        """Which part is the longest."""
        if self.overhead > max(self.memory, self.compute):
            return "launch"
        return "memory" if self.memory >= self.compute else "compute"


def modelled_launch(
    figures: HardwareFigures,
    efficiency: Efficiency,
    warp_size: int,
    work: Work,
    resources: Resources | None = None,
) -> LaunchTime:
    """The modelled time of one launch; `resources` adds what occupancy and spills cost."""
    bandwidth = figures.bandwidth * efficiency.memory
    cached = work.bytes_reused if _stays_cached(figures, work) else 0.0
    moved = work.bytes_read + work.bytes_written - cached
    memory = (moved + (cached + _spilled(work, resources, warp_size)) / _CACHE_GAIN) / bandwidth
    memory *= _memory_loss(figures, work.programs, resources)
    compute = sum(
        flops / (_peak(figures, arithmetic) * efficiency.of_peak(arithmetic, work.maker))
        for arithmetic, flops in work.flops.items()
    )
    return LaunchTime(memory, compute * _compute_loss(figures, work), figures.launch_seconds)


def modelled_time(
    figures: HardwareFigures,
    efficiency: Efficiency,
    warp_size: int,
    works: Sequence[Work],
    resources: Sequence[Resources | None] = (),
) -> Figure:
    """The modelled time of launches that run one after the other, in milliseconds.

    Args:
        resources: of the compiled works, in their order; empty where nothing was built.

    Raises:
        ValueError: no work, or `resources` for another number of compiled works.
    """
    if not works:
        raise ValueError("nothing to model: the plan has no launch")
    compiled = sum(w.compiled for w in works)
    if resources and len(resources) != compiled:
        raise ValueError(f"{len(resources)} resources for {compiled} launches")
    known = iter(resources or [None] * compiled)
    times = [modelled_launch(figures, efficiency, warp_size, w, next(known) if w.compiled else None) for w in works]
    longest = max(times, key=lambda t: t.seconds)
    moved = sum(w.bytes_read + w.bytes_written for w in works)
    flops = sum(sum(w.flops.values()) for w in works)
    how = (
        f"roofline of {figures.name}: {len(works)} launch{'es' if len(works) > 1 else ''}, "
        f"{moved / 1e9:.3g} GB, {flops / 1e9:.3g} GFLOP, limited by {longest.limit}"
    )
    return Figure(sum(t.seconds for t in times) * 1e3, "ms", Evidence.MODELLED, how)


def physics_floor(figures: HardwareFigures, works: Iterable[Work]) -> float:
    """The least seconds for the same bytes and FLOPs: the sheet's ceilings, caches free, no launch cost."""
    return sum(
        max(
            (w.bytes_read + w.bytes_written - w.bytes_reused) / figures.bandwidth,
            sum(flops / _peak(figures, arithmetic) for arithmetic, flops in w.flops.items()),
        )
        for w in works
    )


def plan_works(plan: LaunchPlan, flops: Mapping[str, float] | None = None) -> tuple[Work, ...]:
    """The works of a candidate of which only the buffers are known.

    Each launch is taken to move every buffer among its arguments once: inputs and parameters are read, outputs and
    scratch are written at their first launch and read by later ones. `flops` of the whole computation, where known, are
    shared out by bytes.
    """
    sizes = {b.name: math.prod(b.shape) * _DTYPE_BYTES.get(b.dtype, 1) for b in plan.buffers}
    roles = {b.name: b.role for b in plan.buffers}
    works = [Work(f"fill {f.buffer}", 0.0, float(sizes.get(f.buffer, 0.0)), compiled=False) for f in plan.fills]
    works += copies(plan)
    written = {f.buffer for f in plan.fills} | {c.target for c in plan.copies}
    touched: set[str] = set()
    launches: list[Work] = []
    for launch in plan.launches:
        names = {n for n in map(_buffer_of, launch.arguments.values()) if n in sizes}
        fresh = {n for n in names if roles[n] in ("output", "scratch") and n not in written}
        # A filled buffer is accumulated into: it is read and written.
        filled = {n for n in names if n in {f.buffer for f in plan.fills}}
        read, wrote = sum(sizes[n] for n in names - fresh), sum(sizes[n] for n in fresh | filled)
        reused = sum(sizes[n] for n in (names - fresh) & (touched | written))
        launches.append(
            Work(launch.kernel, read, wrote, programs=math.prod(launch.grid) or None, bytes_reused=float(reused))
        )
        written |= fresh
        touched |= names
    total = sum(w.bytes_read + w.bytes_written for w in launches)
    if flops and total:
        launches = [_with_share(w, flops, (w.bytes_read + w.bytes_written) / total) for w in launches]
    return (*works, *launches)


def copies(plan: LaunchPlan) -> list[Work]:
    """What the copies of a plan move, in order."""
    return [
        Work(f"copy {c.source} to {c.target}", float(c.bytes_read), float(c.bytes_written), compiled=False)
        for c in plan.copies
    ]


def _with_share(work: Work, flops: Mapping[str, float], share: float) -> Work:
    return replace(work, flops={arithmetic: value * share for arithmetic, value in flops.items()})


def _buffer_of(argument: object) -> str:
    text = argument if isinstance(argument, str) else ""
    return text.removeprefix("buffer ").rsplit("+", 1)[0] if text.startswith("buffer ") else ""


def _peak(figures: HardwareFigures, arithmetic: str) -> float:
    base, passes = SCHEMES.get(arithmetic, (arithmetic, 1))
    while base not in figures.peak_flops:
        if base not in _FALLBACK:
            known = ", ".join([*figures.peak_flops, *SCHEMES])
            raise ValueError(f"{figures.name} has no arithmetic {arithmetic!r}; known: {known}")
        base = _FALLBACK[base]
    return figures.peak_flops[base] / passes


def _stays_cached(figures: HardwareFigures, work: Work) -> bool:
    return work.bytes_read + work.bytes_written <= _CACHE_SHARE * figures.l2_bytes


def _spilled(work: Work, resources: Resources | None, warp_size: int) -> float:
    """Bytes that registers too few send through the caches: each is written and read once."""
    if resources is None or work.programs is None:
        return 0.0
    return 2.0 * resources.spill_bytes * resources.warps * warp_size * work.programs


def _memory_loss(figures: HardwareFigures, programs: int | None, resources: Resources | None) -> float:
    loss = 1.0
    if programs is not None:
        loss = max(1.0, _UNITS_TO_FILL_MEMORY * figures.units / min(programs, figures.units))
    if resources is not None and resources.occupancy > 0:
        loss *= min(_WORST_OCCUPANCY_LOSS, max(1.0, _OCCUPANCY_TO_FILL_MEMORY / resources.occupancy))
    return loss


def _compute_loss(figures: HardwareFigures, work: Work) -> float:
    """Wave quantisation: the unit with the most tiles ends last, be they programs of their own or turns of one."""
    if work.programs is None:
        return 1.0
    tiles = max(work.tiles or 0, work.programs)
    return math.ceil(tiles / min(work.programs, figures.units)) * figures.units / tiles
