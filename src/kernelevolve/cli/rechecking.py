"""The commands that run again what is claimed: verify, replay.

In: a receipt; a run and a node; the result object of `evaluate`. Out: what came out here, and an exit code that tells.
Left to others: running it (`kernelevolve.verify`, `kernelevolve.replay_failure`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from kernelevolve import (
    CannotCompare,
    Failure,
    NotConfirmed,
    Problem,
    Replayed,
    UnknownName,
    UsageError,
    from_data,
    holds_run,
    read_artefacts,
    read_receipt,
    read_run,
    replay_failure,
    to_data,
)
from kernelevolve import verify as run_again
from kernelevolve.cli import briefing, public
from kernelevolve.cli.door import Device, Door, Json, Unsealed, door_of, interruptible, print_lines

_GOOD = ("confirmed", "reproduced")
_UNSAID = ("cannot compare", "cannot replay")


def verify(
    context: typer.Context,
    receipt: Annotated[Path, typer.Argument(help="a receipt: RUN/receipt.json, or what `evaluate --receipt` wrote")],
    device: Device = "auto",
    unsealed: Unsealed = False,
    as_json: Json = False,
) -> None:
    """Runs a receipt again on this machine and says whether it is confirmed, different or cannot be compared.

    Same source, inputs, knobs and lane; a receipt of a measured time needs the same kind of device. Exits with 0 where
    it is confirmed, 8 where it is different, 9 where nothing can be said here.
    """
    door = door_of(context, as_json)
    try:
        claimed, claimed_id = read_receipt(_text(receipt))
    except ValueError as error:
        raise CannotCompare(f"{receipt} is no receipt that can be read: {error}") from error
    head = f"receipt {claimed_id}: {claimed.problem.name} on {claimed.platform}, {claimed.evaluation.verdict}"
    print_lines(door, [f"{head}, made {claimed.made}"])
    with interruptible(door):
        found = run_again(claimed, claimed_id, device=device, **public.sealing(unsealed))
    here = found.evaluation
    data = {
        "verdict": str(here.verdict) if here else None,
        "correct": bool(here and here.correct),
        "status": found.status,
        "how": list(found.how),
        "id": claimed_id,
        "claimed": str(claimed.evaluation.verdict),
        "evaluation": to_data(here),
    }
    _told(door, data, f"the receipt {receipt}")


def replay(
    context: typer.Context,
    evaluation: Annotated[
        str, typer.Argument(help="RUN:NODE, a receipt, a file whose last line `evaluate --json` printed, or RUN")
    ],
    device: Device = "auto",
    unsealed: Unsealed = False,
    as_json: Json = False,
) -> None:
    """Runs exactly the check again that said no to a candidate: same source, knobs, size, inputs and guard.

    Of a whole RUN it composes every brief again from the log alone, without model, network or device, and compares them
    byte for byte.

    Exits with 0 where the failure is reproduced, 8 where it is not, 9 where it cannot be replayed here.
    """
    door = door_of(context, as_json)
    if Path(evaluation).is_dir():
        briefing.replay_run(door, Path(evaluation))
        return
    claim = _claim(evaluation)
    if claim.failure is None:
        found = Replayed("cannot replay", "nothing failed in this evaluation")
    else:
        print_lines(door, _case(claim.failure))
        with interruptible(door):
            found = replay_failure(
                claim.problem,
                claim.settings,
                claim.seed,
                claim.source,
                claim.failure,
                secret=claim.secret,
                device=device,
            )
    data = {
        "verdict": str(claim.failure.verdict) if claim.failure and found.status == "reproduced" else None,
        "correct": False,
        "status": found.status,
        "how": [found.how],
        "failure": to_data(claim.failure),
    }
    _told(door, data, evaluation)


def _told(door: Door, data: dict[str, Any], what: str) -> None:
    print_lines(door, [f"{data['status']}:", *(f"  {line}" for line in data["how"])])
    door.finish(data)
    if data["status"] in _UNSAID:
        raise CannotCompare(f"{what}: {data['status']}: {'; '.join(data['how'])}")
    if data["status"] not in _GOOD:
        raise NotConfirmed(f"{what}: {data['status']}: {'; '.join(data['how'])}")


@dataclass(frozen=True)
class _Claim:
    """A failure and what it happened to."""

    problem: Problem
    settings: dict[str, Any]
    seed: int
    source: str
    secret: str
    failure: Failure | None


def _claim(evaluation: str) -> _Claim:
    """What RUN:NODE or a file says."""
    folder, colon, node = evaluation.rpartition(":")
    if colon and holds_run(Path(folder)):
        return _of_node(Path(folder), node)
    path = Path(evaluation)
    if not path.is_file():
        raise UsageError(f"{evaluation} is no RUN:NODE and no file; `kernelevolve show RUN` names the nodes of a run")
    text = _text(path)
    try:
        receipt, _ = read_receipt(text)
    except ValueError:
        return _of_result(text, path)
    secret, seed = receipt.circumstances.secret, receipt.seed
    return _Claim(receipt.problem, dict(receipt.settings), seed, receipt.candidate, secret, receipt.failure)


def _of_node(folder: Path, node: str) -> _Claim:
    graph = read_run(folder)
    if node not in graph.nodes:
        raise UnknownName("node", node, graph.nodes)
    kept, created = read_artefacts(folder, graph), graph.created
    circumstances = kept.circumstances(node)
    source, secret = graph.nodes[node].candidate.source, circumstances.secret if circumstances else ""
    return _Claim(created.problem, dict(graph.settings), created.seed, source, secret, kept.failure(node))


def _of_result(text: str, path: Path) -> _Claim:
    try:
        data = json.loads((text.strip().splitlines() or [""])[-1])
        replay, failure = data["replay"], data["failure"]
        if failure is None:
            raise CannotCompare(f"{path}: nothing failed in this evaluation")
        problem, found = from_data(Problem, replay["problem"]), from_data(Failure, failure)
        return _Claim(problem, replay["settings"], replay["seed"], replay["source"], replay["secret"], found)
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} is no receipt and no result object of evaluate --json ({why})") from error


def _case(failure: Failure) -> list[str]:
    """What is run again, for people."""
    where = f"{failure.workload}, {failure.size}" if failure.workload else "its text"
    inputs = f", inputs {failure.distribution}, seed {failure.seed}" if failure.seed >= 0 else ""
    guard = f", guard {failure.guard}" if failure.guard else ""
    return [
        f"{failure.verdict} at rung {failure.rung} in lane {failure.lane}: {failure.message}",
        f"  again: {where}{inputs}{guard}, knobs {dict(failure.choice)}",
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}") from error
