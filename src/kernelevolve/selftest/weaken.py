"""A harness in which some guards are left out on purpose, so that it is seen what each of them stops.

In: names. Out: a Lane without them; roles, devices and problems that do without what no field of a Lane switches off.
Left to others: who is judged so (`matrix`, `selftest --weaken`). Nothing in the harness itself knows that it can be
weakened: what is changed here is what it is built from, for one climb.

| left out | how |
| --- | --- |
| a structure test, `timed-outputs`, `clock`, `floor`, `plan-lane`, a distribution | the lane does not name it |
| `hidden-shapes` | the lane draws no hidden sizes |
| `census` | the problem allows library calls |
| `checksums` | what the worker sends back of inputs and weights is thrown away |
| `first-call` | the first call of each process is made and compared with nothing |
| `frames` | a verdict that stands in an answer is believed |
| `fresh-inputs` | every timed call gets the same inputs |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from kernelevolve.candidate import Choice
from kernelevolve.errors import UnknownName
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import Failed
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.roles import Conversation, Refusal, Role, RoleName, Roles
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.session import Measured
from kernelevolve.evaluation import Verdict
from kernelevolve.seal.limits import Limits
from kernelevolve.settings import LANES, Lane
from kernelevolve.wire import Attachment, Message

HIDDEN = "hidden-shapes"
BUILD = "build"  # no guard: whether launches are compiled, which decides no verdict on a cheat of another kind
_IN_ANSWERS = frozenset(("checksums", "first-call", "frames", BUILD))
_TIMED_CALL = re.compile(r"time/.*/\d+/\d+")  # the label of one call's inputs, see `arms.turns_of`
_MEANT = {v.value for v in Verdict if v.ok}


def guards() -> tuple[str, ...]:
    """Every guard that some lane has; those that look at the sizes come last."""
    names = dict.fromkeys(name for lane in LANES.values() for name in (*lane.structure, *lane.defences))
    return (*names, HIDDEN)


def distributions() -> tuple[str, ...]:
    """Every distribution that some lane has."""
    return tuple(dict.fromkeys(name for lane in LANES.values() for name in lane.distributions))


def without(lane: Lane, names: Collection[str]) -> Lane:
    """The lane with these guards and distributions left out.

    Raises:
        UnknownName: no lane has one of them.
    """
    known = {*guards(), *distributions()}
    for name in names:
        if name not in known:
            raise UnknownName("guard or distribution", name, tuple(sorted(known)))
    return replace(
        lane,
        structure=tuple(n for n in lane.structure if n not in names),
        defences=tuple(n for n in lane.defences if n not in names),
        distributions=tuple(n for n in lane.distributions if n not in names),
        hidden=0 if HIDDEN in names else lane.hidden,
    )


@contextmanager
def weakened(bench: Bench, names: Collection[str]) -> Iterator[None]:
    """The bench does without these guards for as long as this lasts; what a Lane says is not changed here.

    Args:
        names: of guards, and `BUILD` to record launches without compiling them.
    """
    problem, roles = bench.problem, bench.roles
    if "census" in names:
        bench.problem = replace(problem, library_calls="allowed")
    if some := frozenset(names) & _IN_ANSWERS:
        bench.roles = cast(Roles, _Roles(roles, some))
    try:
        yield
    finally:
        bench.problem, bench.roles = problem, roles


class Weakened(Device):
    """A device on which, where `fresh-inputs` is left out, every timed call gets the same inputs.

    Attributes:
        weakened: names of what is left out.
    """

    weakened: frozenset[str] = frozenset()

    def time(
        self,
        bench: Bench,
        workload: str,
        source: str,
        choice: Mapping[str, Choice],
        *,
        seeds: Seeds | None = None,
        **more: Any,
    ) -> Measured:
        """See `Device.time`."""
        if "fresh-inputs" in self.weakened:
            seeds = _Repeated(None if seeds is None else seeds.secret)
        return super().time(bench, workload, source, choice, seeds=seeds, **more)


class _Repeated(Seeds):
    """Gives all timed calls the same seed."""

    def seed(self, label: str) -> int:
        return super().seed("time/the same for all" if _TIMED_CALL.fullmatch(label) else label)


class _Conversation(Conversation):
    """A conversation whose answers are read without some guards."""

    def __init__(self, inner: Conversation, names: frozenset[str]) -> None:
        super().__init__(inner.role, inner.pid, inner.channel, inner.isolation)
        self._inner, self._names, self._called = inner, names, False

    def ask(
        self, kind: str, body: Any = None, attachments: Mapping[str, Attachment] | None = None, *, seconds: float
    ) -> Message:
        if kind == "call" and not self._called and "first-call" in self._names:
            self._inner.ask(kind, body, attachments, seconds=seconds).close()
        self._called = self._called or kind == "call"
        if kind == "plan" and BUILD in self._names:
            body = {**body, "build": False}
        try:
            answer = self._inner.ask(kind, body, attachments, seconds=seconds)
        except Refusal as refusal:
            if "frames" in self._names and refusal.verdict in _MEANT:
                raise Failed(Verdict(refusal.verdict), refusal.message) from refusal
            raise
        if kind == "call" and "checksums" in self._names:
            return replace(answer, body={**answer.body, **_unseen(answer.body)})
        return answer

    def end(self, *, grace: float = 0.0) -> Mapping[str, Any]:
        return self._inner.end(grace=grace)

    def abort(self, reason: str = "") -> None:
        self._inner.abort(reason)


def _unseen(body: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing of inputs and weights; guard bands stay."""
    back: Sequence[Mapping[str, Any]] = body.get("back") or ()
    return {"changed": [], "back": [meta for meta in back if str(meta["path"]).startswith("band:")]}


class _Role:
    """A role whose children's answers are read without some guards."""

    def __init__(self, role: Role, names: frozenset[str]) -> None:
        self._role, self._names = role, names

    def open(self, limits: Limits | None = None, scratch: Path | None = None) -> Conversation:
        return _Conversation(self._role.open(limits, scratch), self._names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._role, name)


class _Roles:
    """Roles of which those that hold a candidate are weakened."""

    def __init__(self, roles: Roles, names: frozenset[str]) -> None:
        self._roles, self._names = roles, names

    def __getitem__(self, name: RoleName) -> Role:
        role = self._roles[name]
        return cast(Role, _Role(role, self._names)) if name in ("worker", "builder") else role

    def __getattr__(self, name: str) -> Any:
        return getattr(self._roles, name)
