"""Hidden sizes: whether a candidate that is right for the declared shapes computes others, or says that it does not.

In: a Trial at a declared size, descriptions at hidden ones (`Bench.hidden`), the secret. Out: a guard, labels; `Failed`
with `GENERALIZATION` where a hidden size comes out wrong. Left to others: drawing the sizes (`tensors.hidden`).

A candidate may refuse a shape by a ValueError or NotImplementedError of its own before it launches anything. Which
shapes are hidden is told to nobody who writes kernels: the message has no sizes, the artefact has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kernelevolve.errors import ProblemError
from kernelevolve.evaluate.asking import Failed, Trial, Unseen, generalization, refuses
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import compare
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.structure import Report
from kernelevolve.evaluation import Evidence
from kernelevolve.protocol import Description

GUARD = "hidden-shapes"
DISTRIBUTION = "declared"
DECLARED_ONLY = "shapes: declared only"


def compare_hidden(
    bench: Bench,
    trial: Trial,
    sizes: Sequence[Description],
    seeds: Seeds,
    evidence: Evidence,
    report: Report,
    *,
    keep: bool = False,
) -> list[str]:
    """Runs the candidate once at each hidden size; labels that describe it.

    Args:
        keep: the oracles, for other candidates at the same sizes.

    Raises:
        Failed: it is wrong at one.
    """
    right = refused = unseen = 0
    for description in sizes:
        case = seeds.case(f"{GUARD}/{description.variant.label}", DISTRIBUTION)
        try:
            compare(bench, replace(trial, description=description), [case], evidence)
            right += 1
        except (Unseen, ProblemError):
            unseen += 1
        except Failed as failed:
            if not refuses(failed):
                changed = list(description.variant.scaled)
                wrong = generalization(failed, "a shape that is not declared")
                wrong.correctness = None  # its place is among the declared sizes
                raise wrong.knowing(guard=GUARD, sizes=changed, text=description.variant.source) from failed
            refused += 1
        finally:
            if not keep:
                bench.forget(description, trial.device)
    if not right + refused:
        report(GUARD, "not run", "no other size could be compared" if sizes else "the reference runs at no other size")
        return []
    report(GUARD, "held", f"{right} sizes that no file names came out right, {refused} were refused with a reason")
    return [DECLARED_ONLY] if refused else []
