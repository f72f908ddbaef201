"""Keys over HTTP: where they are put, how long they count, and what happens without the database."""

import logging
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from flask.testing import FlaskClient

from knowalledge.core.errors import DatabaseUnavailable
from knowalledge.identity.sql import SqlDirectory
from tests.identity.conftest import House, bearer, poll, run_task

ME = "/v1/models"
PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "Authorization": lambda key: {"headers": bearer(key)},
    "lower case": lambda key: {"headers": {"Authorization": f"bearer {key}"}},
    "x-api-key": lambda key: {"headers": {"x-api-key": key}},
    "api-key": lambda key: {"headers": {"api-key": key}},
    "x-goog-api-key": lambda key: {"headers": {"x-goog-api-key": key}},
    "key=": lambda key: {"query_string": f"alt=json&key={key}"},
    "first of two": lambda key: {"headers": bearer(key), "query_string": "key=unknown"},
    "beside a proxy's own": lambda key: {"headers": {"Authorization": "Basic eDp5", "x-api-key": key}},
}


def status(client: FlaskClient, key: str) -> int:
    return client.get(ME, headers=bearer(key)).status_code


@pytest.mark.parametrize("place", PLACES)
def test_a_key_is_found_where_clients_put_it(house: House, place: str) -> None:
    client = house.gateway()
    assert client.get(ME, **PLACES[place](house.key())).status_code == 200


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "wrong", ["", "x", "kn-aaaaaaaaaaaaaaaa-" + "a" * 40, "a.b.c", "\xe9", "x" * 100_000]
)
def test_what_is_no_key_is_refused(house: House, place: str, wrong: str) -> None:
    client = house.gateway()
    response = client.get(ME, **PLACES[place](wrong))
    assert response.status_code == 401
    assert not wrong or len(wrong) < 4 or wrong not in response.text


def test_a_key_in_the_query_reaches_no_handler(house: House) -> None:
    client, key = house.gateway(), house.key()
    # A parameter that a topic does not know would be a 400.
    assert client.get(f"/api/v1/topics/light?key={key}&lang=en").status_code != 400


def test_a_key_of_another_secret_is_refused(house: House) -> None:
    client = house.gateway(values={"auth.secret": "another secret of enough letters"})
    assert status(client, house.key()) == 401


def test_a_key_that_differs_in_one_letter_is_refused(house: House) -> None:
    client, key = house.gateway(), house.key()
    for position in (3, 25, 50, 59):
        other = "b" if key[position] != "b" else "c"
        assert status(client, key[:position] + other + key[position + 1 :]) == 401
    assert status(client, key) == 200


def test_a_key_is_kept_nowhere(house: House, caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    client, key = house.gateway(), house.key()
    with caplog.at_level(logging.DEBUG):
        assert status(client, key) == 200
    secret = key.rsplit("-", 1)[1]
    assert secret not in caplog.text
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes(), file.name
    assert secret not in str(house.admin.acts())


def test_a_revoked_key_is_refused_by_every_replica_after_its_next_poll(house: House) -> None:
    replicas, key = [house.gateway() for _ in range(3)], house.key()
    assert [status(it, key) for it in replicas] == [200] * 3
    house.admin.revoke_key("test", key.split("-")[1])
    for replica in replicas:
        poll(replica)
    assert [status(it, key) for it in replicas] == [401] * 3


@pytest.mark.parametrize("end", ["user", "tenant"])
def test_keys_end_with_their_user_and_tenant(house: House, end: str) -> None:
    client, key = house.gateway(), house.key()
    assert status(client, key) == 200
    if end == "user":
        house.admin.disable_user("test", "acme", "user-person")
    else:
        house.admin.disable_tenant("test", "acme")
    poll(client)
    assert status(client, key) == 401


def test_a_rotated_key_counts_until_the_overlap_ends(house: House) -> None:
    client, old = house.gateway(), house.key()
    assert status(client, old) == 200
    new = house.admin.rotate_key("test", old.split("-")[1], overlap_s=3600.0).text
    poll(client)
    assert [status(client, it) for it in (old, new)] == [200, 200]
    newest = house.admin.rotate_key("test", new.split("-")[1], overlap_s=0.0).text
    poll(client)
    assert [status(client, it) for it in (new, newest)] == [401, 200]


def test_an_expired_key_is_refused_though_it_was_just_verified(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = house.gateway()
    house.admin.ensure_user("test", "acme", "ada", "user")
    issued = house.admin.create_key("test", "acme", "ada", lifetime_s=50.0)
    assert status(client, issued.text) == 200
    expires_at = issued.key.expires_at
    assert expires_at is not None
    monkeypatch.setattr("time.time", lambda: expires_at + 0.001)
    assert status(client, issued.text) == 401


def test_a_warm_key_asks_no_database(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client, key = house.gateway(), house.key()
    assert status(client, key) == 200
    asked: list[str] = []
    monkeypatch.setattr(SqlDirectory, "find", lambda _, key_id: asked.append(key_id))
    assert [status(client, key) for _ in range(5)] == [200] * 5
    assert asked == []


def test_while_the_database_is_away_known_keys_count_for_an_hour_and_that_is_said(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, known, unknown = house.gateway(), house.key(), house.key(user="other")
    now = 1_000_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    assert status(client, known) == 200

    def away(*_: object) -> None:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(SqlDirectory, "find", away)
        outage.setattr(SqlDirectory, "generation", away)
        for later, expected in ((1.0, 200), (301.0, 200), (3599.0, 200), (3601.0, 503)):
            now = 1_000_000.0 + later
            poll(client)
            assert status(client, known) == expected
        response = client.get(ME, headers=bearer(unknown))
        assert response.status_code == 503
        assert "Retry-After" in response.headers
        assert status(client, "kn-nothing") == 401
        assert any("database" in it for it in client.get("/api/ready").get_json()["notes"])
    poll(client)
    assert [status(client, it) for it in (known, unknown)] == [200, 200]
    assert client.get("/api/ready").get_json()["notes"] == []


def test_when_a_key_was_used_is_kept(house: House) -> None:
    client, key = house.gateway(), house.key()
    assert house.admin.keys()[0].used_at is None
    assert status(client, key) == 200
    run_task(client, "identity.used")
    assert house.admin.keys()[0].used_at is not None


def test_tenants_do_not_share_answers(house: House) -> None:
    client = house.gateway()
    question = {"prompt": "hi", "temperature": 0}
    for tenant in ("acme", "other"):
        key = house.key(tenant=tenant)
        first, second = (
            client.post("/api/v1/generate", json=question, headers=bearer(key)) for _ in range(2)
        )
        assert "hit" not in first.headers["Cache-Status"]
        assert "hit" in second.headers["Cache-Status"]


def test_a_tenants_header_of_a_proxy_is_not_believed_where_keys_name_the_tenant(house: House) -> None:
    from knowalledge.config.settings import Settings, SettingsError

    with pytest.raises(SettingsError, match="tenant_header"):
        Settings.load({"auth.mode": "required", "auth.tenant_header": "X-Tenant"}, environ={})


def test_documents_are_private_where_callers_authenticate_and_served_from_memory(house: House) -> None:
    client, key = house.gateway(), house.key()
    client.application.config["PROPAGATE_EXCEPTIONS"] = False
    response = client.get("/api/v1/topics/light", headers=bearer(key))
    assert "public" not in response.headers.get("Cache-Control", "")


def test_those_who_ask_for_one_key_at_once_share_one_question(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, key = house.gateway(), house.key()
    find, asked = SqlDirectory.find, []

    def counted(directory: SqlDirectory, key_id: str) -> Any:
        asked.append(key_id)
        return find(directory, key_id)

    monkeypatch.setattr(SqlDirectory, "find", counted)
    calls = [gevent.spawn(status, client, key) for _ in range(20)]
    assert [it.get() for it in calls] == [200] * 20
    assert len(asked) == 1
