"""Records the landscapes that `kernelevolve race` replays: all that the built-in engineer can reach, evaluated once.

In: problems, a device or none, a time limit, a folder. Out: one file per problem in that folder, written as candidates
are evaluated; called again it goes on where the files end. Left to others: the recording itself (`kernelevolve.race`),
which differs from `kernelevolve race record` only in that several problems share one machine here.

Each candidate is judged at its default knobs, its values compared on declared inputs once: what is compared are
policies, on candidates that one and the same engineer wrote.

    KERNELBENCH_PATH=. python benchmarks/record_landscapes.py --device cuda:0 --platform h200 --seconds 570 --to FOLDER
    KERNELBENCH_PATH=. python benchmarks/record_landscapes.py --device none --platform h100 --seconds 3000 --to FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kernelevolve import KernelEvolveError, Workshop, load_problem
from kernelevolve.evaluate.roles import Roles
from kernelevolve.race.record import ONCE, RecordingOrder, record_landscape

# All have 150 candidates or more within reach, but for products alone, which have up to 216.
PROBLEMS = (
    "kernelbench:level1/1", "kernelbench:level1/95", "kernelbench:level2/99", "recsys:pairwise_dot_interaction",
    "recsys:sampled_softmax", "kernelbench:level2/12", "kernelbench:level2/37", "kernelbench:level2/62",
    "kernelbench:level2/29", "kernelbench:level2/63", "kernelbench:level2/76", "kernelbench:level2/86",
)  # fmt: skip
OPEN_SECONDS = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--platform", default="h200")
    parser.add_argument("--device", default="none", help="none, or torch's name of one such as cuda:0")
    parser.add_argument(
        "--candidates", type=int, nargs="+", default=[50, 150], help="of each; of several, all come so far first"
    )
    parser.add_argument("--seconds", type=float, default=570.0, help="after which everything is stopped")
    parser.add_argument("--problems-at-once", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=8, help="candidates of one problem at the same time")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    asked = parser.parse_args()
    until = time.monotonic() + asked.seconds
    begun = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    rows: dict[str, str] = {}
    said = threading.Lock()

    def say(name: str, text: str) -> None:
        with said:
            rows[name] = text
            left = until - time.monotonic()
            print(f"{left:5.0f} s left  {name}: {text}", flush=True)
            facts = {"begun": begun, "cores": os.cpu_count(), "device": asked.device, "platform": asked.platform}
            asked.to.mkdir(parents=True, exist_ok=True)
            (asked.to / "recording.json").write_text(json.dumps({**facts, "problems": rows}, indent=1) + "\n")

    with contextlib.closing(Roles()) as roles, ThreadPoolExecutor(asked.problems_at_once) as pool:
        went_on = set()
        for most in asked.candidates:
            jobs = {name: pool.submit(one, name, most, asked, roles, until, say) for name in asked.problems}
            went_on |= {name for name, job in jobs.items() if job.result()}
    print(f"{len(went_on)} of {len(asked.problems)} problems went on", flush=True)
    return 0 if went_on else 1


def one(
    name: str, most: int, asked: argparse.Namespace, roles: Roles, until: float, say: Callable[[str, str], None]
) -> bool:
    """Records one problem as far as time goes; whether it could be gone on with."""
    if until - time.monotonic() < OPEN_SECONDS:
        say(name, f"no time was left for {most} candidates")
        return False
    start = time.monotonic()
    try:
        problem = load_problem(name)
        file = asked.to / f"{name.replace(':', '_').replace('/', '_')}_{asked.platform}.jsonl.gz"
        order = RecordingOrder(
            problem, asked.platform, file, most, seconds=max(1.0, until - time.monotonic()),
            at_once=asked.at_once, values=ONCE, trials=0,
        )  # fmt: skip
        with workshop(problem, asked.device, roles) as shop:

            def told(node, done: int, total: int) -> None:
                if done % 10 == 0 or done == total:
                    rate = 60 * done / (time.monotonic() - start)
                    say(name, f"{done} of {total} evaluated, {rate:.1f} a minute; latest {node.evaluation.verdict} "
                              f"{node.fitness.value:.3g}x")  # fmt: skip

            found = record_landscape(order, shop, told)
    except KernelEvolveError as error:
        say(name, f"{type(error).__name__}: {error}")
        return False
    fitness = [t.speedup.value for c in found.candidates if c.evaluation for t in c.evaluation.timings[:1]]
    verdicts = [str(c.evaluation.verdict) for c in found.candidates if c.evaluation]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts)))
    held = sum(c.evaluation.device_seconds for c in found.candidates if c.evaluation)
    best = f"first {fitness[0]:.3g}x, best {max(fitness):.3g}x" if fitness else "none is timed"
    say(name, f"{found.evaluated} of {len(found.candidates)} evaluated in {time.monotonic() - start:.0f} s "
              f"({held:.0f} s on the device): {counts}; {best}")  # fmt: skip
    return True


@contextlib.contextmanager
def workshop(problem, device: str, roles: Roles) -> Iterator[Workshop]:
    """Equipment that shares its processes; values are compared where there is a device, not interpreted too."""
    made = Workshop(problem, device=device, roles=roles, interpret=device == "none")
    try:
        yield made
    finally:
        made.close()


if __name__ == "__main__":
    sys.exit(main())
