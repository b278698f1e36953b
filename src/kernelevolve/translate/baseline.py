"""What the baselines move and compute: eager op by op, `torch.compile` by fused regions.

In: a captured program and its sizes. Out: `OpWork` per launch: bytes, FLOPs, arithmetic. Left to others: turning them
into a time (`platforms.cost`). Views launch nothing. The compiled side is taken as Inductor's default mode does it:
products and convolutions stay library calls, everything between them that is connected by data becomes one region, and
a row that is too long to stay on chip is read again by each pass after a reduction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from kernelevolve.translate.ir import ITEMSIZE, Op, Program, Ref, Value, as_expr

#: The longest row that Inductor keeps in registers (`triton.persistent_reductions`, inner reductions).
PERSISTENT_ROW = 1024

#: Ops that launch nothing.
VIEWS = frozenset(
    (
        "view", "permute", "expand", "unsqueeze", "squeeze", "slice", "select", "alias", "detach", "transpose", "t",
        "split_with_sizes", "split", "getitem", "unfold", "as_strided", "reshape", "_unsafe_view", "unbind",
    )
)  # fmt: skip
_CONTRACTIONS = frozenset(
    ("mm", "bmm", "addmm", "baddbmm", "linear", "convolution", "scaled_dot_product_attention", "einsum", "matmul")
)
_REDUCTIONS = frozenset(
    (
        "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "prod", "var", "var_mean", "std",
        "_softmax", "_log_softmax", "logsumexp", "native_layer_norm", "native_group_norm", "linalg_vector_norm",
        "_native_batch_norm_legit_functional", "_native_batch_norm_legit", "cumsum", "cumprod", "nll_loss_forward",
    )
)  # fmt: skip
#: Reductions whose result has the size of their input: they read it again after reducing.
_AGAIN = frozenset(
    (
        "_softmax", "_log_softmax", "native_layer_norm", "native_group_norm", "_native_batch_norm_legit_functional",
        "_native_batch_norm_legit",
    )
)  # fmt: skip


#: Ops whose first argument is a table of which the others say what is read.
_LOOKUPS = frozenset(("embedding", "_embedding_bag", "embedding_bag", "gather", "index", "index_select", "take"))
#: Arithmetics, the one with the highest peak last: a floor takes the fastest that occurs.
_WIDTH = ("fp64", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class OpWork:
    """One launch of a baseline.

    Attributes:
        name: of the op, or of the ops in a region.
        arithmetic: `fp32`, `fp16`, `bf16` or `fp64`, of its FLOPs.
        library: whether a vendor library runs it.
    """

    name: str
    bytes_read: float
    bytes_written: float
    flops: float
    arithmetic: str
    library: bool


def eager(program: Program, sizes: Mapping[str, int]) -> tuple[OpWork, ...]:
    """Each ATen op by itself."""
    facts = _Facts(program, sizes)
    return tuple(facts.alone(op) for op in program.ops if not facts.is_view(op))


def compiled(program: Program, sizes: Mapping[str, int]) -> tuple[OpWork, ...]:
    """Library calls, and between them fused regions."""
    facts = _Facts(program, sizes)
    return tuple(facts.alone(g[0]) if facts.is_contraction(g[0]) else facts.fused(g) for g in facts.regions())


def least(program: Program, sizes: Mapping[str, int]) -> OpWork:
    """The reference as one launch: each input read once, each output written once, the FLOPs of its products alone.

    What is only looked up in (tables of an embedding or a gather) is not counted as read. It is the least for the
    reference as written: a kernel that skips what the reference computes in vain needs less.
    """
    facts = _Facts(program, sizes)
    read: dict[str, float] = {}
    for op in program.ops:
        for i, name in enumerate(op.refs()):
            if facts.base[name] in facts.makers or facts.is_view(op) or (i == 0 and facts.short(op) in _LOOKUPS):
                continue
            read[facts.base[name]] = max(read.get(facts.base[name], 0.0), facts.read(name))
    outputs = {base for name in _named(program) if (base := facts.base.get(name, name)) in facts.makers}
    products = [op for op in program.ops if facts.is_contraction(op)]
    widest = max((facts.arithmetic(op) for op in products), key=_WIDTH.index, default="fp32")
    flops = sum(facts.flops(op) for op in products)
    return OpWork("reference", sum(read.values()), sum(facts.bytes[n] for n in outputs), flops, widest, False)


class _Facts:
    """Sizes and data flow of one program."""

    def __init__(self, program: Program, sizes: Mapping[str, int]) -> None:
        self.program, self.sizes = program, sizes
        self.bytes: dict[str, float] = {t.name: self._bytes(t.value) for t in program.tensors}
        self.base: dict[str, str] = {t.name: t.name for t in program.tensors}
        self.makers: dict[str, Op] = {op.name: op for op in program.ops}
        for op in program.ops:
            self.bytes[op.name] = sum(self._bytes(v) for v in op.values if v is not None)
            first = next(op.refs(), op.name)
            self.base[op.name] = self.base.get(first, first) if self.is_view(op) else op.name
            for i, value in enumerate(op.values):
                # The results of an op that returns several are called NAME.0, NAME.1, ...
                self.base[f"{op.name}.{i}"] = self.base[op.name]
                self.bytes[f"{op.name}.{i}"] = self._bytes(value) if value is not None else 0.0

    def _bytes(self, value: Value) -> float:
        return float(value.numel().evaluate(self.sizes) * ITEMSIZE.get(value.dtype, 4))

    def _shape(self, value: Value) -> tuple[int, ...]:
        return tuple(extent.evaluate(self.sizes) for extent in value.shape)

    def read(self, name: str) -> float:
        """Bytes read from memory for a value: of a view, no more than what it looks at holds."""
        return min(self.bytes[name], self.bytes.get(self.base[name], self.bytes[name]))

    @staticmethod
    def short(op: Op) -> str:
        """`aten.add.Tensor` to `add`."""
        return op.op.split(".")[1] if "." in op.op else op.op

    def is_view(self, op: Op) -> bool:
        return self.short(op) in VIEWS

    def is_contraction(self, op: Op) -> bool:
        return self.short(op) in _CONTRACTIONS

    def flops(self, op: Op) -> float:
        """Two per multiply-add of a product; one per element and op otherwise."""
        value = next((v for v in op.values if v is not None), None)
        if value is None:
            return 0.0
        shape = self._shape(value)
        operands = [self._operand(name) for name in op.refs()]
        match self.short(op):
            case "mm" | "bmm" | "matmul" | "linear":
                return 2.0 * prod(shape) * operands[0][-1]
            case "addmm" | "baddbmm":
                return 2.0 * prod(shape) * operands[1][-1]
            case "convolution" if True in op.args[6:7]:
                return self._transposed(op, shape, *operands[:2])
            case "convolution":
                weight = operands[1]
                return 2.0 * prod(shape) * prod(weight[1:])
            case "scaled_dot_product_attention":
                query, key = operands[0], operands[1]
                return 4.0 * prod(query) * key[-2]
        biggest = max([prod(shape), *(prod(o) for o in operands)], default=0)
        return float(biggest)

    def _transposed(self, op: Op, result: tuple[int, ...], read: tuple[int, ...], weight: tuple[int, ...]) -> float:
        """Two per product of an input element and a tap of the weight that lands in the result.

        Element i and tap k land on i x stride - padding + k x dilation, of which what lies outside is cut off.
        """
        axes = len(weight) - 2
        stride, padding, dilation = (
            [as_expr(part).evaluate(self.sizes) for part in (tuple(given) * axes)[:axes]] for given in op.args[3:6]
        )
        pairs = 1
        for axis in range(axes):
            inside = 0
            for tap in range(weight[2 + axis]):
                shift, step = padding[axis] - tap * dilation[axis], stride[axis]
                first = max(0, -(-shift // step))
                last = min(read[axis - axes] - 1, (result[axis - axes] - 1 + shift) // step)
                inside += max(0, last - first + 1)
            pairs *= inside
        return 2.0 * prod(read[:-axes]) * weight[1] * pairs

    def _operand(self, name: str) -> tuple[int, ...]:
        for tensor in self.program.tensors:
            if tensor.name == name:
                return self._shape(tensor.value)
        maker, _, index = name.partition(".")
        values = self.makers[maker].values
        value = values[int(index)] if index else next((v for v in values if v is not None), None)
        return self._shape(value) if value is not None else ()

    def arithmetic(self, op: Op) -> str:
        dtype = next((v.dtype for v in op.values if v is not None), "float32")
        return {"float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}.get(dtype, "fp32")

    def alone(self, op: Op) -> OpWork:
        """One op as a launch of its own."""
        read = sum(self.read(name) for name in dict.fromkeys(op.refs()))
        product = self.is_contraction(op)
        if not product and self.short(op) in _AGAIN and self._row(op) > PERSISTENT_ROW:
            read *= 2
        return OpWork(op.op, read, self.bytes[op.name], self.flops(op), self.arithmetic(op), product)

    def _row(self, op: Op) -> int:
        """Elements that are reduced together, from the input's and the reduced sizes."""
        operand = next((self._operand(name) for name in op.refs()), ())
        if self.short(op) in ("_softmax", "_log_softmax", "logsumexp"):
            return operand[-1] if operand else 1
        kept = prod(self._shape(op.values[0])) if op.values[0] is not None and self.short(op) not in _AGAIN else 1
        rows = operand[0] if self.short(op) in _AGAIN and operand else max(kept, 1)
        return prod(operand) // max(rows, 1)

    def regions(self) -> Iterator[list[Op]]:
        """Groups of ops that run as one launch, in the order of their last op."""
        groups: dict[str, list[Op]] = {}
        for op in self.program.ops:
            if self.is_view(op):
                continue
            if self.is_contraction(op):
                groups[op.name] = [op]
                continue
            merged = [op]
            bases = {self.base[name] for name in op.refs()}
            for key in [k for k, g in groups.items() if not self.is_contraction(g[0])]:
                if any(member.name in bases for member in groups[key]) and not self._between(groups[key], op, groups):
                    merged = groups.pop(key) + merged
            groups[op.name] = merged
        yield from groups.values()

    def _between(self, group: list[Op], op: Op, groups: Mapping[str, list[Op]]) -> bool:
        """Whether a product lies on a path from the group to the op: then they cannot be one launch."""
        members = {member.name for member in group}
        seen, todo = set(), [self.base[name] for name in op.refs()]
        while todo:
            name = todo.pop()
            maker = self.makers.get(name)
            if name in seen or maker is None or name in members:
                continue
            seen.add(name)
            reads = [self.base[n] for n in maker.refs()]
            if self.is_contraction(maker) and self._reaches(reads, members):
                return True
            todo += reads
        return False

    def _reaches(self, names: list[str], members: set[str]) -> bool:
        seen, todo = set(), list(names)
        while todo:
            name = todo.pop()
            if name in members:
                return True
            if name not in seen and name in self.makers:
                seen.add(name)
                todo += [self.base[n] for n in self.makers[name].refs()]
        return False

    def fused(self, group: list[Op]) -> OpWork:
        """A region as one launch: what comes in from outside, what is used outside."""
        members = {op.name for op in group}
        outside = dict.fromkeys(self.base[n] for op in group for n in op.refs() if self.base[n] not in members)
        read = sum(min(self.bytes[n], max(self.read(m) for m in self._views_of(n, group))) for n in outside)
        largest = max((self.bytes[n] for n in outside), default=0.0)
        read += largest * self._passes(group)
        used = {self.base[n] for op in self.program.ops if op.name not in members for n in op.refs()}
        used |= {self.base.get(n, n) for n in _named(self.program)}
        written = sum(self.bytes[op.name] for op in group if op.name in used)
        flops = sum(self.flops(op) for op in group)
        name = group[-1].op if len(group) == 1 else f"region of {len(group)} ops to {group[-1].op}"
        return OpWork(name, read, written, flops, self.arithmetic(group[-1]), False)

    def _views_of(self, base: str, group: list[Op]) -> list[str]:
        return [n for op in group for n in op.refs() if self.base[n] == base]

    def _passes(self, group: list[Op]) -> int:
        """How often the region reads its largest input again: once per reduction of a long row that is not the last."""
        again = 0
        for i, op in enumerate(group):
            if self.short(op) not in _REDUCTIONS or self._row(op) <= PERSISTENT_ROW:
                continue
            later = any(self.flops(other) >= self.flops(op) for other in group[i + 1 :])
            again += int(self.short(op) in _AGAIN or later)
        return min(again, 2)


def _named(program: Program) -> Iterator[str]:
    todo = [program.outputs]
    while todo:
        part = todo.pop()
        if isinstance(part, Ref):
            yield part.name
        elif isinstance(part, tuple):
            todo += part
    yield from (value for _, value in program.mutations)
