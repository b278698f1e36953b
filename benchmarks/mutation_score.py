"""The mutation score: how many mechanically made mistakes in honest kernels are rejected.

    python benchmarks/mutation_score.py [PROBLEM ...] [--out RESULTS.json] [--seconds N]

Every mutant (`kernelevolve.selftest.mutants`) of every honest kernel of the selftest is judged in this process on the
distributions of the lane `accept` at the scaled and the ragged size: oracle, interpreter and comparison are those of
the ladder; processes, structure tests and timing are left out. A distribution on which the honest kernel itself fails
is left out for its problem. Survivors are listed, those that compute the same as the honest kernel with the reason.
"""

from __future__ import annotations

import argparse
import ast
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "interpret"))

from court import ACCEPT, Court  # noqa: E402
from equivalent import reason_for  # noqa: E402

from kernelevolve.evaluation import Verdict  # noqa: E402
from kernelevolve.selftest.kernels.known import KNOWN  # noqa: E402
from kernelevolve.selftest.mutants import mutants  # noqa: E402
from kernelevolve.selftest.specimen import read  # noqa: E402


class Endless(BaseException):
    """A mutant did not end in time: a deadline would have killed it."""


def give_up(*_: object) -> None:
    raise Endless


def score(problem: str, seconds: int) -> dict[str, Any]:
    """What became of the mutants of one problem's kernel."""
    start = time.monotonic()
    court = Court(read(problem))
    honest = ast.unparse(ast.parse(KNOWN[problem]))
    cases = [c for c in ACCEPT[: len(ACCEPT) // 2] if court.verdict(honest, [c])[0].ok]
    if not cases:
        raise SystemExit(f"{problem}: its honest kernel fails: {court.verdict(honest, ACCEPT[:1])}")
    killed: dict[str, int] = {}
    survivors = []
    for mutant in mutants(KNOWN[problem]):
        signal.alarm(seconds)
        try:
            verdict, _ = court.verdict(mutant.source, cases)
        except Endless:
            verdict = Verdict.TIMEOUT
        finally:
            signal.alarm(0)
        if verdict.ok:
            fact = {"operator": mutant.operator, "place": mutant.place, "change": mutant.change}
            survivors.append({**fact, "equivalent": reason_for(problem, mutant)})
        else:
            killed[str(verdict)] = killed.get(str(verdict), 0) + 1
    return {
        "problem": problem,
        "left_out": sorted({c.distribution for c in ACCEPT} - {c.distribution for c in cases}),
        "mutants": sum(killed.values()) + len(survivors),
        "killed": killed,
        "survivors": survivors,
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=[*KNOWN])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "mutation_score.json")
    parser.add_argument("--seconds", type=int, default=60, help="for one mutant")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, give_up)
    found = []
    for problem in arguments.problems:
        found.append(score(problem, arguments.seconds))
        one = found[-1]
        print(f"{problem:20} {sum(one['killed'].values())}/{one['mutants']} killed, {one['seconds']} s", flush=True)
        for survivor in one["survivors"]:
            why = survivor["equivalent"] or "NOT EXPLAINED"
            print(f"    {survivor['operator']}: {survivor['place']} -> {survivor['change']}: {why}", flush=True)
        write(found, arguments.out)
    print(json.dumps(total(found)))


def total(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over all problems; the share leaves out mutants that compute the same as the honest kernel."""
    mutants_, killed = sum(o["mutants"] for o in found), sum(sum(o["killed"].values()) for o in found)
    same = sum(bool(s["equivalent"]) for o in found for s in o["survivors"])
    share = round(killed / max(1, mutants_ - same), 4)
    return {"mutants": mutants_, "killed": killed, "equivalent": same, "share": share}


def write(found: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"total": total(found), "problems": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
