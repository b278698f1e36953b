"""The table of named problems on one machine: each problem's run, its verdict, its times, its raw samples.

Usage:
    python benchmarks/kernelbench_table.py --path KERNELBENCH [--platform h200] [--device auto|none] [--out table.json]
    python benchmarks/kernelbench_table.py --show table.json ...

In: a KernelBench checkout and the problems' names. Out: one line per problem as it finishes, and a JSON file with every
evaluation (raw samples, versions, date, command). Each problem goes through the same door as `kernelevolve optimize`: a
run in a folder of its own. With a device, everything that needs none (describing, capturing, building) is done for all
problems side by side before the device is used, and the interpret rung is left to the table without a device.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import dataclasses
import datetime
import json
import platform as machine
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernelevolve import KernelEvolveError, Problem, Workshop, create_run, open_suite, settings_for, to_data

LEVEL1 = (1, 3, 9, 19, 23, 26, 36, 37, 40, 47, 51, 88, 95, 97, 100)
LEVEL2 = (12, 22, 29, 45, 63, 76, 86, 99, 9, 80)
RECSYS = (
    "jagged_to_dense",
    "bucketize_by_borders",
    "feature_hashing",
    "pairwise_dot_interaction",
    "rms_norm_residual",
)
NAMED = (
    *(f"kernelbench:level1/{n}" for n in LEVEL1),
    *(f"kernelbench:level2/{n}" for n in LEVEL2),
    *(f"recsys:{n}" for n in RECSYS),
)


def load(name: str, path: Path | None) -> Problem:
    """`suite:problem`."""
    suite, _, problem = name.partition(":")
    return open_suite(suite, path if suite == "kernelbench" else None).load(problem)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, help="a KernelBench checkout")
    parser.add_argument("--problems", default=",".join(NAMED), help="comma separated suite:problem")
    parser.add_argument("--platform", default="h200")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--trials", type=int, default=10, help="knob choices that are tried per candidate")
    parser.add_argument("--seconds", type=float, default=3000, help="start no problem after this long")
    parser.add_argument("--side-by-side", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("table.json"))
    parser.add_argument("--show", type=Path, nargs="+", help="only print these tables as Markdown")
    arguments = parser.parse_args()
    if arguments.show:
        print(markdown([json.loads(path.read_text()) for path in arguments.show]))
        return 0
    start = time.monotonic()
    settings = dataclasses.replace(
        settings_for("quick"),
        candidates=arguments.candidates,
        tuner_trials=arguments.trials,
        build_trials=arguments.trials,
        seconds=600.0,
    )
    record: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.platform(),
        "settings": to_data(settings),
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as runs:
        for name, job in jobs(arguments, settings, Path(runs)):
            if time.monotonic() - start > arguments.seconds:
                record["rows"].append({"problem": name, "error": "not started: out of time"})
            else:
                record["rows"].append(finish(name, job))
            print(f"{time.monotonic() - start:4.0f} s  {line(record['rows'][-1])}", flush=True)
            arguments.out.write_text(json.dumps(record, indent=1))
    good = sum(row.get("correct", False) for row in record["rows"])
    print(f"{good} of {len(record['rows'])} correct, {time.monotonic() - start:.0f} s")
    return 0 if good == len(record["rows"]) else 1


def jobs(arguments: argparse.Namespace, settings: Any, runs: Path) -> Iterator[tuple[str, Any]]:
    """Every problem with its shop and run, or with the error in their place.

    With a device they are prepared side by side, each in about 1 GB of memory; without one by one.
    """

    def one(name: str) -> Any:
        try:
            problem = load(name, arguments.path)
            shop = Workshop(problem, device=arguments.device, interpret=arguments.device == "none")
            folder = runs / name.replace(":", "_").replace("/", "_")
            run = create_run(folder, problem, arguments.platform, shop, settings=settings)
            asyncio.run(run.write(run.ask()))
            return shop, run
        except KernelEvolveError as error:
            return error

    names = [n for n in arguments.problems.split(",") if n]
    if arguments.device == "none":
        yield from ((name, one(name)) for name in names)
        return
    with concurrent.futures.ThreadPoolExecutor(arguments.side_by_side) as pool:
        waiting = {name: pool.submit(one, name) for name in names}
        concurrent.futures.wait(waiting.values())
        yield from ((name, job.result()) for name, job in waiting.items())


def finish(name: str, job: Any) -> dict[str, Any]:
    """Drives one run to its end; its row."""
    if isinstance(job, KernelEvolveError):
        return {"problem": name, "error": f"{type(job).__name__}: {job}"}
    shop, run = job
    begin = time.monotonic()
    try:
        reason = asyncio.run(run.drive())
        nodes = list(run.graph.nodes.values())
        best = run.graph.best or (nodes[0] if nodes else None)
        if best is None:
            return {"problem": name, "error": f"no candidate: {reason}"}
        return {
            "problem": name,
            "verdict": best.evaluation.verdict.value,
            "correct": best.evaluation.correct,
            "seconds": round(time.monotonic() - begin, 1),
            "candidates": len(nodes),
            "note": best.candidate.note,
            "evaluation": to_data(best.evaluation),
            "samples": [to_data(taken) for taken in run.artefacts.samples(best.id).values()],
            "source": best.candidate.source,
        }
    except KernelEvolveError as error:
        return {"problem": name, "error": f"{type(error).__name__}: {error}"}
    finally:
        run.close()
        shop.close()


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    if "error" in row:
        return f"{row['problem']:42} {row['error'][:150]}"
    found = row["evaluation"]
    head = f"{row['problem']:42} {row['verdict']:13} {row['seconds']:5.0f} s"
    if not row["correct"] or not found["timings"]:
        failed = [r["message"] for r in found["rungs"] if r["status"] == "failed"]
        return f"{head}  {(failed or ['untimed'])[0][:160]}"
    parts = []
    for t in found["timings"]:
        bases = ", ".join(f"{n} {f['value']:.4g}" for n, f in t["baselines"].items())
        s = t["speedup"]
        span = f" [{s['low']:.3f}, {s['high']:.3f}]" if s["low"] else ""
        parts.append(
            f"{t['candidate']['value']:.4g} ms ({bases}) {s['value']:.3f}x {t['against']}{span} {s['evidence']}"
        )
    errors = max(found["correctness"], key=lambda c: c["own_error"])
    return f"{head}  {' | '.join(parts)}  err {errors['own_error']:.1e} (ref {errors['reference_error']:.1e})"


def markdown(records: list[dict[str, Any]]) -> str:
    """The rows of several records as one Markdown table, one line per workload."""
    lines = [
        "| problem | workload | verdict | ours ms | eager ms | compile ms | against the faster, 95 % "
        "| rms error on N(0, 1) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in (r for record in records for r in record["rows"]):
        if "error" in row:
            lines.append(f"| {row['problem']} | | | | | | {row['error'][:120]} | |")
            continue
        found = row["evaluation"]
        checks = [c for part in found["correctness"] for c in part["checks"]]
        signed = [c["detail"] for c in checks if c["distribution"] == "D1" and c["name"] == "rms"]
        errors = signed[-1].split(": ", 1)[-1] if signed else ""
        for t in found["timings"] or [None]:
            if t is None:
                lines.append(f"| {row['problem']} | | {row['verdict']} | | | | | {errors} |")
                continue
            s, base = t["speedup"], t["baselines"]
            span = f" ({s['low']:.3f} to {s['high']:.3f})" if s["low"] else ""
            times = " | ".join(f"{f['value']:.4g}" for f in (t["candidate"], base["eager"], base["compile"]))
            ratio = f"{s['value']:.3f}x{span} {s['evidence']}"
            lines.append(f"| {row['problem']} | {t['workload']} | {row['verdict']} | {times} | {ratio} | {errors} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
