"""A capability that only this test knows: what it brings is served, described and counted, and nothing else changes."""

from collections.abc import Iterable
from typing import Any

import pytest
from flask import Blueprint, Request
from flask.testing import FlaskClient
from msgspec import Struct
from structlog.testing import capture_logs

from knowalledge.core.context import Principal
from knowalledge.core.errors import NotFound, ProviderGarbage
from knowalledge.core.feature import Feature
from knowalledge.core.openapi import Answer, ErrorForm, Operation
from knowalledge.web.application import make_application
from knowalledge.web.context import RECORDED, WebContext
from knowalledge.web.docs import feature as docs
from knowalledge.web.problems import message_of
from knowalledge.web.responses import NO_STORE, json_response


class Pigeon(Struct, frozen=True):
    name: str


class Coo(Struct, frozen=True):
    coo: str


FORM = ErrorForm("pigeon", Coo, lambda error, request_id: {"coo": message_of(error)})
OPERATION = Operation(
    rank=50,
    method="get",
    path="/api/v1/pigeons/{name}",
    tag="pigeons",
    name="pigeon",
    summary="One pigeon",
    answer=Answer(Pigeon),
    errors=FORM,
)


class Counted:
    """Implements ``Observer``."""

    def __init__(self) -> None:
        self.responses: list[tuple[str, int]] = []

    def http(self, route: str, status: int) -> None:
        self.responses.append((route, status))


class Noted:
    """Middleware that notes who sees a request first."""

    def __init__(self, name: str, seen: list[str], inner: Any) -> None:
        self._name, self._seen, self._inner = name, seen, inner

    def __call__(self, environ: Any, start: Any) -> Iterable[bytes]:
        self._seen.append(self._name)
        response: Iterable[bytes] = self._inner(environ, start)
        return response


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def client(failures: list[str], seen: list[str], counted: Counted) -> FlaskClient:
    routes = Blueprint("pigeons", __name__)

    @routes.get("/api/v1/pigeons/<name>")
    def pigeon(name: str) -> Any:
        if name == "lost":
            raise NotFound("it flew away")
        if name == "useless":
            raise ProviderGarbage("it sings")
        if name == "broken":
            raise ZeroDivisionError("a secret")
        return json_response(Pigeon(name), NO_STORE)

    def form(request: Request) -> ErrorForm | None:
        return FORM if request.path.startswith("/api/v1/pigeons") else None

    pigeons = Feature(
        blueprints=(routes,),
        operations=(OPERATION,),
        middleware=lambda inner: Noted("pigeons", seen, inner),
        error_form=form,
        on_error=lambda request, error: failures.append(type(error).__name__),
    )
    other = Feature(middleware=lambda inner: Noted("other", seen, inner))
    features = (other, pigeons)
    web = WebContext(counted, lambda: "an-id", lambda: 0.0, Principal(), "", 1000, 60.0)
    return make_application((*features, docs.build(features)), web).test_client()


def test_its_routes_are_served_and_counted_by_their_rule(client: FlaskClient, counted: Counted) -> None:
    assert client.get("/api/v1/pigeons/carl").json == {"name": "carl"}
    assert client.get("/nothing").status_code == 404
    assert counted.responses == [("/api/v1/pigeons/<name>", 200), ("unmatched", 404)]


def test_its_errors_have_its_form_and_those_of_others_the_common_one(
    client: FlaskClient, failures: list[str]
) -> None:
    lost = client.get("/api/v1/pigeons/lost")
    assert (lost.status_code, lost.json) == (404, {"coo": "it flew away"})
    elsewhere = client.get("/nothing")
    assert elsewhere.content_type == "application/problem+json"
    assert elsewhere.get_json()["code"] == "not_found"
    assert failures == ["NotFound", "NotFound"]


def test_a_fault_of_ours_tells_the_client_nothing(client: FlaskClient) -> None:
    broken = client.get("/api/v1/pigeons/broken")
    assert broken.status_code == 500
    assert "secret" not in broken.text


def test_a_failed_response_that_no_capability_records_has_a_line_with_its_request_id(
    client: FlaskClient,
) -> None:
    with capture_logs() as lines:
        client.get("/api/v1/pigeons/useless")
        client.get("/api/v1/pigeons/lost")
        client.get("/api/v1/pigeons/useless", environ_overrides={RECORDED: True})
    assert lines == [
        {
            "event": "failed response",
            "log_level": "warning",
            "status": 502,
            "error": "provider_garbage",
            "route": "/api/v1/pigeons/<name>",
            "request_id": "an-id",
        }
    ]


def test_the_middleware_of_the_first_feature_sees_a_request_first(
    client: FlaskClient, seen: list[str]
) -> None:
    client.get("/api/v1/pigeons/carl")
    assert seen == ["other", "pigeons"]


def test_its_operations_are_in_the_document_with_its_errors(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()
    operation = document["paths"]["/api/v1/pigeons/{name}"]["get"]
    assert operation["tags"] == ["pigeons"]
    assert operation["responses"]["4XX"] == {"$ref": "#/components/responses/pigeonRefused"}
    refused = document["components"]["responses"]["pigeonRefused"]["content"]["application/json"]
    assert refused["schema"] == {"$ref": "#/components/schemas/Coo"}
    assert "/api/docs" in document["paths"]


def test_every_error_is_one_of_ours_before_anybody_sees_it(client: FlaskClient, failures: list[str]) -> None:
    client.post("/api/v1/pigeons/carl")
    assert failures == ["WrongMethod"]
