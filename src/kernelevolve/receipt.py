"""Failure and Receipt: what said no to a candidate, and everything that a stranger needs to check an evaluation again.

In: what the rungs, the log and its artefacts know. Out: frozen values, written as JSON, named by their content. Left to
others: finding them (`evaluate`), running them again (`evaluate.replay`, `recheck`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from kernelevolve import codec
from kernelevolve.candidate import Choice
from kernelevolve.evaluation import Evaluation, Figure, Rung, Samples, Verdict
from kernelevolve.problem import Problem

SCHEMA = 1
CIRCUMSTANCES = "circumstances"  # name of the artefact


@dataclass(frozen=True)
class Failure:
    """One check that failed, as data.

    Attributes:
        message: the line of the rung's report.
        lane: name of the lane in which it was judged.
        guard: name of the guard that failed; empty where a rung itself said no.
        workload, size: which inputs, e.g. `declared` at `scaled`; empty where no input was drawn.
        device: `cpu` under the interpreter, torch's name of an accelerator, `meta` where addresses or launches were
            looked at without data; empty where nothing was run.
        seed, distribution: of the case; seed is -1 where no input was drawn.
        statistic, value, limit: the first failing one, see `Check`; empty where nothing was compared.
        choice: the knobs.
        more: what only the check itself understands; `bounds` that it ran under, the `cases` until then, as data.
    """

    verdict: Verdict
    rung: Rung
    platform: str
    lane: str
    message: str
    guard: str = ""
    workload: str = ""
    size: str = ""
    device: str = ""
    seed: int = -1
    distribution: str = ""
    statistic: str = ""
    value: float = 0.0
    limit: float = 0.0
    choice: Mapping[str, Choice] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


def failure_of(artefact: Mapping[str, Any], **known: Any) -> Failure:
    """A Failure from what was said where it failed (`evaluate.correct.Failed.artefact`); names that are no field of it
    go into `more`."""
    names = {f.name for f in fields(Failure)} - {"more"}
    more = {k: v for k, v in artefact.items() if k not in names}
    return Failure(**{**{k: v for k, v in artefact.items() if k in names}, **known}, more=more)


@dataclass(frozen=True)
class Circumstances:
    """What an evaluation rests on beside its problem and candidate.

    Attributes:
        kernelevolve: version of the package.
        harness: SHA-256 over the source files that judge (`evaluate.circumstances`).
        device: the product's name; empty where there was none.
        secret: from which all inputs were drawn, in hexadecimal; written when the evaluation had ended.
        driver: its version; empty where unknown.
        clocks_mhz, temperatures_c: by name, at the end of the evaluation; empty where unknown.
        how: what said so, or why nothing did.
    """

    kernelevolve: str
    harness: str
    device: str = ""
    secret: str = ""
    driver: str = ""
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    how: str = "no device"


@dataclass(frozen=True)
class Receipt:
    """One evaluation with everything that was used for it.

    Attributes:
        schema: version of this format.
        made: when, in UTC.
        problem: the reference's text, its workloads and the rules of its sidecar.
        candidate: the text of the kernel's file.
        settings: `Settings` as data, with the lane; `seed` is that of every choice of the search and the tuner.
        evaluation: verdict, guards, every comparison with its seed, limit and statistic, times, binaries, versions,
            isolation; its references to artefacts are left out.
        fitness: see `search.fitness`.
        timed_in: `plan` where every time is that of recorded launches, carried out without the candidate's Python;
            `process` where that Python was in a timed process; empty where nothing was timed.
        samples: raw samples of both sides, by workload and mode.
        failure: the check that said no; None where none did.
        admission: what admission found of the problem, tolerances included; empty where it was not asked.
    """

    schema: int
    made: str
    problem: Problem
    candidate: str
    platform: str
    seed: int
    settings: Mapping[str, Any]
    evaluation: Evaluation
    fitness: Figure
    circumstances: Circumstances
    timed_in: Literal["process", "plan", ""] = ""
    samples: tuple[Samples, ...] = ()
    failure: Failure | None = None
    admission: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`sha256:` and the digest of the content."""
        return f"sha256:{hashlib.sha256(codec.dumps(self).encode('utf-8', 'backslashreplace')).hexdigest()}"

    @property
    def measured(self) -> bool:
        """Whether it claims anything that was found on a device."""
        return bool(self.circumstances.device)


def write_receipt(receipt: Receipt) -> str:
    """The receipt as a file's text: JSON with its id beside it."""
    data = {"id": receipt.id, "receipt": codec.to_data(receipt)}
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def read_receipt(text: str) -> tuple[Receipt, str]:
    """The receipt in a file's text, and the id that the file says it has.

    Raises:
        ValueError: it is none, or of a newer schema, with what does not fit.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or set(data) != {"id", "receipt"} or not isinstance(data["receipt"], dict):
        raise ValueError("a receipt is an object with `id` and `receipt`")
    schema = data["receipt"].get("schema")
    if schema != SCHEMA:
        raise ValueError(f"it has schema {schema!r}, this KernelEvolve reads schema {SCHEMA}")
    return codec.from_data(Receipt, data["receipt"]), str(data["id"])
