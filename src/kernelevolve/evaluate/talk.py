"""One worker with a candidate and the judge beside it: each call is made, looked at and compared.

In: a Trial, Cases, where the inputs lie (`Placement`). Out: what was compared; `Failed` where something is wrong, with
the verdict that explains it best. Left to others: which calls are made (`correct`, `structure`), drawing (`tensors`).

A wrong answer is looked at twice. If the same result is right a moment later, it was still being written when the call
returned (`DEFERRED`). If it is the right answer to an earlier call, or would be with one input or the weights of an
earlier call, it was remembered (`REPLAY`). Both are shown by values alone; else the answer is wrong (`WRONG_VALUE`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kernelevolve import codec
from kernelevolve.errors import SeatLost
from kernelevolve.evaluate.asking import Failed, Trial, candidate_asks
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.roles import Conversation, Refusal
from kernelevolve.evaluate.seat import Stay, Undisturbed
from kernelevolve.evaluation import Check, Verdict
from kernelevolve.protocol import Case, Description, Patch, Placement
from kernelevolve.wire import Message

LATER_SECONDS = 0.05
EARLIER, SINGLE = 2, 8  # calls that are looked back at; inputs of which each may be the only stale one
_LOOKED_AT = 0.5  # share of the calls whose inputs the judge looks at afterwards
_ROOMY_BYTES = 8 << 30
_luck = random.SystemRandom()


class Talk:
    """A conversation with one worker.

    Attributes:
        checks: every comparison, in order.
        tried: the case of every call, in order; `right` those that passed, whose outputs the candidate may remember.
        errors: largest relative rms error of the candidate and of the reference.
        looked: calls whose inputs and weights the judge compared with its own afterwards.
        seconds: how long the worker says that each call took.

    Args:
        stay: lets others by before each question.
    """

    def __init__(self, bench: Bench, trial: Trial, worker: Conversation, stay: Stay | None = None) -> None:
        self.bench, self.trial, self.worker, self._stay = bench, trial, worker, stay or Undisturbed()
        self.checks: list[Check] = []
        self.tried: list[Case] = []
        self.right: list[Case] = []
        self.errors = (0.0, 0.0)
        self.not_seen: tuple[str, ...] = ()
        self.unusable: list[str] = []
        self.limited: dict[str, None] = {}
        self.looked = 0
        self.seconds: list[float] = []
        # The judge draws the inputs a second time, on the same device.
        self._roomy = trial.device == "cpu" or most_bytes(trial.description) <= _ROOMY_BYTES

    @property
    def random(self) -> bool:
        """Whether outputs are random and compared by their distribution: no call can be compared with another."""
        return self.bench.problem.random == "statistical"

    def load(self) -> None:
        """Has the candidate imported and constructed."""
        trial = self.trial
        opened = self.bench.opened(
            trial.description, trial.device, candidate=trial.source, choice=trial.choice, queues=trial.queues
        )
        body = {"opened": codec.to_data(opened), "answers": dict(self.trial.answers)}
        self.ask("load", body, seconds=self.trial.bounds.load_seconds)

    def ask(self, kind: str, body: Mapping[str, Any], *, seconds: float | None = None) -> Message:
        """The worker's answer; see `candidate_asks`."""
        self._stay.give_way()
        answer: Message = candidate_asks(
            self.worker, kind, body, seconds=seconds if seconds is not None else self.trial.bounds.call_seconds
        )
        return answer

    def judge(self, kind: str, body: Mapping[str, Any], given: Message | None = None) -> Mapping[str, Any]:
        """The judge's answer about this size; `given` is the worker's message that holds what it is about."""
        with self._stay.holding(self.bench.lock):
            judge = self.bench.oracle(self.trial.description, self.trial.device)
            return self.bench.judged(judge, kind, body, given.attachments if given is not None else None).body

    def expect(self, case: Case) -> Mapping[str, Any]:
        """What must come out for a case, and whether passing would mean anything."""
        return self.bench.expected(
            self.trial.description,
            self.trial.device,
            case,
            lambda: self.judge("case", {"case": codec.to_data(case)}),
        )

    def check(self, case: Case, how: Placement | None = None, *, guard: str = "", ops: bool = True) -> bool:
        """Makes one call and compares everything about it; false where the case says nothing.

        Args:
            how: where the inputs lie; default: fresh tensors.
            guard: in whose name.
            ops: whether the ops that forward runs count; a copy of an input in an odd layout does not.

        Raises:
            Failed: with what replays it.
        """
        self.bench.go_on()
        self.tried.append(case)
        computed = self.expect(case)
        if computed["limited"]:
            self.limited[str(computed["limited"])] = None
        if not computed["usable"] and not self.bench.anyway:
            self.unusable.append(f"{case.distribution}: {computed['reason']}")
            return False
        how = how or Placement(back=self._roomy and (not self.right or _luck.random() < _LOOKED_AT))
        try:
            wrong = self._compared(case, computed, how, self.called(case, computed, how, ops))
            if wrong is None and self.random and not self.right:
                # The same inputs under another seed: the judge sees whether anything was drawn anew.
                wrong = self._compared(case, computed, how, self.called(case, computed, how, ops))
            if wrong is not None:
                raise self._why(case, wrong)
        except Failed as failed:
            if guard:
                failed.knowing(guard=guard, how=codec.to_data(how))
            raise
        self.right.append(case)
        return True

    def called(self, case: Case, computed: Mapping[str, Any], how: Placement, ops: bool) -> Message:
        """One call, with what it may not do refused; the caller compares the values and closes the message."""
        question = {
            "case": codec.to_data(case),
            "ipc": self.trial.device != "cpu" and self.bench.shares_memory,
            "state": [p for p in computed["outputs"] if p.startswith(("state:", "input:"))],
            "how": codec.to_data(how),
        }
        called = self.ask("call", question)
        self.seconds.append(float(called.body.get("seconds", 0.0)))
        self.not_seen = tuple(called.body.get("interpreted", {}).get("not_seen", self.not_seen))
        try:
            if ops:
                _refuse_ops(self.bench, called)
            _refuse_changes(self.bench, called, computed["changed_inputs"])
        except Failed:
            called.close()
            raise
        return called

    def _compared(self, case: Case, computed: Mapping[str, Any], how: Placement, called: Message) -> Check | None:
        """The first comparison that fails; closes the message."""
        body = {"case": codec.to_data(case), "metas": called.body["metas"], "candidate": self.trial.key}
        claimed = called
        try:
            if called.body.get("handles"):
                answer = self._in_place(body, called)
                if answer is None:
                    # Device memory cannot be shared between these processes: send the bytes, here and from now on.
                    self.bench.shares_memory = False
                    called.close()
                    called = self.ask("fetch", {})
            else:
                answer = None
            self._refuse_moved(case, computed, how, called)
            _refuse_aliases(self.bench, self.trial.description, claimed)
            compared = answer if answer is not None else self.judge("compare", body, called)
        finally:
            called.close()
        found = [codec.from_data(Check, c) for c in compared["checks"]]
        self.checks += found
        own, reference = float(compared.get("own_error", 0.0)), float(compared.get("reference_error", 0.0))
        self.errors = max(self.errors[0], own), max(self.errors[1], reference)
        return next((c for c in found if not c.passed), None)

    def _in_place(self, body: Mapping[str, Any], called: Message) -> Mapping[str, Any] | None:
        """The judge compares in the worker's device memory; None where the two cannot share any."""
        with self._stay.holding(self.bench.lock):
            judge = self.bench.oracle(self.trial.description, self.trial.device)
            asked = {**body, "handles": called.body["handles"]}
            try:
                return judge.ask("compare", asked, seconds=self.trial.bounds.call_seconds).body
            except Refusal as refusal:
                if "CUDA IPC" not in refusal.message:
                    raise SeatLost(f"while asked to compare: {refusal}") from refusal
                return None

    def _refuse_moved(self, case: Case, computed: Mapping[str, Any], how: Placement, called: Message) -> None:
        """Inputs, weights and guard bands after the call, as the judge draws them itself."""
        back = called.body.get("back")
        if not back:
            return
        allowed = [*self.bench.problem.mutates, *computed["changed_inputs"]]
        allowed += [p.removeprefix("state:") for p in computed["outputs"] if p.startswith("state:")]
        question = {
            "case": codec.to_data(case),
            "metas": back,
            "bands": how.bands,
            "allowed": allowed,
            "handles": called.body.get("handles") or {},
        }
        found = self.judge("changed", question, called)
        self.looked += 1
        if found["bands"]:
            raise Failed(
                Verdict.MEM_RACE,
                f"memory {found['bands'][0]} was written: a store lies outside of the tensor",
                artefact={"guard": "guard-bands"},
            )
        if found["inputs"]:
            raise Failed(
                Verdict.MUTATED_INPUT,
                f"input or parameter {found['inputs'][0]!r} was changed by the call",
                artefact={"guard": "checksums"},
            )

    def _why(self, case: Case, wrong: Check) -> Failed:
        """The verdict that explains a wrong answer best."""
        artefact = {"statistic": wrong.name, "value": wrong.value, "limit": wrong.limit}
        if wrong.name.startswith("meta"):
            return Failed(Verdict.WRONG_META, sentence(wrong), artefact=artefact)
        if self.random or wrong.detail.startswith(("state:", "input:")):
            # Only outputs are read again: right ones say nothing of a buffer that was not updated.
            return Failed(Verdict.WRONG_VALUE, sentence(wrong), artefact=artefact)
        later = self.ask("later", {"seconds": LATER_SECONDS})
        try:
            body = {"cases": [codec.to_data(case)], "metas": later.body["metas"]}
            if self.judge("explain", body, later)["index"] == 0:
                message = (
                    f"what the call returned was right only {LATER_SECONDS * 1e3:g} ms later; when it returned: "
                    f"{sentence(wrong)}; wait for everything that forward started, on other streams and threads too"
                )
                return Failed(Verdict.DEFERRED, message, artefact=artefact)
        finally:
            later.close()
        return self._remembered(case, wrong, artefact) or Failed(
            Verdict.WRONG_VALUE, sentence(wrong), artefact=artefact
        )

    def _remembered(self, case: Case, wrong: Check, artefact: Mapping[str, Any]) -> Failed | None:
        told = [
            one for earlier in self.right[: -EARLIER - 1 : -1] for one in stale(self.trial.description, case, earlier)
        ]
        if not told:
            return None
        kept = self.ask("fetch", {})
        try:
            body = {"cases": [codec.to_data(one) for one, _ in told], "metas": kept.body["metas"]}
            index = int(self.judge("explain", body, kept)["index"])
        finally:
            kept.close()
        if index < 0:
            return None
        message = f"the output is the right one for {told[index][1]} of an earlier call: {sentence(wrong)}"
        return Failed(Verdict.REPLAY, message, artefact={**artefact, "answers": codec.to_data(told[index][0])})


def stale(description: Description, case: Case, earlier: Case) -> list[tuple[Case, str]]:
    """What a candidate would have computed that remembers all, the weights, or one input of an earlier call; in words.

    What is the same in both calls is left out.
    """
    found = [(earlier, "all inputs")] if earlier != case else []
    state = earlier.seed if earlier.state is None else earlier.state
    now = case.seed if case.state is None else case.state
    if state != now and any(s.redraw != "keep" for s in description.state):
        found.append((replace(case, state=state), "the weights"))
    inputs = [s.name for s in description.inputs if s.dtype and s.kind in ("values", "index")]
    for name in inputs[:SINGLE] if len(inputs) > 1 or state != now else ():
        was = [p for p in earlier.patches if p.name == name]
        kept = tuple(p for p in case.patches if p.name != name)
        if earlier.seed != case.seed and not was:
            one = replace(case, patches=(*kept, Patch(name, "redrawn", earlier.seed, earlier.distribution)))
        elif earlier.seed == case.seed and tuple(was) != tuple(p for p in case.patches if p.name == name):
            one = replace(case, patches=(*kept, *was))
        else:
            continue
        if one != earlier:
            found.append((one, f"input {name!r}"))
    return found


def most_bytes(description: Description) -> int:
    """An upper limit of the bytes of inputs, weights and outputs: eight for each element."""
    shapes = [s.shape for s in description.inputs] + [o.shape for o in description.outputs]
    return 8 * sum(math.prod(shape) for shape in [*shapes, *(p.shape for p in description.state)])


def sentence(check: Check) -> str:
    """A comparison that failed, in one line."""
    where = f"{check.workload}, inputs {check.distribution}, seed {check.seed}"
    return f"{check.name} {check.value:.3g} exceeds {check.limit:.3g} ({where}) {check.detail}".strip()


def _refuse_ops(bench: Bench, called: Message) -> None:
    """What forward ran on real tensors, where the census of the plan saw meta tensors only."""
    forbidden = called.body["forbidden"]
    if forbidden and bench.problem.library_calls == "forbidden":
        raise Failed(Verdict.POLICY, f"forward runs {forbidden[0]} on real tensors, and not where its plan was made")


def _refuse_changes(bench: Bench, called: Message, allowed: Sequence[str]) -> None:
    odd = [name for name in called.body["changed"] if name not in (*bench.problem.mutates, *allowed)]
    if odd:
        raise Failed(Verdict.MUTATED_INPUT, f"input or parameter {odd[0]!r} was changed by the call")


def _refuse_aliases(bench: Bench, description: Description, called: Message) -> None:
    """Which outputs share an input's memory: never more than the problem allows or the reference's own do, and as in
    the reference where the problem names them."""
    outputs = [o for o in description.outputs if o.path.startswith("out")]
    declared = {(outputs[index].path, name) for index, name in bench.problem.aliases}
    own = {(o.path, name) for o in outputs for name in o.shares}
    found = {(str(path), str(name)) for path, name in called.body["aliases"]}
    odd, absent = sorted(found - declared - own), sorted(declared & own - found)
    if odd:
        raise Failed(
            Verdict.WRONG_META,
            f"{odd[0][0]} shares the memory of input {odd[0][1]!r}, which neither the reference's output does nor the "
            "problem's aliases allow; return a tensor of its own",
        )
    if absent:
        raise Failed(
            Verdict.WRONG_META,
            f"{absent[0][0]} must share the memory of input {absent[0][1]!r}, as the problem's aliases say and the "
            "reference does; write into that input or return a view of it",
        )
