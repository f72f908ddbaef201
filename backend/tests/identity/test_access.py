"""Which caller may call which route: every route of the map, for every role."""

import re

import pytest
from flask.testing import FlaskClient

from knowalledge.core.access import Access, Role
from knowalledge.core.context import Principal
from knowalledge.web.access import ACCESS, Routes
from tests.identity.conftest import House, bearer

# Where an SDK of each dialect looks for the kind of a failure, by the beginning of the path.
FORMS = {
    "/v1/chat": ("error", "type", {401: "authentication_error", 403: "permission_error"}),
    "/v1beta/": ("error", "status", {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}),
    "/api/": ("code", None, {401: "unauthenticated", 403: "forbidden"}),
}


def routes(client: FlaskClient) -> list[tuple[str, str, Access | None]]:
    """Every path and method, with what it asks for; None: nothing declares it."""
    access: Routes = client.application.extensions[ACCESS]
    return [
        (re.sub(r"<[^>]+>", "x", rule.rule), method, access.get((rule.rule, method)))
        for rule in client.application.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"OPTIONS"})
    ]


def test_every_route_declares_who_may_call_it(house: House) -> None:
    found = routes(house.gateway())
    assert len(found) > 40
    undeclared = [(path, method) for path, method, access in found if access is None]
    assert undeclared == [], "give their operations an access"


def test_without_a_key_only_public_routes_answer(house: House) -> None:
    client = house.gateway()
    for path, method, access in routes(client):
        status = client.open(path, method=method).status_code
        assert (status == 401) == (access is not Access.PUBLIC), (path, method, status)


def test_what_is_public_is_this_and_no_more(house: House) -> None:
    public = {path for path, _, access in routes(house.gateway()) if access is Access.PUBLIC}
    assert public == {
        "/api/health", "/api/ready", "/metrics", "/api/metrics", "/api/openapi.json", "/api/docs",
        "/", "/explore", "/console", "/assets/x/x",  # pages; what they show asks for a key of its own
    }  # fmt: skip


@pytest.mark.parametrize("role", Role, ids=lambda it: it.label)
def test_a_role_may_call_what_asks_for_it_or_for_less(house: House, role: Role) -> None:
    client, key = house.gateway(), house.key(role.label)  # type: ignore[arg-type]
    for path, method, access in routes(client):
        status = client.open(path, method=method, headers=bearer(key)).status_code
        assert access is not None
        assert status != 401
        assert (status == 403) == (access > role), (path, method, status)


def test_a_route_that_declares_nothing_is_nobodys(house: House) -> None:
    client, key = house.gateway(), house.key("admin")
    client.application.extensions[ACCESS] = {}
    assert client.get("/v1/models", headers=bearer(key)).status_code == 403
    assert client.get("/api/health").status_code == 401


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1beta/models/m:generateContent", "/api/v1/generate"]
)
def test_refusals_have_the_dialects_own_form(house: House, path: str) -> None:
    client, reader = house.gateway(), house.key("readonly")
    name, inner, values = next(form for start, form in FORMS.items() if path.startswith(start))
    for status, headers in ((401, {}), (403, bearer(reader))):
        response = client.post(path, json={}, headers=headers)
        assert response.status_code == status
        body = response.get_json()
        assert (body[name][inner] if inner else body[name]) == values[status]
        assert ("WWW-Authenticate" in response.headers) == (status == 401)


def test_a_key_for_some_paths_calls_no_other(house: House) -> None:
    client, key = house.gateway(), house.key(paths=("/v1/chat",))
    assert client.post("/v1/chat/completions", json={}, headers=bearer(key)).status_code == 400
    for path in ("/v1/models", "/api/v1/topics/light"):
        assert client.get(path, headers=bearer(key)).status_code == 403


def test_a_path_ends_at_a_border_of_its_segments() -> None:
    caller = Principal(paths=("/v1/chat", "/api/"))
    assert [caller.may_call(it) for it in ("/v1/chat", "/v1/chat/x", "/v1/chatter", "/api/x", "/apis")] == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_a_key_for_some_models_sees_and_uses_no_other(house: House) -> None:
    client, key = house.gateway(), house.key(models=("other",))
    listed = client.get("/v1/models", headers=bearer(key)).get_json()["data"]
    assert [it["id"] for it in listed] == ["other"]
    for model, status in (("other", 200), ("m", 403), ("", 403), ("nothing", 404)):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/chat/completions", json=body, headers=bearer(key)).status_code == status
        streamed = client.post("/v1/chat/completions", json=body | {"stream": True}, headers=bearer(key))
        assert streamed.status_code == status
        embedded = client.post("/v1/embeddings", json={"model": model, "input": "x"}, headers=bearer(key))
        assert embedded.status_code == status
    for path in ("/v1beta/models/m", "/v1/models/m", "/api/v1/topics/light"):
        assert client.get(path, headers=bearer(key)).status_code == 403
    assert client.post(
        "/v1beta/models/m:countTokens", json={"contents": []}, headers=bearer(key)
    ).status_code in (
        400,
        403,
    )


def test_a_key_claims_no_more_urgent_level_than_it_may(house: House) -> None:
    client, key = house.gateway(), house.key(max_priority="low")
    headers = bearer(key) | {"X-Priority": "critical"}
    assert (
        client.post("/api/v1/generate", json={"prompt": "hi"}, headers=headers).headers["X-Priority"] == "low"
    )


def test_topics_can_be_made_public_and_what_is_posted_there_is_not(house: House) -> None:
    client = house.gateway(values={"auth.public_topics": True})
    assert client.get("/api/v1/topics/light").status_code != 401
    assert client.post("/api/v1/topics/from-image").status_code == 401
    assert client.get("/v1/models").status_code == 401
