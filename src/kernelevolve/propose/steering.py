"""What a person noted: carried by every brief of the search from then on, until it is cleared.

In: notes of a run's log with topic `steer`. Out: the notes in force. Left to others: how they get into the log of a run
that another process owns (`store.inbox`), where they stand in a prompt (`compose`).
"""

from __future__ import annotations

from typing import Any

from kernelevolve.errors import UsageError
from kernelevolve.events import STEER, Event, Noted
from kernelevolve.graph import Graph
from kernelevolve.propose.compose import refuse_unfitting
from kernelevolve.settings import PROMPT_TOKENS

#: Most characters of one note: it is in every brief.
LONGEST_NOTE = 4000


class SteeringReducer:
    """Folds the notes in force, oldest first."""

    name = "propose.steering"

    def start(self) -> list[str]:
        return []

    def fold(self, state: list[str], event: Event, graph: Graph) -> list[str]:
        if isinstance(event, Noted) and event.topic == STEER:
            if event.data.get("clear"):
                state.clear()
            elif event.text not in state:
                state.append(event.text)
        return state

    def save(self, state: list[str], graph: Graph) -> Any:
        """See `Restorable.save`."""
        return list(state)

    def restore(self, data: Any, graph: Graph) -> list[str]:
        """See `Restorable.restore`."""
        return [str(text) for text in data]


def notes_in_force(graph: Graph) -> tuple[str, ...]:
    """What a person noted and nobody cleared, oldest first; of any graph, by its notes."""
    state: list[str] = []
    for note in graph.notes:
        state = SteeringReducer().fold(state, note, graph)
    return tuple(state)


def steer(text: str) -> Noted:
    """The note for the log.

    Raises:
        UsageError: it says nothing, or too much for every brief.
    """
    said = " ".join(text.split())
    if not said:
        raise UsageError('a note needs a text: kernelevolve note RUN "look at the tail of the reduction"')
    if len(said) > LONGEST_NOTE:
        raise UsageError(f"the note has {len(said)} characters; every brief carries it, give at most {LONGEST_NOTE}")
    return Noted(STEER, said)


def clear() -> Noted:
    """The note for the log that ends all notes before it."""
    return Noted(STEER, "all notes before are cleared", {"clear": True})


def refuse_unfitting_note(graph: Graph, noted: Noted) -> None:
    """Refuses a note with which not even the smallest prompt would fit.

    Raises:
        UsageError: see `compose.compose`, or the note is none that a person makes.
    """
    if noted.topic != STEER or noted.data.get("clear"):
        return
    steer(noted.text)
    notes = tuple(dict.fromkeys((*notes_in_force(graph), noted.text)))
    most = int(graph.settings.get("prompt_tokens") or PROMPT_TOKENS)
    refuse_unfitting(graph.created.problem, graph.created.platform, most, notes)
