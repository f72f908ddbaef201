"""Authentication at Google: tokens from a server on loopback, renewed by one greenlet, before they expire."""

import json
import time
import warnings
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs

import gevent
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.auth.compute_engine import _metadata
from google.oauth2 import credentials as user

from knowalledge.core import errors as e
from knowalledge.core.clock import SystemClock
from knowalledge.gateway.domain.prompt import Message, Prompt, Text
from knowalledge.net.http.client import HttpClient
from knowalledge.providers.credentials import GoogleAuth, TokenHeaders, headers_for
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.providers.gemini import Gemini
from knowalledge.providers.registry import build
from tests.contract.provider_dialects import VertexDialect, dump
from tests.support.doubles import ManualClock
from tests.support.loopback import Exchange, Loopback, replies, wait_until

S = 20.0
SHORT = 0.05
HOUR = 3600.0
JSON_LINE = b"content-type: application/json\r\n"
PROMPT = Prompt((Message("user", (Text("hi"),)),))


class FakeTokenSource:
    """Implements ``TokenSource``; counts the tokens."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.renewals = 0
        self.error: Exception | None = None
        self.latency_s = 0.001
        self.lifetime_s = HOUR

    def renew(self) -> tuple[dict[str, str], float]:
        self.renewals += 1
        number = self.renewals
        gevent.sleep(self.latency_s)
        if self.error is not None:
            raise self.error
        return {"authorization": f"Bearer t{number}"}, self.clock.now() + self.lifetime_s


@pytest.fixture
def source(clock: ManualClock) -> FakeTokenSource:
    return FakeTokenSource(clock)


@pytest.fixture
def headers(source: FakeTokenSource, clock: ManualClock) -> TokenHeaders:
    return TokenHeaders(source, clock)


def header_line(number: int) -> bytes:
    return b"authorization: Bearer t%d\r\n" % number


def run_others() -> None:
    gevent.sleep(0.01)


# -- renewing ----------------------------------------------------------------------------------------------------------


def test_the_first_callers_share_one_token(headers: TokenHeaders, source: FakeTokenSource) -> None:
    callers = [gevent.spawn(headers.lines, S) for _ in range(100)]
    gevent.joinall(callers, raise_error=True)
    assert {caller.value for caller in callers} == {header_line(1)}
    assert source.renewals == 1


def test_a_token_is_renewed_before_it_expires_while_the_old_one_is_used(
    headers: TokenHeaders, source: FakeTokenSource, clock: ManualClock
) -> None:
    assert headers.lines(S) == header_line(1)
    clock.time += HOUR - 299
    assert [headers.lines(S) for _ in range(50)] == [header_line(1)] * 50  # none of them waits
    run_others()
    assert headers.lines(S) == header_line(2)
    assert source.renewals == 2


def test_a_failed_renewal_keeps_the_old_token_and_is_not_retried_at_once(
    headers: TokenHeaders, source: FakeTokenSource, clock: ManualClock
) -> None:
    headers.lines(S)
    clock.time += HOUR - 200
    source.error = e.ProviderAuth("no")
    for _ in range(50):
        assert headers.lines(S) == header_line(1)
        run_others() if _ < 3 else None
    assert source.renewals == 2
    clock.time += 3
    source.error = None
    assert headers.lines(S) == header_line(1)
    run_others()
    assert headers.lines(S) == header_line(3)


def test_without_a_token_every_caller_gets_the_error_until_a_later_renewal(
    headers: TokenHeaders, source: FakeTokenSource, clock: ManualClock
) -> None:
    source.error = e.ProviderAuth("no")
    callers = [gevent.spawn(headers.lines, S) for _ in range(20)]
    gevent.joinall(callers)
    assert [type(caller.exception) for caller in callers] == [e.ProviderAuth] * 20
    with pytest.raises(e.ProviderAuth, match="no"):
        headers.lines(S)
    assert source.renewals == 1
    clock.time += 3
    source.error = None
    assert headers.lines(S) == header_line(2)


def test_an_unexpected_error_of_the_library_is_provider_auth(
    headers: TokenHeaders, source: FakeTokenSource
) -> None:
    source.error = KeyError("secret")
    with pytest.raises(e.ProviderAuth) as caught:
        headers.lines(S)
    assert "secret" not in str(caught.value)


def test_waiting_for_a_token_times_out_and_the_renewal_goes_on(
    headers: TokenHeaders, source: FakeTokenSource
) -> None:
    source.latency_s = 2 * SHORT
    with pytest.raises(e.ProviderTimeout):
        headers.lines(SHORT)
    assert headers.lines(S) == header_line(1)
    assert source.renewals == 1


def test_killing_a_waiting_caller_does_not_end_the_renewal(
    headers: TokenHeaders, source: FakeTokenSource
) -> None:
    first = gevent.spawn(headers.lines, S)
    second = gevent.spawn(headers.lines, S)
    gevent.sleep(0)
    first.kill()
    assert second.get() == header_line(1)


def test_a_rejected_token_is_renewed_once(
    headers: TokenHeaders, source: FakeTokenSource, clock: ManualClock
) -> None:
    headers.lines(S)
    headers.invalidate()  # renewed just now: another token would be rejected, too
    assert headers.lines(S) == header_line(1)
    clock.time += 60
    headers.invalidate()
    assert headers.lines(S) == header_line(2)
    assert source.renewals == 2


def test_a_token_that_expires_at_once_is_used_once(headers: TokenHeaders, source: FakeTokenSource) -> None:
    source.lifetime_s = 0.0
    assert headers.lines(S) == header_line(1)


# -- google-auth -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Loopback]:
    server = Loopback(replies(dump({"access_token": "t-1", "expires_in": 3600, "token_type": "Bearer"})))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def account(key: rsa.RSAPrivateKey, server: Loopback, tmp_path: Path) -> Path:
    """A service account's key file whose token server is ours."""
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    info = {
        "type": "service_account",
        "project_id": "demo",
        "private_key_id": "k",
        "private_key": pem.decode(),
        "client_email": "robot@demo.iam.gserviceaccount.com",
        "token_uri": server.url + "/token",
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(info))
    return path


def decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_key_file_signs_for_a_token(account: Path, server: Loopback, key: rsa.RSAPrivateKey) -> None:
    headers = headers_for("", str(account), SystemClock())

    assert headers.lines(S) == JSON_LINE + b"authorization: Bearer t-1\r\n"

    (request,) = server.requests
    assert request.line == "POST /token HTTP/1.1"
    assertion = parse_qs(request.body.decode())["assertion"][0]
    head, claims, signature = assertion.split(".")
    key.public_key().verify(
        decode(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    decoded = json.loads(decode(claims))
    assert decoded["iss"] == "robot@demo.iam.gserviceaccount.com"
    assert decoded["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    headers.lines(S)
    assert len(server.requests) == 1


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_the_expiry_of_a_token_is_utc_in_every_time_zone(account: Path) -> None:
    clock = SystemClock()
    _, expires_at = GoogleAuth(str(account), clock).renew()
    assert 3000 < expires_at - clock.now() < 3700


def test_the_hub_runs_during_a_renewal(account: Path, server: Loopback) -> None:
    respond = server.handler
    rounds = 0

    def slowly(exchange: Exchange) -> None:
        wait_until(lambda: rounds > 4)
        respond(exchange)

    server.handler = slowly

    def count_rounds() -> None:
        nonlocal rounds
        while True:
            gevent.sleep(0.005)
            rounds += 1

    other = gevent.spawn(count_rounds)
    headers_for("", str(account), SystemClock()).lines(S)
    other.kill()


def test_a_token_server_that_hangs_times_out(account: Path, server: Loopback) -> None:
    server.handler = Exchange.hang
    with pytest.raises(e.ProviderTimeout):
        headers_for("", str(account), SystemClock()).lines(SHORT)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"error": "invalid_grant", "error_description": "secret"}', 400),
        (b"{}", 200),
        (b"secret", 200),
        (b"[]", 200),
        (b"\xff", 200),
        (b'{"access_token": "a\\r\\nb: c", "expires_in": 3600}', 200),
        (b'{"access_token": "a", "expires_in": "soon"}', 200),
    ],
)
def test_a_response_without_a_token_is_provider_auth_without_its_text(
    body: bytes, status: int, account: Path, server: Loopback
) -> None:
    server.handler = replies(body, status)
    with pytest.raises(e.ProviderAuth) as caught:
        headers_for("", str(account), SystemClock()).lines(S)
    assert "secret" not in str(caught.value)


def test_an_unreachable_token_server_is_provider_auth(account: Path, server: Loopback) -> None:
    server.stop()
    with pytest.raises(e.ProviderAuth):
        headers_for("", str(account), SystemClock()).lines(S)


@pytest.mark.parametrize("content", [None, "", "{}", "nonsense", '{"type": "service_account"}', "[]", "\x00"])
def test_an_invalid_key_file_is_provider_auth_at_the_first_call(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    headers = headers_for("", str(path), SystemClock())
    with pytest.raises(e.ProviderAuth) as caught:
        headers.lines(S)
    assert str(tmp_path) not in str(caught.value)


def test_application_default_credentials_are_found_by_their_variable(
    server: Loopback, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
    for name in ("adc", ""):
        assert b"Bearer t-1" in headers_for("", name, SystemClock()).lines(S)


def test_the_metadata_server_is_used_where_there_is_nothing_else(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Used on Cloud Run, and on Kubernetes with workload identity; never through a proxy."""

    def metadata(exchange: Exchange) -> None:
        path = exchange.request.path.partition("?")[0]
        response = {
            "/": (b"", "text/html"),
            "/computeMetadata/v1/project/project-id": (b"demo", "text/plain"),
            "/computeMetadata/v1/universe/universe-domain": (b"googleapis.com", "text/plain"),
            "/computeMetadata/v1/instance/service-accounts/default/": (
                b'{"email": "robot@demo.iam.gserviceaccount.com", "scopes": []}',
                "application/json",
            ),
        }.get(path, (dump({"access_token": "t-9", "expires_in": 3600}), "application/json"))
        exchange.respond(response[0], content_type=response[1], metadata_flavor="Google")

    server.handler = metadata
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.port}")
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", f"127.0.0.1:{server.port}")
    headers = headers_for("", "adc", SystemClock(), proxy="http://127.0.0.1:1")
    assert headers.lines(S) == JSON_LINE + b"authorization: Bearer t-9\r\n"
    assert all(it.headers["metadata-flavor"] == "Google" for it in server.requests)


def test_user_credentials_charge_the_project_that_they_name(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "application_default_credentials.json"
    info = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "s",
        "refresh_token": "r",
        "quota_project_id": "payer",
    }
    path.write_text(json.dumps(info))
    monkeypatch.setattr(user, "_GOOGLE_OAUTH2_TOKEN_ENDPOINT", server.url + "/token")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = headers_for("", str(path), SystemClock()).lines(S)
    assert b"x-goog-user-project: payer\r\n" in lines


# -- providers with tokens ---------------------------------------------------------------------------------------------


def test_a_target_that_rejects_its_token_gets_a_new_one_at_the_next_call(
    account: Path, server: Loopback
) -> None:
    form = VertexDialect()
    valid = "t-1"

    def handle(exchange: Exchange) -> None:
        if exchange.request.path == "/token":
            count = sum(it.path == "/token" for it in server.requests)
            exchange.respond(dump({"access_token": f"t-{count}", "expires_in": 3600}))
        elif exchange.request.headers["authorization"] == f"Bearer {valid}":
            exchange.respond(form.answer())
        else:
            exchange.respond(form.error(401), 401)

    server.handler = handle
    clock = OffsetClock()
    provider = build(
        ProviderSpec("vertex", "m", server.url, "demo", "us-central1", credentials=str(account)), clock
    )
    assert provider.complete(PROMPT, S).text == "hello"
    valid, clock.ahead = "t-2", 60.0
    with pytest.raises(e.ProviderAuth):
        provider.complete(PROMPT, S)
    assert provider.complete(PROMPT, S).text == "hello"
    provider.close()


def test_the_timeout_of_a_call_includes_the_time_for_the_token(clock: ManualClock, server: Loopback) -> None:
    """The token takes 3 s, the response 3 s: the timeout is 5 s."""

    class SlowHeaders:
        def lines(self, timeout: float) -> bytes:
            clock.time += 3
            return b""

        def invalidate(self) -> None: ...

    def handle(exchange: Exchange) -> None:
        clock.time += 3
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        gevent.sleep(0.01)
        exchange.send(b"whatever.")

    server.handler = handle
    provider = Gemini(HttpClient(server.url, clock), "m", SlowHeaders())
    with pytest.raises(e.ProviderTimeout):
        provider.complete(PROMPT, 5.0)
    with pytest.raises(e.ProviderTimeout):
        list(provider.stream(PROMPT, 5.0))
    provider.close()


class OffsetClock(SystemClock):
    """The system clock plus an offset."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


def test_a_key_needs_no_token(server: Loopback) -> None:
    assert headers_for("k-1", "adc", SystemClock()).lines(S) == JSON_LINE + b"x-goog-api-key: k-1\r\n"
    assert not server.requests


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:1", True),
        ("http://localhost:1", True),
        ("http://[::1]:1", True),
        ("", False),
        ("http://10.0.0.1", False),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1@evil.example", False),
    ],
)
def test_anonymous_credentials_are_for_loopback_only(url: str, allowed: bool) -> None:
    def make() -> None:
        build(ProviderSpec("gemini", "m", url, credentials="anonymous"), SystemClock()).close()

    check: Callable[[], None] = make
    if allowed:
        check()
        assert headers_for("", "anonymous", SystemClock()).lines(S) == JSON_LINE
    else:
        with pytest.raises(ValueError, match="loopback"):
            check()


def test_a_key_that_cannot_be_sent_is_refused_without_being_told() -> None:
    with pytest.raises(ValueError, match="x-goog-api-key") as caught:
        build(ProviderSpec("gemini", "m", api_key="secret\n"), SystemClock())
    assert "secret" not in str(caught.value)
