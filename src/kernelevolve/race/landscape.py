"""A landscape: what the built-in engineer can reach for one problem, each candidate evaluated once and kept.

In: lines of JSON, plain or gzipped. Out: frozen values, and the file again. Left to others: finding out what can be
reached (`reach`), evaluating it (`record`), searching it (`replay`).

Kept is what a search looks at and nothing else: plans without their docstrings, what tells sources apart in place of
sources, evaluations without single comparisons. So a file is small, and holds no text of the problem.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kernelevolve import codec
from kernelevolve.errors import StoreError, StoreTooNew
from kernelevolve.evaluation import Evaluation, Evidence, Timing
from kernelevolve.problem import Problem

#: Of the file's form.
VERSION = 1
#: Most characters that are kept of a failed rung's message.
MESSAGE = 300
_FEATURES = re.compile(r"""input_precision\s*=\s*["']\w+["']|\bdot(?:_scaled)?\(|\bwgmma|\bmma_""")


@dataclass(frozen=True)
class Step:
    """A move from one place to another.

    Attributes:
        helps: the limits that the move is meant for.
        to: number of the place it leads to.
    """

    name: str
    helps: tuple[str, ...]
    to: int


@dataclass(frozen=True)
class Place:
    """One plan that can be reached.

    Attributes:
        plan: without docstrings.
        candidate: number of the candidate that it is written as; several plans may be written alike.
        steps: in the order in which the engineer offers them; only those that stay in the landscape.
    """

    plan: Mapping[str, Any]
    candidate: int
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Recorded:
    """One candidate.

    Attributes:
        digest: SHA-256 of its source.
        program: what `search.program` says of it.
        features: what `search.features` reads in it, such as `dot(`.
        evaluation: without what replaying does not need; None while it is not evaluated.
        twin: number of the candidate whose measurement this is, where the launches were the same; None otherwise.
        truth: fitness without noise, where it is known.
    """

    digest: str
    program: str
    features: str = ""
    evaluation: Evaluation | None = None
    twin: int | None = None
    truth: float | None = None

    @property
    def source(self) -> str:
        """A file that stands in for the source: equal where the source was, and as a program where that was."""
        return f'PROGRAM = "{self.program or self.digest}"\n# source {self.digest}\n# {self.features}\n'


@dataclass(frozen=True)
class Landscape:
    """All that was recorded of one problem on one platform.

    Attributes:
        problem: with a remark in place of its text.
        key: of the problem as it was.
        seed: of the run that evaluated.
        device: what measured, by its product's name; empty where times are modelled.
        judged: how values were compared, in one line.
        versions: of what evaluated.
        places: breadth first from the first kernel, number 0.
        more: whether the engineer could have gone on.
        noise: standard error of ln(time) that replaying adds, drawn by run and candidate; for made-up ones.
    """

    problem: Problem
    key: str
    platform: str
    seed: int
    device: str
    judged: str
    places: tuple[Place, ...]
    candidates: tuple[Recorded, ...]
    more: bool = False
    noise: float = 0.0
    made_up: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`kernelbench:level1/23_Softmax on h200`."""
        return f"{self.problem.suite}:{self.problem.name} on {self.platform}"

    @property
    def evaluated(self) -> int:
        """Candidates that have an evaluation."""
        return sum(one.evaluation is not None for one in self.candidates)

    @property
    def evidence(self) -> str:
        """How its figures were obtained, and that they are not obtained anew."""
        if self.made_up:
            return "made up, replayed"
        return f"{Evidence.MEASURED if self.device else Evidence.MODELLED}, replayed"


def without_text(problem: Problem) -> Problem:
    """`problem` with a remark in place of its text: what is recorded can be given away where the text cannot."""
    remark = f"# {problem.suite}:{problem.name}, problem {problem.key}; its text is not part of the recording.\n"
    return replace(problem, source=remark, path=problem.name, notes="")


def without_docstrings(plan: Mapping[str, Any]) -> dict[str, Any]:
    """`plan` without its kernels' docstrings, which quote the reference."""
    return {**plan, "kernels": [{**kernel, "about": ""} for kernel in plan["kernels"]]}


def features_of(source: str) -> str:
    """What `search.features` looks for in a source."""
    return " ".join(dict.fromkeys(match[0] for match in _FEATURES.finditer(source)))


def slim(found: Evaluation) -> Evaluation:
    """An evaluation without what a search does not look at."""
    return replace(
        found,
        rungs=tuple(
            replace(r, seconds=round(r.seconds, 3), message=r.message[:MESSAGE] if r.status == "failed" else "")
            for r in found.rungs
        ),
        correctness=tuple(replace(c, checks=(), scaled=(), not_seen=()) for c in found.correctness),
        timings=tuple(_slim_timing(t) for t in found.timings if t.mode == "cold"),
        labels=(), versions={}, tuned_source="", artefacts={}, guards=(),
    )  # fmt: skip


def _slim_timing(timing: Timing) -> Timing:
    return replace(timing, samples={}, aside={})


class Recorder:
    """A landscape's file while it is made: a head, then one line per evaluation, written as they come.

    Args:
        file: ends in `.gz` to be gzipped.
        landscape: as planned, or as read from the file; the file is written anew from it.

    Attributes:
        head: all but the evaluations; what is changed in it is written by `pack`.
    """

    def __init__(self, file: Path, landscape: Landscape) -> None:
        self.file, self._known = file, dict(enumerate(landscape.candidates))
        self.head = landscape
        self.pack()

    @property
    def landscape(self) -> Landscape:
        """As it is now."""
        return replace(self.head, candidates=tuple(self._known[i] for i in range(len(self._known))))

    def add(self, number: int, evaluation: Evaluation, twin: int | None = None) -> None:
        """Keeps what was found about one candidate.

        Raises:
            StoreError: it cannot be written.
        """
        self._known[number] = replace(self._known[number], evaluation=slim(evaluation), twin=twin)
        self._write(self._line(number), append=True)

    def pack(self) -> None:
        """Writes the whole file anew, which is shorter where it is gzipped.

        Raises:
            StoreError: it cannot be written.
        """
        lines = [self._line(i) for i, one in self._known.items() if one.evaluation is not None]
        self._write("".join([_head(self.head), *lines]), append=False)

    def _line(self, number: int) -> str:
        one = self._known[number]
        return codec.dumps({"candidate": number, "evaluation": one.evaluation, "twin": one.twin}) + "\n"

    def _write(self, text: str, *, append: bool) -> None:
        data = text.encode()
        if self.file.name.endswith(".gz"):
            data = gzip.compress(data, mtime=0)
        try:
            if append:
                with self.file.open("ab") as opened:
                    opened.write(data)
                return
            self.file.parent.mkdir(parents=True, exist_ok=True)
            beside = self.file.with_name(f".{self.file.name}.{os.getpid()}")
            beside.write_bytes(data)
            beside.replace(self.file)
        except OSError as error:
            raise StoreError(f"the landscape cannot be written: {error}") from error


def _head(landscape: Landscape) -> str:
    bare = replace(landscape, candidates=tuple(replace(c, evaluation=None, twin=None) for c in landscape.candidates))
    return codec.dumps({"landscape": VERSION, **codec.to_data(bare)}) + "\n"


def read_landscape(file: Path) -> Landscape:
    """The landscape in a file; a last line that was cut short is left out.

    Raises:
        StoreTooNew: it was written by a newer KernelEvolve.
        StoreError: there is no such file, or it holds no landscape.
    """
    lines = _lines(file)
    try:
        head = json.loads(lines[0]) if lines else {}
        version = head.pop("landscape", None)
        if version is None:
            raise StoreError(f"{file} holds no landscape; record one: kernelevolve race record PROBLEM --to {file}")
        if not isinstance(version, int) or version > VERSION:
            raise StoreTooNew(
                f"{file} is a landscape of version {version}, this KernelEvolve knows {VERSION}; upgrade KernelEvolve"
            )
        if version < VERSION:
            raise StoreError(f"{file} is a landscape of version {version}, {VERSION} is needed; record it again")
        found = codec.from_data(Landscape, head)
        return _with_lines(found, lines[1:])
    except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise StoreError(f"{file} is no landscape: {str(error)[:200]}; record it again") from error


def _with_lines(landscape: Landscape, lines: Sequence[str]) -> Landscape:
    known = list(landscape.candidates)
    for at, line in enumerate(lines):
        try:
            data = json.loads(line)
        except ValueError:
            if at == len(lines) - 1:
                break
            raise
        evaluation = codec.from_data(Evaluation, data["evaluation"])
        known[data["candidate"]] = replace(known[data["candidate"]], evaluation=evaluation, twin=data["twin"])
    for place in landscape.places:
        if not all(0 <= step.to < len(landscape.places) for step in place.steps) or place.candidate >= len(known):
            raise ValueError(f"a step leads out of the landscape's {len(landscape.places)} places")
    return replace(landscape, candidates=tuple(known))


def _lines(file: Path) -> list[str]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}; known: a file, or synthetic:KIND") from error
    if data[:2] == b"\x1f\x8b":
        data = _unzipped(data)
    try:
        return data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise StoreError(f"{file} is no landscape: {error}") from error


def _unzipped(data: bytes) -> bytes:
    """What the whole members hold; the last one may have been cut short."""
    parts = []
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            text = member.decompress(data)
        except zlib.error:
            break
        if not member.eof:
            break
        parts.append(text)
        data = member.unused_data
    return b"".join(parts)


def digest_of(source: str) -> str:
    """SHA-256 of a source."""
    return hashlib.sha256(source.encode()).hexdigest()
