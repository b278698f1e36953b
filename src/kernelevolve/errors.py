"""Every error that KernelEvolve raises on purpose, and the exit code that the command line gives for it.

In: what failed, with the value. Out: one sentence that says what failed and what to do next.
Left to others: a candidate's faults are not errors but data (see `evaluation.Verdict`).

KernelEvolveError                       exit code 1
├── UsageError                          2   an option, a name or a combination that cannot be used
│   ├── LateAnswer                          a brief no longer waits for the answer, which is kept in the log
│   └── UnknownName                         names the known ones
├── ProblemError                        3   the problem file or its sidecar cannot be used
├── UncoveredOp                         4   the built-in engineer has no emitter for an ATen op
├── WriterError                         1   a writer could not answer a brief; told as Dropped
│   ├── ModelFault                          a model gave nothing that can be used: refused, cut off, empty, unreachable
│   └── NoMovesLeft                         nothing is left to try from the given parents
├── BudgetSpent                         1   the next call of a model may cost more than is left; ends the run
├── NoCorrectCandidate                  5   a run ended without one correct candidate
├── NotConfirmed                        8   a receipt came out different, or a failure was not reproduced
├── CannotCompare                       9   nothing can be said here of a receipt or a failure
├── PluginFault                         70  a plugin raised, or gave or changed what its contract does not allow
├── StoreError                          6   the run's log, or a blob beside it, cannot be read or written
│   ├── RunBusy                             another process owns the run
│   ├── StaleLease                          this process lost the run to another one
│   ├── StoreTooNew                         written by a newer KernelEvolve
│   └── StoreFull                           no room on the disk
└── MachineError                        7   the machine's fault: retried, never scored
    ├── SeatLost                            a judge, builder or worker process died or stopped answering
    ├── MissingDevice                       an accelerator was asked for and is not here
    └── Unsealed                            nothing would stand between foreign code and this machine

70 is also the exit code of any other exception, which is a bug here or in a plugin; 130 that of a run that Ctrl-C ended
cleanly.
"""

from __future__ import annotations

from collections.abc import Iterable

from kernelevolve.candidate import Cost


class KernelEvolveError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns for it."""

    exit_code = 1


class UsageError(KernelEvolveError):
    """An option, a name or a combination of them that cannot be used."""

    exit_code = 2


class LateAnswer(UsageError):
    """An answer to a brief that no longer waits for one; it is kept in the log and not evaluated."""


class UnknownName(UsageError):
    """A name that nobody registered.

    Args:
        kind: what was looked up, e.g. `platform`.
        name: the unknown name.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(self.known) or 'none'}")


class ProblemError(KernelEvolveError):
    """A problem file or its sidecar that cannot be used."""

    exit_code = 3


class UncoveredOp(KernelEvolveError):
    """The built-in engineer has no emitter for an ATen op.

    Args:
        op: the op with its overload, e.g. `aten.sort.default`.
        where: file and line of the reference that calls it.
        detail: which use of the op is not covered, where only some are.
    """

    exit_code = 4

    def __init__(self, op: str, where: str, detail: str = "") -> None:
        self.op, self.where, self.detail = op, where, detail
        more = f" ({detail})" if detail else ""
        super().__init__(
            f"the built-in engineer cannot write {op}{more}, used at {where}; "
            "write the first kernel yourself or configure a model as writer"
        )


class WriterError(KernelEvolveError):
    """A writer could not answer a brief: the brief is dropped with this reason and the run goes on.

    Args:
        cost: what it has used all the same.
        session: reference of the blob with what was said; empty where nothing was.
    """

    def __init__(self, message: str, cost: Cost = Cost(), session: str = "") -> None:  # noqa: B008
        self.cost, self.session = cost, session
        super().__init__(message)


class ModelFault(WriterError):
    """A model gave nothing that can be used.

    Args:
        kind: `key`, `model`, `network`, `rate`, `overflow`, `refused`, `empty`, `cut`, `malformed`, `useless`.
    """

    def __init__(self, message: str, cost: Cost = Cost(), session: str = "", kind: str = "") -> None:  # noqa: B008
        self.kind = kind
        super().__init__(message, cost, session)


class BudgetSpent(KernelEvolveError):
    """The next call of a model may cost more than is left of the run's money or tokens; the run ends and may be resumed
    with more.

    Args:
        limit: `money` or `tokens`.
        cost: what the brief has used all the same.
        session: see `WriterError`.
    """

    def __init__(self, message: str, limit: str = "money", cost: Cost = Cost(), session: str = "") -> None:  # noqa: B008
        self.limit, self.cost, self.session = limit, cost, session
        super().__init__(message)


class NoMovesLeft(WriterError):
    """Nothing is left to try from the given parents, or, raised by `ask`, from any."""


class NoCorrectCandidate(KernelEvolveError):
    """A run ended without one correct candidate."""

    exit_code = 5


class NotConfirmed(KernelEvolveError):
    """A receipt that came out different, or a failure that was not reproduced."""

    exit_code = 8


class CannotCompare(KernelEvolveError):
    """A receipt or a failure of which nothing can be said here: another device, compiler or harness, or it cannot be
    read."""

    exit_code = 9


class PluginFault(KernelEvolveError):
    """A plugin raised, or gave or changed what its contract does not allow; the message names it."""

    exit_code = 70


class StoreError(KernelEvolveError):
    """The run's log, or a blob beside it, cannot be read or written."""

    exit_code = 6


class RunBusy(StoreError):
    """Another process owns the run."""


class StaleLease(StoreError):
    """This process lost the ownership of the run to another one; its append was refused."""


class StoreTooNew(StoreError):
    """The database was written by a newer KernelEvolve."""


class StoreFull(StoreError):
    """There is no room on the disk for the next event or blob; what was written before is intact."""


class MachineError(KernelEvolveError):
    """The machine's fault: the work is retried elsewhere and never scored."""

    exit_code = 7


class SeatLost(MachineError):
    """A judge, builder or worker process died or stopped answering."""


class MissingDevice(MachineError):
    """An accelerator was asked for and is not here."""


class Unsealed(MachineError):
    """Foreign code would run with limits alone around it, and nobody asked for that.

    Args:
        role: whose child it was to be.
    """

    def __init__(self, role: str) -> None:
        super().__init__(
            f"no layer of the seal can be had here, so the {role} runs no foreign code; `kernelevolve doctor` says "
            "what is missing; with --unsealed it runs all the same, and may do all that you may"
        )
