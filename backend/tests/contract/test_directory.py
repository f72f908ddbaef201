"""One suite over both databases: who may call is kept alike in SQLite and in PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from knowalledge.core.errors import Conflict, DatabaseUnavailable, NotFound
from knowalledge.identity.domain.principals import Grant, Key, Tenant, User
from knowalledge.identity.sql import SCHEMA, SqlDirectory
from knowalledge.net.sql.database import Database, connect
from knowalledge.net.sql.schema import SchemaError

ACME = Tenant(name="acme", weight=2.0, created_at=1.5)
ADA = User(tenant="acme", name="ada", grant=Grant(role="user", models=("m",)), created_at=2.5)
KEY = Key(
    id="k1",
    tenant="acme",
    user="ada",
    label="laptop",
    grant=Grant(max_priority="low", paths=("/v1",)),
    created_at=3.5,
    expires_at=9.0,
)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Empty, without tables."""
    url = f"sqlite:///{tmp_path}/k.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").url
    database = connect(url)
    yield database
    database.close()


@pytest.fixture
def directory(database: Database) -> SqlDirectory:
    SCHEMA.upgrade(database)
    return SqlDirectory(database)


@pytest.fixture
def filled(directory: SqlDirectory) -> SqlDirectory:
    directory.add_tenant(ACME, "root")
    directory.add_user(ADA, "root")
    directory.add_key(KEY, b"\x00digest", "root")
    return directory


def test_a_key_is_found_with_its_user_and_tenant(filled: SqlDirectory) -> None:
    found = filled.find("k1")
    assert found is not None
    assert (found.key, found.digest, found.user, found.tenant) == (KEY, b"\x00digest", ADA, ACME)
    assert filled.find("k2") is None


def test_every_change_is_a_new_generation_and_one_line_in_the_audit_log(filled: SqlDirectory) -> None:
    before = filled.generation()
    revoked = Key(**{it: getattr(KEY, it) for it in KEY.__struct_fields__} | {"revoked_at": 7.0})
    filled.set_key(revoked, "eve", "key.revoke", 7.0)
    assert filled.generation() == before + 1
    acts = filled.acts(0, 10)
    assert [it.act for it in acts] == ["tenant.create", "user.create", "key.create", "key.revoke"]
    last = acts[-1]
    assert (last.actor, last.object, last.at) == ("eve", "key:k1", 7.0)
    assert (last.before["revoked_at"], last.after["revoked_at"]) == (None, 7.0)
    assert "digest" not in str(acts)


def test_a_change_that_fails_changes_nothing(filled: SqlDirectory) -> None:
    before = filled.generation(), filled.acts(0, 10)
    with pytest.raises(Conflict):
        filled.add_tenant(ACME, "root")
    with pytest.raises(NotFound):
        filled.add_user(User(tenant="none", name="bob", grant=Grant(), created_at=1.0), "root")
    with pytest.raises(Conflict):
        filled.replace_key(KEY, KEY, b"other", "root")
    assert (filled.generation(), filled.acts(0, 10)) == before


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"])
def test_the_audit_log_cannot_be_changed(filled: SqlDirectory, database: Database, statement: str) -> None:
    with pytest.raises((DatabaseError, Conflict, DatabaseUnavailable)):
        database.write(lambda it: it.execute(text(statement)) and None)
    assert [it.actor for it in filled.acts(0, 10)] == ["root"] * 3


def test_pages_follow_each_other_without_gap_or_repetition(directory: SqlDirectory) -> None:
    names = [f"t{number:02}" for number in range(7)]
    for name in reversed(names):
        directory.add_tenant(Tenant(name=name, created_at=1.0), "root")
    seen: list[str] = []
    while page := directory.tenants(seen[-1] if seen else "", 3):
        seen += [it.name for it in page]
    assert seen == names


def test_lists_hold_what_was_asked_for(filled: SqlDirectory) -> None:
    assert filled.users("acme", "", 10) == (ADA,)
    assert filled.users("other", "", 10) == ()
    assert filled.keys("acme", "ada", "", 10) == filled.keys("", "", "", 10) == (KEY,)
    assert filled.keys("acme", "bob", "", 10) == ()


def test_a_key_was_used_when_it_was_used_last(filled: SqlDirectory) -> None:
    generation = filled.generation()
    filled.mark_used({"k1": 5.0, "unknown": 1.0})
    filled.mark_used({"k1": 4.0})
    filled.mark_used({})
    (key,) = filled.keys("", "", "", 10)
    assert key.used_at == 5.0
    assert filled.generation() == generation


def test_rotation_ends_the_old_key_and_makes_the_new_one(filled: SqlDirectory) -> None:
    ended = Key(id="k1", tenant="acme", user="ada", created_at=3.5, expires_at=6.0)
    new = Key(id="k2", tenant="acme", user="ada", created_at=4.0, replaces="k1")
    filled.replace_key(ended, new, b"d2", "root")
    assert [(it.id, it.expires_at, it.replaces) for it in filled.keys("", "", "", 10)] == [
        ("k1", 6.0, None),
        ("k2", None, "k1"),
    ]


# -- tables ------------------------------------------------------------------------------------------------------------


def test_upgrading_twice_changes_nothing(filled: SqlDirectory, database: Database) -> None:
    assert SCHEMA.upgrade(database) == "identity_0001"
    SCHEMA.check(database)
    assert filled.tenants("", 10) == (ACME,)


def test_a_database_without_the_tables_says_which_command_makes_them(database: Database) -> None:
    with pytest.raises(SchemaError, match="knowalledge db upgrade"):
        SCHEMA.check(database)


def test_a_schema_from_the_future_is_refused(directory: SqlDirectory, database: Database) -> None:
    database.write(
        lambda it: it.execute(text("UPDATE identity_schema SET version_num = 'identity_9999'")) and None
    )
    for attempt in (SCHEMA.check, SCHEMA.upgrade):
        with pytest.raises(SchemaError, match="newer version"):
            attempt(database)
