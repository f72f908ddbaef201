"""Who we are to Google: tokens from a server on loopback, renewed by one greenlet, ahead of their end."""

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
from tests.support.loopback import Loopback, Talk, replies, until

S = 20.0
SHORT = 0.05
HOUR = 3600.0
JSON_LINE = b"content-type: application/json\r\n"
PROMPT = Prompt((Message("user", (Text("hi"),)),))


class Mint:
    """A source of tokens that counts them."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.made = 0
        self.error: Exception | None = None
        self.pause = 0.001
        self.life = HOUR

    def renew(self) -> tuple[dict[str, str], float]:
        self.made += 1
        number = self.made
        gevent.sleep(self.pause)
        if self.error is not None:
            raise self.error
        return {"authorization": f"Bearer t{number}"}, self.clock.now() + self.life


@pytest.fixture
def mint(clock: ManualClock) -> Mint:
    return Mint(clock)


@pytest.fixture
def token(mint: Mint, clock: ManualClock) -> TokenHeaders:
    return TokenHeaders(mint, clock)


def line(number: int) -> bytes:
    return b"authorization: Bearer t%d\r\n" % number


def rest() -> None:
    gevent.sleep(0.01)


# -- renewing ----------------------------------------------------------------------------------------------------------


def test_a_hundred_first_callers_share_one_token(token: TokenHeaders, mint: Mint) -> None:
    callers = [gevent.spawn(token.lines, S) for _ in range(100)]
    gevent.joinall(callers, raise_error=True)
    assert {caller.value for caller in callers} == {line(1)}
    assert mint.made == 1


def test_a_token_is_renewed_ahead_of_its_end_while_the_old_one_serves(
    token: TokenHeaders, mint: Mint, clock: ManualClock
) -> None:
    assert token.lines(S) == line(1)
    clock.time += HOUR - 299
    assert [token.lines(S) for _ in range(50)] == [line(1)] * 50  # at once, none of them waits
    rest()
    assert token.lines(S) == line(2)
    assert mint.made == 2


def test_a_renewal_that_fails_leaves_the_old_token_in_force_and_is_not_hammered(
    token: TokenHeaders, mint: Mint, clock: ManualClock
) -> None:
    token.lines(S)
    clock.time += HOUR - 200
    mint.error = e.ProviderAuth("no")
    for _ in range(50):
        assert token.lines(S) == line(1)
        rest() if _ < 3 else None
    assert mint.made == 2
    clock.time += 3
    mint.error = None
    assert token.lines(S) == line(1)
    rest()
    assert token.lines(S) == line(3)


def test_without_a_token_everyone_is_told_why_and_soon_it_is_tried_again(
    token: TokenHeaders, mint: Mint, clock: ManualClock
) -> None:
    mint.error = e.ProviderAuth("no")
    callers = [gevent.spawn(token.lines, S) for _ in range(20)]
    gevent.joinall(callers)
    assert [type(caller.exception) for caller in callers] == [e.ProviderAuth] * 20
    with pytest.raises(e.ProviderAuth, match="no"):
        token.lines(S)
    assert mint.made == 1
    clock.time += 3
    mint.error = None
    assert token.lines(S) == line(2)


def test_a_fault_of_the_library_reaches_those_who_wait(token: TokenHeaders, mint: Mint) -> None:
    mint.error = KeyError("secret")
    with pytest.raises(e.ProviderAuth) as caught:
        token.lines(S)
    assert "secret" not in str(caught.value)


def test_waiting_for_a_token_has_a_deadline_and_does_not_end_the_renewal(
    token: TokenHeaders, mint: Mint
) -> None:
    mint.pause = 2 * SHORT
    with pytest.raises(e.ProviderTimeout):
        token.lines(SHORT)
    assert token.lines(S) == line(1)
    assert mint.made == 1


def test_a_caller_that_is_killed_takes_the_renewal_from_nobody(token: TokenHeaders, mint: Mint) -> None:
    first = gevent.spawn(token.lines, S)
    second = gevent.spawn(token.lines, S)
    gevent.sleep(0)
    first.kill()
    assert second.get() == line(1)


def test_a_token_that_is_refused_is_renewed_once_not_in_a_storm(
    token: TokenHeaders, mint: Mint, clock: ManualClock
) -> None:
    token.lines(S)
    token.invalidate()  # just renewed: another one would be refused as well
    assert token.lines(S) == line(1)
    clock.time += 60
    token.invalidate()
    assert token.lines(S) == line(2)
    assert mint.made == 2


def test_a_token_that_ends_at_once_is_still_used(token: TokenHeaders, mint: Mint) -> None:
    mint.life = 0.0
    assert token.lines(S) == line(1)


# -- Google's own ------------------------------------------------------------------------------------------------------


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
    found = {
        "type": "service_account",
        "project_id": "demo",
        "private_key_id": "k",
        "private_key": pem.decode(),
        "client_email": "robot@demo.iam.gserviceaccount.com",
        "token_uri": server.url + "/token",
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(found))
    return path


def part(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_key_file_signs_for_a_token(account: Path, server: Loopback, key: rsa.RSAPrivateKey) -> None:
    headers = headers_for("", str(account), SystemClock())

    assert headers.lines(S) == JSON_LINE + b"authorization: Bearer t-1\r\n"

    (asked,) = server.asked
    assert asked.line == "POST /token HTTP/1.1"
    assertion = parse_qs(asked.body.decode())["assertion"][0]
    head, claims, signature = assertion.split(".")
    key.public_key().verify(part(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
    claimed = json.loads(part(claims))
    assert claimed["iss"] == "robot@demo.iam.gserviceaccount.com"
    assert claimed["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    headers.lines(S)
    assert len(server.asked) == 1


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_the_end_of_a_token_is_read_as_utc_wherever_we_are(account: Path) -> None:
    clock = SystemClock()
    _, until = GoogleAuth(str(account), clock).renew()
    assert 3000 < until - clock.now() < 3700


def test_the_hub_runs_while_a_token_is_awaited(account: Path, server: Loopback) -> None:
    answer = server.behaviour
    turns = 0

    def slowly(talk: Talk) -> None:
        until(lambda: turns > 4)
        answer(talk)

    server.behaviour = slowly

    def turn() -> None:
        nonlocal turns
        while True:
            gevent.sleep(0.005)
            turns += 1

    other = gevent.spawn(turn)
    headers_for("", str(account), SystemClock()).lines(S)
    other.kill()


def test_a_token_server_that_hangs_meets_the_callers_deadline(account: Path, server: Loopback) -> None:
    server.behaviour = Talk.hang
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
def test_a_token_server_that_gives_none_is_told_of_without_its_words(
    body: bytes, status: int, account: Path, server: Loopback
) -> None:
    server.behaviour = replies(body, status)
    with pytest.raises(e.ProviderAuth) as caught:
        headers_for("", str(account), SystemClock()).lines(S)
    assert "secret" not in str(caught.value)


def test_a_token_server_that_is_down_is_told_of(account: Path, server: Loopback) -> None:
    server.stop()
    with pytest.raises(e.ProviderAuth):
        headers_for("", str(account), SystemClock()).lines(S)


@pytest.mark.parametrize("content", [None, "", "{}", "nonsense", '{"type": "service_account"}', "[]", "\x00"])
def test_a_key_file_that_is_none_is_told_of_at_the_first_call(content: str | None, tmp_path: Path) -> None:
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


def test_the_metadata_server_is_asked_where_there_is_nothing_else(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Cloud Run and Kubernetes with workload identity; never through a proxy."""

    def metadata(talk: Talk) -> None:
        path = talk.asked.path.partition("?")[0]
        found = {
            "/": (b"", "text/html"),
            "/computeMetadata/v1/project/project-id": (b"demo", "text/plain"),
            "/computeMetadata/v1/universe/universe-domain": (b"googleapis.com", "text/plain"),
            "/computeMetadata/v1/instance/service-accounts/default/": (
                b'{"email": "robot@demo.iam.gserviceaccount.com", "scopes": []}',
                "application/json",
            ),
        }.get(path, (dump({"access_token": "t-9", "expires_in": 3600}), "application/json"))
        talk.reply(found[0], content_type=found[1], metadata_flavor="Google")

    server.behaviour = metadata
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.port}")
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", f"127.0.0.1:{server.port}")
    headers = headers_for("", "adc", SystemClock(), proxy="http://127.0.0.1:1")
    assert headers.lines(S) == JSON_LINE + b"authorization: Bearer t-9\r\n"
    assert all(it.headers["metadata-flavor"] == "Google" for it in server.asked)


def test_a_users_own_login_charges_the_project_that_it_names(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "application_default_credentials.json"
    found = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "s",
        "refresh_token": "r",
        "quota_project_id": "payer",
    }
    path.write_text(json.dumps(found))
    monkeypatch.setattr(user, "_GOOGLE_OAUTH2_TOKEN_ENDPOINT", server.url + "/token")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = headers_for("", str(path), SystemClock()).lines(S)
    assert b"x-goog-user-project: payer\r\n" in lines


# -- together ----------------------------------------------------------------------------------------------------------


def test_a_target_that_refuses_its_token_gets_a_new_one_next_time(account: Path, server: Loopback) -> None:
    form = VertexDialect()
    valid = "t-1"

    def behave(talk: Talk) -> None:
        if talk.asked.path == "/token":
            count = sum(it.path == "/token" for it in server.asked)
            talk.reply(dump({"access_token": f"t-{count}", "expires_in": 3600}))
        elif talk.asked.headers["authorization"] == f"Bearer {valid}":
            talk.reply(form.answer())
        else:
            talk.reply(form.error(401), 401)

    server.behaviour = behave
    clock = Moved()
    provider = build(
        ProviderSpec("vertex", "m", server.url, "demo", "us-central1", credentials=str(account)), clock
    )
    assert provider.complete(PROMPT, S).text == "hello"
    valid, clock.ahead = "t-2", 60.0
    with pytest.raises(e.ProviderAuth):
        provider.complete(PROMPT, S)
    assert provider.complete(PROMPT, S).text == "hello"
    provider.close()


def test_the_time_that_a_token_takes_is_part_of_the_call(clock: ManualClock, server: Loopback) -> None:
    """Three seconds of five for the token, three for the answer: that is one too many."""

    class Slow:
        def lines(self, timeout: float) -> bytes:
            clock.time += 3
            return b""

        def invalidate(self) -> None: ...

    def behave(talk: Talk) -> None:
        clock.time += 3
        talk.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        gevent.sleep(0.01)
        talk.say(b"whatever.")

    server.behaviour = behave
    provider = Gemini(HttpClient(server.url, clock), "m", Slow())
    for ask in (provider.complete, provider.stream):
        with pytest.raises(e.ProviderTimeout):
            list(ask(PROMPT, 5.0))  # type: ignore[call-overload]
    provider.close()


class Moved(SystemClock):
    """The real clock, but ahead."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


def test_a_key_needs_no_token(server: Loopback) -> None:
    assert headers_for("k-1", "adc", SystemClock()).lines(S) == JSON_LINE + b"x-goog-api-key: k-1\r\n"
    assert not server.asked


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
def test_nobody_is_somebody_on_loopback_only(url: str, allowed: bool) -> None:
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
