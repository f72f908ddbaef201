"""The small pure functions of the web edge: who asks how urgently, what headers say, how schemas are read."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from knowalledge.core import errors as e
from knowalledge.core.context import Principal, Priority, RequestContext
from knowalledge.core.limits import Allowance
from knowalledge.gateway.api.dialects import DIALECTS
from knowalledge.gateway.api.gemini.json_schema import json_schema
from knowalledge.gateway.api.headers import cache_status, target_headers
from knowalledge.gateway.api.openai import errors as openai_errors
from knowalledge.gateway.api.parsing import base64_bytes, file_ref, json_object
from knowalledge.gateway.domain.answer import CacheInfo
from knowalledge.web import headers, problems
from knowalledge.web import request_identity as identity


def environ(**fields: str) -> dict[str, Any]:
    return {f"HTTP_{name.upper()}": value for name, value in fields.items()}


@pytest.mark.parametrize(
    ("field", "level"),
    [
        ("u=0", Priority.CRITICAL),
        ("u=1", Priority.CRITICAL),
        ("u=2", Priority.HIGH),
        ("u=3", Priority.HIGH),
        ("u=4, i", Priority.MEDIUM),
        ("i, u=5;x=1", Priority.MEDIUM),
        ("i,u = 6", Priority.LOW),
        ("u=0, u=7", Priority.LOW),
        ("i", Priority.MEDIUM),
        ("menu=1", Priority.MEDIUM),
        ("", Priority.MEDIUM),
    ],
)
def test_urgency_becomes_a_level(field: str, level: Priority) -> None:
    assert identity.priority(environ(priority=field), None) is level


@pytest.mark.parametrize("field", ["u=8", "u=-1", "u=", "u=high", "u=00", "u=\u0665"])
def test_an_urgency_that_does_not_exist_is_refused(field: str) -> None:
    with pytest.raises(e.InvalidRequest, match="0 to 7"):
        identity.priority(environ(priority=field), None)


def test_the_body_goes_before_x_priority_and_that_before_priority() -> None:
    request = environ(x_priority=" High ", priority="u=7")
    assert identity.priority(request, "critical") is Priority.CRITICAL
    assert identity.priority(request, None) is Priority.HIGH
    with pytest.raises(e.InvalidRequest, match="critical, high, medium, low"):
        identity.priority(environ(x_priority="urgent"), None)


def test_nobody_claims_more_than_they_may() -> None:
    caller = Principal(max_priority=Priority.LOW)
    assert RequestContext("r", caller, Priority.CRITICAL).priority is Priority.LOW
    assert replace(RequestContext("r", caller), priority=Priority.HIGH).priority is Priority.LOW


def test_a_request_has_one_id_however_often_it_is_asked_for() -> None:
    ids = iter("abc")
    request = environ(x_request_id="not safe\n")
    assert {identity.request_id(request, lambda: next(ids)) for _ in range(3)} == {"a"}


def test_rate_limits_are_structured_fields_whatever_windows_are_called() -> None:
    windows = (Allowance("rpm", 10, 3, 60, 7), Allowance('a"b\\c\u00e9', 1, 0, 86_400, 5))
    policy, state = headers.rate_limit(windows)
    assert policy == ("RateLimit-Policy", '"rpm";q=10;w=60, "a\\"b\\\\c?";q=1;w=86400')
    assert state == ("RateLimit", '"rpm";r=3;t=7, "a\\"b\\\\c?";r=0;t=5')
    assert headers.rate_limit(()) == []


def test_a_window_of_tokens_says_so_since_a_quota_counts_requests_unless_it_says_otherwise() -> None:
    policy, state = headers.rate_limit((Allowance("tpm", 100, 9, 60, 7, "input_tokens"),))
    assert policy == ("RateLimit-Policy", '"tpm";q=100;qu="input-tokens";w=60')
    assert state == ("RateLimit", '"tpm";r=9;t=7')


def test_a_429_carries_the_windows_and_sends_nobody_away_for_longer_than_it_says_itself() -> None:
    error = e.QuotaExhausted("x", retry_after=2.5)
    error.allowances = (Allowance("rpm", 10, 0, 60, 60), Allowance("tpm", 100, 9, 60, 1, "tokens"))
    answer = problems.response(error, "r", openai_errors.FORM)
    assert answer.headers["Retry-After"] == "3"
    assert answer.headers["RateLimit"] == '"rpm";r=0;t=3, "tpm";r=9;t=1'
    assert "RateLimit-Policy" in answer.headers
    assert "RateLimit" not in problems.response(e.QueueFull("x"), "r").headers


def test_who_answers_and_why_is_in_the_headers_for_dialects_without_a_place_for_it() -> None:
    assert target_headers("us", "tier 0, headroom 9%", False) == [
        ("X-Target", 'us; reason="tier 0, headroom 9%"')
    ]
    assert target_headers("", "", True) == [("X-Degraded", "true")]


@pytest.mark.parametrize(
    ("info", "told"),
    [
        (CacheInfo("hit", "memory"), "knowalledge-memory; hit"),
        (CacheInfo("stale", "redis"), "knowalledge-redis; hit; detail=stale"),
        (CacheInfo("shared"), "knowalledge; fwd=miss; collapsed"),
        (CacheInfo("miss"), "knowalledge; fwd=miss"),
        (CacheInfo("bypass"), "knowalledge; fwd=bypass"),
    ],
)
def test_cache_status_tells_what_the_caches_did(info: CacheInfo, told: str) -> None:
    assert cache_status(info) == told


def _leaves(kind: type[e.KnowalledgeError]) -> list[type[e.KnowalledgeError]]:
    found = [leaf for child in kind.__subclasses__() for leaf in _leaves(child)]
    return [*([kind] if kind is not e.KnowalledgeError else []), *found]


@pytest.mark.parametrize("kind", _leaves(e.KnowalledgeError), ids=lambda it: it.__name__)
def test_every_error_has_a_status_of_its_own_and_a_body_in_every_form(kind: type[e.KnowalledgeError]) -> None:
    error = kind("GET") if kind is problems.WrongMethod else kind("told", retry_after=1.2)
    status = problems.status_of(error)
    assert status != 500
    assert problems.TITLES[status]
    for form in {it.errors for it in DIALECTS}:
        answer = problems.response(error, "r", form)
        assert answer.status_code == status
        assert ("Retry-After" in answer.headers) == (status in (429, 503))
        assert "told" in answer.get_data(as_text=True) or kind is problems.WrongMethod
    if status in (429, 503):
        assert problems.retry_after(error, status) == 2


@pytest.mark.parametrize(("seconds", "told"), [(None, 1), (0.0, 1), (0.2, 1), (59.1, 60), (1e9, 86_400)])
def test_a_refusal_always_says_when_to_come_back(seconds: float | None, told: int) -> None:
    assert problems.retry_after(e.QuotaExhausted("x", retry_after=seconds), 429) == told


def test_long_messages_are_cut() -> None:
    assert len(problems.message_of(e.InvalidRequest("x" * 10_000))) == problems.MAX_MESSAGE


@pytest.mark.parametrize(
    ("google", "plain"),
    [
        ({"type": "STRING", "nullable": True}, {"type": ["string", "null"]}),
        (
            {"type": "STRING", "format": "enum", "enum": ["A"]},
            {"type": "string", "format": "enum", "enum": ["A"]},
        ),
        ({"type": "TYPE_UNSPECIFIED", "anyOf": [{"type": "INTEGER"}]}, {"anyOf": [{"type": "integer"}]}),
        (
            {
                "type": "OBJECT",
                "properties": {"type": {"type": "NUMBER", "example": 1}},
                "required": ["type"],
            },
            {"type": "object", "properties": {"type": {"type": "number"}}, "required": ["type"]},
        ),
        (
            {"type": "ARRAY", "items": {"type": "BOOLEAN"}, "minItems": "1", "maxItems": 2},
            {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
        ),
        (
            {"type": "object", "additionalProperties": False},
            {"type": "object", "additionalProperties": False},
        ),
        ({"type": ["STRING", None], "items": 5}, {"type": ["string", None], "items": 5}),
    ],
)
def test_googles_schemas_become_json_schemas(google: Any, plain: Any) -> None:
    assert json.loads(json_schema(json.dumps(google), "x")) == plain


def test_no_schema_stays_no_schema() -> None:
    assert json_schema("", "x") == ""


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "5", "{", '{"a":1}}', '{"a":1},"b":{}', "{'a':1}", "[" * 9999]
)
def test_what_is_carried_is_one_json_object_or_refused(text: str) -> None:
    with pytest.raises(e.InvalidRequest):
        json_object(text, "x")
    assert json_object(' {"a" : 1} ', "x") == ' {"a" : 1} '


@pytest.mark.parametrize("text", ["_-8=", "/+8=", "_-8", "/+8", "/+\n8="])
def test_both_alphabets_of_base64_are_read(text: str) -> None:
    assert base64_bytes(text, "x") == b"\xff\xef"


@pytest.mark.parametrize("url", ["ftp://x/y", "javascript:alert(1)", "//x/y", "x", "", "http://[::1"])
def test_media_that_no_provider_could_fetch_is_refused(url: str) -> None:
    with pytest.raises(e.InvalidRequest):
        file_ref(url, "", "x")
