"""What may be asked about a kernel before it is submitted: check, compile, interpret.

In: a source, and what the ladder of the same run works with. Out: Reports. Left to others: who asks (a model in its
session, a guest), and the verdict: a report is no evaluation, is not scored and is kept nowhere.

Each tool climbs the lowest rungs of the real ladder, so that it says what an evaluation would say. No accelerator is
used: a writer never takes device time from candidates.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Candidate
from kernelevolve.errors import UnknownName
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.building import Builder
from kernelevolve.evaluate.check import check_source
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluate.modelling import Costs
from kernelevolve.evaluation import Evaluation, Resources, Rung, error_name
from kernelevolve.platforms import Platform
from kernelevolve.settings import Settings
from kernelevolve.tools import Report

LONGEST_ERROR = 6000  # characters of an error's text, half from its beginning and half from its end
_MOST_CHECKS = 6
_FOREIGN = ("/kernelevolve/", "/site-packages/", "/lib/python")


class LadderTools:
    """See `tools.Tools`; several calls may wait at the same time.

    Args:
        platforms: what it compiles for, the objective platform first.
        builder: of the objective platform's ladder, whose processes and cache are shared.
    """

    def __init__(
        self,
        bench: Bench,
        platforms: Sequence[Platform],
        settings: Settings,
        costs: Costs,
        *,
        seed: int,
        builder: Builder,
    ) -> None:
        self.targets = tuple(platform.name for platform in platforms)
        self._bench, self._costs, self._seed = bench, costs, seed
        self._settings = replace(settings, lane="screen", build_trials=1)
        self._platforms = {platform.name: platform for platform in platforms}
        self._builders = {self.targets[0]: builder}
        self._own = ExitStack()
        self._making = threading.Lock()

    async def check(self, source: str) -> Report:
        """See `Tools.check`."""
        found = check_source(source)
        lines = [f"check {'failed' if found.verdict else 'passed'}: {found.message}"]
        lines += [f"worth a second look: {hint}" for hint in found.hints]
        facts = {
            "verdict": found.verdict.value if found.verdict else None,
            "message": found.message,
            "kernels": list(found.kernels),
            "knobs": codec.to_data(found.knobs),
            "hints": list(found.hints),
        }
        return Report(found.verdict is None, "\n".join(lines), facts)

    async def compile(self, source: str, platforms: Sequence[str] = ()) -> Report:
        """See `Tools.compile`."""
        names = tuple(dict.fromkeys(platforms)) or self.targets[:1]
        for name in names:
            if name not in self._platforms:
                raise UnknownName("target", name, self.targets)
        found = [(name, *await self._climb(source, name, Rung.BUILD)) for name in names]
        reports = [_reported(name, evaluation, texts) for name, evaluation, texts in found]
        return Report(
            all(report.ok for report in reports),
            "\n\n".join(report.text for report in reports),
            {name: report.facts for name, report in zip(names, reports, strict=True)},
        )

    async def interpret(self, source: str) -> Report:
        """See `Tools.interpret`."""
        name = self.targets[0]
        return _reported(name, *await self._climb(source, name, Rung.INTERPRET))

    def close(self) -> None:
        """Ends the processes of the other targets."""
        self._own.close()

    async def _climb(self, source: str, name: str, last: Rung) -> tuple[Evaluation, Mapping[str, bytes]]:
        """What the ladder says up to the rung `last`, and what is too large for an Evaluation, by reference."""
        texts: dict[str, bytes] = {}

        def keep(data: bytes) -> str:
            reference = f"sha256:{hashlib.sha256(data).hexdigest()}"
            texts[reference] = data
            return reference

        settings = replace(self._settings, last_rung=last.value)
        platform = self._platforms[name]
        ladder = Ladder(
            self._bench, platform, settings, self._costs, seed=self._seed, builder=self._builder(platform)
        )  # fmt: skip
        candidate = Candidate("tried", "", "", source)
        return await ladder.evaluate(candidate, progress=lambda _: None, keep=keep), texts

    def _builder(self, platform: Platform) -> Builder:
        with self._making:
            if platform.name not in self._builders:
                made = Builder(self._bench, platform)
                self._own.callback(made.close)
                self._builders[platform.name] = made
            return self._builders[platform.name]


def _reported(platform: str, found: Evaluation, texts: Mapping[str, bytes]) -> Report:
    """A climb as a report: its rungs, what was built, what failed in full."""
    failed = [rung for rung in found.rungs if rung.status == "failed"]
    lines = [f"{platform}: {'; '.join(f'{rung.rung.value} {rung.status}' for rung in found.rungs)}"]
    lines += [_built(built) for built in found.resources.get(platform, ())]
    for rung in failed:
        whole = texts.get(found.artefacts.get(error_name(platform, rung.rung), ""), b"").decode("utf-8", "replace")
        lines += [f"{found.verdict.value} at {rung.rung.value}: {rung.message}"]
        whole = _without_frames(whole)
        lines += [_shortened(whole)] if whole and whole.strip() != rung.message.strip() else []
    wrong = [check for each in found.correctness for check in each.checks if not check.passed]
    lines += [
        f"check {c.name} of {c.workload} under {c.distribution}: {c.value:.3g}, limit {c.limit:.3g}. {c.detail}"
        for c in wrong[:_MOST_CHECKS]
    ]
    passed = sum(check.passed for each in found.correctness for check in each.checks)
    if passed and not failed:
        lines.append(
            f"{passed} comparisons with the reference passed (interpreted, scaled workloads); races, hardware's own "
            "rounding and time are not seen here"
        )
    labels = [label for label in found.labels if not label.startswith("stopped after rung")]
    lines += [f"label: {label}" for label in labels]
    facts: dict[str, Any] = {
        "verdict": found.verdict.value,
        "rungs": codec.to_data(found.rungs),
        "resources": codec.to_data(found.resources.get(platform, ())),
        "failed_checks": codec.to_data(tuple(wrong[:_MOST_CHECKS])),
        "not_seen": sorted({text for each in found.correctness for text in each.not_seen}),
        "labels": labels,
        "isolation": found.isolation,
    }
    return Report(not failed, "\n".join(lines), facts)


def _built(made: Resources) -> str:
    mix = ", ".join(f"{count} {kind}" for kind, count in made.instructions.items() if count)
    return (
        f"{made.kernel} ({made.target}): {made.registers} registers a thread, {made.spill_bytes} bytes spilled, "
        f"{made.shared_bytes} bytes shared a block, {made.warps} warps, occupancy {made.occupancy:.0%}; "
        f"instructions: {mix or 'not read'} (compiled)"
    )


def _without_frames(text: str) -> str:
    """A traceback without the frames that are not the candidate's: it cannot change what is in the libraries."""
    kept: list[str] = []
    foreign = False
    for line in text.splitlines():
        if line.startswith('  File "'):
            foreign = any(part in line for part in _FOREIGN)
        elif not line.startswith("    "):
            foreign = False
        if not foreign:
            kept.append(line)
    return "\n".join(kept)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_ERROR:
        return text.rstrip()
    half = LONGEST_ERROR // 2
    return f"{text[:half]}\n... ({len(text) - 2 * half} characters left out)\n{text[-half:].rstrip()}"
