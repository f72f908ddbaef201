"""The commands that make keys, and what ``serve`` refuses to start with."""

import json
from pathlib import Path

import pytest
from click import Group
from click.testing import CliRunner, Result

from knowalledge.cli.db import db
from knowalledge.cli.keys import keys
from knowalledge.cli.serve import serve
from knowalledge.cli.tenants import tenants
from knowalledge.cli.users import users
from knowalledge.config.settings import Settings
from knowalledge.core.context import Priority
from knowalledge.identity.exposure import exposed, is_local
from knowalledge.identity.feature import open_database, unprepared

# Not the whole command line: it patches the process.
MAIN = Group(commands=[db, keys, serve, tenants, users])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(MAIN, args)


def lines(*args: str) -> list[dict[str, object]]:
    return [json.loads(it) for it in run(*args).stdout.splitlines()]


def test_a_key_is_made_in_one_command_and_printed_alone(folder: Path) -> None:
    made = run("keys", "create", "--tenant", "acme", "--user", "ada", "--expires", "90d", "--model", "m")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    assert key.startswith("kn-")
    (listed,) = lines("keys", "list", "--json")
    assert (listed["id"], listed["tenant"], listed["user"]) == (key.split("-")[1], "acme", "ada")
    assert key not in run("keys", "list").output
    assert (folder / ".run/knowalledge.db.secret").stat().st_mode & 0o777 == 0o600


def test_a_key_is_rotated_and_revoked_and_every_act_is_in_the_audit_log() -> None:
    first = run("keys", "create").stdout.split("-")[1]
    second = run("keys", "rotate", first, "--overlap", "1h").stdout.split("-")[1]
    assert run("keys", "revoke", second).exit_code == 0
    assert [it["act"] for it in lines("db", "audit")] == [
        "tenant.create", "user.create", "key.create", "key.expire", "key.rotate", "key.revoke",
    ]  # fmt: skip
    again = run("keys", "rotate", second)
    assert again.exit_code == 1
    assert "cannot be rotated" in again.output


def test_a_key_has_no_higher_role_than_its_user() -> None:
    assert run("keys", "create", "--user", "ada", "--role", "user").exit_code == 0
    refused = run("keys", "create", "--user", "ada", "--role", "admin")
    assert refused.exit_code == 1
    assert "role" in refused.output
    assert run("keys", "create", "--user", "ada", "--role", "readonly").exit_code == 0


def test_tenants_and_users_are_made_listed_and_disabled() -> None:
    assert run("tenants", "create", "acme", "--weight", "2.5").exit_code == 0
    assert run("tenants", "weight", "acme", "3").exit_code == 0
    assert run("users", "create", "--tenant", "acme", "ada", "--max-priority", "low").exit_code == 0
    assert run("users", "create", "--tenant", "none", "ada").exit_code == 1
    assert run("users", "disable", "--tenant", "acme", "ada").exit_code == 0
    assert run("tenants", "disable", "acme").exit_code == 0
    (tenant,), (user,) = (
        lines("tenants", "list", "--json"),
        lines("users", "list", "--tenant", "acme", "--json"),
    )
    assert tenant["weight"] == 3.0
    assert None not in (tenant["disabled_at"], user["disabled_at"])
    assert "acme" in run("tenants", "list").stdout


@pytest.mark.parametrize(
    "args",
    [
        ("tenants", "create", "a b"),
        ("tenants", "create", "acme", "--weight", "0"),
        ("tenants", "weight", "unknown", "2"),
        ("keys", "create", "--expires", "never"),
        ("keys", "create", "--path", "v1"),
        ("keys", "rotate", "unknown"),
        ("keys", "revoke", "unknown"),
    ],
)
def test_what_cannot_be_is_said_without_a_trace(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code in (1, 2)
    assert "Error" in result.output
    assert isinstance(result.exception, SystemExit)


def test_upgrading_makes_the_tables_and_can_be_repeated() -> None:
    first, second = run("db", "upgrade"), run("db", "upgrade")
    assert first.stdout == second.stdout == "the tables are those of identity_0001\n"


def test_a_database_that_is_away_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWALLEDGE_DATABASE_URL", "postgresql://127.0.0.1:1/x")
    monkeypatch.setenv("KNOWALLEDGE_AUTH__SECRET", "s" * 32)
    for command in (("db", "upgrade"), ("keys", "list")):
        assert run(*command).output == "Error: the database does not answer\n"


# -- serve -------------------------------------------------------------------------------------------------------------

LOCAL = [
    "127.0.0.1:8080",
    "127.8.9.10:1",
    "localhost:8080",
    "[::1]:8080",
    "[::ffff:127.0.0.1]:80",
    "unix:/run/x",
]
PUBLIC = ["0.0.0.0:8080", "[::]:8080", ":8080", "10.0.0.1:8080", "gateway:8080", "[::ffff:10.0.0.1]:80"]


@pytest.mark.parametrize("bind", LOCAL + PUBLIC)
def test_which_addresses_only_this_machine_can_reach(bind: str) -> None:
    assert is_local(bind) == (bind in LOCAL)


def test_without_authentication_only_this_machine_is_served_unless_a_setting_says_otherwise() -> None:
    refused = run("serve", "--bind", "0.0.0.0:1")
    assert refused.exit_code == 2
    assert "auth.allow_anonymous" in refused.output
    for values in ({"auth.allow_anonymous": True}, {"auth.mode": "required"}):
        settings = Settings.load(values, environ={}).auth
        assert exposed(settings, "0.0.0.0:8080") is None


def test_a_schema_from_the_future_refuses_the_start(folder: Path) -> None:
    from sqlalchemy import text

    settings = Settings.load({"auth.mode": "required"}, environ={})
    assert unprepared(settings.auth, "") is None
    database = open_database("")
    future = text("UPDATE identity_schema SET version_num = 'identity_9999'")
    database.write(lambda it: it.execute(future) and None)
    database.close()
    fault = unprepared(settings.auth, "")
    assert fault is not None
    assert "newer version" in fault.wrong


def test_the_parsers_of_levels_agree() -> None:
    assert {it.label for it in Priority} == {"critical", "high", "medium", "low"}
