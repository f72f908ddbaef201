"""The routes of admins: what they do, page by page, and who is named in the audit log."""

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from knowalledge.config.settings import Settings
from knowalledge.identity.feature import IdentityFeature
from knowalledge.quota.feature import queue_rules
from tests.identity.conftest import House, bearer, poll

ADMIN = "/api/v1/admin"


class Admin:
    """A client with an admin's key."""

    def __init__(self, house: House) -> None:
        self.client: FlaskClient = house.gateway()
        self._headers = bearer(house.key("admin", tenant="staff", user="eve"))

    def get(self, path: str, status: int = 200, **query: object) -> Any:
        response = self.client.get(ADMIN + path, headers=self._headers, query_string=query)
        assert response.status_code == status, response.text
        return response.get_json()

    def post(self, path: str, body: object = None, status: int = 200) -> Any:
        response = self.client.post(ADMIN + path, json=body, headers=self._headers)
        assert response.status_code == status, response.text
        return response.get_json()


@pytest.fixture
def admin(house: House) -> Admin:
    return Admin(house)


def test_a_key_is_made_used_and_revoked(admin: Admin) -> None:
    admin.post("/tenants", {"name": "acme", "weight": 2})
    admin.post("/users", {"tenant": "acme", "name": "ada", "grant": {"role": "user"}})
    made = admin.post("/keys", {"tenant": "acme", "user": "ada", "label": "laptop", "expires_in_s": 3600})
    key = bearer(made["text"])
    assert made["key"]["expires_at"] == made["key"]["created_at"] + 3600
    assert admin.client.get("/v1/models", headers=key).status_code == 200
    assert made["text"] not in str(admin.get("/keys"))
    admin.post(f"/keys/{made['key']['id']}/revoke")
    poll(admin.client)
    assert admin.client.get("/v1/models", headers=key).status_code == 401


def test_a_key_is_rotated(admin: Admin) -> None:
    admin.post("/tenants", {"name": "acme"})
    admin.post("/users", {"tenant": "acme", "name": "ada"})
    old = admin.post("/keys", {"tenant": "acme", "user": "ada"})
    new = admin.post(f"/keys/{old['key']['id']}/rotate", {"overlap_s": 60})
    assert new["key"]["replaces"] == old["key"]["id"]
    admin.post(f"/keys/{new['key']['id']}/rotate")
    admin.post("/tenants/acme/users/ada/disable")
    admin.post("/tenants/acme/disable")
    poll(admin.client)
    assert admin.client.get("/v1/models", headers=bearer(new["text"])).status_code == 401


def test_the_waiting_room_learns_a_tenants_weight_and_its_changes(house: House, admin: Admin) -> None:
    key = bearer(house.key(tenant="acme"))
    features = admin.client.application.extensions["knowalledge"]._features
    (weights,) = (it.weights for it in features if isinstance(it, IdentityFeature))
    for weight, expected in ((3, {"acme": 3.0}), (0.5, {"acme": 0.5}), (1, {})):
        admin.post("/tenants/acme/weight", {"weight": weight})
        poll(admin.client)
        assert admin.client.get("/v1/models", headers=key).status_code == 200
        assert weights == expected
    assert queue_rules(Settings.load(environ={}).queue, weights).weights is weights


def test_pages_follow_each_other_to_the_end(admin: Admin) -> None:
    for number in range(5):
        admin.post("/tenants", {"name": f"t{number}"})
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = admin.get("/tenants", limit=2, after=after)
        seen += [it["name"] for it in page["items"]]
        after = page["next"]
    assert seen == ["staff", "t0", "t1", "t2", "t3", "t4"]


def test_the_audit_log_names_who_acted_and_shows_no_key(admin: Admin) -> None:
    admin.post("/tenants", {"name": "acme"})
    acts = admin.get("/audit")["items"]
    assert acts[-1]["act"] == "tenant.create"
    assert acts[-1]["actor"].startswith("staff/eve key ")
    assert acts[-1]["after"]["name"] == "acme"
    later = admin.get("/audit", after=acts[-2]["number"])["items"]
    assert later == acts[-1:]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tenants", {"name": "staff"}, 409),
        ("/tenants", {"name": "a b"}, 400),
        ("/tenants", {"name": "x", "weight": 0}, 400),
        ("/tenants", {"name": "x", "colour": "red"}, 400),
        ("/users", {"tenant": "none", "name": "x"}, 404),
        ("/users", {"tenant": "staff", "name": "x", "grant": {"role": "root"}}, 400),
        ("/users", {"tenant": "staff", "name": "x", "grant": {"paths": ["v1"]}}, 400),
        ("/keys", {"tenant": "staff", "user": "none"}, 404),
        ("/keys", {"tenant": "staff", "user": "eve", "label": "a\nb"}, 400),
        ("/keys", {"tenant": "staff", "user": "eve", "expires_in_s": -1}, 400),
        ("/tenants/none/weight", {"weight": 2}, 404),
        ("/tenants/staff/weight", {"weight": -1}, 400),
        ("/keys/none/revoke", None, 404),
        ("/keys/none/rotate", {}, 404),
        ("/tenants/none/disable", None, 404),
        ("/tenants/staff/users/none/disable", None, 404),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    admin: Admin, path: str, body: object, status: int
) -> None:
    before = admin.get("/audit")
    admin.post(path, body, status)
    assert admin.get("/audit") == before


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 501}, {"limit": "x"}])
def test_a_page_has_a_bounded_length(admin: Admin, query: dict[str, object]) -> None:
    for path in ("/tenants", "/keys", "/audit"):
        admin.get(path, 400, **query)
    admin.get("/audit", 400, after="x")
    admin.get("/users", 400)


def test_where_callers_do_not_authenticate_nobody_administers(tmp_path: Path) -> None:
    from knowalledge import app as wiring

    client = wiring.create_app(Settings.load(environ={})).test_client()
    for path in ("/tenants", "/keys", "/audit"):
        assert client.get(ADMIN + path).status_code == 403
    assert client.post(f"{ADMIN}/keys", json={"tenant": "a", "user": "b"}).status_code == 403
