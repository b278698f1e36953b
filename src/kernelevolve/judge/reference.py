"""One problem at one size, opened for comparing: O and R for a case, then the candidate's outputs against them.

In: an `Opened` and Cases; the candidate's metadata and values. Out: `Computed` and `Comparison`. Left to others: the
rule itself (`accept`), bytes and handles (`answers`, `ipc`).

What is compared: every element of every output; the inputs and buffers that the reference's own call changes (in-place
ops, running statistics); with a backward direction all gradients. Where the fp64 oracle does not fit in device memory,
the honest reference in the declared precision stands in for it, and `limited` says so.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from kernelevolve.errors import ProblemError
from kernelevolve.evaluation import Check
from kernelevolve.judge import accept, conditioning, oracle, special, statistical
from kernelevolve.judge.leaf import POOL, Leaf, Pool, exactly, make_leaf, relative, rounding
from kernelevolve.protocol import Case, Opened
from kernelevolve.tensors import call, draw, load
from kernelevolve.tensors.outputs import TensorMeta, dtype_of

CALIBRATION_SECONDS = 5.0
# Of oracles kept for other candidates on the same case: on the CPU, and on a device, where they are costly to compute.
KEPT_BYTES, KEPT_ON_DEVICE = 1 << 28, 8 << 30
SPARE_BYTES = 1 << 30  # of device memory that torch may keep for the next oracle: asking for it anew takes milliseconds
ABSOLUTE_ELEMENTS = 1 << 28  # outputs larger than this get the simpler estimate of S
Leaves = list[tuple[str, Any]]


@dataclass(frozen=True)
class Computed:
    """What the judge says about a case before it sees the candidate.

    Attributes:
        usable: whether passing on this case means anything.
        reason: why not.
        outputs: paths that the candidate must give, in order; `state:NAME` are buffers that the reference changes,
            `input:NAME` inputs.
        changed_inputs: inputs that the reference itself changes in place.
        limited: how the comparison falls short of the full rule; empty if it does not.
        reference_error: largest rms error of the reference relative to the oracle's spread.
    """

    usable: bool
    reason: str
    outputs: tuple[str, ...]
    changed_inputs: tuple[str, ...]
    limited: str
    reference_error: float


@dataclass(frozen=True)
class Comparison:
    """All checks of one call, and the largest relative rms errors of candidate and reference."""

    checks: tuple[Check, ...]
    own_error: float
    reference_error: float


class Reference:
    """The reference in its declared precision and in fp64, on one device."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        load.set_precision(opened.precision)
        self.module = load.load_module(opened.description.variant.source, opened.description.variant.label)
        self.model = self._build()
        self.double = oracle.double_model(self.model, self._build)
        self._built = {n: t.detach().clone() for n, t in self._held(self.model)}
        self._plain = [(m, dict(_plain(m))) for model in (self.model, self.double) for m in model.modules()]
        self._start: dict[str, Any] = {}
        self._state: tuple[draw.StateKey, dict[str, Any]] = (None, self._built)  # of the latest case, as it began
        self._pools: dict[tuple[str, str], Pool] = {}
        self._tallies: dict[tuple[str, str, str], accept.Tally] = {}
        self._known: OrderedDict[Case, tuple[list[Leaf], Computed]] = OrderedDict()
        self._drawn: tuple[Case | None, dict[str, list[Any]]] = (None, {})
        self._first: dict[tuple[str, str], tuple[Case, Any]] = {}
        self._excuses = special.Excuses(self)

    def _build(self) -> Any:
        o = self.opened
        return load.build_model(self.module, seed=o.module_seed, device=o.device, precision=o.precision, mode=o.mode)

    @staticmethod
    def _held(model: Any) -> Leaves:
        return [*model.named_parameters(), *model.named_buffers()]

    def compute(self, case: Case) -> Computed:
        """Draws the case and computes O and R; kept for the next question about it as far as memory allows.

        Raises:
            ProblemError: the reference raises on inputs of its own file; others that it refuses are unusable.
        """
        if case in self._known:
            self._known.move_to_end(case)
            return self._known[case][1]
        self._forget()
        try:
            leaves, changed, limited = self._both(case)
        except ProblemError as error:
            if case.distribution == "declared" and not case.patches:
                raise
            # The file's own inputs work, these it refuses: negative probabilities, an index that is NaN.
            self._known[case] = [], Computed(False, str(error)[:300], (), (), "", 0.0)
            return self._known[case][1]
        if any(leaf.few and leaf.floating for leaf in leaves):
            self._calibrate(case)
            leaves, changed, limited = self._both(case)
        if not limited:
            self._condition(case, leaves)
        for leaf in leaves:
            if leaf.path in self.drawn(case) and leaf.finite and leaf.rms:
                leaf.unusable = ""  # what was said of its error is that of other random numbers
            if self._excuses.asks(case) and leaf.floating and leaf.oracle.numel() and not leaf.finite:
                leaf.unusable = ""  # a loss that is NaN is what it should be
        judged = [leaf for leaf in leaves if not leaf.path.startswith("state:")]
        usable = any(not leaf.unusable for leaf in judged)
        reason = "" if usable else f"{judged[0].path}: {judged[0].unusable}"
        errors = [relative(leaf.reference_rms, leaf.base) for leaf in leaves if leaf.floating]
        paths = tuple(leaf.path for leaf in leaves)
        computed = Computed(usable, reason, paths, tuple(changed), limited, max(errors, default=0.0))
        self._known[case] = leaves, computed
        self._release()
        return computed

    def drop(self, case: Case) -> None:
        """Keeps nothing of a case that nobody will ask about again."""
        self._known.pop(case, None)

    def compare(
        self, case: Case, metas: Sequence[TensorMeta], values: Callable[[TensorMeta], Any], candidate: str = ""
    ) -> Comparison:
        """Compares what the candidate gave for `case`.

        Args:
            metas: of its outputs in order, and of its buffers and inputs as `state:NAME` and `input:NAME`; those that
                the reference does not change are ignored.
            values: gives the tensor of a meta whose shape and dtype fit; ValueError where what arrived does not.
            candidate: under which name errors of outputs with few elements are pooled; empty = not pooled.
        """
        limited = self.compute(case).limited
        leaves = self._known[case][0]
        where = accept.Where(self.opened.description.variant.label, case.distribution, case.seed, limited)
        known = [leaf.path for leaf in leaves]
        given = {meta.path: meta for meta in metas}
        surplus = [m.path for m in metas if m.path not in known and not m.path.startswith(("state:", "input:"))]
        checks: list[Check] = []
        if surplus:
            detail = f"{surplus[0]}: the reference gives no such output; it gives {', '.join(known)}"
            checks.append(where.check("meta", False, float(len(surplus)), 0.0, detail))
        own = reference = 0.0
        for leaf in leaves:
            meta = given.get(leaf.path)
            if meta is None and leaf.path.startswith("state:"):
                detail = f"{leaf.path}: the reference changes this buffer in its call, the candidate has none like it"
                checks.append(where.check("state", False, 1.0, 0.0, detail))
                continue
            checks.append(accept.check_meta(where, leaf, meta, self.opened.device))
            if meta is None or not checks[-1].passed:
                continue
            try:
                arrived = values(meta)
            except ValueError as error:  # what an untrusted process sent does not fit what it announced
                checks.append(where.check("meta", False, 1.0, 0.0, str(error)))
                continue
            if leaf.path in self.drawn(case):
                if not self._excuses.apply(case):
                    checks += self._by_distribution(where, leaf.path, case, arrived, candidate)
                continue
            found = self.check_leaf(where, case, leaf, arrived, candidate)
            checks += found.checks
            own, reference = max(own, found.own), max(reference, found.reference)
        return Comparison(tuple(checks), own, reference)

    def check_leaf(
        self, where: accept.Where, case: Case, leaf: Leaf, values: Any, candidate: str = ""
    ) -> accept.Found:
        """The acceptance rule for one output, as the problem's policy on special values has it."""
        if self._excuses.apply(case):
            return self._excuses.check_leaf(where, case, leaf, values)
        pool = self._tallies.setdefault((candidate, case.distribution, leaf.path), accept.Tally())
        return accept.check_leaf(where, leaf, values, self.opened.precision, pool if candidate else None)

    def exact(self, case: Case) -> dict[str, Any]:
        """O alone by path, buffers as `state:NAME` and inputs as `input:NAME`; in the declared precision where an
        fp64 oracle does not fit."""
        try:
            found = self.rerun(case, double=True)
        except torch.OutOfMemoryError:
            self._release()
            return dict(self.rerun(case) + self._changed_state(self.model, everything=True))
        return dict(found + self._changed_state(self.double, everything=True))

    def drawn(self, case: Case) -> dict[str, list[Any]]:
        """Draws of each output that is random, on the inputs of `case` under different seeds; of the latest case only.

        Nothing where the problem declares no randomness.
        """
        if self.opened.random != "statistical":
            return {}
        if self._drawn[0] != case:
            found: dict[str, list[Any]] = {}
            few = min(math.prod(o.shape) for o in self.opened.description.outputs) < statistical.FEW
            for number in range(statistical.FEW_DRAWS if few else statistical.DRAWS):
                run = self.rerun(case, seed=draw.stream_seed(case.seed, f"draw/{number}"))
                for path, value in [*run, *((f"state:{n}", b) for n, b in self.model.named_buffers())]:
                    found.setdefault(path, []).append(value.detach().clone())
            self._drawn = case, {path: some for path, some in found.items() if statistical.varies(some)}
        return self._drawn[1]

    def _by_distribution(
        self, where: accept.Where, path: str, case: Case, values: Any, candidate: str
    ) -> tuple[Check, ...]:
        draws = self.drawn(case)
        checks = statistical.check_leaf(where, path, draws[path], values, len(draws))
        known = self._first.get((candidate, path))
        self._first[candidate, path] = case, values.detach().clone()
        if known is not None and known[0] == case:
            checks += statistical.check_again(where, path, known[1], values)
        return checks

    def leaves(self, case: Case) -> list[Leaf]:
        """What is known of each output of a case, in order."""
        self.compute(case)
        return self._known[case][0]

    def arguments(self, case: Case) -> list[Any]:
        """Forward's arguments, drawn afresh."""
        needs = self.opened.direction != "forward"
        return draw.draw_inputs(self.opened.description, case, self.opened.device, self.module, requires_grad=needs)

    def inputs(self, case: Case) -> Leaves:
        """The leaves of the arguments by name."""
        arguments = self.arguments(case)
        return call.named_leaves(arguments, call.forward_names(self.model, len(arguments)))

    def state(self, case: Case) -> Leaves:
        """Parameters and buffers as they are when the call of `case` begins."""
        self._restore(case)
        return self._held(self.model)

    def rerun(
        self,
        case: Case,
        arguments: Sequence[Any] | None = None,
        *,
        double: bool = False,
        mode: Any = None,
        keep_state: bool = False,
        seed: int = 0,
    ) -> Leaves:
        """Runs the reference again in the state of `case`: outputs, gradients, then all inputs as `input:NAME`.

        Args:
            arguments: in place of those of the case; in fp64 where `double` says so.
            double: in fp64 as the oracle, else in the declared precision.
            mode: a dispatch mode to run under.
            keep_state: parameters and buffers stay as they are now.
            seed: of the global generators.
        """
        if not keep_state:
            self._restore(case, double=double)
        arguments = self.arguments(case) if arguments is None else arguments
        if double and not any(t.dtype is oracle.DOUBLE for t in pytree.tree_leaves(arguments) if _floating(t)):
            arguments = oracle.double_inputs(arguments)
        cotangents = draw.draw_cotangents(case, self.opened.device)
        with mode or contextlib.nullcontext():
            if double:
                found = self._double_run(arguments, cotangents)[0]
            else:
                found = self._run(self.model, arguments, cotangents, seed)
        names = call.forward_names(self.model, len(arguments))
        held = call.named_leaves(arguments, names)
        return found + [(f"input:{n}", t.detach()) for n, t in held if isinstance(t, torch.Tensor)]

    def _forget(self) -> None:
        """Drops the oldest oracles, before the next one is made, until few bytes are kept."""
        most = KEPT_ON_DEVICE if self.opened.device.startswith("cuda") else KEPT_BYTES
        while sum(leaf.nbytes for kept, _ in self._known.values() for leaf in kept) > most:
            self._known.popitem(last=False)

    def _release(self) -> None:
        """Gives unused device memory back, but a little: the worker runs on the same device."""
        device = self.opened.device
        if not device.startswith("cuda"):
            return
        if torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) > SPARE_BYTES:
            torch.cuda.empty_cache()

    def _calibrate(self, case: Case) -> None:
        """Runs the reference on more inputs of this distribution: errors of a few elements can be 0 by luck."""
        deadline = time.monotonic() + CALIBRATION_SECONDS
        for i in range(POOL - 1):
            pools = [p for (distribution, _), p in self._pools.items() if distribution == case.distribution]
            if time.monotonic() > deadline or min(p.cases for p in pools) >= POOL:
                return
            self._both(Case(draw.stream_seed(case.seed, f"calibration/{i}"), case.distribution, case.redraw_state))

    def _condition(self, case: Case, leaves: list[Leaf]) -> None:
        """Nudges inputs and parameters where the reference's errors have a heavy tail."""
        heavy = {leaf.path: leaf for leaf in leaves if conditioning.heavy_tailed(leaf)}
        device, direction = self.opened.device, self.opened.direction
        for turn in range(conditioning.DRAWS if heavy else 0):
            unit = rounding(next(iter(heavy.values())).dtype, self.opened.precision)
            source = draw.generator(case.seed, f"nudge/{turn}", device)
            self._restore(case)
            arguments = draw.draw_inputs(
                self.opened.description, case, device, self.module, requires_grad=direction != "forward"
            )
            try:
                moved = self._nudged(arguments, draw.draw_cotangents(case, device), unit, source)
            except torch.OutOfMemoryError:
                return  # the rule stays as tight as it is without
            for path, value in moved:
                if path in heavy:
                    leaf = heavy[path]
                    leaf.sensitivity = max(leaf.sensitivity, conditioning.largest_move(leaf, value))

    def _nudged(self, arguments: Sequence[Any], cotangents: call.Cotangents, unit: float, source: Any) -> Leaves:
        flat, tree = pytree.tree_flatten(oracle.double_inputs(arguments))
        moved = conditioning.nudge(flat, unit, source)
        for old, new in zip(flat, moved, strict=True):
            if isinstance(old, torch.Tensor) and old.requires_grad:
                new.requires_grad_()
        with torch.no_grad():
            held = list(self.double.parameters())
            for parameter, value in zip(held, conditioning.nudge(held, unit, source), strict=True):
                parameter.copy_(value)
        return self._double_run(list(pytree.tree_unflatten(moved, tree)), cotangents)[0]

    def _both(self, case: Case) -> tuple[list[Leaf], list[str], str]:
        self._restore(case)
        device, direction = self.opened.device, self.opened.direction
        needs = direction != "forward"
        arguments = draw.draw_inputs(self.opened.description, case, device, self.module, requires_grad=needs)
        cotangents = draw.draw_cotangents(case, device)
        limited, exact, trace = "", None, oracle.Trace()
        absolute: dict[str, Any] = {}
        try:
            exact, trace, absolute = self._exact(arguments, cotangents)
        except torch.OutOfMemoryError:
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
            limited = "the fp64 oracle does not fit in device memory; compared with the reference instead"
        if trace.lowered:
            limited = f"these ops refuse float64 and ran in the declared precision: {', '.join(sorted(trace.lowered))}"
        names = call.forward_names(self.model, len(arguments))
        watched = [(n, t, t._version) for n, t in call.named_leaves(arguments, names) if isinstance(t, torch.Tensor)]
        honest = self._run(self.model, arguments, cotangents)
        changed = [n for n, t, version in watched if t._version != version]
        honest += self._changed_state(self.model)
        honest += [(f"input:{n}", t.detach()) for n, t, _ in watched if n in changed]
        wanted = dict(exact if exact is not None else honest)
        leaves = []
        for path, value in honest:
            if path not in wanted:
                raise ProblemError(f"{load.problem_name(self.module)}: {path} is missing in the fp64 run")
            pool = self._pools.setdefault((case.distribution, path), Pool())
            pick = None if value.is_floating_point() else oracle.find_pick(trace, wanted[path])
            leaves.append(
                make_leaf(
                    path,
                    wanted[path],
                    value,
                    self.opened.precision,
                    absolute=absolute.get(path),
                    reduction=trace.reduction,
                    pick=pick,
                    pool=pool,
                )
            )
        if case.distribution in draw.INTEGERS and not limited and oracle.only_sums(trace):
            for leaf in leaves:
                leaf.exact = exactly(leaf, self.opened.precision)
        return leaves, changed, limited

    def _exact(
        self, arguments: Sequence[Any], cotangents: call.Cotangents
    ) -> tuple[Leaves, oracle.Trace, dict[str, Any]]:
        doubled = oracle.double_inputs(arguments)
        exact, trace = self._double_run(doubled, cotangents)
        exact += self._changed_state(self.double, everything=True)
        held = call.named_leaves(doubled, call.forward_names(self.model, len(doubled)))
        exact += [(f"input:{n}", t.detach()) for n, t in held if isinstance(t, torch.Tensor)]
        absolute: dict[str, Any] = {}
        size = sum(t.numel() for _, t in exact)
        if self.opened.direction == "forward" and oracle.absolute_defined(trace) and size <= ABSOLUTE_ELEMENTS:
            doubled = [d.abs() if isinstance(d, torch.Tensor) and d.is_floating_point() else d for d in doubled]
            with torch.no_grad():
                for parameter in self.double.parameters():
                    parameter.abs_()
            with oracle.Absolute():
                absolute = dict(self._run(self.double, doubled, cotangents))
        return exact, trace, absolute

    def _double_run(self, doubled: Sequence[Any], cotangents: call.Cotangents) -> tuple[Leaves, oracle.Trace]:
        mode = oracle.Upcast()
        dtypes = {o.path: dtype_of(o.dtype) for o in self.opened.description.outputs}
        with mode:
            found = self._run(
                self.double, doubled, lambda path, leaf: cotangents(path, leaf.to(dtypes[path])).to(oracle.DOUBLE)
            )
        return found, mode.trace

    def _run(self, model: Any, arguments: Sequence[Any], cotangents: call.Cotangents, seed: int = 0) -> Leaves:
        variant = self.opened.description.variant
        with load.blamed(self.module.__file__ or "", variant.label, "forward"), load.seeded(seed):
            return call.run(model, arguments, self.opened.direction, cotangents)

    def _restore(self, case: Case, *, double: bool = True) -> None:
        """Gives the models the state of `case`, as the worker does with the candidate's.

        Args:
            double: the oracle's, too.
        """
        key = draw.state_key(case)
        with torch.no_grad():
            if key != self._state[0]:
                self._give(self.model, self._built)
                draw.apply_state(self.model, draw.draw_state(self.opened.description.state, case, self.opened.device))
                self._state = key, {n: t.detach().clone() for n, t in self._held(self.model)} if key else self._built
            self._give(self.model, self._state[1])
            if double:
                self._give(self.double, self._state[1])
        self._start = {n: b.detach().clone() for n, b in self.model.named_buffers()}
        for module, plain in self._plain:
            for name, value in plain.items():
                setattr(module, name, value.clone())

    def _give(self, model: Any, state: Mapping[str, Any]) -> None:
        for name, tensor in self._held(model):
            tensor.copy_(state[name])

    def _changed_state(self, model: Any, *, everything: bool = False) -> Leaves:
        return [
            (f"state:{n}", t.detach().clone())
            for n, t in model.named_buffers()
            if everything or not torch.equal(t, self._start[n])
        ]


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def _plain(module: Any) -> Leaves:
    return [(n, v) for n, v in vars(module).items() if isinstance(v, torch.Tensor)]
