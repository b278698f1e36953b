"""The bytes that a call of a workload moves at least, tried once for all candidates of a bench.

In: a workload, inputs. Out: what the judge found (`judge.compulsory`). Left to others: the time that they take, and who
is refused for it (`session`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from kernelevolve import codec
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.seat import Stay
from kernelevolve.protocol import Case, Description

_SECONDS = 5.0
_MOVED: WeakKeyDictionary[Bench, dict[tuple[str, str, str], Mapping[str, Any]]] = WeakKeyDictionary()


def compulsory(bench: Bench, description: Description, device: str, case: Case, stay: Stay) -> Mapping[str, Any]:
    """`read`, `written` in bytes, and `shares`: of each input that must be read, by name.

    Args:
        case: whose inputs the judge changes to see what of them matters; of each distribution one is tried.
        stay: lets others by while they use the judge.
    """
    with stay.holding(bench.lock):  # several candidates may want to know at once
        known = _MOVED.setdefault(bench, {})
        key = (description.variant.workload, device, case.distribution)
        if key not in known:
            judge = bench.oracle(description, device)
            known[key] = bench.judged(judge, "compulsory", {"case": codec.to_data(case), "seconds": _SECONDS}).body
        return known[key]
