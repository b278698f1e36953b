"""Which problems admission admits, what it drops and why: one line and one record per problem.

Usage:
    python benchmarks/admission.py --path KERNELBENCH [--problems SUITE:NAME,...] [--device none] [--out table.json]
    python benchmarks/admission.py --show table.json

In: a KernelBench checkout and the problems' names. Out: lines, and a JSON file with every null model and honest control
that was tried (those null models that fail by name), the effective tolerances, versions, date, command. Each problem
goes through the same door as `kernelevolve admit`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform as machine
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kernelevolve import KernelEvolveError, Problem, Workshop, lane_for, open_suite, to_data

LEVEL1 = (1, 3, 9, 19, 23, 26, 36, 37, 40, 47, 51, 88, 95, 97, 100)
LEVEL2 = (12, 22, 29, 45, 63, 76, 86, 99, 9, 80)
RECSYS = open_suite("recsys").names()
NAMED = (
    *(f"kernelbench:level1/{n}" for n in LEVEL1),
    *(f"kernelbench:level2/{n}" for n in LEVEL2),
    *(f"recsys:{name}" for name in RECSYS),
)


def load(name: str, path: Path | None) -> Problem:
    """`suite:problem`."""
    suite, _, problem = name.partition(":")
    return open_suite(suite, path if suite == "kernelbench" else None).load(problem)


def examine(name: str, path: Path | None, device: str, distributions: tuple[str, ...]) -> dict[str, Any]:
    """The record of one problem: describing it included in `seconds`, starting processes not."""
    problem = load(name, path)
    shop = Workshop(problem, device=device)
    try:
        with tempfile.TemporaryDirectory() as builds:
            shop.roles.warm("judge")
            versions = dict(shop.roles["judge"].known_versions())
            start = time.monotonic()
            gate = shop.gate(Path(builds))
            found, sized = gate.admission(distributions), gate.sized(distributions)
            seconds = time.monotonic() - start
        return {
            "problem": name, "name": problem.name, "precision": problem.precision, "seconds": round(seconds, 2),
            "versions": versions, "labels": list(gate.bench.labels),
            "admission": to_data(found), "sizes": [short(size) for size in to_data(sized)],
        }  # fmt: skip
    except KernelEvolveError as error:
        return {"problem": name, "error": f"{type(error).__name__}: {error}"}
    finally:
        shop.close()


def short(size: dict[str, Any]) -> dict[str, Any]:
    """One size's record with the null models that fail as names: what each failed by is what `admit --json` prints."""
    kept = []
    for tried in size["tried"]:
        failing = [m["name"] for m in tried["models"] if m["kind"] != "control" and m["outcome"] == "rejected"]
        others = [m for m in tried["models"] if m["kind"] == "control" or m["outcome"] != "rejected"]
        kept.append({**tried, "models": others, "rejected": failing})
    return {**size, "tried": kept}


def line(row: dict[str, Any]) -> str:
    """One problem in one line of Markdown."""
    if "error" in row:
        return f"| {row['problem']} | ERROR | {row['error'][:200]} | | |"
    found = row["admission"]
    state = "admitted" if found["admitted"] else "REFUSED"
    by: dict[str, list[str]] = {}
    for name, why in found["dropped"].items():
        by.setdefault(why.split(" (")[0].split(": ")[0] if why.startswith("an honest") else why, []).append(name)
    dropped = "; ".join(f"{', '.join(names)}: {why}" for why, names in by.items())
    return (
        f"| {row['problem']} {row['name']} | {state} | {', '.join(found['distributions'])} | {dropped} "
        f"| {row['seconds']:.1f} s |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, help="a KernelBench checkout")
    parser.add_argument("--problems", default=",".join(NAMED), help="comma separated suite:problem")
    parser.add_argument("--device", default="none", help="none for scaled sizes on the CPU, else full sizes there")
    parser.add_argument("--out", type=Path, default=Path("admission.json"))
    parser.add_argument("--show", type=Path, help="only print this table as Markdown")
    arguments = parser.parse_args()
    print("| problem | state | judged on | dropped | time |\n| --- | --- | --- | --- | --- |")
    if arguments.show:
        print("\n".join(line(row) for row in json.loads(arguments.show.read_text())["rows"]))
        return 0
    distributions = lane_for("accept").distributions
    record: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.platform(),
        "device": arguments.device,
        "distributions": list(distributions),
        "rows": [],
    }
    for name in filter(None, arguments.problems.split(",")):
        record["rows"].append(examine(name, arguments.path, arguments.device, distributions))
        print(line(record["rows"][-1]), flush=True)
        arguments.out.write_text(json.dumps(record))
    return 1 if any("error" in row for row in record["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
