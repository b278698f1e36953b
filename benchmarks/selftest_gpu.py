"""Runs the device part of the selftest, in as many sittings as it takes.

Comes in: a device, how long one sitting may take (`--seconds`), and optionally ids or families (`--only`). Goes out: a
line for each specimen on stdout and, in the file of `--out`, every outcome so far with versions, date and command; what
the file has already is not run again, unless it came out wrong and `--again` is given. Exits with 1 unless every
specimen was run and came out right. It leaves to others: what the specimens are (`kernelevolve.selftest`).
"""

import argparse
import datetime
import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from kernelevolve import chosen_specimens, run_selftest, to_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=480.0, help="after which no further specimen begins")
    parser.add_argument("--again", action="store_true", help="run again what came out wrong")
    asked = parser.parse_args()
    kept: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.exists() else {"outcomes": [], "controls": []}
    done = {o["id"] for o in kept["outcomes"] if o["right"] or not asked.again}
    wanted = chosen_specimens(tuple(asked.only), on="gpu")
    report = run_selftest(
        tuple(s for s in wanted if s.id not in done),
        device=asked.device,
        within=asked.seconds,
        progress=lambda line: print(line, flush=True),
    )
    found = to_data(report)
    fresh = {o["id"] for o in found["outcomes"]}
    outcomes = [o for o in kept["outcomes"] if o["id"] not in fresh] + found["outcomes"]
    controls = kept["controls"] + found["controls"]
    wrong = [o["id"] for o in (*outcomes, *controls) if not o["right"]]
    kept = {
        "device": report.device,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "benchmarks/selftest_gpu.py", *sys.argv[1:]]),
        "versions": dict(report.versions) | {"machine": platform.machine()},
        "seconds": kept.get("seconds", 0.0) + report.seconds,
        "wrong": wrong,
        "left": list(report.left),
        "outcomes": outcomes,
        "controls": controls,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"{len(outcomes)} specimens, wrong: {', '.join(wrong) or 'none'}; left: {', '.join(report.left) or 'none'}")
    sys.exit(bool(wrong or report.left))


if __name__ == "__main__":
    main()
