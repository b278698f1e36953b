"""The first plan: which nodes share a kernel.

In: a `Graph`. Out: groups of anchors (reductions, contractions, scans) and stores. Pointwise nodes and views are read
through wherever they are needed; a node reaches memory where a kernel needs a result that it cannot compute itself, at
the last node before that through which everything passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kernelevolve.translate.algebra import Graph, Node
from kernelevolve.translate.emit.layout import (
    Domain,
    base,
    domain_of,
    results_of,
    store_coordinates,
    trace,
)  # fmt: skip
from kernelevolve.translate.errors import TranslateError

ANCHORS = ("reduce", "contract", "scan")


@dataclass
class Group:
    """A kernel in the making."""

    kind: str
    anchors: list[str] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)


class Fuser:
    """Groups the nodes of a graph greedily, in execution order.

    Args:
        graph: what to group.
        apart: anchors that must not join an earlier kernel (a move can ask for that).
    """

    def __init__(
        self, graph: Graph, apart: frozenset[str] = frozenset(), few_rows: frozenset[str] = frozenset()
    ) -> None:
        self.graph, self.apart, self.few_rows = graph, apart, few_rows
        self.users = graph.users()
        self.order = {name: k for k, name in enumerate(graph.nodes)}
        self.groups: list[Group] = []
        self.owner: dict[str, int] = {}
        self.stored: set[str] = {n.name for n in graph.nodes.values() if n.kind == "input"}
        self.written: dict[str, int] = dict.fromkeys(self.stored, -1)

    def run(self) -> list[Group]:
        """All groups in launch order, with what each one stores."""
        for node in list(self.graph.nodes.values()):
            if node.kind in ANCHORS:
                self._require(node.name, node.args)
                self._place(node.name)
        for name in self.graph.stores:
            if name not in self.written and self._anchors_inside((name,)):
                self._require(name, (name,), final=True)
                self._store(name)
        for name in self.graph.stores:
            if name not in self.written:
                self._require(name, (name,), final=True)
                self._store(name)
        return self._in_order([group for group in self.groups if group.stores])

    def _in_order(self, groups: list[Group]) -> list[Group]:
        """The groups with each one after those whose results it reads, otherwise as they were.

        An output that an earlier kernel computes on its way may only be stored by a kernel made later.
        """
        made = {name: k for k, group in enumerate(groups) for name in group.stores}
        needs = [{made[s] for root in self._roots(g) for s in self._stored_at(root) if s in made} for g in groups]
        ordered: list[int] = []
        while len(ordered) < len(groups):
            ready = [k for k in range(len(groups)) if k not in ordered and needs[k] <= {*ordered, k}]
            if not ready:
                raise TranslateError("the kernels of this grouping need each other's results")
            ordered.append(ready[0])
        return [groups[k] for k in ordered]

    def _roots(self, group: Group) -> list[str]:
        """What the kernel of a group reads for its anchors and stores."""
        return [arg for name in (*group.anchors, *group.stores) for arg in self.graph.nodes[name].args]

    # -- anchors

    def _place(self, anchor: str) -> None:
        node = self.graph.nodes[anchor]
        kind = {"reduce": "reduction", "contract": "contraction", "scan": "scan"}[node.kind]
        if kind == "reduction" and anchor not in self.apart:
            inside = self._anchors_inside(node.args)
            for position in range(len(self.groups) - 1, -1, -1):
                group = self.groups[position]
                if group.kind == "reduction" and self._joins(position, anchor, inside):
                    group.anchors.append(anchor)
                    self.owner[anchor] = position
                    return
        self.groups.append(Group(kind, [anchor]))
        self.owner[anchor] = len(self.groups) - 1

    def _joins(self, position: int, anchor: str, inside: set[str]) -> bool:
        group = self.groups[position]
        if domain_of(self.graph, group.anchors[0]) != domain_of(self.graph, anchor):
            return False
        depends = inside & set(group.anchors)
        if depends and (anchor in self.few_rows or not self._multi_level(group)):
            return False
        if any(self.owner.get(other, position + 1) > position for other in inside):
            return False
        if any(self.written.get(name, -1) >= position for name in self._stored_inside(anchor)):
            return False
        return self._traces(group, [*group.anchors, anchor], ())

    def _multi_level(self, group: Group) -> bool:
        return not (set(group.anchors) & self.few_rows)

    def _traces(self, group: Group, anchors: Sequence[str], stores: Sequence[str]) -> bool:
        domain = self._domain(group)
        if domain is None:
            return False
        available = frozenset(self.stored - set(stores) - set(group.stores))
        return trace(self.graph, available, domain, anchors, stores) is not None

    def _domain(self, group: Group) -> Domain | None:
        if group.kind == "reduction":
            return domain_of(self.graph, group.anchors[0])
        return None

    def _anchors_inside(self, roots: Sequence[str]) -> set[str]:
        """Anchors that a read of these nodes meets before it meets memory."""
        found: set[str] = set()
        seen: set[str] = set()
        stack = list(roots)
        while stack:
            name = stack.pop()
            if name in seen or name in self.stored:
                continue
            seen.add(name)
            node = self.graph.nodes[name]
            if node.kind in ANCHORS:
                found.add(name)
            else:
                stack.extend(node.args)
        return found

    def _stored_inside(self, root: str) -> set[str]:
        found: set[str] = set()
        seen: set[str] = set()
        stack = list(self.graph.nodes[root].args)
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.stored:
                found.add(name)
            else:
                stack.extend(self.graph.nodes[name].args)
        return found

    # -- memory

    def _require(self, reader: str, roots: Sequence[str], *, final: bool = False) -> None:
        """Stores every result that the reader cannot compute in the kernel it would join."""
        node = self.graph.nodes[reader]
        if node.kind == "contract":
            self._operands(node)
            return
        inside = self._anchors_inside(roots)
        if not inside:
            return
        if node.kind == "reduce" and self._could_join(reader, inside):
            return
        if final and self._epilogue_of(reader) is not None:
            return
        for anchor in sorted(inside, key=self.order.__getitem__):
            if anchor in self._anchors_inside(roots):
                self._materialise(anchor, roots)

    def _could_join(self, anchor: str, inside: set[str]) -> bool:
        if anchor in self.apart:
            return False
        owners = {self.owner[a] for a in inside}
        latest = max(owners)
        group = self.groups[latest]
        if group.kind != "reduction":
            return False
        for other in [a for a in inside if self.owner[a] != latest]:
            self._materialise(other, self.graph.nodes[anchor].args)
        return self._joins(latest, anchor, inside)

    def _operands(self, node: Node) -> None:
        """Operands of a contraction are read through views only; anything computed is stored first."""
        for arg in node.args:
            name, node = arg, self.graph.nodes[arg]
            while name not in self.stored and node.kind == "view" and not node.where:
                name = node.args[0]
                node = self.graph.nodes[name]
            if name in self.stored or self._cheap(name):
                continue
            self._store(name)

    def _cheap(self, name: str) -> bool:
        """True for one read with conditions or a cast at most: reading it again costs no more than a stored copy."""
        seen = 0
        while name not in self.stored:
            node = self.graph.nodes[name]
            if node.kind == "view" or (node.kind == "map" and node.fn == "cast"):
                name, seen = node.args[0], seen + 1
            else:
                return False
        return True

    def _materialise(self, anchor: str, roots: Sequence[str]) -> None:
        """Stores an anchor's results, each at the last node through which all of its uses pass."""
        for result in results_of(self.graph, anchor):
            if result in self.stored or not self._reaches(result, roots):
                continue
            self._store(self._cut(result))
            if self._reaches(result, roots):
                self._store(result)

    def _reaches(self, target: str, roots: Sequence[str]) -> bool:
        """True where a read of the roots meets the target before memory."""
        seen: set[str] = set()
        stack = list(roots)
        while stack:
            name = stack.pop()
            if name == target:
                return name not in self.stored
            if name in seen or name in self.stored:
                continue
            seen.add(name)
            stack.extend(self.graph.nodes[name].args)
        return False

    def _cut(self, result: str) -> str:
        """The last node after ``result`` of its size through which every use of ``result`` passes."""
        size, position = self.graph.nodes[result].numel(), self.owner[base(self.graph, result)]
        inside = [result]
        for name in list(self.graph.nodes)[self.order[result] + 1 :]:
            node = self.graph.nodes[name]
            if node.kind not in ("map", "view", "gather", "join"):
                continue
            if not any(arg in inside for arg in node.args) or not self._before(node.args, inside, position):
                continue
            inside.append(name)
        for candidate in reversed(inside):
            between = self._between(result, candidate, set(inside))
            closed = all(set(self.users[n]) <= between for n in between if n != candidate)
            outputs = any(n in self.graph.stores for n in between if n != candidate)
            same = self.graph.nodes[candidate].numel() == size
            if same and closed and not outputs and self._storable(candidate):
                return candidate
        return result

    def _before(self, args: Sequence[str], inside: Sequence[str], position: int) -> bool:
        """True where all other arguments are ready before the kernel at ``position`` runs, or are its own results."""
        for arg in args:
            if arg in inside:
                continue
            if any(self.owner.get(a) != position for a in self._anchors_inside((arg,))):
                return False
            if any(self.written.get(name, -1) >= position for name in self._stored_at(arg)):
                return False
        return True

    def _stored_at(self, name: str) -> set[str]:
        return {name} if name in self.stored else self._stored_inside(name)

    def _between(self, start: str, end: str, inside: set[str]) -> set[str]:
        """Nodes of ``inside`` on a path from start to end."""
        found = {end}
        for name in reversed([n for n in self.graph.nodes if n in inside]):
            if name in found:
                found |= {arg for arg in self.graph.nodes[name].args if arg in inside}
        return found | {start}

    def _storable(self, name: str) -> bool:
        position = self._epilogue_of(name)
        return position is not None

    def _epilogue_of(self, name: str) -> int | None:
        """The kernel that could store a node after its own work, or None."""
        inside = self._anchors_inside((name,))
        if not inside:
            return self._reader_of(name)
        if any(a not in self.owner for a in inside):
            return None
        position = max(self.owner[a] for a in inside)
        group = self.groups[position]
        if any(self.owner[a] != position for a in inside):
            return None
        if any(self.written.get(s, -1) >= position for s in self._stored_at(name)):
            return None
        if group.kind == "contraction":
            return position if self._contraction_stores(group.anchors[0], name) else None
        if group.kind == "scan":
            return position if self._scan_stores(group.anchors[0], name) else None
        domain = domain_of(self.graph, group.anchors[0])
        where = store_coordinates(self.graph, domain, name)
        if where is None or (where[1] and set(group.anchors) & self.few_rows):
            return None
        return position if self._traces(group, group.anchors, [name]) else None

    def _reader_of(self, name: str) -> int | None:
        """The first kernel that computes a pointwise node on its way and could store it as well, or None.

        Only the first: an earlier one would find the node in memory before it is there.
        """
        for position, group in enumerate(self.groups):
            if not self._reaches(name, self._roots(group)):
                continue
            if group.kind != "reduction" or any(self.written.get(s, -1) >= position for s in self._stored_at(name)):
                return None
            where = store_coordinates(self.graph, domain_of(self.graph, group.anchors[0]), name)
            if where is None or (where[1] and set(group.anchors) & self.few_rows):
                return None
            return position if self._traces(group, group.anchors, [*group.stores, name]) else None
        return None

    def _contraction_stores(self, anchor: str, name: str) -> bool:
        from kernelevolve.translate.emit.contraction import epilogue_traces

        return epilogue_traces(self.graph, frozenset(self.stored - {name}), anchor, name)

    def _scan_stores(self, anchor: str, name: str) -> bool:
        from kernelevolve.translate.emit.scan import epilogue_traces

        return epilogue_traces(self.graph, frozenset(self.stored - {name}), anchor, name)

    def _store(self, name: str) -> None:
        """Puts a node into memory, by the kernel that has its results or by one of its own."""
        if name in self.written:
            return
        position = self._epilogue_of(name)
        if position is None:
            missing = self._anchors_inside((name,))
            for anchor in sorted(missing, key=self.order.__getitem__):
                if name in results_of(self.graph, anchor):
                    raise TranslateError(f"{name} cannot be stored by the kernel that computes it")
                self._materialise(anchor, (name,))
            position = self._pointwise(name)
        self.groups[position].stores.append(name)
        self.written[name] = position
        self.stored.add(name)

    def _pointwise(self, name: str) -> int:
        """A pointwise kernel for a node: the last one where it has the same shape and needs nothing later."""
        last = len(self.groups) - 1
        shape = self.graph.nodes[name].shape
        if last >= 0 and self.groups[last].kind == "pointwise" and name not in self.stored:
            group = self.groups[last]
            late = any(self.written.get(s, -1) >= last for s in self._stored_at(name))
            if self.graph.nodes[group.stores[0]].shape == shape and not late:
                return last
        self.groups.append(Group("pointwise"))
        return len(self.groups) - 1
