"""The knowledge API over a real application with a provider that knows everything."""

import io
import zlib
from typing import Any

import gevent
import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from knowalledge import app as wiring
from knowalledge.domain import errors as e
from knowalledge.domain.model import Blob, Finish
from knowalledge.service import topics
from knowalledge.settings import Settings
from tests.fakes import Hands
from tests.knowing import Knowing

CONFIG = "models: {m: {targets: [{name: t, provider: gemini, api_key: k}]}}\n"


@pytest.fixture
def provider() -> Knowing:
    return Knowing()


def build(
    provider: Knowing, clock: Hands, monkeypatch: pytest.MonkeyPatch, path: Any, extra: str = ""
) -> Flask:
    config = path / "c.yaml"
    config.write_text(CONFIG + extra)
    monkeypatch.setattr(wiring.providers, "build", lambda spec, clock: provider)
    monkeypatch.setattr(wiring, "SystemClock", lambda: clock)
    return wiring.create_app(Settings.load(environ={}, config=str(config)))


@pytest.fixture
def client(
    provider: Knowing, clock: Hands, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, store: str
) -> FlaskClient:
    return build(provider, clock, monkeypatch, tmp_path, store).test_client()


@pytest.fixture
def alone(provider: Knowing, clock: Hands, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> FlaskClient:
    return build(provider, clock, monkeypatch, tmp_path).test_client()


PATHS = (
    ("/api/v1/topics/light", "subtopics", 15),
    ("/api/v1/topics/light/subtopics?count=4", "subtopics", 4),
    ("/api/v1/topics/light/explanations?subtopics=waves,rays", "explanations", 2),
    ("/api/v1/topics/light/quiz", "questions", 5),
    ("/api/v1/topics/light/related?count=3", "related", 3),
)


@pytest.mark.parametrize(("path", "field", "count"), PATHS)
def test_each_question_about_a_topic_has_a_whole_structured_answer(
    client: FlaskClient, path: str, field: str, count: int
) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert len(response.json[field]) == count
    assert (response.json["topic"], response.json["degraded"]) == ("light", False)


def test_a_topic_goes_miss_memory_hit_304(client: FlaskClient, provider: Knowing) -> None:
    first = client.get("/api/v1/topics/light")
    second = client.get("/api/v1/topics/light")
    assert "fwd=miss" in first.headers["Cache-Status"]
    assert second.headers["Cache-Status"].startswith("knowalledge-memory; hit; ttl=")
    assert first.data == second.data
    etag = second.headers["ETag"]
    assert etag.startswith('"')
    third = client.get("/api/v1/topics/light", headers={"If-None-Match": f'"x", W/{etag}'})
    assert (third.status_code, third.data, third.headers["ETag"]) == (304, b"", etag)
    assert "max-age=300" in third.headers["Cache-Control"]
    assert provider.calls == 1


def test_outer_caches_are_told_how_long_and_under_which_tags(client: FlaskClient) -> None:
    headers = client.get("/api/v1/topics/Black%20Holes").headers
    assert headers["Cache-Control"] == ("public, max-age=300, stale-while-revalidate=60, stale-if-error=3600")
    assert headers["CDN-Cache-Control"].startswith("public, max-age=1800")
    tags = headers["Cache-Tag"].split(",")
    assert tags[:3] == ["all", "topic", "topic:black%20holes"]
    assert headers["Surrogate-Key"].split(" ") == tags
    assert headers["Vary"] == "Accept-Encoding"


def test_where_callers_must_say_who_they_are_answers_are_private(
    provider: Knowing, clock: Hands, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    app = build(provider, clock, monkeypatch, tmp_path, "auth: {mode: required}\n")
    headers = app.test_client().get("/api/v1/topics/light").headers
    if "ETag" in headers:
        assert headers["Cache-Control"].startswith("private")
        assert "Authorization" in headers["Vary"]
    assert "CDN-Cache-Control" not in headers
    assert "Cache-Tag" not in headers


@pytest.mark.parametrize(
    "spelling",
    [
        "caf%C3%A9%20culture",
        "CAF%C3%89%20Culture",
        "cafe%CC%81%20culture",  # decomposed
        "%20caf%C3%A9%20%20culture%20",
        "caf%C3%A9%C2%A0culture",
        "%E2%80%AEcaf%C3%A9%20culture",  # right-to-left override
    ],
)
def test_every_spelling_of_a_topic_is_one_entry(
    client: FlaskClient, provider: Knowing, spelling: str
) -> None:
    first = client.get("/api/v1/topics/caf%C3%A9%20culture/subtopics")
    assert client.get(f"/api/v1/topics/{spelling}/subtopics").data == first.data
    assert provider.calls == 1


@pytest.mark.parametrize(
    "path",
    [
        "light/subtopics?count=3&level=general",
        "light/subtopics?level=&count=3",
        "light/subtopics?lang=EN&count=3",
    ],
)
def test_every_spelling_of_a_question_is_one_entry(client: FlaskClient, provider: Knowing, path: str) -> None:
    client.get("/api/v1/topics/light/subtopics?count=3")
    client.get(f"/api/v1/topics/{path}")
    assert provider.calls == 1


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("a" * 10_240, "topic"),
        ("a%00b", "topic"),
        ("a%1Bb", "topic"),
        ("..%2F..%2Fetc%2Fpasswd", "topic"),
        ("a%2F..%2Fb", "topic"),
        ("%FF%FE", "topic"),
        ("...", "topic"),
        ("%20", "topic"),
        ("light/subtopics?count=0", "count"),
        ("light/subtopics?count=1e9", "count"),
        ("light/subtopics?count=31", "count"),
        ("light/subtopics?count=%D9%A3", "count"),
        ("light/subtopics?level=expert", "level"),
        ("light/subtopics?lang=../x", "lang"),
        ("light/subtopics?count=3&count=4", "count"),
        ("light/subtopics?utm_source=x", "utm_source"),
        ("light/explanations", "subtopics"),
        ("light/explanations?subtopics=,,", "subtopics"),
        ("light/explanations?subtopics=" + "a," * 31 + "b", None),
        ("light/explanations?subtopics=" + ",".join(map(str, range(31))), "subtopics"),
        ("light/explanations?subtopics=a%00", "subtopics"),
        ("light/explanations?subtopics=a&detail=most", "detail"),
    ],
)
def test_a_bad_question_is_refused_with_the_field_at_fault_and_asks_no_model(
    alone: FlaskClient, provider: Knowing, path: str, param: str | None
) -> None:
    response = alone.get(f"/api/v1/topics/{path}")
    if param is None:  # the same subtopic again and again is one
        assert response.status_code in (200, 400)
        return
    assert response.status_code == 400
    assert response.json["param"] == param
    assert response.headers["Cache-Control"] == "no-store"
    assert provider.calls == 0


@pytest.mark.parametrize(
    "topic", ["TCP%2FIP", "C%2B%2B", "%D8%A7%D9%84%D8%B6%D9%88%D8%A1", "%F0%9F%9A%80", "%E5%85%89", "1984"]
)
def test_topics_of_every_script_are_topics(alone: FlaskClient, topic: str) -> None:
    response = alone.get(f"/api/v1/topics/{topic}/related")
    assert response.status_code == 200
    assert response.headers["Cache-Tag"].isascii()


def test_no_header_of_the_request_poisons_what_others_get(alone: FlaskClient, provider: Knowing) -> None:
    poison = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "gopher",
        "X-Original-URL": "/evil",
        "Forwarded": "host=evil.example",
        "Accept-Language": "xx",
    }
    poisoned = alone.get("/api/v1/topics/light", headers=poison)
    clean = alone.get("/api/v1/topics/light")
    assert poisoned.data == clean.data
    assert b"evil" not in clean.data
    assert "evil" not in str(clean.headers)
    assert provider.calls == 1


@pytest.mark.parametrize("headers", [{}, {"Origin": "https://page.example"}])
def test_an_address_with_an_encoded_question_mark_is_not_mistaken_for_one_with_a_query(
    alone: FlaskClient, headers: dict[str, str]
) -> None:
    alone.get("/api/v1/topics/light/explanations%3Fsubtopics=rays")
    found = alone.get("/api/v1/topics/light/explanations?subtopics=rays?", headers=headers).json
    assert (found["topic"], found["view"]) == ("light", "explanations")


@pytest.mark.parametrize("path", ["/api//v1/topics/light", "//api/v1/topics/light", "/api/v1//topics/light"])
def test_no_address_is_redirected_to_a_host_that_the_caller_names(alone: FlaskClient, path: str) -> None:
    response = alone.get(path, headers={"Host": "evil.example"})
    assert response.status_code == 404
    assert "evil" not in response.text + str(response.headers)


@pytest.mark.parametrize(
    ("topic", "name"),
    [("%2Fdev%2Fnull", "/dev/null"), ("/dev/null", "/dev/null"), ("big%0Abang", "big bang")],
)
def test_a_topic_may_begin_with_a_slash_or_hold_a_line_end(alone: FlaskClient, topic: str, name: str) -> None:
    response = alone.get(f"/api/v1/topics/{topic}/related")
    assert (response.status_code, response.json["topic"]) == (200, name)


def test_many_topics_of_one_client_stay_within_the_memory_given(
    provider: Knowing, clock: Hands, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    app = build(provider, clock, monkeypatch, tmp_path, "cache: {memory_bytes: 64KiB}\n")
    client = app.test_client()
    for index in range(200):
        assert client.get(f"/api/v1/topics/t{index}/related").status_code == 200
    provider.prompts.clear()
    client.get("/api/v1/topics/t0/related")
    assert provider.calls == 1  # it had to go


# -- what models say ---------------------------------------------------------------------------------


def test_an_answer_in_a_code_fence_is_taken(alone: FlaskClient, provider: Knowing) -> None:
    provider.answers = ['```json\n{"topics": ["a", "b", "c"]}\n```']
    assert alone.get("/api/v1/topics/light/related?count=3").json["related"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "I am sorry",
        '{"topics": ["a", "b"',
        '{"topics": ["a", ""]}',
        '{"topics": "a"}',
        '{"topics": ["a", "A", " a "]}',
        '{"topics": ["light", "Light"]}',
        "[" * 5000,
        '{"other": 1}',
    ],
)
def test_a_bad_answer_is_repaired_once(alone: FlaskClient, provider: Knowing, bad: str) -> None:
    provider.answers = [bad, '{"topics": ["a", "b", "c"]}']
    assert alone.get("/api/v1/topics/light/related?count=3").json["related"] == ["a", "b", "c"]
    assert provider.calls == 2
    assert len(provider.prompts[1].messages) == 3
    provider.answers = [bad, bad]
    refused = alone.get("/api/v1/topics/dark/related?count=4")
    if bad == '{"topics": ["light", "Light"]}':
        return
    assert refused.status_code == 502
    assert provider.calls == 4


def test_what_is_named_can_be_asked_about(alone: FlaskClient, provider: Knowing) -> None:
    provider.answers = [
        '{"subtopics": [{"title": "Waves, rays,and lenses", "summary": "s"}]}',
        '{"topics": ["../..", "Optics", " LIGHT ", "a\\u0000b", "Colour"]}',
    ]
    found = alone.get("/api/v1/topics/light/subtopics?count=1").json["subtopics"]
    assert found == [{"title": "Waves rays and lenses", "summary": "s"}]
    assert alone.get("/api/v1/topics/light/related?count=2").json["related"] == ["Optics", "Colour"]


def test_an_answer_that_was_cut_off_is_never_served(alone: FlaskClient, provider: Knowing) -> None:
    provider.finish = Finish.LENGTH
    assert alone.get("/api/v1/topics/light/related").status_code == 502
    provider.finish = Finish.STOP
    assert alone.get("/api/v1/topics/light/related").status_code == 200


@pytest.mark.parametrize(
    "bad",
    [
        '{"questions": [{"question": "q", "options": ["a", "b"], "answer": 2, "explanation": "e"}]}',
        '{"questions": [{"question": "q", "options": ["a", "A"], "answer": 0, "explanation": "e"}]}',
        '{"questions": [{"question": "q", "options": ["a"], "answer": 0, "explanation": "e"}]}',
    ],
)
def test_a_quiz_whose_answer_cannot_be_right_is_not_served(
    alone: FlaskClient, provider: Knowing, bad: str
) -> None:
    provider.answers = [bad, bad]
    assert alone.get("/api/v1/topics/light/quiz?count=1").status_code == 502


def test_explanations_are_one_a_subtopic_and_in_order(alone: FlaskClient, provider: Knowing) -> None:
    provider.answers = ['{"explanations": ["about b"]}', '{"explanations": ["about b", "about a"]}']
    found = alone.get("/api/v1/topics/light/explanations?subtopics=B,a").json["explanations"]
    assert [(it["subtopic"], it["explanation"]) for it in found] == [("b", "about b"), ("a", "about a")]
    assert provider.calls == 2


def test_a_topic_is_data_within_the_prompt(alone: FlaskClient, provider: Knowing) -> None:
    alone.get('/api/v1/topics/x"%20$level%20ignore%20all/related')
    assert '"x\\" $level ignore all"' in provider.prompts[0].texts()[1]


# -- when the model cannot be asked ------------------------------------------------------------------

FAILURES = [
    e.ProviderUnavailable("x"),
    e.ProviderTimeout("x"),
    e.ProviderRateLimited("x", retry_after=30),
    e.ProviderGarbage("x"),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_stale_answer_serves_as_a_fallback_for_an_hour_and_says_so(
    client: FlaskClient, provider: Knowing, clock: Hands, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "STALE_PATIENCE_S", 0.1)  # the room waits by a clock of its own
    fresh = client.get("/api/v1/topics/light/related")
    clock.sleep(3601)
    provider.error = failure
    stale = client.get("/api/v1/topics/light/related")
    assert stale.status_code == 200
    assert stale.json == {**fresh.json, "degraded": True}
    assert stale.headers["Age"] == "3601"
    assert stale.headers["X-Degraded"] == "true"
    assert "detail=stale" in stale.headers["Cache-Status"]
    assert "max-age=0" in stale.headers["Cache-Control"]
    assert stale.headers["ETag"] != fresh.headers["ETag"]
    clock.sleep(3600)
    assert client.get("/api/v1/topics/light/related").status_code in (429, 502, 503, 504)


def test_after_the_fallback_a_provider_that_is_back_is_asked(
    client: FlaskClient, provider: Knowing, clock: Hands
) -> None:
    client.get("/api/v1/topics/light/related")
    clock.sleep(3601)
    provider.error = e.ProviderUnavailable("x")
    client.get("/api/v1/topics/light/related")
    provider.error = None
    clock.sleep(30)
    again = client.get("/api/v1/topics/light/related")
    assert again.json["degraded"] is False
    assert "fwd=miss" in again.headers["Cache-Status"]


def test_a_corrupt_entry_in_redis_is_a_miss(
    provider: Knowing,
    clock: Hands,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    redis_client: Redis,
    redis_url: str,
) -> None:
    extra = f"redis_url: {redis_url}\n"
    build(provider, clock, monkeypatch, tmp_path, extra).test_client().get("/api/v1/topics/light/related")
    names = redis_client.keys("kn:{cache}:e:*")
    assert len(names) == 1
    redis_client.set(names[0], b"kn0 of an older version")
    other = build(provider, clock, monkeypatch, tmp_path, extra).test_client()
    assert other.get("/api/v1/topics/light/related").status_code == 200
    assert provider.calls == 2


def test_a_second_replica_answers_from_redis_and_then_from_memory(
    provider: Knowing,
    clock: Hands,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    redis_client: Redis,
    redis_url: str,
) -> None:
    extra = f"redis_url: {redis_url}\n"
    replicas = [build(provider, clock, monkeypatch, tmp_path, extra).test_client() for _ in range(2)]
    replicas[0].get("/api/v1/topics/light")
    status = [replicas[1].get("/api/v1/topics/light").headers["Cache-Status"] for _ in range(2)]
    assert status[0].startswith("knowalledge-redis; hit;")
    assert status[1].startswith("knowalledge-memory; hit;")
    assert provider.calls == 1


# -- pictures ----------------------------------------------------------------------------------------


def png(width: int = 2, height: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + b"\x08\x02\x00\x00\x00")
        + chunk(b"IDAT", zlib.compress(bytes(64)))
        + chunk(b"IEND", b"")
    )


def test_a_picture_becomes_a_topic_and_the_same_one_is_looked_at_once(
    client: FlaskClient, provider: Knowing
) -> None:
    provider.answers = ['{"topic": "Solar Eclipse", "description": "d", "alternatives": ["moon"]}']
    response = client.post("/api/v1/topics/from-image", data=png(), content_type="image/png")
    assert response.json["topic"] == "solar eclipse"
    assert response.json["href"] == "/api/v1/topics/solar%20eclipse"
    assert response.headers["Cache-Control"] == "no-store"
    blob = provider.prompts[0].messages[0].parts[0]
    assert blob == Blob("image/png", png())
    form = {"image": (io.BytesIO(png()), "holiday.exe")}
    again = client.post("/api/v1/topics/from-image", data=form, content_type="multipart/form-data")
    assert again.data == response.data
    assert provider.calls == 1


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"<svg/>", 400),
        (b"GIF89a" + bytes(50), 400),
        (b"\x89PNG\r\n\x1a\n", 400),
        (png()[:20], 400),
        (png(50_000, 50_000), 400),
        (png(16_000, 16_000), 400),
        (png(0, 5), 400),
        (b"\xff\xd8\xff\xd9", 400),
        (b"\xff\xd8\xff\xe0\x00\x00", 400),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", 400),
        (png() + bytes(6 * 1024 * 1024), 413),
    ],
)
@pytest.mark.parametrize("form", [False, True])
def test_what_is_no_sensible_picture_is_refused_whatever_it_is_called(
    alone: FlaskClient, provider: Knowing, data: bytes, status: int, form: bool
) -> None:
    if form:
        head = b'--xyz\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        body = head + data + b"\r\n--xyz--\r\n"
        kind = "multipart/form-data; boundary=xyz"
        response = alone.post("/api/v1/topics/from-image", data=body, content_type=kind)
    else:
        response = alone.post("/api/v1/topics/from-image", data=data, content_type="image/png")
    assert response.status_code == status
    assert provider.calls == 0


def test_a_form_without_a_picture_is_refused(alone: FlaskClient) -> None:
    form = {"other": (io.BytesIO(png()), "a.png")}
    assert alone.post("/api/v1/topics/from-image", data=form).status_code == 400


def test_a_topic_read_off_a_picture_that_names_nothing_is_repaired(
    alone: FlaskClient, provider: Knowing
) -> None:
    provider.answers = [
        '{"topic": "../..", "description": "d", "alternatives": []}',
        '{"topic": "sea", "description": "d", "alternatives": []}',
    ]
    response = alone.post("/api/v1/topics/from-image", data=png())
    assert response.json["topic"] == "sea"


# -- questions of every dialect ----------------------------------------------------------------------


def test_every_dialect_asks_the_caches_before_a_model(client: FlaskClient, provider: Knowing) -> None:
    asked = [
        ("/api/v1/generate", {"prompt": "hi", "temperature": 0}),
        (
            "/v1/chat/completions",
            {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0},
        ),
        (
            "/v1beta/models/m:generateContent",
            {
                "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
                "generationConfig": {"temperature": 0},
            },
        ),
    ]
    status = [client.post(path, json=body).headers["Cache-Status"] for path, body in asked]
    assert "fwd=miss" in status[0]
    assert [it.split(";")[0] for it in status[1:]] == ["knowalledge-memory"] * 2
    assert provider.calls == 1


def test_a_streamed_answer_is_replayed_in_each_dialect(client: FlaskClient, provider: Knowing) -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "stream": True}
    first = client.post("/api/v1/generate", json={"prompt": "hi", "temperature": 0, "stream": True}).text
    again = client.post("/v1/chat/completions", json=chat).text
    assert "event: done" in first
    assert "answer 1" in again
    assert again.rstrip().endswith("[DONE]")
    assert provider.calls == 1


def test_a_stream_says_in_its_headers_what_the_caches_did(
    client: FlaskClient, provider: Knowing, clock: Hands
) -> None:
    body = {"prompt": "hi", "temperature": 0, "stream": True}

    def told(**headers: str) -> list[str | None]:
        response = client.post("/api/v1/generate", json=body, headers=headers)
        response.get_data()
        gevent.sleep(0.01)  # by now its flight has landed
        return [response.headers.get(name) for name in ("Cache-Status", "Age", "X-Degraded")]

    assert told() == ["knowalledge; fwd=miss", None, None]
    clock.sleep(5)
    assert told() == ["knowalledge-memory; hit", "5", None]
    assert told(**{"Cache-Control": "no-store"}) == ["knowalledge; fwd=bypass", None, None]
    clock.sleep(3601)
    provider.error = e.ProviderUnavailable("x")
    status, age, degraded = told()
    assert str(status).endswith("; hit; detail=stale")
    assert (age, degraded) == ("3606", "true")


def test_a_stored_answer_is_not_older_than_the_caller_wants_it(
    client: FlaskClient, provider: Knowing, clock: Hands
) -> None:
    def told(field: str) -> str:
        response = client.post(
            "/api/v1/generate", json={"prompt": "hi", "temperature": 0}, headers={"Cache-Control": field}
        )
        gevent.sleep(0.01)  # by now its flight has landed
        return str(response.headers.get("Cache-Status", response.status))

    assert "miss" in told("max-age=60")
    clock.sleep(50)
    assert "hit" in told("max-age=60")
    clock.sleep(20)
    assert told("max-age=60, only-if-cached").startswith("503")
    assert "hit" in told("max-age=600")
    assert "miss" in told("max-age=60")
    assert "hit" in told("max-age=60")
    assert provider.calls == 2


@pytest.mark.parametrize(
    ("field", "calls"),
    [("no-cache", 2), ("no-store", 2), ("max-age=60", 1), ("max-age=0", 2), ("max-age=x", 1), ("", 2)],
)
def test_cache_control_of_the_request_says_whether_a_stored_answer_will_do(
    client: FlaskClient, provider: Knowing, field: str, calls: int
) -> None:
    for _ in range(2):
        client.post("/api/v1/generate", json={"prompt": "hi"}, headers={"Cache-Control": field})
    assert provider.calls == calls
    only = client.post(
        "/api/v1/generate", json={"prompt": "other"}, headers={"Cache-Control": "only-if-cached"}
    )
    assert (only.status_code, only.json["code"]) == (503, "cache_miss")


def test_the_short_way_and_the_long_way_answer_alike(alone: FlaskClient) -> None:
    path = "/api/v1/topics/light/related"
    alone.get(path)
    short = alone.get(path)
    long = alone.get(path, headers={"Origin": "https://page.example"})
    for one in (short, long):
        one.headers.pop("X-Request-ID")
    assert sorted(short.headers.items()) == sorted(
        it for it in long.headers.items() if not it[0].startswith("Access-Control")
    )
    assert (short.data, short.status) == (long.data, long.status)
    counted = (
        'knowalledge_http_responses_total{route="/api/v1/topics/<topic:topic>/related",status="200"} 3.0'
    )
    assert counted in alone.get("/metrics").text


def test_the_short_way_repeats_a_safe_request_id_and_no_other(alone: FlaskClient) -> None:
    path = "/api/v1/topics/light/related"
    alone.get(path)
    assert alone.get(path, headers={"X-Request-ID": "mine"}).headers["X-Request-ID"] == "mine"
    assert alone.get(path, headers={"X-Request-ID": "a b"}).headers["X-Request-ID"] != "a b"


def test_an_answer_that_was_taken_back_is_not_given_by_the_short_way(
    alone: FlaskClient, provider: Knowing
) -> None:
    path = "/api/v1/topics/light/related"
    alone.get(path)
    alone.get(path)
    alone.post("/api/cache/invalidate", json={"tag": "topic:light"})
    assert "fwd=miss" in alone.get(path).headers["Cache-Status"]
    assert provider.calls == 2
