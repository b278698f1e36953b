"""Runs the device part of the selftest, in as many sittings as it takes.

Comes in: a device, how long one sitting may take (`--seconds`), and optionally ids or families (`--only`); with
`--matrix` the rows of the matrix in place of the corpus, with `--aa N` as many comparisons of a kernel with itself.
Goes out: a line for each specimen on stdout and, in the file of `--out`, every outcome as it comes, in the end with
versions, date and command; what the file has already is not run again, unless it came out wrong and `--again` is given.
Exits with 1 unless everything was run and came out right. It leaves to others: what the specimens are
(`kernelevolve.selftest`).
"""

import argparse
import datetime
import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from kernelevolve import chosen_specimens, rows_for, run_aa, run_matrix, run_selftest, to_data

Kept = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=480.0, help="after which no further specimen begins")
    parser.add_argument("--jobs", type=int, default=1, help="problems at the same time")
    parser.add_argument("--again", action="store_true", help="run again what came out wrong")
    parser.add_argument("--matrix", action="store_true", help="the rows of the matrix; --only then takes guards")
    parser.add_argument("--aa", type=int, default=0, metavar="N", help="time a kernel against itself N times")
    asked = parser.parse_args()
    kept: Kept = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    part = of_aa if asked.aa else of_matrix if asked.matrix else of_corpus
    wrong, left = part(asked, kept)
    kept |= {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "benchmarks/selftest_gpu.py", *sys.argv[1:]]),
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"wrong: {', '.join(wrong) or 'none'}; left: {', '.join(left) or 'none'}")
    sys.exit(bool(wrong or left))


def of_corpus(asked: argparse.Namespace, kept: Kept) -> tuple[list[str], list[str]]:
    """The specimens that are not there yet; ids of those that came out wrong, and that time did not suffice for."""
    before = kept.setdefault("outcomes", [])
    done = {o["id"] for o in before if o["right"] or not asked.again}
    wanted = chosen_specimens(tuple(asked.only), on="gpu")

    def told(outcome: Any) -> None:
        """Whatever ends this process, what was found is there."""
        kept["outcomes"] = [o for o in kept["outcomes"] if o["id"] != outcome.id] + [to_data(outcome)]
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(kept, indent=1) + "\n")

    report = run_selftest(
        tuple(s for s in wanted if s.id not in done),
        device=asked.device,
        within=asked.seconds,
        jobs=asked.jobs,
        progress=lambda line: print(line, flush=True),
        told=told,
    )
    found = to_data(report)
    fresh = {o["id"] for o in found["outcomes"]}
    kept["outcomes"] = [o for o in before if o["id"] not in fresh] + found["outcomes"]
    kept["controls"] = kept.get("controls", []) + found["controls"]
    wrong = [o["id"] for o in (*kept["outcomes"], *kept["controls"]) if not o["right"]]
    noted(kept, report.device, report.versions, report.seconds)
    kept |= {"wrong": wrong, "left": list(report.left)}
    print(f"{len(kept['outcomes'])} specimens")
    return wrong, list(report.left)


def of_matrix(asked: argparse.Namespace, kept: Kept) -> tuple[list[str], list[str]]:
    """The rows that are not there yet: each cheat with all guards, and without those of its row."""
    before = kept.setdefault("matrix", [])
    done = {(s["row"]["specimen"], *s["row"]["guards"]) for s in before if s["holds"] or not asked.again}
    rows = rows_for(tuple(asked.only), on="gpu")

    def told(shown: Any) -> None:
        """Whatever ends this process, what was found is there."""
        one = to_data(shown) | {"holds": shown.holds}
        key = (shown.row.specimen, *shown.row.guards)
        others = [s for s in kept["matrix"] if (s["row"]["specimen"], *s["row"]["guards"]) != key]
        kept["matrix"] = [*others, one]
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(kept, indent=1) + "\n")

    report = run_matrix(
        tuple(r for r in rows if (r.specimen, *r.guards) not in done),
        device=asked.device,
        within=asked.seconds,
        jobs=asked.jobs,
        progress=lambda line: print(line, flush=True),
        told=told,
    )
    for shown in report.shown:
        print(shown.line)
    found = [to_data(s) | {"holds": s.holds} for s in report.shown]
    fresh = {(s["row"]["specimen"], *s["row"]["guards"]) for s in found}
    kept["matrix"] = [s for s in before if (s["row"]["specimen"], *s["row"]["guards"]) not in fresh] + found
    noted(kept, report.device, report.versions, report.seconds)
    wrong = [
        f"{s['row']['specimen']} without {', '.join(s['row']['guards'])}" for s in kept["matrix"] if not s["holds"]
    ]
    print(f"{len(kept['matrix'])} rows; not shown: {', '.join(report.unshown)}")
    return wrong, [f"{r.specimen} without {', '.join(r.guards)}" for r in report.left]


def of_aa(asked: argparse.Namespace, kept: Kept) -> tuple[list[str], list[str]]:
    """A kernel against itself; added to what is there."""
    found = run_aa(asked.device, asked.aa)
    for one in found:
        print(one.summary)
    kept["aa"] = kept.get("aa", []) + [to_data(one) for one in found]
    return [one.summary for one in found if not one.ok], []


def noted(kept: Kept, device: str, versions: Any, seconds: float) -> None:
    """What was measured on, and for how long in all."""
    machine = {"machine": platform.machine()}
    kept |= {"device": device, "versions": dict(versions) | machine, "seconds": kept.get("seconds", 0.0) + seconds}


if __name__ == "__main__":
    main()
