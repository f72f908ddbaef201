"""What each CDN's purge API is sent, and that only its own yes counts."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import msgspec
import pytest

from knowalledge.caching.cdn import Cloudflare, Fastly, Varnish
from knowalledge.core.errors import Unavailable


class Api:
    """A server that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status, self.body = 200, b'{"success": true}'
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                api.asked.append((self.command, self.path, headers, body))
                self.send_response(api.status)
                self.send_header("content-length", str(len(api.body)))
                self.end_headers()
                self.wfile.write(api.body)

            do_PURGE = do_POST

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def api() -> Iterator[Api]:
    found = Api()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def test_varnish_is_asked_by_its_tags_wherever_there_is_one(api: Api) -> None:
    Varnish((api.url, api.url)).purge(("topic:a", "*"))
    assert [(method, path, headers["xkey-purge"]) for method, path, headers, _ in api.asked] == [
        ("PURGE", "/", "topic:a all")
    ] * 2
    Varnish((api.url,), soft=True).purge(("topic",))
    assert api.asked[-1][2]["xkey-softpurge"] == "topic"


def test_one_varnish_that_is_away_keeps_no_other_from_hearing(api: Api) -> None:
    with pytest.raises(Unavailable):
        Varnish(("http://127.0.0.1:1", api.url)).purge(("topic",))
    assert len(api.asked) == 1


def test_cloudflare_is_asked_in_portions_with_its_token(api: Api) -> None:
    Cloudflare("zone1", "secret", api.url).purge(tuple(f"t{index}" for index in range(31)))
    assert [path for _, path, _, _ in api.asked] == ["/client/v4/zones/zone1/purge_cache"] * 2
    assert api.asked[0][2]["authorization"] == "Bearer secret"
    assert [len(msgspec.json.decode(body)["tags"]) for *_, body in api.asked] == [30, 1]


def test_fastly_is_asked_by_surrogate_keys_hard_or_soft(api: Api) -> None:
    Fastly("svc", "secret", api.url, soft=True).purge(("topic:a", "topic:b"))
    method, path, headers, _ = api.asked[0]
    assert (method, path, headers["surrogate-key"]) == ("POST", "/service/svc/purge", "topic:a topic:b")
    assert (headers["fastly-key"], headers["fastly-soft-purge"]) == ("secret", "1")


@pytest.mark.parametrize("status", [302, 401, 429, 500])
def test_any_answer_but_a_yes_is_a_failure_that_tells_no_secret(api: Api, status: int) -> None:
    api.status = status
    for cdn in (Varnish((api.url,)), Cloudflare("z", "secret", api.url), Fastly("s", "secret", api.url)):
        with pytest.raises(Unavailable) as caught:
            cdn.purge(("topic",))
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("body", [b'{"success": false}', b"<html>", b""])
def test_cloudflares_yes_is_in_its_body(api: Api, body: bytes) -> None:
    api.body = body
    with pytest.raises(Unavailable):
        Cloudflare("z", "secret", api.url).purge(("topic",))
