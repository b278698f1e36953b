"""The corpus: every module here has `SPECIMENS`, a tuple of what must be caught or must pass.

In: nothing. Out: all of them, sorted by module and place. Left to others: running them (`runner`).
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from kernelevolve.selftest.specimen import Specimen


def corpus() -> tuple[Specimen, ...]:
    """Every specimen.

    Raises:
        ValueError: two have the same id.
    """
    found: list[Specimen] = []
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        found += import_module(f"{__name__}.{module}").SPECIMENS
    ids = [s.id for s in found]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ValueError(f"specimens with the same id: {', '.join(twice)}")
    return tuple(found)
