"""The embedded store: one SQLite database in the run's folder, through SQLAlchemy Core.

In: a folder. Out: the log in `FOLDER/log.sqlite` (WAL mode, so that readers never wait for the owner). Left to others:
blobs (`store.blobs`).

What SQLite alone needs is in `_dialect`; the tables and statements above it are standard SQL for any database that
SQLAlchemy knows. With `synchronous=NORMAL` a commit survives the death of the process, not always a power cut; the log
is consistent after either, and what a power cut takes is asked or evaluated again.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from kernelevolve import codec
from kernelevolve.errors import RunBusy, StaleLease, StoreError, StoreFull, StoreTooNew
from kernelevolve.events import SCHEMA, Entry, Event, read_event, write_event
from kernelevolve.store import Lease
from kernelevolve.store.owner import Owner

LAYOUT = 1
FILE = "log.sqlite"
BUSY_MILLISECONDS = 10_000

_metadata = MetaData()
_layout = Table("layout", _metadata, Column("version", Integer, primary_key=True))
_log = Table(
    "log",
    _metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("schema", Integer, nullable=False),
    Column("wall", Float(53), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("body", Text, nullable=False),
)
_lease = Table(
    "lease",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("owner", Text, nullable=True),
)
# Built once: to put a statement together takes longer than the database takes for it.
_LEASE_NOW = select(_lease.c.epoch, _lease.c.owner).with_for_update()
_LEASE_AND_LAST = select(
    _lease.c.epoch, _lease.c.owner, select(func.max(_log.c.sequence)).scalar_subquery().label("last")
).with_for_update()
_APPEND = insert(_log)


class SqliteStore:
    """A run's log in `folder`; see `store.Store` for the rules.

    Args:
        folder: the run's folder.
        create: make the folder and an empty log; it must not hold one yet.

    Raises:
        StoreError: no log there (or, with `create`, one is there already).
        StoreTooNew: the database has a newer layout.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.path = folder / FILE
        if create:
            with _explained(self.path):
                folder.mkdir(parents=True, exist_ok=True)
        elif not self.path.is_file():
            raise StoreError(f"{folder} holds no run ({FILE} is missing); give the folder of a run")
        self._engine = create_engine(f"sqlite:///{self.path}")
        self._writing = self._engine.execution_options(writes=True)
        self._owned = False
        _dialect(self._engine)
        if create:
            self._create()
        self._check_layout()

    def append(self, event: Event, lease: Lease) -> Entry:
        """See `Store.append`."""
        kind, body = write_event(event)
        with self._transaction() as connection:
            row = connection.execute(_LEASE_AND_LAST).one()
            if row.epoch != lease.epoch or row.owner is None:
                raise StaleLease(
                    f"{self.path.parent}: this process lost the run (lease {lease.epoch}, now {row.epoch}"
                    f"{_held(row.owner)}); nothing was appended"
                )
            entry = Entry(0 if row.last is None else row.last + 1, lease.epoch, time.time(), event)
            at = {"sequence": entry.sequence, "epoch": entry.epoch, "schema": SCHEMA, "wall": entry.wall}
            connection.execute(_APPEND, {**at, "kind": kind, "body": body})
        return entry

    def read_from(
        self, sequence: int, *, most: int | None = None, kinds: tuple[str, ...] = ()
    ) -> tuple[Entry, ...]:
        """See `Store.read_from`."""
        wanted = select(_log).where(_log.c.sequence >= sequence).order_by(_log.c.sequence).limit(most)
        if kinds:
            wanted = wanted.where(_log.c.kind.in_(kinds))
        with _explained(self.path), self._engine.connect() as connection:
            # In parts, so that the text of a long log is never in memory beside what was read from it.
            rows = connection.execution_options(yield_per=1000).execute(wanted)
            entries = tuple(
                Entry(sequence, epoch, wall, read_event(kind, body, schema), schema)
                for sequence, epoch, schema, wall, kind, body in rows
            )
        self._let_go()
        return entries

    def take(self, owner: Owner, *, by_force: bool = False) -> Lease:
        """See `Store.take`."""
        with self._transaction() as connection:
            row = connection.execute(_LEASE_NOW).one()
            if row.owner is not None and not by_force:
                self._refuse_if_alive(codec.loads(Owner, row.owner), owner)
            epoch = row.epoch + 1
            connection.execute(update(_lease).values(epoch=epoch, owner=codec.dumps(owner)))
        self._owned = True
        return Lease(epoch, owner, lambda: self._release(epoch))

    def _release(self, epoch: int) -> None:
        with self._transaction() as connection:
            connection.execute(update(_lease).where(_lease.c.epoch == epoch).values(owner=None))
        self._owned = False
        self._let_go()

    def _let_go(self) -> None:
        """Closes the database unless this store owns the run: a reader holds no file between two reads."""
        if not self._owned:
            self._engine.dispose()

    def _refuse_if_alive(self, holder: Owner, asker: Owner) -> None:
        alive = holder.alive
        if alive is False:
            return
        if holder == asker:
            advice = "close the other Run of this process first"
        elif alive:
            advice = f"wait for it or stop it; reading needs no ownership: kernelevolve show {self.path.parent}"
        else:
            advice = (
                "whether it lives cannot be seen from here; if it is gone, open the run by force: "
                f"kernelevolve resume {self.path.parent} --by-force"
            )
        raise RunBusy(f"{self.path.parent} is owned by {holder}; {advice}")

    def _create(self) -> None:
        with self._transaction() as connection:
            _metadata.create_all(connection)
            # A creation that was cut short left an empty log; it is taken up again.
            if connection.execute(select(func.count()).select_from(_log)).scalar():
                raise StoreError(f"{self.path.parent} holds a run already; resume it or give another folder")
            if not connection.execute(select(func.count()).select_from(_layout)).scalar():
                connection.execute(insert(_layout).values(version=LAYOUT))
                connection.execute(insert(_lease).values(id=0, epoch=0, owner=None))

    def _check_layout(self) -> None:
        with _explained(self.path), self._engine.connect() as connection:
            version = connection.execute(select(func.max(_layout.c.version))).scalar()
        self._let_go()
        if version is None:
            raise StoreError(f"{self.path} was never finished; remove the folder and create the run again")
        if version > LAYOUT:
            raise StoreTooNew(
                f"{self.path} has layout {version}, this KernelEvolve knows up to {LAYOUT}; upgrade KernelEvolve"
            )

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with _explained(self.path), self._writing.begin() as connection:
            yield connection


def _held(owner: str | None) -> str:
    return f", held by {codec.loads(Owner, owner)}" if owner else ""


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns the database's and the system's errors into ours."""
    try:
        yield
    except DBAPIError as error:
        cause = str(error.orig)
        if "disk is full" in cause or _no_room(path):
            raise StoreFull(f"no room to write {path} ({cause}); free some space, then resume the run") from error
        raise StoreError(f"{path} cannot be used: {cause}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no room to write {path} ({error}); free some space, then resume the run") from error
        raise StoreError(f"{path} cannot be used: {error}") from error


def _no_room(path: Path) -> bool:
    """Whether the disk is full: SQLite calls it an I/O error where the shared index or a journal had no room."""
    room = os.statvfs(path.parent)
    return room.f_bavail * room.f_frsize < 64 * 1024


def _dialect(engine: Engine) -> None:
    """What only SQLite needs: write-ahead log, waiting for locks, and transactions that lock when they begin."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: a read that becomes a write cannot wait for its lock.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def began(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
