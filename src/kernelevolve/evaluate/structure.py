"""Structure tests: not whether one result is right, but whether each is computed from the inputs of its call.

In: a Talk whose cases were all right, a lane, the secret. Out: for each guard of `STRUCTURE` that the lane names what
it saw; `Failed` with the guard's name at the first thing against the candidate. Left to others: the calls themselves
and their comparison (`talk`), sizes that no file names (`hidden`), timed calls (`session`).

All calls go on in the worker that made the regular ones, through the same function, so that a candidate cannot tell
which call is looked at how. They share work: a call whose results are held, between guard bands, in poisoned memory and
on inputs that were overwritten serves four guards.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from kernelevolve import codec
from kernelevolve.evaluate.asking import Failed, generalization, refuses
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.size_ladder import climb_sizes
from kernelevolve.evaluate.talk import SINGLE, Talk
from kernelevolve.evaluation import Check, Verdict
from kernelevolve.problem import Determinism
from kernelevolve.protocol import Case, InputSpec, Patch, Placement
from kernelevolve.settings import Lane
from kernelevolve.wire import Message

WARM_CALLS = 5  # a cache that only trusts what it has seen several times is full by then
ROWS = 3  # that change alone, one at a time: a result kept by a window of the input is stale outside it
HELD_CALLS = 3
REPEATS, MANY_REPEATS = 10, 200
REPEAT_SECONDS = 60.0  # of the many: under the interpreter fewer may fit
SPREAD = 0.25  # of what the rms rule allows: what atomics in another order may change
POWERS = (-6, -2, 3, 6)
LAYOUTS: tuple[Literal["transposed", "offset", "shifted"], ...] = ("transposed", "offset", "shifted")
# What is no business of others: it is recorded, and the harness does not depend on it.
_OWN = ("default dtype", "default device", "grad mode", "inference mode", "intra-op threads",
        "deterministic algorithms", "float32 matmul precision", "allow_tf32", "reduced precision", "random state",
        "default stream")  # fmt: skip


class NotRun(Exception):
    """A guard does not apply here, for this reason."""


class Report(Protocol):
    """Takes what a guard found, as `Climb.guard` does."""

    def __call__(self, name: str, held: Literal["held", "failed", "not run"], detail: str = "") -> None:
        """Notes it."""
        ...


@dataclass
class Look:
    """What the guards of one candidate at one size share.

    Attributes:
        before: the process's state after the regular calls.
        held: cases whose results the worker holds, in order.
        labels: facts that describe the candidate.
        spread: largest difference of two results on the same inputs, as part of what the rms rule allows.
    """

    talk: Talk
    lane: Lane
    seeds: Seeds
    before: Mapping[str, Any] = field(default_factory=dict)
    held: list[Case] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    kept: Case | None = None
    spread: float = 0.0
    calls: int = 0

    def on(self, name: str) -> bool:
        """Whether the lane has this guard."""
        return name in self.lane.structure

    def case(self, label: str) -> Case:
        """New inputs of a distribution that is known to say something here."""
        return self.seeds.case(f"structure/{label}", self.talk.right[0].distribution)

    def inputs(self) -> list[InputSpec]:
        """The tensors among the inputs that may be drawn anew by themselves."""
        described = self.talk.trial.description.inputs
        return [s for s in described if s.dtype and s.kind in ("values", "index") and 0 not in s.shape]

    def call(self, guard: str, case: Case, slot: Literal["fresh", "kept", "same"] = "same", **more: Any) -> None:
        """One call in the name of a guard; every other call finds numbers in place of NaN in unused memory."""
        self.calls += 1
        poison, banded = self.on("poison"), self.on("guard-bands")
        fill = self.seeds.seed(f"structure/fill/{self.calls}") if poison and self.calls % 2 else None
        # The bands belong to the kept tensors: as long as these stay, so does the pattern.
        bands = self.seeds.seed("structure/bands") if banded else None
        hold = self.on("hold") and len(self.held) < HELD_CALLS and not more and not self.shares()
        how = Placement(slot=slot, bands=bands, fill=fill, hold=hold, back=banded or self.calls % 2 == 0)
        usable = self.talk.check(case, replace(how, **more), guard=guard)
        if usable and hold:
            self.held.append(case)
        if usable and slot == "kept":
            self.kept = case

    def shares(self) -> bool:
        """Whether results lie in the inputs' memory, as the reference's do or the problem allows."""
        return bool(self.talk.bench.problem.aliases or any(o.shares for o in self.talk.trial.description.outputs))

    def keep(self, guard: str) -> Case:
        """Inputs in memory that stays; made by the first guard that needs them."""
        if self.kept is None:
            self.call(guard, self.case("kept"), "kept")
        if self.kept is None:
            raise NotRun("no inputs of this kind say anything")
        return self.kept

    def result(self, case: Case, question: Mapping[str, Any], how: Placement) -> Mapping[str, Any]:
        """The judge's answer to `results` about one more call on `case`."""
        called = self.talk.called(case, self.talk.expect(case), how, True)
        return self._asked(case, question, called)

    def _asked(self, case: Case, question: Mapping[str, Any], called: Message) -> Mapping[str, Any]:
        try:
            handles = called.body.get("handles") or {}
            body = {"case": codec.to_data(case), "metas": called.body["metas"], "handles": handles, **question}
            return self.talk.judge("results", body, called)
        finally:
            called.close()


def _first_call(look: Look) -> str:
    return f"the first call of a fresh process was compared (inputs {look.talk.tried[0].distribution})"


def _poison(look: Look) -> str:
    look.keep("poison")
    return "unused memory held NaN and, in half of the calls, numbers like results"


def _overwrite(look: Look) -> str:
    kept = look.keep("overwrite")
    for _ in range(max(0, WARM_CALLS - len(look.talk.right))):
        look.call("overwrite", kept)
    other = look.case("overwritten")
    look.call("overwrite", other)
    movable = [s for s in look.inputs() if s.kind == "values"]
    rows = range(ROWS if movable else 0)
    for row in rows:
        chosen = look.seeds.stream(f"structure/row/{row}").choice(movable)
        seed = look.seeds.seed(f"structure/row/{row}")
        look.call("overwrite", replace(other, patches=(Patch(chosen.name, "row", seed),)))
    return f"new bytes under the same addresses were read, also {len(rows)} rows alone"


def _single_input(look: Look) -> str:
    names = [s.name for s in look.inputs()]
    if len(names) < 2:
        raise NotRun("there is one input: `overwrite` changes it alone")
    base = look.keep("single-input")
    for name in names[:SINGLE]:
        look.call("single-input", base)  # alone also against the call before, which is all that some remember
        patch = Patch(name, "redrawn", look.seeds.seed(f"structure/single/{name}"))
        look.call("single-input", replace(base, patches=(patch,)))
    return f"{min(len(names), SINGLE)} inputs changed one at a time under their addresses"


def _weights(look: Look) -> str:
    if look.talk.bench.problem.weights == "static":
        raise NotRun("the problem's weights are static")
    if all(s.redraw == "keep" for s in look.talk.trial.description.state):
        raise NotRun("there are no weights that may change")
    base = look.keep("weights")
    look.call("weights", base)
    look.call("weights", replace(base, state=look.seeds.seed("structure/weights")))
    return "weights changed in place under the same inputs were read"


def _hold(look: Look) -> str:
    if look.shares():
        raise NotRun("results share the memory of inputs, which change")
    for number in itertools.count():
        if len(look.held) >= HELD_CALLS or number == HELD_CALLS:
            break
        look.call("hold", look.case(f"held/{number}"), "fresh")
    for index, case in enumerate(look.held):
        again = look.talk.ask("again", {"index": index})
        try:
            body = {"case": codec.to_data(case), "metas": again.body["metas"]}
            found = [codec.from_data(Check, c) for c in look.talk.judge("compare", body, again)["checks"]]
        finally:
            again.close()
        given = [m["path"] for m in again.body["metas"]]
        wrong = next((c for c in found if not c.passed and c.detail.split(": ")[0] in given), None)
        if wrong is not None:
            raise Failed(
                Verdict.REPLAY,
                f"a result that was right when it was returned is another one {len(look.held) - index - 1} calls "
                f"later: its memory was written again ({wrong.detail})",
                artefact={"guard": "hold", "statistic": wrong.name, "value": wrong.value, "limit": wrong.limit},
            )
    return f"{len(look.held)} results stayed what they were"


def _guard_bands(look: Look) -> str:
    look.keep("guard-bands")
    return f"bytes before and after the inputs were left alone in {look.calls} calls"


def _determinism(look: Look) -> str:
    """Ten calls; where bits may differ by the problem's policy and do, as many as show whether a race hides in it."""
    base, policy = look.keep("determinism"), look.talk.bench.problem.determinism
    look.result(base, {"keep": True}, Placement(slot="same"))
    made, wanted, begun = 1, MANY_REPEATS if look.lane.name == "publish" else REPEATS, time.monotonic()
    while made < wanted and (made < REPEATS or time.monotonic() - begun < REPEAT_SECONDS):
        _repeat(look, base, made, policy)
        made += 1
        if look.spread:
            wanted = MANY_REPEATS
    if look.spread:
        look.labels.append(f"not bitwise repeatable: differs by {look.spread:.2g} of the rms limit")
        return f"{made} calls differ by at most {look.spread:.2g} of the rms limit"
    return f"{made} calls gave the same bits"


def _repeat(look: Look, base: Case, number: int, policy: Determinism) -> None:
    """One more call, held against the first."""
    fill = look.seeds.seed(f"structure/repeat/{number}") if number % 2 and look.on("poison") else None
    answer = look.result(base, {"power": 0}, Placement(slot="same", fill=fill))
    found = {str(path): float(part) for path, part in answer["difference"].items()}
    look.spread = max([look.spread, *found.values()])
    allowed = SPREAD if policy == "rounding" else 0.0
    if look.spread <= allowed:
        return
    worst = max(found, key=found.__getitem__)
    message = (
        f"{worst} differs between two calls on the same inputs by {look.spread:.3g} of what the rms rule allows, "
        f"{SPREAD:g} may come from another order of summation"
    )
    if look.spread <= SPREAD:
        message = (
            f"{worst} differs between two calls on the same inputs, by {look.spread:.3g} of what the rms rule allows; "
            'the problem asks for the same bits: add up in a fixed order, or declare determinism = "rounding"'
        )
    artefact = {"guard": "determinism", "statistic": "spread", "value": look.spread, "limit": allowed}
    raise Failed(Verdict.NONDETERMINISTIC, message, artefact=artefact)


def _layouts(look: Look) -> str:
    base = look.case("layouts")
    moved = [s for s in look.inputs() if s.kind == "values" and s.shape]
    deep = [s.name for s in moved if len(s.shape) > 1]
    tries: list[tuple[str, Case, Placement]] = []
    for layout in LAYOUTS:
        names = deep if layout == "transposed" else [s.name for s in moved]
        if names:
            tries.append((layout, base, Placement(layouts=dict.fromkeys(names, layout))))
    if deep:
        tries.append(("expanded", replace(base, patches=tuple(Patch(n, "expanded") for n in deep)), Placement()))
    if not tries:
        raise NotRun("no input has another layout")
    refused, right = [], []
    for name, case, how in tries:
        try:
            look.talk.check(case, how, guard="layouts", ops=False)
            right.append(name)
        except Failed as failed:
            refusable = look.talk.bench.problem.layouts == "declared"
            if refusable and refuses(failed):
                refused.append(name)
            else:
                raise generalization(failed, f"inputs that are {name}", refusable=refusable) from failed
    if refused:
        look.labels.append(f"layouts: refuses {', '.join(refused)} inputs")
    return f"right for {', '.join(right) or 'none'}; refused with a reason: {', '.join(refused) or 'none'}"


def _scaling(look: Look) -> str:
    base = look.case("scaled")
    if look.spread:
        raise NotRun("results are not bitwise repeatable")
    names = [str(n) for n in look.talk.judge("linear", {"case": codec.to_data(base)})["inputs"]]
    if not names:
        raise NotRun("the reference is linear in no single input, to the last bit")
    look.talk.check(base, guard="scaling")
    look.result(base, {"keep": True}, Placement())
    for name in names[:SINGLE]:
        for power in POWERS:
            case = replace(base, patches=(Patch(name, "scaled", power),))
            look.talk.check(case, guard="scaling")
            found = look.result(case, {"power": power}, Placement())["difference"]
            if any(found.values()):
                worst = max(found, key=found.__getitem__)
                raise Failed(
                    Verdict.WRONG_VALUE,
                    f"{worst} is not scaled bit by bit when input {name!r} is multiplied by 2^{power}, as the "
                    "reference's is: its arithmetic depends on the size of the values",
                    artefact={"guard": "scaling", "statistic": "spread", "value": float(found[worst]), "limit": 0.0},
                )
    return f"powers of two went through bit by bit for {', '.join(names)}"


def _cotangents(look: Look) -> str:
    if look.talk.trial.description.outputs and look.talk.bench.problem.direction == "forward":
        raise NotRun("the problem asks for no gradients")
    for layout in ("plain", "strided", "expanded"):
        look.talk.check(replace(look.case(f"cotangents/{layout}"), cotangents=layout), guard="cotangents")
    return "gradients from plain, strided and expanded cotangents"


def _opcheck(look: Look) -> str:
    answer = look.talk.ask("opcheck", {"case": codec.to_data(look.case("opcheck"))})
    found = {str(op): str(problem) for op, problem in answer.body["ops"].items()}
    answer.close()
    if not found:
        raise NotRun("the candidate registers no operator")
    for op, problem in found.items():
        if problem:
            raise Failed(
                Verdict.WRONG_META,
                f"torch.library.opcheck of {op}: {problem}",
                artefact={"guard": "opcheck", "statistic": "opcheck"},
            )
    return f"torch.library.opcheck passes {', '.join(found)}"


def _size_ladder(look: Look) -> str:
    found = climb_sizes(look.talk.bench, look.talk.trial, look.seeds, look.lane, look.case("size-ladder").distribution)
    look.labels += found.labels
    if found.not_run:
        raise NotRun(found.not_run)
    return found.detail


def _state(look: Look) -> str:
    answer = look.talk.ask("process", {}).body
    first, now = dict(answer["before"]), dict(answer["now"])
    before = look.before or first
    started = int(now.get("children", 0)) - int(before.get("children", 0))
    if started > 0:
        raise Failed(
            Verdict.TAMPER,
            f"{started} process{'es' * (started > 1)} that forward started did not end with the call",
            artefact={"guard": "state", "statistic": "children", "value": float(started)},
        )
    if now.get("random state") == "set":
        raise Failed(
            Verdict.TAMPER,
            "forward puts PyTorch's global generator into a state of its own, whatever it was before: what is drawn "
            "after it repeats; a forward needs no seed",
            artefact={"guard": "state", "statistic": "random state"},
        )
    changed = [f"{name}: {first[name]} -> {now[name]}" for name in _OWN if name in now and first.get(name) != now[name]]
    names = [c.partition(":")[0] for c in changed]
    if names:
        look.labels.append(f"changes its process: {', '.join(names)}")
    counts = ", ".join(f"{now[n]} {n}" for n in ("threads", "open files", "children") if n in now)
    return f"{'; '.join(changed) or 'nothing changed'} ({counts})"


# In this order: the kept inputs are made by the first guard that needs them, what came of it is looked at last.
STRUCTURE: Mapping[str, Callable[[Look], str]] = {
    "first-call": _first_call,
    "poison": _poison,
    "overwrite": _overwrite,
    "single-input": _single_input,
    "weights": _weights,
    "determinism": _determinism,
    "hold": _hold,
    "guard-bands": _guard_bands,
    "layouts": _layouts,
    "scaling": _scaling,
    "cotangents": _cotangents,
    "opcheck": _opcheck,
    "size-ladder": _size_ladder,
    "state": _state,
}

RANDOM_TOO = ("first-call", "opcheck", "state")  # need no result that repeats


def examine(talk: Talk, lane: Lane, seeds: Seeds, report: Report) -> list[str]:
    """Runs the lane's guards on a candidate whose regular cases were all right; labels that describe it.

    Raises:
        Failed: at the first guard that does not hold; its artefact has the guard's name.
    """
    look = Look(talk, lane, seeds)
    if look.on("state"):
        look.before = dict(talk.ask("process", {}).body["now"])
    for name, guard in STRUCTURE.items():
        if not look.on(name):
            continue
        talk.bench.go_on()
        try:
            if talk.random and name not in RANDOM_TOO:
                raise NotRun("outputs are random: no call can be compared with another")
            report(name, "held", guard(look))
        except NotRun as reason:
            report(name, "not run", str(reason))
        except Failed as failed:
            failed.knowing(guard=name)
            raise
    if "checksums" in lane.defences and talk.looked:
        report("checksums", "held", f"inputs and weights of {talk.looked} calls are as the judge draws them")
    return look.labels
