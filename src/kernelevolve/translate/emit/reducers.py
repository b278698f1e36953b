"""How each reduction function accumulates: in one step, in a loop, and across partial results.

In: a writer and values. Out: lines and result values. Accumulators are one value per lane of the tile, combined once at
the end, so that loops have no cross-lane work.

* ``welford``: mean and sum of squared deviations by Welford's update (Knuth, TAOCP 2, 4.2.2); lanes are combined by
  Chan's formula.
* ``softmax``: running maximum m and s = sum exp(x - m), with one exponential per element (Milakov and Gimelshein 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelevolve.translate.emit.body import Var
from kernelevolve.translate.emit.functions import TRITON
from kernelevolve.translate.emit.writer import Writer

#: The names of a function's results, in order.
RESULTS = {
    "welford": ("mean", "squares"), "softmax": ("max", "sum"), "argmax": ("value", "index"),
    "argmin": ("value", "index"),
}  # fmt: skip

#: What a partial result holds: (name, dtype or "" for that of the values).
PARTIAL: dict[str, tuple[tuple[str, str], ...]] = {
    "welford": (("mean", ""), ("squares", ""), ("count", "float32")),
    "softmax": (("max", ""), ("sum", "")),
    "argmax": (("value", ""), ("index", "int64")),
    "argmin": (("value", ""), ("index", "int64")),
}

_LOWEST = {"float32": -3.4028234663852886e38, "float64": -1.7976931348623157e308}
_LIMITS = {
    "int64": (-(2**63), 2**63 - 1), "int32": (-(2**31), 2**31 - 1), "int16": (-(2**15), 2**15 - 1),
    "int8": (-128, 127), "uint8": (0, 255), "bool": (0, 1),
}  # fmt: skip


def partials(fn: str, dtype: str) -> tuple[tuple[str, str], ...]:
    """(name, torch dtype) of each part of a partial result."""
    own = "int32" if fn in ("any", "all") else dtype
    return tuple((name, kind or dtype) for name, kind in PARTIAL.get(fn, (("partial", own),)))


@dataclass(frozen=True)
class Reducer:
    """One reduction being written.

    Attributes:
        w: the writer.
        fn: the algebra's function.
        dtype: the dtype of the values.
        name: prefix of variable names.
        axis: the tile's axis that vanishes.
        kept: the axes of the result.
    """

    w: Writer
    fn: str
    dtype: str
    name: str
    axis: int
    kept: frozenset[str]

    def _keep(self) -> str:
        return ", keep_dims=True" if len(self.w.tile) > 1 else ""

    def _fold(self, how: str, source: str) -> str:
        return f"tl.{how}({source}, axis={self.axis}{self._keep()})"

    def _result(self, wanted: str, source: str, dtype: str | None = None) -> Var:
        name = self.w.fresh(wanted)
        self.w.line(f"{name} = {source}")
        return Var(name, self.kept, dtype or self.dtype)

    def _masked(self, value: str, mask: str, other: str) -> str:
        return f"tl.where({mask}, {value}, {other})" if mask else value

    def _neutral(self, fn: str | None = None) -> str:
        fn = fn or self.fn
        if fn in ("sum", "any"):
            return "0.0" if "float" in self.dtype else "0"
        if fn in ("prod", "all"):
            return "1.0" if "float" in self.dtype else "1"
        low = fn in ("max", "argmax")
        if "float" in self.dtype:
            return 'float("-inf")' if low else 'float("inf")'
        return str(_LIMITS[self.dtype][0 if low else 1])

    def _triton(self) -> str:
        return TRITON["int32" if self.fn in ("any", "all") else self.dtype]

    # -- one step

    def direct(self, value: Var, mask: str, position: str, count: str) -> list[Var]:
        """The result where the tile holds everything; ``count`` is the number of elements."""
        w, v = self.w, self.w.full(value)
        if self.fn == "welford":
            mean = self._result(f"{self.name}_mean", f"{self._fold('sum', self._masked(v, mask, '0.0'))} / {count}")
            centred = w.fresh("centred")
            w.line(f"{centred} = {self._masked(f'{v} - {mean.text}', mask, '0.0')}")
            return [mean, self._result(f"{self.name}_squares", self._fold("sum", f"{centred} * {centred}"))]
        if self.fn == "softmax":
            lowest = repr(_LOWEST[self.dtype])
            highest = self._fold("max", self._masked(v, mask, lowest))
            top = self._result(f"{self.name}_max", f"tl.maximum({highest}, {lowest})")
            grown = self._masked(f"tl.exp({v} - {top.text})", mask, "0.0")
            return [top, self._result(f"{self.name}_sum", self._fold("sum", grown))]
        if self.fn in ("argmax", "argmin"):
            place = w.fresh("place")
            whole = f"tl.full({w.tile_shape()}, {position}, tl.int32)"
            w.line(f"{place} = " + (whole if position.isdigit() else f"tl.broadcast_to({position}, {w.tile_shape()})"))
            best = w.fresh("candidate")
            w.line(f"{best} = {self._masked(v, mask, self._neutral())}")
            if mask:
                w.line(f"{place} = tl.where({mask}, {place}, 2147483647)")
            return self._pick(best, place)
        held = w.fresh(f"{self.name}_values")
        v = f"{v}.to(tl.int32)" if self.fn in ("any", "all") else v
        w.line(f"{held} = {self._masked(v, mask, self._neutral())}")
        return self._combine_simple(held)

    # -- loops

    def start(self) -> list[str]:
        """Writes the accumulators' initial values and returns their names."""
        w, shape, kind = self.w, self.w.tile_shape(), self._triton()
        inits: list[tuple[str, str]]
        if self.fn == "welford":
            inits = [(part, f"tl.zeros({shape}, {kind})") for part in ("mean", "squares", "count")]
        elif self.fn == "softmax":
            lowest = f"tl.full({shape}, {_LOWEST[self.dtype]!r}, {kind})"
            inits = [("max", lowest), ("sum", f"tl.zeros({shape}, {kind})")]
        elif self.fn in ("argmax", "argmin"):
            inits = [
                ("best", f"tl.full({shape}, {self._neutral()}, {kind})"),
                ("place", f"tl.full({shape}, 2147483647, {'tl.int64' if self._wide else 'tl.int32'})"),
            ]
        else:
            inits = [("lanes", f"tl.full({shape}, {self._neutral()}, {kind})")]
        names = []
        for part, source in inits:
            name = w.fresh(f"{self.name}_{part}_lanes" if part != "lanes" else f"{self.name}_lanes")
            w.line(f"{name} = {source}")
            names.append(name)
        return names

    @property
    def _wide(self) -> bool:
        return self.w.wide

    def update(self, lanes: list[str], value: Var, mask: str, position: str) -> None:
        """Writes one step of the loop."""
        w, v = self.w, self.w.full(value)
        keep = (lambda new, old: f"tl.where({mask}, {new}, {old})") if mask else (lambda new, old: new)
        if self.fn == "welford":
            mean, squares, count = lanes
            one = f"tl.where({mask}, 1.0, 0.0)" if mask else "1.0"
            w.line(f"{count} += {one}")
            delta = w.fresh("delta")
            w.line(f"{delta} = {self._masked(f'{v} - {mean}', mask, '0.0')}")
            w.line(f"{mean} += {delta} / tl.maximum({count}, 1.0)")
            w.line(f"{squares} += {delta} * {self._masked(f'{v} - {mean}', mask, '0.0')}")
        elif self.fn == "softmax":
            top, total = lanes
            x, gap, decay = w.fresh("score"), w.fresh("gap"), w.fresh("decay")
            masked = self._masked(v, mask, 'float("-inf")')
            w.line(f"{x} = {masked}")
            w.line(f"{gap} = {x} - {top}")
            w.line(f"{decay} = tl.exp(-tl.abs({gap}))")
            w.line(f"{total} = tl.where({gap} > 0, {total} * {decay} + 1.0, {total} + {decay})")
            w.line(f"{top} = tl.maximum({top}, {x})")
        elif self.fn in ("argmax", "argmin"):
            best, place = lanes
            sign = ">" if self.fn == "argmax" else "<"
            better = w.fresh("better")
            nan = f" | (({v} != {v}) & ({best} == {best}))" if "float" in self.dtype else ""
            first = f" | (({v} == {best}) & ({place} == 2147483647))"
            source = f"({v} {sign} {best}){nan}{first}"
            w.line(f"{better} = " + (f"({source}) & {mask}" if mask else source))
            w.line(f"{best} = tl.where({better}, {v}, {best})")
            w.line(f"{place} = tl.where({better}, {position}, {place})")
        else:
            (acc,) = lanes
            v = f"{v}.to(tl.int32)" if self.fn in ("any", "all") else v
            step = {
                "sum": f"{acc} + {v}", "prod": f"{acc} * {v}", "any": f"tl.maximum({acc}, {v})",
                "all": f"tl.minimum({acc}, {v})", "max": self._extreme("maximum", acc, v),
                "min": self._extreme("minimum", acc, v),
            }[self.fn]  # fmt: skip
            if self.fn == "sum":
                w.line(f"{acc} += {self._masked(v, mask, self._neutral())}")
            else:
                w.line(f"{acc} = {keep(step, acc)}")

    def _extreme(self, how: str, a: str, b: str) -> str:
        nan = ", propagate_nan=tl.PropagateNan.ALL" if "float" in self.dtype else ""
        return f"tl.{how}({a}, {b}{nan})"

    def finish(self, lanes: list[str]) -> list[Var]:
        """Combines the lanes; the result also holds what a partial result needs."""
        if self.fn == "welford":
            return self._combine_welford(*lanes)
        if self.fn == "softmax":
            return self._combine_softmax(*lanes)
        if self.fn in ("argmax", "argmin"):
            return self._pick(*lanes)
        return self._combine_simple(lanes[0])

    # -- across lanes or partial results

    def combine(self, parts: list[str]) -> list[Var]:
        """Combines partial results, which lie along the tile's vanishing axis."""
        return self.finish(parts)

    def _combine_welford(self, mean: str, squares: str, count: str) -> list[Var]:
        total = self._result(f"{self.name}_count", self._fold("sum", count))
        centre = self._result(f"{self.name}_mean", f"{self._fold('sum', f'{mean} * {count}')} / {total.text}")
        apart = self.w.fresh("apart")
        self.w.line(f"{apart} = {mean} - {centre.text}")
        spread = self._result(f"{self.name}_squares", self._fold("sum", f"{squares} + {count} * {apart} * {apart}"))
        return [centre, spread, total]

    def _combine_softmax(self, top: str, total: str) -> list[Var]:
        highest = self._result(f"{self.name}_max", self._fold("max", top))
        scaled = self._fold("sum", f"{total} * tl.exp({top} - {highest.text})")
        return [highest, self._result(f"{self.name}_sum", scaled)]

    def _pick(self, best: str, place: str) -> list[Var]:
        how = "max" if self.fn == "argmax" else "min"
        top = self._result(f"{self.name}_value", self._fold(how, best))
        hit = f"{best} == {top.text}"
        if "float" in self.dtype:
            nan = self._result("has_nan", f"{self._fold('max', f'({best} != {best}).to(tl.int32)')} > 0", "bool")
            self.w.line(f'{top.text} = tl.where({nan.text}, float("nan"), {top.text})')
            hit = f"tl.where({nan.text}, {best} != {best}, {best} == {top.text})"
        index = self._result(f"{self.name}_index", self._fold("min", f"tl.where({hit}, {place}, 2147483647)"), "int64")
        if not self._wide:
            self.w.line(f"{index.text} = {index.text}.to(tl.int64)")
        return [top, index]

    def _combine_simple(self, held: str) -> list[Var]:
        how = {"sum": "sum", "any": "max", "all": "min", "max": "max", "min": "min"}.get(self.fn)
        if self.fn == "prod":
            self.w.uses.add("multiply")
            return [self._result(self.name, f"tl.reduce({held}, {self.axis}, multiply{self._keep()})")]
        assert how is not None, self.fn
        found = self._result(self.name, self._fold(how, held), "int32" if self.fn in ("any", "all") else None)
        if self.fn in ("max", "min") and "float" in self.dtype:
            nan = self._fold("max", f"({held} != {held}).to(tl.int32)")
            self.w.line(f'{found.text} = tl.where({nan} > 0, float("nan"), {found.text})')
        return [found]


def to_results(fn: str, found: list[Var], w: Writer) -> list[Var]:
    """The algebra's results out of what `Reducer.finish` gave."""
    if fn in ("any", "all"):
        name = w.fresh(found[0].text)
        w.line(f"{name} = {found[0].text} != 0")
        return [Var(name, found[0].axes, "bool")]
    return found[: len(RESULTS.get(fn, ("",)))]
