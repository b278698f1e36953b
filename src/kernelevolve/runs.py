"""Runs in their folders: created, opened, read, watched, and several side by side.

In: a folder, and what a run is made of. Out: a `Run` that this process owns, or the graph of one that it only reads.
Left to others: the loop (`run`), where the log lies (`store`).
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kernelevolve import codec, plugins
from kernelevolve.errors import StoreError, StoreTooNew, UsageError
from kernelevolve.evaluate.receipt import receipt_of
from kernelevolve.events import MADE_FROM, Component, Created, Entry, Event, Noted
from kernelevolve.family import TOPIC
from kernelevolve.graph import Graph, fold
from kernelevolve.llm.ledger import Ledger
from kernelevolve.problem import Problem
from kernelevolve.propose import Workbench, Writer, warm
from kernelevolve.propose.asking import Asker, asker_for
from kernelevolve.propose.compose import refuse_unfitting
from kernelevolve.propose.memory import from_earlier
from kernelevolve.propose.operator import Operator
from kernelevolve.receipt import write_receipt
from kernelevolve.run import Equip, Equipment, Parts, Run
from kernelevolve.search import bandit, choosing, control
from kernelevolve.settings import NOBODY, RULES, Settings, of_device, refuse_contradictions, settings_for
from kernelevolve.store import Store
from kernelevolve.store.artefacts import Artefacts
from kernelevolve.store.blobs import blobs_of
from kernelevolve.store.owner import this_process
from kernelevolve.store.replay import Replay

RECEIPT = "receipt.json"
Writers = Component | str | Sequence[Component | str] | None


def create_run(
    folder: Path,
    problem: Problem,
    platform: str,
    equip: Equip,
    *,
    settings: Settings | None = None,
    policy: Component | str = choosing.DEFAULT,
    writer: Writers = None,
    choose: Component | str = "",
    seed: int = 0,
    store: str = "sqlite",
    builds: Path | None = None,
    blobs: str = "",
    admit_anyway: bool = False,
    earlier: Iterable[Graph] = (),
    warm_start: str | Path = warm.NONE,
    history: Path | None = None,
    findable: bool = True,
) -> Run:
    """A new run in `folder`, owned by this process.

    Args:
        platform: name of the objective platform.
        equip: makes evaluator, figures and translator from the run's first event.
        settings: default: those of effort `standard`.
        policy: a Component, or `NAME[:parameter=value,...]`, see `policy_named`; a policy that drafts has the settings'
            number of drafts where it is not told another.
        writer: one or several, each a Component or `NAME[:parameter=value,...]`; default: the built-in.
        choose: who chooses among the writers and their moves, see `search.bandit.chooser_named`; default: `bandit`
            among several writers, else `first`.
        builds: folder for builds that siblings share; default: in the run's folder.
        blobs: an fsspec address for artefacts; default: `blobs` in the run's folder, which moves with it.
        admit_anyway: go on even where null models pass the problem, or an honest kernel fails it; recorded.
        earlier: runs whose notes briefs may be told; a note in the log has them, so the runs need not stay.
        warm_start: `auto` to begin with the best candidates of near runs in `history`, the folder of a run to begin
            with that one's, or `none`; notes of the runs they are from are told too.
        history: a folder of runs; default: the one that `folder` lies in.
        findable: whether a later warm start may find it by its family, which takes a capture of the reference now.

    Raises:
        UsageError: a limit that can never be reached, such as device time without a device.
        ProblemError: the problem cannot be used, or is not admitted.
        StoreError: the folder holds a run already, or sibling runs, or cannot be written.
        UnknownName: a policy, writer, chooser or store that nobody registered, or a parameter that it does not have.
    """
    settings = settings or settings_for("standard")
    warm.asked_for(warm_start, platform)
    first, *others = writers_named(writer)
    created = Created(
        run=uuid.uuid4().hex[:12],
        problem=problem,
        platform=platform,
        seed=seed,
        policy=choosing.policy_named(policy, settings) if isinstance(policy, str) else policy,
        writer=first,
        settings=codec.to_data(settings),
        version=version("kernelevolve"),
        blobs=blobs,
        admit_anyway=admit_anyway,
        others=tuple(others),
        chooser=bandit.chooser_named(choose, 1 + len(others)) if isinstance(choose, str) else choose,
    )
    choosing.build(created.policy)
    bandit.build(created.chooser)
    if settings.control and created.policy.name == control.POLICY:
        raise UsageError(f"policy {control.POLICY} is what a control does; give another policy, or no control")
    _refuse_siblings(folder, store)
    with _new_folder(folder) as kept:
        log: Store = plugins.load("stores", store)(folder, create=True)
        lease = log.take(this_process())
        with _undone_on_error(lease.release):
            equipment = equip(created, builds or folder / "builds")
            with _undone_on_error(equipment.close):
                refuse_contradictions(settings, of_device(settings), device=equipment.measures)
                parts, replay = _parts(created, equipment, folder, settings), Replay(log, folder)
                graph = Graph(parts.reducers, replay.shelf())
                found = _found(created, equipment, warm_start, history or folder.parent, folder, findable, earlier)
                begin: tuple[Event, ...] = (created, *found, *equipment.notes, *_made_from(parts, ()))
                for event in begin:
                    fold(graph, log.append(event, lease))
                kept()
    return Run(log, lease, parts, graph, blobs_of(created, folder), replay.keep, folder)


def _found(
    created: Created,
    equipment: Equipment,
    warm_start: str | Path,
    history: Path,
    folder: Path,
    findable: bool,
    earlier: Iterable[Graph],
) -> tuple[Noted, ...]:
    """What is known as a run begins: its family first, then what earlier runs say, then what it takes from them."""
    notes: list[Noted] = []
    wanted = str(warm_start) != warm.NONE
    family = equipment.family() if findable or wanted else None
    if family is not None:
        notes.append(Noted(TOPIC, str(family), codec.to_data(family)))
    graphs = {graph.created.run: graph for graph in earlier}
    begins: Noted | None = None
    if wanted:
        most = int(created.settings["candidates"])
        new = warm.New(created.problem, created.platform, family, equipment.translator, most)
        begins, used = warm.warm_start(warm_start, history, folder, new)
        graphs |= {graph.created.run: graph for graph in used}
    recalled = from_earlier(graphs.values(), created.problem, created.platform)
    return (*notes, *(note for note in (recalled, begins) if note is not None))


def open_run(
    folder: Path,
    equip: Equip,
    *,
    settings: Settings | None = None,
    by_force: bool = False,
    store: str = "sqlite",
    builds: Path | None = None,
) -> Run:
    """The run in `folder`, replayed and now owned by this process.

    Args:
        settings: in force from now on; default: as before.
        by_force: take the run from a process on another machine that is known to be gone.

    Raises:
        RunBusy: a live process owns it.
        StoreTooNew: it was written by a newer KernelEvolve.
        StoreError: there is no run, or its log is damaged.
    """
    log: Store = plugins.load("stores", store)(folder)
    lease = log.take(this_process(), by_force=by_force)
    with _undone_on_error(lease.release):
        replay = Replay(log, folder)
        created = replay.created
        if created is None:
            raise _cut_short(folder)
        before, notes = replay.heading()
        if settings is not None:  # a run keeps the share that its control had from the beginning
            settings = replace(settings, control=control.share_of(created.settings))
        now = before if settings is None else codec.to_data(settings)
        equipment = equip(replace(created, settings=now), builds or folder / "builds")
        with _undone_on_error(equipment.close):
            in_force = codec.from_data(Settings, codec.to_data(now))
            parts, kept = _parts(created, equipment, folder, in_force), blobs_of(created, folder)
            kept.sweep()
            graph = replay.graph(parts.reducers)
            parts.ledger.charge(graph.spent)
            new = [note for note in equipment.notes if note not in notes]
            for note in (*new, *_made_from(parts, notes)):
                fold(graph, log.append(note, lease))
            replay.keep(graph)
            run = Run(log, lease, parts, graph, kept, replay.keep, folder)
            if settings is not None:
                run.adopt(settings)
    return run


def holds_run(folder: Path, *, store: str = "sqlite") -> bool:
    """Whether `folder` holds a run; a creation that was cut short is none."""
    try:
        log: Store = plugins.load("stores", store)(folder)
    except StoreTooNew:
        return True
    except StoreError:
        return False
    return bool(log.read_from(0, most=1))


def read_run(folder: Path, *, onto: Graph | None = None, store: str = "sqlite") -> Graph:
    """The graph of the run in `folder` as of now; never owns it, so it works beside a live owner.

    Args:
        onto: a graph that this function gave for the same folder; what is new is folded onto it, and it comes back.

    Raises:
        StoreTooNew: it was written by a newer KernelEvolve.
        StoreError: there is no run, or its creation was cut short, or its log is damaged.
    """
    if onto is None:
        graph = Replay(plugins.load("stores", store)(folder), folder).graph()
    else:
        graph = onto
        for entry in tail(folder, graph.next_sequence, store=store):
            fold(graph, entry)
    if not graph.next_sequence:
        raise _cut_short(folder)
    return graph


def tail(folder: Path, sequence: int = 0, *, store: str = "sqlite") -> tuple[Entry, ...]:
    """The entries of the run in `folder` from number `sequence` on; never owns it."""
    log: Store = plugins.load("stores", store)(folder)
    return log.read_from(sequence)


def read_artefacts(folder: Path, graph: Graph | None = None, *, store: str = "sqlite") -> Artefacts:
    """What the evaluations of the run in `folder` refer to; never owns it.

    Args:
        graph: what `read_run` gave for the same folder; default: it is read now.
    """
    graph = graph or read_run(folder, store=store)
    return Artefacts(graph, blobs_of(graph.created, folder))


def save_receipt(folder: Path, graph: Graph, artefacts: Artefacts) -> Path | None:
    """Writes the receipt of the best node into the run's folder; None where no node is correct, or the best one was
    evaluated by a KernelEvolve without receipts.

    Raises:
        StoreError: it cannot be written, or an artefact is missing.
    """
    if graph.best is None or artefacts.circumstances(graph.best.id) is None:
        return None
    file = folder / RECEIPT
    try:
        file.write_text(write_receipt(receipt_of(graph, artefacts, graph.best.id)), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the receipt cannot be written: {error}") from error
    return file


def optimize(
    problem: Problem,
    platforms: tuple[str, ...],
    folder: Path,
    equip: Equip,
    *,
    settings: Settings | None = None,
    policy: Component | str = choosing.DEFAULT,
    writer: Writers = None,
    choose: Component | str = "",
    seed: int = 0,
) -> tuple[Graph, ...]:
    """The finished graph of one run per platform, in the order given.

    One platform's run lies in `folder`; several are siblings in `folder/PLATFORM`, one after the other, and share their
    builds in `folder/builds`. A run that is there already is resumed.

    Raises:
        UsageError: no platform, or one twice.
        StoreError: one platform and sibling runs in `folder`, or several and a single run there.
        KernelEvolveError: what `Run.drive` raises.
    """
    if not platforms or len(set(platforms)) != len(platforms):
        raise UsageError(f"give one or more different platforms, got {', '.join(platforms) or 'none'}")
    if len(platforms) > 1 and holds_run(folder):
        raise StoreError(f"{folder} holds a run already; sibling runs need a folder of their own")
    graphs = []
    for platform in platforms:
        place = folder if len(platforms) == 1 else folder / platform
        builds = folder / "builds"
        if holds_run(place):
            run = open_run(place, equip, settings=settings, builds=builds)
        else:
            run = create_run(
                place, problem, platform, equip,
                settings=settings, policy=policy, writer=writer, choose=choose, seed=seed, builds=builds,
            )  # fmt: skip
        with run:
            asyncio.run(run.drive())
            save_receipt(place, run.graph, run.artefacts)
            graphs.append(run.graph)
    return tuple(graphs)


def _cut_short(folder: Path) -> StoreError:
    return StoreError(
        f"the creation of the run in {folder} was cut short and its log is empty; start it again: "
        f"kernelevolve optimize PROBLEM --out {folder}"
    )


def _refuse_siblings(folder: Path, store: str) -> None:
    """A folder holds one run, or sibling runs, never both: what reads it could not tell them apart."""
    inside = sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    if siblings := [child.name for child in inside if holds_run(child, store=store)]:
        raise StoreError(
            f"{folder} holds sibling runs already ({', '.join(siblings)}); go on with them: "
            f"kernelevolve resume {folder}, or give another folder"
        )


@contextmanager
def _new_folder(folder: Path) -> Iterator[Callable[[], object]]:
    """A folder that goes again unless the function that it gives is called; one that was there before stays."""
    with ExitStack() as stack:
        # Who makes the folder owns it: two processes that start at the same time cannot both. Why it cannot be made,
        # the store says.
        with suppress(OSError):
            folder.mkdir(parents=True)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield stack.pop_all


@contextmanager
def _undone_on_error(undo: Callable[[], None]) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(undo)
        yield
        stack.pop_all()


def _parts(created: Created, equipment: Equipment, folder: Path, settings: Settings) -> Parts:
    refuse_unfitting(created.problem, created.platform, settings.prompt_tokens)
    policy = choosing.build(created.policy)
    ledger = Ledger(settings.money_usd, settings.tokens)
    workbench = Workbench(
        created.problem, created.platform, created.seed, equipment.figures, equipment.translator, equipment.tools,
        equipment.library, ledger, blobs_of(created, folder).put,
    )  # fmt: skip
    writers: list[Writer] = [_build("writers", named, workbench) for named in (created.writer, *created.others)]
    operator = Operator(
        writers[0], others=tuple(writers[1:]), figures=equipment.figures, rules=equipment.rules,
        library=equipment.library, analyst=_asker(settings.analysis, workbench),
        searcher=_asker(settings.lookup, workbench),
    )  # fmt: skip
    with_control = control.share_of(created.settings) > 0
    return Parts(policy, operator, equipment, bandit.build(created.chooser), with_control, ledger)


def _made_from(parts: Parts, notes: Sequence[Noted]) -> tuple[Noted, ...]:
    """The note that says what briefs are made from, where the latest one says something else."""
    made = parts.operator.composer.made_from()
    latest = next((note for note in reversed(notes) if note.topic == MADE_FROM), None)
    same = latest is not None and made is not None and codec.dumps(latest) == codec.dumps(made)
    return () if made is None or same else (made,)


def _asker(named: str, workbench: Workbench) -> Asker | None:
    """The model that a sub-agent is; None where rules, or nobody, do its work."""
    return None if named in (RULES, NOBODY) else asker_for(named, workbench.ledger)


def writers_named(writer: Writers) -> tuple[Component, ...]:
    """The writers of a run.

    Raises:
        UnknownName: a writer that nobody registered; the message lists the known ones.
        UsageError: a parameter without a value, or given twice.
    """
    many = [writer] if isinstance(writer, (Component, str)) else list(writer or ("built-in",))
    found = tuple(each if isinstance(each, Component) else Component(*plugins.named(each)) for each in many)
    for each in found:
        plugins.load("writers", each.name)
    return found


def _build(kind: plugins.Kind, component: Component, *first: Any) -> Any:
    try:
        return plugins.load(kind, component.name)(*first, **component.args)
    except TypeError as error:
        raise UsageError(f"{kind}: {component.name!r} cannot be built with {dict(component.args)}: {error}") from error
