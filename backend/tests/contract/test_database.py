"""Both databases under load and in an outage."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from sqlalchemy import Connection, text

from knowalledge.core.errors import DatabaseUnavailable
from knowalledge.net.sql.database import Database, SqliteDatabase, connect
from tests.support.postgres import Postgres

SLEEP = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 300000) SELECT max(i) FROM n"
}
ONE = text("SELECT 1")


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = connect(f"sqlite:///{tmp_path}/folder/k.db")
    yield database
    database.close()


@pytest.fixture
def server(postgres: Postgres) -> Iterator[Database]:
    database = connect(postgres.url)
    yield database
    database.close()


def add(connection: Connection) -> None:
    connection.execute(text("UPDATE counter SET n = n + 1"))


@pytest.mark.parametrize("kind", ["sqlite", "server"])
def test_no_concurrent_change_is_lost(kind: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(kind)
    database.write(lambda it: it.execute(text("CREATE TABLE counter (n INTEGER)")) and None)
    database.write(lambda it: it.execute(text("INSERT INTO counter VALUES (0)")) and None)
    gevent.joinall([gevent.spawn(database.write, add) for _ in range(40)], raise_error=True)
    assert database.read(lambda it: it.execute(text("SELECT n FROM counter")).scalar_one()) == 40


def test_other_greenlets_run_while_sqlite_works(sqlite: Database) -> None:
    turns = 0
    query = text(SLEEP["sqlite"])
    working = gevent.spawn(sqlite.read, lambda it: it.execute(query).scalar_one())
    while not working.ready():
        gevent.sleep(0)
        turns += 1
    assert working.get() == 300_000
    assert turns > 10


def test_what_fails_is_rolled_back(sqlite: Database) -> None:
    sqlite.write(lambda it: it.execute(text("CREATE TABLE counter (n INTEGER)")) and None)

    def fail(connection: Connection) -> None:
        connection.execute(text("INSERT INTO counter VALUES (1)"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sqlite.write(fail)
    assert sqlite.read(lambda it: it.execute(text("SELECT count(*) FROM counter")).scalar_one()) == 0


def test_the_file_is_its_owners_alone(sqlite: Database, tmp_path: Path) -> None:
    sqlite.read(lambda it: it.execute(ONE).scalar_one())
    assert (tmp_path / "folder/k.db").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_made_is_an_unavailable_database(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    database = SqliteDatabase(f"sqlite:///{tmp_path}/file/k.db")
    with pytest.raises(DatabaseUnavailable):
        database.read(lambda it: it.execute(ONE).scalar_one())
    database.close()


# -- PostgreSQL waits by what gevent patches, and this process is not patched ------------------------------------------


def patched(code: str, postgres: Postgres) -> "subprocess.Popen[str]":
    """Runs code in a patched process, where ``server`` is the database and ``one()`` asks it."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BEFORE) + textwrap.dedent(code), postgres.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


BEFORE = """
    import knowalledge.patched
    import sys
    import gevent
    from sqlalchemy import text
    from knowalledge.core.errors import DatabaseUnavailable
    from knowalledge.net.sql.database import PostgresDatabase

    server = PostgresDatabase(sys.argv[1], timeout_s=1.0)

    def one(query="SELECT 1"):
        try:
            return server.read(lambda it: it.execute(text(query)).scalar_one())
        except DatabaseUnavailable:
            return "unavailable"

    def step(*values):
        print(*values, flush=True)
        input()
"""


def test_other_greenlets_run_while_postgresql_works(postgres: Postgres) -> None:
    code = """
    turns, working = 0, gevent.spawn(one, "SELECT 1 FROM pg_sleep(0.3)")
    while not working.ready():
        gevent.sleep(0.001)
        turns += 1
    print(working.get(), turns > 10)
    """
    assert patched(code, postgres).communicate(timeout=60)[0] == "1 True\n"


def test_concurrent_callers_share_a_bounded_number_of_connections(postgres: Postgres) -> None:
    code = """
    calls = [gevent.spawn(one, "SELECT 1 FROM pg_sleep(0.01)") for _ in range(100)]
    print({it.get() for it in calls}, one("SELECT count(*) <= 9 FROM pg_stat_activity WHERE usename = 'postgres'"))
    """
    assert patched(code, postgres).communicate(timeout=60)[0] == "{1} True\n"


@pytest.mark.parametrize("how", ["ends", "freezes"])
def test_a_server_that_is_away_is_unavailable_in_time_and_used_again_when_it_is_back(
    postgres: Postgres, how: str
) -> None:
    code = """
    step(one("SELECT pg_backend_pid()"))
    step(one(), one())
    print(one())
    server.close()
    """
    with patched(code, postgres) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        backend = int(process.stdout.readline())
        away, back = (
            (postgres.stop, postgres.start)
            if how == "ends"
            else (lambda: os.kill(backend, signal.SIGSTOP), lambda: os.kill(backend, signal.SIGCONT))
        )
        away()
        try:
            process.stdin.write("\n")
            process.stdin.flush()
            first = process.stdout.readline()
        finally:
            back()
        # A frozen connection is given up, and the next one is another.
        assert first == ("unavailable unavailable\n" if how == "ends" else "unavailable 1\n")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "1\n"
