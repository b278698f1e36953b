"""The first plan of a program: groups from `fuse`, then a scheme and knobs for each from its sizes.

In: a `Program` and a platform. Out: a `Plan`, the best guess before anything was measured. The figures follow from the
platforms' structure: programs to fill the machine, values that a program can hold in registers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from kernelevolve.translate.algebra import Graph, Node
from kernelevolve.translate.emit import planes
from kernelevolve.translate.emit.contraction import operand_dtype
from kernelevolve.translate.emit.layout import Domain, crossing, domain_of, groups, trace
from kernelevolve.translate.emit.reducers import RESULTS
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import Expr, product
from kernelevolve.translate.fuse import Fuser, Group
from kernelevolve.translate.ir import ITEMSIZE, Program
from kernelevolve.translate.lower import lower
from kernelevolve.translate.plan import Kernel, Knob, Plan
from kernelevolve.translate.products import LEAST_DEPTH, planes_pay, with_planes

#: Compute units to fill, for a guess before measuring: an H200 has 132, an MI300X 304.
UNITS = {"nvidia": 132, "amd": 304}
#: Arithmetic of fp32 products within a strict budget (normalised rms error 5e-6), fastest first. On NVIDIA as measured
#: on an H200; on AMD from what Triton builds (`benchmarks/results/amd_dot_census.json`). There `ieee` becomes fp32
#: matrix instructions. CDNA 3 has no instruction that rounds to bf16: taking operands apart keeps its vector units busy
#: for longer than the fp32 products take. CDNA 4 has one, and bf16 matrix units of 16 times the fp32 rate.
STRICT = {
    "nvidia": ("bf16x6", "tf32x3", "ieee"), "amd": ("ieee", "bf16x6"), "cdna4": ("bf16x6", "ieee"),
}  # fmt: skip
#: The same where one tf32 pass is allowed. CDNA 4 has no tf32; three passes in bf16 err less than one in tf32.
WITH_TF32 = {
    "nvidia": ("tf32", "bf16x6", "ieee"), "amd": ("ieee", "bf16x6"), "cdna3": ("tf32", "ieee", "bf16x6"),
    "cdna4": ("bf16x3", "bf16x6", "ieee"),
}  # fmt: skip
#: AMD's generations, by the beginning of a product's or target's name.
GENERATIONS = {
    "mi300": "cdna3", "mi325": "cdna3", "gfx942": "cdna3", "mi350": "cdna4", "mi355": "cdna4", "gfx950": "cdna4",
}  # fmt: skip
#: Bytes that a program can stage on chip, and how many of its stages are in registers instead.
ON_CHIP = {"nvidia": (232448, 0), "amd": (65536, 1)}
#: The longest row that one program holds at once, in elements.
ONE_PASS_LIMIT = 16384
#: The widest access of one thread, in bytes.
VECTOR_BYTES = 16
#: The values of a tile that a thread can hold in registers beside what it computes from them.
HELD_PER_THREAD = 128
#: The tile, along both dimensions, of products whose sums are cut into parts.
PART_TILE = 64
#: The shortest part of a sum that pays for storing and adding it, in elements.
LEAST_PART = 512
#: The elements of one program's part of a single long row, and the most parts that a second kernel adds in one
#: program. In 2048 parts a mean of 2^30 numbers took 1.04 ms on an H200, in 8192 or 16384 parts 0.98 to 0.99 ms
#: (`benchmarks/results/split_reduction_h200.json`).
PART_OF_ONE_ROW, MOST_PARTS = 131072, 16384
#: From this many elements on, index arithmetic is 64 bits wide; 2**31 less the largest block, with room for growth.
WIDE_FROM = 2**30


def vendor(platform: str) -> str:
    """``nvidia`` or ``amd``, from a vendor's or a platform's name."""
    return "amd" if platform.startswith(("amd", "mi", "gfx", "hip")) else "nvidia"


def precisions(platform: str, allow_tf32: bool) -> tuple[str, ...]:
    """Arithmetic that fp32 products can have on a platform, or on all of a vendor's, the fastest first."""
    table = WITH_TF32 if allow_tf32 else STRICT
    generation = next((g for name, g in GENERATIONS.items() if platform.startswith(name)), "")
    return table.get(generation) or table[vendor(platform)]


def first_plan(program: Program, platform: str = "nvidia", *, allow_tf32: bool = False) -> Plan:
    """The planner's best guess.

    Args:
        program: what to translate.
        platform: a vendor or a platform's name (``nvidia``, ``h200``, ``amd``, ``mi300x``).
        allow_tf32: whether fp32 products may use one tf32 pass (about 1e-3 relative).

    Raises:
        UncoveredOp: an op has no lowering.
        TranslateError: no grouping could be written.
    """
    graph = lower(program)
    return plan_with(graph, Chooser(graph, platform, allow_tf32))


def plan_with(graph: Graph, chooser: Chooser, apart: frozenset[str] = frozenset()) -> Plan:
    """A plan whose groups and knobs follow a chooser.

    Args:
        apart: reductions that do not join an earlier kernel.
    """
    fused = Fuser(graph, apart, chooser.few_rows()).run()
    taken: set[str] = set()
    kernels = tuple(chooser.kernel(group, fused, taken) for group in fused)
    return Plan(kernels, chooser.platform, chooser.allow_tf32)


def resized(program: Program, plan: Plan) -> Plan | None:
    """A plan of another program as one of this program; None where it names what is not here, or leaves a result out.

    Schemes and knobs stay as they are, sound or not: that is what building and measuring tell.
    """
    graph = lower(program)
    for kernel in plan.kernels:
        named = [graph.nodes.get(name) for name in (*kernel.anchors, *kernel.stores)]
        anchored = {node.kind for node in named[: len(kernel.anchors)] if node is not None}
        if None in named or not anchored <= {_ANCHORS.get(kernel.kind)}:
            return None
    if not set(graph.stores) <= plan.stored:
        return None
    chooser = Chooser(graph, plan.platform, plan.allow_tf32)
    return replace(plan, kernels=tuple(replace(kernel, wide=chooser.wide(kernel)) for kernel in plan.kernels))


#: The kind of node that anchors a kernel of each kind.
_ANCHORS = {"reduction": "reduce", "contraction": "contract", "scan": "scan"}


class Chooser:
    """Chooses schemes and knobs from the sizes at full size."""

    def __init__(self, graph: Graph, platform: str, allow_tf32: bool) -> None:
        self.graph, self.platform, self.allow_tf32 = graph, platform, allow_tf32
        self.vendor = vendor(platform)
        self.sizes = graph.program.at_full_size()
        self.units = UNITS[self.vendor]
        self.also_few: frozenset[str] = frozenset()
        self.not_few: frozenset[str] = frozenset()

    def value(self, expr: Expr) -> int:
        """An expression at full size."""
        return expr.evaluate(self.sizes)

    def few_rows(self) -> frozenset[str]:
        """Reductions with too few, too long rows to fill the machine with one program per row."""
        found = frozenset(n.name for n in self.graph.nodes.values() if n.kind == "reduce" and self._few(n))
        return (found | self.also_few) - self.not_few

    def _few(self, node: Node) -> bool:
        domain = domain_of(self.graph, node.name)
        rows = self.value(product([domain.shape[a] for a in domain.kept]))
        length = self.value(product([domain.shape[a] for a in domain.reduced]))
        if node.fn == "prod" or length < 16 * 1024:
            return False
        inner = not domain.kept or domain.reduced[-1:] == (len(domain.shape) - 1,)
        programs = rows if inner else -(-rows // 64)
        return programs < self.units and (rows > 1 or length > 128 * 1024)

    # -- kernels

    def kernel(self, group: Group, all_groups: list[Group], taken: set[str]) -> Kernel:
        """One kernel."""
        stored = {n.name for n in self.graph.nodes.values() if n.kind == "input"}
        for other in all_groups:
            if other is group:
                break
            stored |= set(other.stores)
        name = self._name(group, taken)
        base = Kernel(
            name, group.kind, tuple(group.anchors), tuple(group.stores), "flat", about=self.about(group),
            wide=self.wide(group),
        )  # fmt: skip
        available = frozenset(stored - set(group.stores))
        return {
            "pointwise": self._pointwise, "reduction": self._reduction, "contraction": self._contraction,
            "scan": self._scan,
        }[group.kind](base, available)  # fmt: skip

    def _name(self, group: Group, taken: set[str]) -> str:
        parts: list[str] = []
        for name in [*group.anchors, *group.stores]:
            plain = re.sub(r"(_\d+)+$", "", re.sub(r"_(max|sum|mean|squares|value|index)$", "", name)).strip("_")
            if plain and plain not in parts and plain != "output":
                parts.append(plain)
        stem = "_".join(parts[:1] + parts[-1:] if len(parts) > 2 else parts) or "copy"
        stem = re.sub(r"\W+", "_", stem)
        candidate, turn = f"{stem}_kernel", 1
        while candidate in taken:
            turn += 1
            candidate = f"{stem}_{turn}_kernel"
        taken.add(candidate)
        return candidate

    def about(self, group: Group) -> str:
        """The docstring: what is computed, with the reference's lines."""
        names = [*group.anchors, *group.stores]
        lines: list[str] = []
        seen: set[str] = set()
        stack = list(names)
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self.graph.nodes[name]
            if node.line and node.line not in lines:
                lines.append(node.line)
            if len(seen) < 400:
                stack.extend(a for a in node.args)
        def order(line: str) -> int:
            found = re.match(r"line (\d+)", line)
            return int(found.group(1)) if found else 0

        what = "Computes " + ", ".join(f"`{n}`" for n in group.stores)
        lines = sorted(lines, key=order)[-6:]
        return what + ("" if not lines else ":\n\n" + "\n".join(f"    {line}" for line in lines).replace("\\", "/"))

    def wide(self, group: Group | Kernel) -> bool:
        """Whether index arithmetic must be 64 bits wide at these sizes."""
        names: set[str] = set()
        stack = [*group.anchors, *group.stores]
        while stack:
            name = stack.pop()
            if name not in names:
                names.add(name)
                stack.extend(self.graph.nodes[name].args)
        return any(self.value(self.graph.nodes[n].numel()) >= WIDE_FROM for n in names)

    def _pointwise(self, kernel: Kernel, available: frozenset[str]) -> Kernel:
        domain = Domain(self.graph.nodes[kernel.stores[0]].shape)
        found = trace(self.graph, available, domain, (), kernel.stores)
        if found is None:
            raise TranslateError(f"cannot plan {kernel.name}: its results do not share one shape")
        runs = groups(domain, found)
        total = self.value(product(domain.shape))
        if len(runs) >= 2:
            sizes = [self.value(product([domain.shape[a] for a in run])) for run in runs]
            for k, run in enumerate(runs[:-1]):
                if crossing(found, run, runs[-1]) and min(sizes[k], sizes[-1]) >= 16:
                    knobs = (("BLOCK_ROWS", (64, 32, 128)), ("BLOCK_COLUMNS", (64, 32, 128)), ("num_warps", (4, 8)))
                    return replace(kernel, scheme="tiled", knobs=knobs)
        if not domain.shape:
            return replace(kernel, knobs=(("num_warps", (1,)),))
        # Four warps with one vector of VECTOR_BYTES per thread; fewer elements where they would not fill the device.
        narrowest = min(ITEMSIZE[self.graph.nodes[name].dtype] for name in kernel.stores)
        block = min(128 * VECTOR_BYTES // max(narrowest, 2), 1024) if total >= 1 << 20 else 256
        blocks = tuple(dict.fromkeys((block, 512, 1024, 2048, 4096)))
        return replace(kernel, knobs=(("BLOCK", blocks), ("num_warps", (4, 8, 2))))

    def _reduction(self, kernel: Kernel, available: frozenset[str]) -> Kernel:
        domain = domain_of(self.graph, kernel.anchors[0])
        found = trace(self.graph, available, domain, kernel.anchors, kernel.stores)
        if found is None:
            raise TranslateError(f"cannot plan {kernel.name}: its parts do not share one iteration space")
        runs = groups(domain, found)
        kept = [run for run in runs if run[0] in domain.kept]
        reduced = [run for run in runs if run[0] in domain.reduced]
        inner = not runs or not kept or not reduced or runs[-1][0] in domain.reduced
        length = self.value(product([domain.shape[a] for a in domain.reduced]))
        rows = self.value(product([domain.shape[a] for a in domain.kept]))
        if any(a in self.few_rows() for a in kernel.anchors):
            return self._split(kernel, inner, rows, length)
        return self._by_rows(kernel, rows, length, len(reduced)) if inner else self._by_columns(kernel, length)

    def _by_rows(self, kernel: Kernel, rows: int, length: int, runs: int) -> Kernel:
        if length <= 1024 and rows > 1:
            fit = max(1, min(4096 // _power(length), 64))
            choice = tuple(dict.fromkeys((max(fit // 2, 1), fit, max(fit // 4, 1), 1)))
            return replace(kernel, scheme="one_pass", rows="tile", knobs=(("ROWS", choice), ("num_warps", (4, 8, 2))))
        if length <= ONE_PASS_LIMIT:
            warps = 4 if length <= 2048 else 8 if length <= 8192 else 16
            return replace(kernel, scheme="one_pass", knobs=(("num_warps", _near(warps, (4, 8, 16, 32))),))
        # With many rows, small programs share a unit and hide each other's reductions; a single row has it alone.
        blocks = (8192, 4096, 2048, 16384) if rows == 1 else (1024, 2048, 4096, 8192)
        many = (16, 32, 8) if rows == 1 else (4, 8, 16)
        knobs: tuple[Knob, ...] = (("BLOCK", blocks), ("num_warps", many), ("num_stages", (2, 1, 3)))
        return replace(kernel, scheme="looped", knobs=knobs)

    def _by_columns(self, kernel: Kernel, length: int) -> Kernel:
        if length <= 256:
            warps = max(2, _power(length) * 128 // (32 * HELD_PER_THREAD))
            many = _near(warps, (2, 4, 8))
            return replace(kernel, scheme="one_pass", knobs=(("COLUMNS", (128, 64, 32, 16)), ("num_warps", many)))
        knobs: tuple[Knob, ...] = (
            ("COLUMNS", (128, 64, 32, 256)), ("BLOCK", (64, 32, 16, 8)), ("num_warps", (8, 4)),
            ("num_stages", (2, 1, 3)),
        )  # fmt: skip
        if any(self.graph.nodes[a].fn in RESULTS for a in kernel.anchors):
            # Several accumulators per element of the tile: a smaller tile, and loads further ahead.
            knobs = (
                ("COLUMNS", (64, 128, 32, 256)), ("BLOCK", (16, 32, 8, 64)), ("num_warps", (8, 4)),
                ("num_stages", (3, 2, 1)),
            )  # fmt: skip
        return replace(kernel, scheme="looped", knobs=knobs)

    def _split(self, kernel: Kernel, inner: bool, rows: int, length: int) -> Kernel:
        programs = rows if inner else -(-rows // 64)
        wanted = max(2, min(8 * self.units // max(programs, 1), length // 4096, 2048))
        if rows == 1:
            # Programs that all fit at once end together only by luck: many short ones leave the shortest tail.
            wanted = max(wanted, min(length // PART_OF_ONE_ROW, MOST_PARTS))
        wanted = _power(wanted)
        most = max(MOST_PARTS if rows == 1 else 4096, wanted)
        parts = tuple(dict.fromkeys((wanted, max(wanted // 2, 2), min(wanted * 2, most), max(wanted // 4, 2))))
        knobs: tuple[Knob, ...] = (("PARTS", parts),)
        if inner:
            long = length // wanted >= PART_OF_ONE_ROW // 2
            knobs += (("BLOCK", (4096, 2048, 1024)), ("num_warps", (8, 16, 4))) if long else (
                ("BLOCK", (2048, 1024, 4096)), ("num_warps", (16, 8, 4)),
            )  # fmt: skip
        else:
            knobs += (("COLUMNS", (64, 128, 32)), ("BLOCK", (32, 16, 64)), ("num_warps", (4, 8)))
        return replace(kernel, scheme="split", knobs=knobs)

    def _scan(self, kernel: Kernel, available: frozenset[str]) -> Kernel:
        return replace(kernel, scheme="carried", knobs=(("BLOCK", (2048, 1024, 4096)), ("num_warps", (8, 4))))

    # -- products

    def _contraction(self, kernel: Kernel, available: frozenset[str]) -> Kernel:
        possible = self.product_schemes(kernel)
        sizes = self.product_sizes(kernel)
        if "parts" in possible and 2 * self._tiles(sizes, PART_TILE) <= self.units:
            return self.product(kernel, "parts")
        pays = "planes" in possible and planes_pay(*sizes)
        return self.product(kernel, "planes" if pays and not self.allow_tf32 else "tiles")

    def product_schemes(self, kernel: Kernel) -> tuple[str, ...]:
        """The schemes that a contraction can have on this platform."""
        full = planes.covers(self.graph, kernel.anchors[0])
        sizes = self.product_sizes(kernel)
        cut = sizes[3] >= 2 * LEAST_PART and self._tiles(sizes, PART_TILE) < self.units
        found = ("tiles", *(("planes",) if full and self.vendor == "nvidia" else ()))
        return (*found, "parts") if cut else found

    def _tiles(self, sizes: tuple[int, int, int, int], tile: int) -> int:
        batch, rows, columns, _ = sizes
        return batch * -(-rows // tile) * -(-columns // tile)

    def _in_parts(self, kernel: Kernel) -> Kernel:
        """As many parts as fill the device once, and no more: each writes a partial sum of every result."""
        sizes = self.product_sizes(kernel)
        plain = self.product(kernel, "tiles")
        m, n = (min(_tile(extent), PART_TILE) for extent in sizes[1:3])
        most = max(2, sizes[3] // LEAST_PART)
        wanted = max(2, min(_power(-(-self.units // self._tiles(sizes, PART_TILE))), _power(most) // 2 or 2))
        parts = tuple(dict.fromkeys((wanted, max(2, wanted // 2), min(2 * wanted, most))))
        for name, values in (("BLOCK_M", _near(m, (32, 64, 128))), ("BLOCK_N", _near(n, (32, 64, 128))),
                             ("num_warps", (4, 8))):  # fmt: skip
            plain = plain.with_knob(name, values)
        knobs = (*plain.knobs, ("PARTS", parts), ("SUM_BLOCK", (256, 512, 1024)))
        return replace(plain, scheme="parts", knobs=knobs)

    def product_sizes(self, kernel: Kernel) -> tuple[int, int, int, int]:
        """Batches, rows, columns and depth at full size."""
        anchor = self.graph.nodes[kernel.anchors[0]]
        depth = self.graph.nodes[anchor.args[0]].shape[2]
        batch, rows, columns = (self.value(e) for e in anchor.shape)
        return batch, rows, columns, self.value(depth)

    def product(self, kernel: Kernel, scheme: str) -> Kernel:
        """The contraction with a scheme of `product_schemes`, and knobs for it."""
        batch, rows, columns, depth = self.product_sizes(kernel)
        kernel = replace(kernel, order="grouped", persistent=False)
        if scheme == "parts":
            return self._in_parts(kernel)
        if scheme == "planes":
            return with_planes(kernel, batch, rows, columns, depth, self.units)
        full = planes.covers(self.graph, kernel.anchors[0])
        shallow = full and depth < LEAST_DEPTH
        m, n = _tile(rows), _tile(columns)
        big = 128 if full else 256
        # A shallow product mostly writes: several small programs per unit overlap one's stores with another's loads.
        m, n = min(m, 128), min(n, 64 if shallow else big)
        while m * n > 1024 and batch * -(-rows // m) * -(-columns // n) < self.units:
            m, n = (m // 2, n) if m >= n else (m, n // 2)
            if min(m, n) <= 32:
                break
        k = max(16, min(32 if full else 64, _power(depth)))
        knobs: tuple[Knob, ...] = (
            ("BLOCK_M", _near(m, (32, 64, 128, 256))), ("BLOCK_N", _near(n, (32, 64, 128, 256))),
            ("BLOCK_K", _near(k, (16, 32, 64))), ("GROUP", (8, 4, 16, 1)),
            ("num_warps", (8, 4) if shallow or m * n >= 128 * 128 else (4, 8)),
            ("num_stages", self.depths(kernel, (m, n, k)) or (1,)),
        )  # fmt: skip
        overrides: tuple[tuple[str, tuple[Knob, ...]], ...] = ()
        if full:
            knobs += (("PRECISION", precisions(self.platform, self.allow_tf32)),)
            other = "amd" if self.vendor == "nvidia" else "nvidia"
            overrides = ((other, (("PRECISION", precisions(other, self.allow_tf32)),)),)
        return replace(kernel, scheme="tiles", knobs=knobs, overrides=overrides)

    def depths(self, kernel: Kernel, tile: tuple[int, int, int]) -> tuple[int, ...]:
        """The pipeline depths with which a tile's blocks of operands fit on chip, the likeliest first."""
        full = planes.covers(self.graph, kernel.anchors[0])
        shallow = full and self.product_sizes(kernel)[3] < LEAST_DEPTH
        m, n, k = tile
        held, spare = ON_CHIP[self.vendor]
        operand = operand_dtype(self.graph, self.graph.nodes[kernel.anchors[0]].args[0])
        size = 4 if kernel.scheme == "planes" else ITEMSIZE[operand]
        usual = (2, 1, 3) if shallow else (3, 2, 4)
        return tuple(s for s in usual if max(s - spare, 1) * (m + n) * k * size <= held)


def _power(value: int) -> int:
    """The next power of two."""
    return 1 << max(value - 1, 0).bit_length()


def _tile(extent: int) -> int:
    return max(16, min(_power(extent), 256))


def _near(first: int, others: tuple[int, ...]) -> tuple[Any, ...]:
    """``first``, then the others within a factor of four."""
    return tuple(dict.fromkeys((first, *(o for o in others if first / 4 <= o <= first * 4))))
