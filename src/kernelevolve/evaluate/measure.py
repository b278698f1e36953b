"""A device: full-size values, tuning by measured time, interleaved timing.

In: a candidate and a choice. Out: what was measured. Left to others: the ladder's order; running (`worker`), the oracle
and the baseline arm (`judge`). One device holds one worker at a time: the ladder is given a seat before it gets here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from kernelevolve import codec
from kernelevolve.candidate import Choice
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.building import Builder
from kernelevolve.evaluate.correct import Bounds, Failed, Trial, candidate_asks, compare
from kernelevolve.evaluate.roles import Conversation
from kernelevolve.evaluate.timing import CANDIDATE, Blocks, Burst, Timed, time_arms
from kernelevolve.evaluate.tune import Group, Tuning
from kernelevolve.evaluation import Correctness, Evidence
from kernelevolve.protocol import Case, Description

_BOUNDS = Bounds(load_seconds=180.0, call_seconds=180.0)
_WARM_SECONDS = 0.2
_TUNE_CALLS = 7
_ROOMY_BYTES = 2 << 30
_RING_SEED = 2  # candidate and baselines are timed on the same inputs


class Device:
    """One accelerator, named as torch names it: `cuda:0`.

    Attributes:
        name: the product's name, printed with every figure.
    """

    def __init__(self, torch_name: str, name: str, *, blocks: Blocks, full_cases: int) -> None:
        self.torch_name, self.name, self.blocks, self.full_cases = torch_name, name, blocks, full_cases
        self._baselines: dict[tuple[str, str, str], Conversation] = {}

    def correct(
        self, bench: Bench, source: str, choices: Mapping[str, Mapping[str, Choice]], cases: Sequence[Case]
    ) -> tuple[list[Correctness], str]:
        """Compares at full size on the device: the first `full_cases` cases, one of each distribution first.

        Args:
            choices: of each workload, by name.

        Returns:
            one entry per workload, and which isolation held.
        """
        found, isolation = [], "none"
        seen: dict[str, int] = {}
        rank = {c: seen.setdefault(c.distribution, 0) for c in cases}
        for c in cases:
            rank[c], seen[c.distribution] = seen[c.distribution], seen[c.distribution] + 1
        ordered = sorted(cases, key=rank.__getitem__)
        for workload in bench.problem.workloads:
            trial = Trial(source, choices[workload.name], bench.full(workload.name), self.torch_name, {}, _BOUNDS)
            self._make_room(trial.description)
            one, isolation = compare(bench, trial, ordered[: self.full_cases], Evidence.MEASURED)
            bench.forget(trial.description, self.torch_name)
            found.append(one)
        return found, isolation

    def _make_room(self, description: Description) -> None:
        """Ends the baselines' processes if their rings of full-size inputs could leave too little memory."""
        if footprint(description) > _ROOMY_BYTES:
            self.free()

    def free(self) -> None:
        """Ends the baselines' processes."""
        for conversation in self._baselines.values():
            conversation.end()
        self._baselines.clear()

    def _candidate(self, bench: Bench, workload: str, source: str, choice: Mapping[str, Choice]) -> Conversation:
        worker = bench.roles["worker"].open(scratch=bench.scratch(source))
        opened = bench.opened(bench.full(workload), self.torch_name, candidate=source, choice=choice)
        try:
            body = {"opened": codec.to_data(opened), "answers": {}}
            candidate_asks(worker, "load", body, seconds=_BOUNDS.load_seconds)
        except Failed:
            worker.end()
            raise
        return worker

    def tune(self, bench: Bench, builder: Builder, source: str, tuning: Tuning, default: Mapping[str, Choice]) -> None:
        """Times choices on each group's workloads; what the build rules out costs no device time."""
        for group in tuning.groups:
            if group.tuner.size > 1:
                for workload in group.workloads:
                    self._make_room(bench.full(workload))
                self._tune_group(bench, builder, source, group, default)

    def _tune_group(
        self, bench: Bench, builder: Builder, source: str, group: Group, default: Mapping[str, Choice]
    ) -> None:
        workers = {w: self._candidate(bench, w, source, default) for w in group.workloads}
        try:
            while choices := group.tuner.ask_some():
                some = builder.build_some(source, choices, group.workloads)
                for choice, built in zip(choices, some, strict=True):
                    if isinstance(built, Failed):
                        group.tuner.tell(choice, None)
                        continue
                    try:
                        times = [self._quick_time(workers[w], choice) for w in group.workloads]
                    except Failed:
                        group.tuner.tell(choice, None)
                        for w in group.workloads:
                            if workers[w].channel.sock.fileno() < 0:
                                workers[w] = self._candidate(bench, w, source, default)
                        continue
                    group.tell(choice, times)
        finally:
            for worker in workers.values():
                worker.end()

    def _quick_time(self, worker: Conversation, choice: Mapping[str, Choice]) -> float:
        candidate_asks(worker, "choose", {"choice": dict(choice)}, seconds=_BOUNDS.call_seconds)
        candidate_asks(worker, "warm", {"seed": _RING_SEED, "seconds": 0.02}, seconds=_BOUNDS.call_seconds)
        timed = candidate_asks(worker, "burst", {"calls": _TUNE_CALLS}, seconds=_BOUNDS.call_seconds)
        return float(statistics.median(timed.body["milliseconds"]))

    def time(self, bench: Bench, workload: str, source: str, choice: Mapping[str, Choice]) -> Timed:
        """Candidate and baselines interleaved; the platform's name is the ladder's to fill in."""
        worker = self._candidate(bench, workload, source, choice)
        try:
            candidate_asks(worker, "warm", {"seed": _RING_SEED, "seconds": _WARM_SECONDS}, seconds=_BOUNDS.call_seconds)

            def candidate(calls: int) -> Sequence[float]:
                answer = candidate_asks(worker, "burst", {"calls": calls}, seconds=_BOUNDS.call_seconds)
                return list(answer.body["milliseconds"])

            arms: dict[str, Burst] = {CANDIDATE: candidate}
            for name in bench.problem.baselines:
                arms[name] = self._baseline(bench, workload, name)
            return time_arms(arms, workload=workload, platform="", choice=choice, plan=self.blocks, device=self.name)
        finally:
            worker.end()

    def _baseline(self, bench: Bench, workload: str, arm: str) -> Burst:
        """A warm baseline arm in a judge's child of its own, kept until the device's memory is needed."""
        key = (bench.problem.key, workload, arm)
        if key not in self._baselines or self._baselines[key].role.gone:
            judge = bench.roles["judge"].open()
            opened = codec.to_data(bench.opened(bench.full(workload), self.torch_name))
            bench.judged(
                judge, "baseline", {"opened": opened, "arm": arm, "seed": _RING_SEED, "distribution": "declared"}
            )
            bench.judged(judge, "warm", {"seconds": _WARM_SECONDS})
            self._baselines[key] = judge
        judge = self._baselines[key]

        def burst(calls: int) -> Sequence[float]:
            return list(bench.judged(judge, "burst", {"calls": calls}).body["milliseconds"])

        return burst


_WIDTHS = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}


def footprint(description: Description) -> int:
    """Bytes of one set of inputs, parameters and outputs."""
    leaves: list[tuple[tuple[int, ...], str]] = [(i.shape, i.dtype) for i in description.inputs if i.dtype]
    leaves += [(p.shape, p.dtype) for p in description.state] + [(o.shape, o.dtype) for o in description.outputs]
    return sum(math.prod(shape) * _WIDTHS.get(dtype, 1) for shape, dtype in leaves)
