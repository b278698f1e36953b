"""A candidate judged in this process: the oracle, the interpreter and the comparison of the ladder, without its walls.

For texts of our own only (mutants of honest kernels), where hundreds of judgements must not cost hundreds of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from kernelevolve import plugins
from kernelevolve.evaluation import Verdict
from kernelevolve.judge.answers import describe_problem
from kernelevolve.judge.reference import Reference
from kernelevolve.problem import Problem
from kernelevolve.protocol import Case, Opened
from kernelevolve.settings import LANES
from kernelevolve.tensors import outputs
from kernelevolve.worker.fault import Fault
from kernelevolve.worker.interpret import interpreting
from kernelevolve.worker.load import silence_autotune
from kernelevolve.worker.run import Runner

#: All distributions of the lane `accept`, at two seeds.
ACCEPT = tuple(Case(10 * i + seed, d) for seed in range(2) for i, d in enumerate(LANES["accept"].distributions, 1))


class Court:
    """One problem at its small sizes."""

    def __init__(self, problem: Problem) -> None:
        silence_autotune()
        self.problem = problem
        self.answers = plugins.load("platforms", "h100").device_answers()
        self.opened = [
            Opened(
                d, "cpu", problem.precision, problem.direction, problem.mode, random=problem.random,
                special_values=problem.special_values,
            )
            for d in describe_problem(problem)
            if d.variant.size != "full"
        ]
        self.references = [Reference(opened) for opened in self.opened]

    def verdict(self, source: str, cases: Sequence[Case] = ACCEPT, *, ragged: int | None = None) -> tuple[Verdict, str]:
        """The first verdict against it, and what was found; `OK_UNTIMED` where there is none.

        Args:
            ragged: how many cases are tried at the ragged size; all, unless given.
        """
        try:
            for opened, reference in zip(self.opened, self.references, strict=True):
                some = cases if opened.description.variant.size != "ragged" else cases[:ragged]
                self._try(opened, reference, source, some)
        except Fault as fault:
            return fault.verdict, str(fault)
        return Verdict.OK_UNTIMED, f"{len(cases)} cases"

    def _try(self, opened: Opened, reference: Reference, source: str, cases: Sequence[Case]) -> None:
        with_candidate = replace(opened, candidate=source)
        runner = Runner(with_candidate, partial(interpreting, device_answers=self.answers))
        for case in cases:
            computed = reference.compute(case)
            if not computed.usable:
                continue
            state = [p for p in computed.outputs if p.startswith(("state:", "input:"))]
            leaves, changed = runner.call(case, state)
            where = f"{opened.description.variant.size}, {case.distribution}"
            if runner.forbidden and self.problem.library_calls == "forbidden":
                raise Fault(Verdict.POLICY, f"{where}: {runner.forbidden[0]}")
            if odd := [n for n in changed if n not in (*self.problem.mutates, *computed.changed_inputs)]:
                raise Fault(Verdict.MUTATED_INPUT, f"{where}: {odd[0]}")
            metas = [outputs.meta_of(path, leaf) for path, leaf in leaves]
            held = dict(leaves)
            with torch.no_grad():
                checks = reference.compare(case, metas, lambda meta, held=held: held[meta.path].detach()).checks
            for check in checks:
                if not check.passed:
                    kind = Verdict.WRONG_META if check.name.startswith("meta") else Verdict.WRONG_VALUE
                    raise Fault(kind, f"{where}: {check.name} {check.value:.3g} > {check.limit:.3g}; {check.detail}")
