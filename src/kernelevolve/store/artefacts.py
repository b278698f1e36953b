"""What the evaluations of a run refer to, read back: LaunchPlans, raw samples, the full text of errors.

In: the graph of a run and its blobs. Out: values, and what models said, verified against the reference in the log.
Left to others: making them (`evaluate`, `propose`), storing them before the event that names them (`run`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from kernelevolve import codec
from kernelevolve.errors import StoreError, UnknownName
from kernelevolve.evaluation import ERROR, FAILURE, PLAN, SAMPLES, LaunchPlan, Samples
from kernelevolve.graph import Graph
from kernelevolve.receipt import CIRCUMSTANCES, Circumstances, Failure
from kernelevolve.store.blobs import Blobs

T = TypeVar("T")


class Artefacts:
    """The artefacts of one run, for its owner and for any reader; `Run.artefacts` and `read_artefacts` give one.

    Every method takes a node's id. They raise UnknownName for a node or a name that is not there, and StoreError with
    the blob's reference and what to do where it is missing or damaged; the figures in the log stand without it.
    """

    def __init__(self, graph: Graph, blobs: Blobs) -> None:
        self._graph, self._blobs = graph, blobs

    def names(self, node: str) -> tuple[str, ...]:
        """What is kept of a node, such as `launch plan h100 declared`."""
        if node not in self._graph.nodes:
            raise UnknownName("node", node, self._graph.nodes)
        return tuple(self._graph.nodes[node].evaluation.artefacts)

    def read(self, node: str, name: str) -> bytes:
        """The bytes of one artefact."""
        names = self.names(node)
        if name not in names:
            raise UnknownName(f"artefact of {node}", name, names)
        try:
            return self._blobs.get(self._graph.nodes[node].evaluation.artefacts[name])
        except StoreError as error:
            raise StoreError(f"{name!r} of {node}: {error}") from error

    def launch_plans(self, node: str) -> dict[str, LaunchPlan]:
        """The LaunchPlan of each workload at the choice that was judged, by the artefact's name."""
        return {name: self._value(LaunchPlan, node, name) for name in self._named(node, PLAN)}

    def samples(self, node: str) -> dict[str, Samples]:
        """The raw samples of each workload that was timed on a device, by the artefact's name."""
        return {name: self._value(Samples, node, name) for name in self._named(node, SAMPLES)}

    def errors(self, node: str) -> dict[str, str]:
        """The full text of each rung's error that its report cuts to one line, by the artefact's name."""
        return {name: self.read(node, name).decode("utf-8", "replace") for name in self._named(node, ERROR)}

    def failure(self, node: str) -> Failure | None:
        """The check that ended the node's climb, with what replays it; None where nothing failed, or in an old log."""
        return self._value(Failure, node, FAILURE) if FAILURE in self.names(node) else None

    def circumstances(self, node: str) -> Circumstances | None:
        """What the evaluation rests on beside problem and candidate; None in an old log."""
        return self._value(Circumstances, node, CIRCUMSTANCES) if CIRCUMSTANCES in self.names(node) else None

    def session(self, reference: str) -> Mapping[str, Any]:
        """What was said in the session that `Candidate.session` or `Dropped.session` names, as JSON data."""
        try:
            data = json.loads(self._blobs.get(reference))
        except ValueError as error:
            raise StoreError(f"session {reference} cannot be read: {error}; it needs a newer KernelEvolve") from error
        if not isinstance(data, dict):
            raise StoreError(f"session {reference} is no session; it needs a newer KernelEvolve")
        return data

    def _named(self, node: str, kind: str) -> list[str]:
        return [name for name in self.names(node) if name.startswith(f"{kind} ")]

    def _value(self, kind: type[T], node: str, name: str) -> T:
        try:
            return codec.loads(kind, self.read(node, name).decode())
        except ValueError as error:
            raise StoreError(f"{name!r} of {node} cannot be read: {error}; it needs a newer KernelEvolve") from error
