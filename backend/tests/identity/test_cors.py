"""Calls from web pages: the named origins may, with the headers of every SDK, and no other page may read an answer."""

import pytest
from flask.testing import FlaskClient

from knowalledge.config.settings import Settings, SettingsError
from tests.identity.conftest import House, bearer

APP = "https://app.example"
SDKS = (
    "authorization, content-type, x-api-key, api-key, x-goog-api-key, x-goog-api-client, x-stainless-lang, "
    "x-stainless-retry-count, anthropic-version, idempotency-key, x-priority"
)


@pytest.fixture
def client(house: House) -> FlaskClient:
    return house.gateway(values={"cors.origins": f"{APP},https://other.example:8443"})


def preflight(client: FlaskClient, origin: str, headers: str = SDKS) -> dict[str, str]:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": headers,
    }
    response = client.options("/v1/chat/completions", headers=asked)
    assert response.status_code == 204
    return dict(response.headers)


def test_a_browser_may_send_what_every_sdk_sends_without_a_key_in_the_preflight(client: FlaskClient) -> None:
    told = preflight(client, APP)
    assert told["Access-Control-Allow-Origin"] == APP
    assert told["Access-Control-Allow-Headers"] == SDKS
    assert "POST" in told["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in told


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://app.example.evil",
        "http://app.example",
        "null",
        "https://app.example:1",
    ],
)
def test_another_page_may_not(client: FlaskClient, origin: str) -> None:
    assert not [it for it in preflight(client, origin) if it.startswith("Access-Control")]
    response = client.get("/api/health", headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in response.headers
    assert "Origin" in response.headers["Vary"]


def test_a_header_that_no_sdk_sends_is_not_allowed(client: FlaskClient) -> None:
    told = preflight(client, APP, "authorization, x-evil, x-stainless-a b, x-stainless-\xe9")
    assert told["Access-Control-Allow-Headers"] == "authorization"


def test_answers_and_refusals_can_be_read_by_the_page(house: House, client: FlaskClient) -> None:
    for headers, status in ((bearer(house.key()), 200), ({}, 401)):
        response = client.get("/v1/models", headers={"Origin": APP, **headers})
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == APP
        assert "RateLimit" in response.headers["Access-Control-Expose-Headers"]


def test_without_origins_nothing_is_added(house: House) -> None:
    response = house.gateway().get("/api/health", headers={"Origin": APP})
    assert not [it for it, _ in response.headers if it.startswith("Access-Control")]


@pytest.mark.parametrize(
    "origin", ["app.example", "https://app.example/path", "ftp://app.example", "https://a@b"]
)
def test_what_is_no_origin_is_a_fault(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"cors\.origins"):
        Settings.load({"cors.origins": origin}, environ={})
