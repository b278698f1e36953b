"""Bench: what is the same for every candidate of one problem, prepared once.

In: a problem, settings, the roles. Out: its descriptions at full and small sizes, open conversations with the judge,
and the build cache. Left to others: candidates (`ladder`). Sibling runs for several platforms share one bench.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernelevolve import codec
from kernelevolve.errors import ProblemError, SeatLost
from kernelevolve.evaluate.cache import BuildCache
from kernelevolve.evaluate.roles import ChildDied, ChildSilent, Conversation, Refusal, Roles
from kernelevolve.evaluate.room import FEW_QUEUES
from kernelevolve.evaluate.secrets import SECRET_BYTES
from kernelevolve.nursery import Limits
from kernelevolve.problem import Problem
from kernelevolve.protocol import Case, Description, Opened, Variant
from kernelevolve.seal.limits import BACKGROUND
from kernelevolve.wire import Attachment, Message

_DESCRIBE_SECONDS = 300.0
_JUDGE_SECONDS = 300.0
_EXPECTED = 256  # answers that are kept: more cases than a lane has
_SCRATCHES = 128  # candidates whose folders are kept: more than are ever evaluated side by side
_JUDGE_LIMITS = Limits(memory_bytes=16 << 30, nice=BACKGROUND)


class Bench:
    """One problem, ready to be measured on.

    Attributes:
        problem: as read.
        descriptions: every workload at every size, full size first.
        labels: what describing found, e.g. `output identically zero`.
        roles: judge, builder and worker processes.
        cache: of build results.
        admitted: which of some distributions are used, see `admission`; all, unless a gate was set.
        anyway: cases on which passing means nothing are compared all the same, as the user asked.
        secret: from which a screen on a device draws the inputs of all candidates of this session.
        shares_memory: whether the judge may read outputs in the worker's device memory; false once that was refused.
    """

    def __init__(self, problem: Problem, roles: Roles, cache_folder: Path) -> None:
        """Describes the problem in a sealed child of the judge.

        Raises:
            ProblemError: the reference cannot be used.
        """
        self.problem, self.roles, self.cache = problem, roles, BuildCache(cache_folder)
        self._hidden: dict[tuple[str, str, int, int, bool], tuple[Description, ...]] = {}
        self._oracles: dict[tuple[str, str], Conversation] = {}
        self._expected: dict[tuple[Variant, str, Case], Mapping[str, Any]] = {}
        self._writing = threading.Lock()
        self.lock = threading.RLock()
        self.shares_memory = True
        self.secret = os.urandom(SECRET_BYTES)
        self.admitted: Callable[[Sequence[str]], tuple[str, ...]] = tuple
        self.anyway = False
        self._stopped = threading.Event()
        self._scratch = tempfile.TemporaryDirectory(prefix="kernelevolve-")
        self._scratches: dict[str, Path] = {}
        with roles["judge"].open(_JUDGE_LIMITS) as judge:
            answer = self.judged(judge, "describe", {"problem": codec.to_data(problem)}, seconds=_DESCRIBE_SECONDS)
        self.descriptions = tuple(codec.from_data(Description, d) for d in answer.body["descriptions"])
        labels = [label for d in self.descriptions for label in d.labels]
        self.labels = tuple(dict.fromkeys([*answer.body.get("labels", []), *labels]))

    def full(self, workload: str) -> Description:
        """The workload at full size."""
        return next(d for d in self.descriptions if d.variant.workload == workload and d.variant.size == "full")

    def small(self) -> tuple[Description, ...]:
        """Every workload at the sizes that the interpreter runs."""
        return tuple(d for d in self.descriptions if d.variant.size != "full")

    def hidden(self, workload: str, device: str, seed: int, count: int) -> tuple[Description, ...]:
        """At most `count` sizes of a workload that no file names, drawn by `seed`, each no larger than what the
        interpreter runs; the same for the same seed.

        Raises:
            ProblemError, SeatLost: the judge could not draw them.
        """
        return self._drawn(workload, device, seed, count, ladder=False)

    def ladder(self, workload: str, device: str, seed: int, count: int) -> tuple[Description, ...]:
        """At most `count` sizes of a workload from small to large, each with more work than the one before, the last as
        near to the full size as the device can take; the same for the same seed.

        Raises:
            ProblemError, SeatLost: the judge could not draw them.
        """
        return self._drawn(workload, device, seed, count, ladder=True)

    def _drawn(self, workload: str, device: str, seed: int, count: int, *, ladder: bool) -> tuple[Description, ...]:
        key = (workload, device, seed, count, ladder)
        if key not in self._hidden:
            small = next(d for d in self.small() if d.variant.workload == workload and d.variant.size == "scaled")
            body = {
                "problem": codec.to_data(self.problem),
                "opened": codec.to_data(self.opened(small, device)),
                "workload": workload,
                "seed": seed,
                "count": count,
                "ladder": ladder,
            }
            with self.roles["judge"].open(_JUDGE_LIMITS if device == "cpu" else None) as judge:
                answer = self.judged(judge, "hidden", body, seconds=_DESCRIBE_SECONDS)
            self._hidden[key] = tuple(codec.from_data(Description, d) for d in answer.body["descriptions"])
        return self._hidden[key]

    def opened(
        self, description: Description, device: str, *, candidate: str = "", choice: Any = None, queues: int = 0
    ) -> Opened:
        """What a conversation about one size starts from."""
        p = self.problem
        return Opened(
            description,
            device,
            p.precision,
            p.direction,
            p.mode,
            random=p.random,
            special_values=p.special_values,
            candidate=candidate,
            choice=choice or {},
            queues=queues,
        )

    def oracle(self, description: Description, device: str) -> Conversation:
        """A conversation with the judge's oracle for one size, opened once and kept."""
        key = (description.variant.label, device)
        if key not in self._oracles or self._oracles[key].role.gone:
            judge = self.roles["judge"].open(_JUDGE_LIMITS if device == "cpu" else None)
            opened = codec.to_data(self.opened(description, device, queues=FEW_QUEUES))
            self.judged(judge, "oracle", {"opened": opened, "problem": codec.to_data(self.problem)})
            self._oracles[key] = judge
        return self._oracles[key]

    def forget(self, description: Description, device: str) -> None:
        """Ends the oracle for one size, to free the device's memory or after it was lost."""
        conversation = self._oracles.pop((description.variant.label, device), None)
        if conversation is not None:
            conversation.end()

    def expected(
        self, description: Description, device: str, case: Case, ask: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """What the judge says of a case: from `ask`, and known after that, since candidates of a screen share cases."""
        key = (description.variant, device, case)
        if (known := self._expected.get(key)) is None:
            known = ask()
            with self._writing:  # not the other lock, which is held while a judge works
                self._expected[key] = known
                while len(self._expected) > _EXPECTED:
                    del self._expected[next(iter(self._expected))]
        return known

    def judged(
        self,
        judge: Conversation,
        kind: str,
        body: Mapping[str, Any],
        attachments: Mapping[str, Attachment] | None = None,
        *,
        seconds: float = _JUDGE_SECONDS,
    ) -> Message:
        """The judge's answer; what goes wrong there is the problem's or the machine's fault, never a candidate's.

        Raises:
            ProblemError: the judge refuses, with its reason.
            SeatLost: it died or stayed silent.
        """
        try:
            return judge.ask(kind, body, attachments, seconds=seconds)
        except Refusal as refusal:
            if refusal.verdict == "INFRA":
                raise SeatLost(f"while asked to {kind}: {refusal}") from refusal
            raise ProblemError(str(refusal)) from refusal
        except (ChildDied, ChildSilent, SeatLost) as error:
            self._oracles = {k: c for k, c in self._oracles.items() if c is not judge}
            raise SeatLost(f"while asked to {kind}: {error}") from error

    def scratch(self, source: str) -> Path:
        """The folder that the children of one candidate share, so that none compiles again what another one did.

        It is never another candidate's: what foreign code leaves there could be taken for somebody's kernel.
        """
        key = hashlib.sha256(source.encode()).hexdigest()
        with self.lock:
            if key not in self._scratches:
                self._scratches[key] = Path(self._scratch.name) / key
                self._scratches[key].mkdir()
            self._scratches[key] = self._scratches.pop(key)
            while len(self._scratches) > _SCRATCHES:
                shutil.rmtree(self._scratches.pop(next(iter(self._scratches))), ignore_errors=True)
            return self._scratches[key]

    def hang_up(self) -> None:
        """Ends every conversation with a role's child, whoever waits for it; until `resume` no work begins."""
        self._stopped.set()
        self._oracles.clear()
        self.roles.hang_up()

    def resume(self) -> None:
        """Work may begin again after `hang_up`."""
        self._stopped.clear()

    def go_on(self) -> None:
        """Asked before each piece of work.

        Raises:
            SeatLost: `hang_up` was called; what was under way is not scored.
        """
        if self._stopped.is_set():
            raise SeatLost("stopped before it was evaluated")

    def close(self) -> None:
        """Ends the kept conversations; the roles belong to the caller."""
        for conversation in self._oracles.values():
            conversation.end()
        self._oracles.clear()
        self._scratch.cleanup()
