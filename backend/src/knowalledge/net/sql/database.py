"""One database for all greenlets of a process, which never blocks the hub.

SQLite's calls are native and do not yield, so they run in ``LANES`` native threads, each with a connection of its own;
the greenlet waits for its thread. psycopg waits by ``poll``, which gevent has patched, so PostgreSQL's run where they
are. The figures are in ADR 14.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import gevent
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool
from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from knowalledge.core.errors import Conflict, DatabaseUnavailable
from knowalledge.net.sql.settings import DEFAULT, is_sqlite

T = TypeVar("T")

# Native threads for SQLite. Readers do not wait for each other, and writers wait in any case.
LANES = 2
# A writer of another process may hold the file for so long, in seconds.
BUSY_S = 10.0
# Connections to PostgreSQL, per process.
CONNECTIONS = 8
AWAY = "the database does not answer"


class Database(Protocol):
    """Runs work in transactions. ``work`` may be run in another native thread, so it must touch nothing but its
    connection and its arguments.

    Both raise ``DatabaseUnavailable`` when the database does not answer, and ``Conflict`` when a constraint is
    violated. Then, as with any other exception, nothing has been changed.
    """

    kind: str  # sqlite or postgresql
    url: str

    def read(self, work: Callable[[Connection], T]) -> T:
        """The result of ``work``, which changes nothing."""
        ...

    def write(self, work: Callable[[Connection], T], *, timeout_s: float | None = None) -> T:
        """The result of ``work``; what it changed is kept when it returns. ``timeout_s``: if not the usual one."""
        ...

    def close(self) -> None:
        """End all connections."""
        ...


def connect(url: str, timeout_s: float = 3.0) -> Database:
    """The database of a URL; empty: an SQLite file below ``.run``. Connects at the first use.

    ``timeout_s``: the longest wait for a connection to PostgreSQL, and for a whole transaction.
    """
    if is_sqlite(url):
        return SqliteDatabase(url or DEFAULT)
    return PostgresDatabase(url, timeout_s)


class _Thread(get_original("threading", "local")):  # type: ignore[misc]
    """What one native thread has of its own."""

    connection: Connection | None = None


class SqliteDatabase:
    """Implements ``Database`` on a file."""

    kind = "sqlite"

    def __init__(self, url: str) -> None:
        self.url = url
        self._path = Path(urlsplit(url).path[1:])
        self._thread = _Thread()
        self._open: list[tuple[Engine, Connection]] = []
        self._pool: ThreadPool | None = None

    def read(self, work: Callable[[Connection], T]) -> T:
        return self._run("BEGIN", work)

    def write(self, work: Callable[[Connection], T], *, timeout_s: float | None = None) -> T:  # noqa: ARG002
        return self._run("BEGIN IMMEDIATE", work)

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.join()
            pool.kill()
        for engine, connection in self._open:
            connection.close()
            engine.dispose()
        self._open.clear()
        self._thread = _Thread()

    def _run(self, begin: str, work: Callable[[Connection], T]) -> T:
        if self._pool is None:  # here and not before: a process that forks must have no threads
            self._pool = ThreadPool(LANES)
        result: T = self._pool.apply(self._transact, (begin, work))
        return result

    def _transact(self, begin: str, work: Callable[[Connection], T]) -> T:
        """In a native thread."""
        try:
            connection = self._thread.connection
            if connection is None:
                connection = self._thread.connection = self._connect()
            connection.info["begin"] = begin
            with connection.begin():
                return work(connection)
        except (DBAPIError, OSError) as error:
            raise translated(error) from error

    def _connect(self) -> Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():  # only its owner may read who calls
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
        engine = create_engine(
            self.url, poolclass=NullPool, connect_args={"timeout": BUSY_S, "check_same_thread": False}
        )
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", lambda it: it.exec_driver_sql(it.info["begin"]))
        connection = engine.connect()
        self._open.append((engine, connection))
        return connection


def _prepare(connection: Any, _: object) -> None:
    """The driver begins no transactions of its own, so that a writer takes its lock before it reads."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


class PostgresDatabase:
    """Implements ``Database`` on a server."""

    kind = "postgresql"

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._engine = create_engine(
            url.replace("postgresql:", "postgresql+psycopg:", 1),
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=timeout_s,
            pool_pre_ping=True,
            connect_args={"connect_timeout": max(2, int(timeout_s)), "application_name": "knowalledge"},
        )

    def read(self, work: Callable[[Connection], T]) -> T:
        return self.write(work)

    def write(self, work: Callable[[Connection], T], *, timeout_s: float | None = None) -> T:
        # The one bound that holds for a server that is frozen, too.
        guard = gevent.Timeout(timeout_s or self._timeout_s)
        connection: Connection | None = None
        try:
            with guard:
                connection = self._engine.connect()
                transaction = connection.begin()
                result = work(connection)
                transaction.commit()
                return result
        except gevent.Timeout as error:
            if error is not guard:
                raise
            if connection is not None:
                connection.invalidate()  # an answer is outstanding, so it can serve nobody else
            raise DatabaseUnavailable(AWAY) from None
        except (DBAPIError, PoolTimeoutError) as error:
            raise translated(error) from error
        finally:
            if connection is not None:
                connection.close()  # rolls back what was not committed

    def close(self) -> None:
        self._engine.dispose()


def translated(error: Exception) -> Conflict | DatabaseUnavailable:
    """What a failure of the driver means."""
    if isinstance(error, IntegrityError):
        return Conflict("this is there already, or something that it belongs to is not")
    return DatabaseUnavailable(AWAY)
