"""A fresh draft of the built-in engineer: its first kernel, or a random sequence of moves away from it.

In: a seed, where to begin, which moves there are. Out: the moves. Left to others: what a move is (`translate`, or a
recording that answers in its place).

This is what asking the same writer the same first question again means for a writer that is deterministic: each draft
draws its own moves and knows nothing of what was found. One move is likeliest, and any number is possible, so that
nothing within reach is out of reach for drafts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

Place = TypeVar("Place")
Step = TypeVar("Step")

#: The chance that another move follows: 2 moves in the mean. Ours.
ANOTHER = 0.5


def random_moves(
    seed: int, place: Place, steps: Callable[[Place], Sequence[Step]], after: Callable[[Step], Place | None]
) -> list[Step]:
    """The moves of the draft with this seed; none for seed 0, the plainest.

    Args:
        steps: that can be made from a place, in a fixed order.
        after: where a step leads; None where what is there cannot be written: another step is drawn.
    """
    rng, made = random.Random(seed), list[Step]()
    while seed and (not made or rng.random() < ANOTHER):
        left = list(steps(place))
        while left:
            step = left.pop(rng.randrange(len(left)))
            there = after(step)
            if there is not None:
                place = there
                made.append(step)
                break
        else:
            break
    return made
