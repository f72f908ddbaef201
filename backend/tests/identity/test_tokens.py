"""Tokens: whom they name, and every published attack on them. Each refusal is a 401 that says nothing more."""

import base64
import hmac
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from knowalledge.config.settings import Settings, SettingsError
from knowalledge.core.access import Role
from knowalledge.core.errors import Unauthenticated, Unavailable
from knowalledge.identity import jwt as tokens
from knowalledge.identity.domain.claims import Claims
from knowalledge.identity.jwt import JwtTokens, Keys, published
from tests.identity.conftest import House, bearer
from tests.support.doubles import ManualClock
from tests.support.loopback import Loopback, replies

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(65537, 2048)
NOW = 1_790_000_000
SECRET = b"one secret of the issuer, of so many letters that every algorithm takes it"
CLAIMS = Claims("tenant", "sub", "realm_access.roles", "")


def public(key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    return {**get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True), **more}


def claims(**changes: Any) -> dict[str, Any]:
    said = {
        "iss": "https://login.example/",
        "aud": "knowalledge",
        "exp": NOW + 600,
        "sub": "ada",
        "tenant": "acme",
        "realm_access": {"roles": ["offline_access", "user"]},
    }
    return {name: value for name, value in (said | changes).items() if value is not None}


def signed(
    key: Any = RSA, algorithm: str = "RS256", kid: str | None = "r", said: Any = None, **header: Any
) -> str:
    head = {"kid": kid, **header} if kid is not None else header
    return jwt.encode(claims() if said is None else said, key, algorithm, headers=head)


def segment(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: object, payload: object = None, key: bytes = b"", signature: str | None = None) -> str:
    text = f"{segment(header)}.{segment(claims() if payload is None else payload)}"
    return (
        f"{text}.{signature if signature is not None else segment(hmac.digest(key, text.encode(), 'sha256'))}"
    )


class Issuer:
    """Publishes keys, and can be away."""

    def __init__(self) -> None:
        self.keys = [
            public(RSA, "RS256", kid="r", alg="RS256", use="sig"),
            public(EC, "ES256", kid="e"),
            public(ED, "EdDSA", kid="d"),
            public(STRANGER, "RS256", kid="enc", use="enc"),
            {"kty": "oct", "kid": "o", "k": segment(SECRET)},
        ]
        self.fetched = 0
        self.away = False

    def fetch(self) -> bytes:
        self.fetched += 1
        if self.away:
            raise Unavailable("away")
        return json.dumps({"keys": self.keys}).encode()


@pytest.fixture(autouse=True)
def at_now(monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(NOW, tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", Fixed)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def checked(issuer: Issuer, clock: ManualClock) -> JwtTokens:
    keys = Keys(issuer.fetch, clock)
    algorithms = ("RS256", "ES256", "EdDSA")
    return JwtTokens(published(keys), algorithms, "https://login.example/", "knowalledge", 30.0, CLAIMS)


@pytest.fixture
def by_secret() -> JwtTokens:
    return JwtTokens(lambda _: SECRET, ("HS256",), "https://login.example/", "knowalledge", 30.0, CLAIMS)


GOOD: Mapping[str, Callable[[], str]] = {
    "RS256": signed,
    "ES256": lambda: signed(EC, "ES256", "e"),
    "EdDSA": lambda: signed(ED, "EdDSA", "d"),
    "several audiences": lambda: signed(said=claims(aud=["other", "knowalledge"])),
    "expired within the leeway": lambda: signed(said=claims(exp=NOW - 29)),
    "not before, within the leeway": lambda: signed(said=claims(nbf=NOW + 29)),
    "a claim with a dot in its name": lambda: signed(
        said=claims(realm_access=None) | {"realm_access.roles": "user"}
    ),
}


@pytest.mark.parametrize("token", GOOD.values(), ids=GOOD.keys())
def test_a_sound_token_names_its_caller(checked: JwtTokens, token: Callable[[], str]) -> None:
    caller, expires_at = checked.principal(token())
    assert (caller.tenant, caller.user, caller.role, caller.key) == ("acme", "ada", Role.USER, "")
    assert expires_at <= NOW + 630


def test_the_highest_of_several_roles_counts(checked: JwtTokens) -> None:
    said = claims(realm_access={"roles": ["readonly", "operator", "user", 7]})
    assert checked.principal(signed(said=said))[0].role is Role.OPERATOR


PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
OWN_KEY = public(STRANGER, "RS256", kid="mine")

ATTACKS: Mapping[str, Callable[[], str]] = {
    "no signature, alg none": lambda: by_hand({"alg": "none", "kid": "r"}, signature=""),
    "alg None in other letters": lambda: by_hand({"alg": "nOnE", "kid": "r"}, signature=""),
    "alg none with a signature": lambda: by_hand({"alg": "none", "kid": "r"}, key=SECRET),
    "no alg": lambda: by_hand({"kid": "r"}, key=SECRET),
    "alg that is no text": lambda: by_hand({"alg": ["RS256"], "kid": "r"}, key=SECRET),
    "the signature is empty": lambda: signed().rsplit(".", 1)[0] + ".",
    "the signature of another payload": lambda: ".".join(
        (*signed(said=claims(sub="eve")).split(".")[:2], signed().split(".")[2])
    ),
    "the public key as the secret, PEM": lambda: by_hand({"alg": "HS256", "kid": "r"}, key=PEM),
    "the public key as the secret, DER": lambda: by_hand({"alg": "HS256", "kid": "r"}, key=DER),
    "an empty secret": lambda: by_hand({"alg": "HS256", "kid": "r"}, key=b""),
    "a published symmetric key": lambda: by_hand({"alg": "HS256", "kid": "o"}, key=SECRET),
    "a key of another kind": lambda: signed(EC, "ES256", "r"),
    "a key for another algorithm": lambda: signed(RSA, "PS256", "r"),
    "an algorithm that is not allowed": lambda: signed(RSA, "RS512", "r"),
    "a key for encryption": lambda: signed(STRANGER, kid="enc"),
    "an unknown kid": lambda: signed(kid="unknown"),
    "no kid, among several keys": lambda: signed(kid=None),
    "a kid that is a path": lambda: signed(STRANGER, kid="../../../../dev/null"),
    "a kid with a null byte": lambda: by_hand({"alg": "RS256", "kid": "r\0"}, key=SECRET),
    "a kid that is SQL": lambda: signed(STRANGER, kid="x' UNION SELECT 'key"),
    "a kid that is no text": lambda: by_hand({"alg": "RS256", "kid": {"a": 1}}, key=SECRET),
    "its own key by jku": lambda: signed(STRANGER, jku="https://evil.example/jwks.json"),
    "its own key by x5u": lambda: signed(STRANGER, x5u="https://evil.example/cert.pem"),
    "its own key by jwk": lambda: signed(STRANGER, jwk=OWN_KEY),
    "its own key by x5c": lambda: signed(STRANGER, x5c=["MIIB"]),
    "a sound signature with jku": lambda: signed(jku="https://login.example/jwks.json"),
    "a critical header": lambda: signed(crit=["exp2"], exp2=1),
    "an empty crit": lambda: signed(crit=[]),
    "a detached payload": lambda: signed(b64=False, crit=["b64"]),
    "compressed": lambda: signed(zip="DEF"),
    "expired": lambda: signed(said=claims(exp=NOW - 31)),
    "no end": lambda: signed(said=claims(exp=None)),
    "an end that is no number": lambda: signed(said=claims(exp="never")),
    "an endless end": lambda: by_hand({"alg": "RS256", "kid": "r"}, b'{"exp": Infinity}', key=SECRET),
    "not yet": lambda: signed(said=claims(nbf=NOW + 31)),
    "issued in the future": lambda: signed(said=claims(iat=NOW + 31)),
    "another issuer": lambda: signed(said=claims(iss="https://login.example.evil/")),
    "no issuer": lambda: signed(said=claims(iss=None)),
    "another audience": lambda: signed(said=claims(aud="other")),
    "no audience": lambda: signed(said=claims(aud=None)),
    "an audience that contains ours": lambda: signed(said=claims(aud="knowalledge-evil")),
    "no tenant": lambda: signed(said=claims(tenant=None)),
    "a tenant that is a list": lambda: signed(said=claims(tenant=["acme"])),
    "a tenant with a line end": lambda: signed(said=claims(tenant="acme\nX: y")),
    "no user": lambda: signed(said=claims(sub=None)),
    "no role of ours": lambda: signed(said=claims(realm_access={"roles": ["Admin", "root"]})),
    "roles in another shape": lambda: signed(said=claims(realm_access=["admin"])),
    "a claim twice": lambda: jwt.api_jws.encode(
        json.dumps(claims()).replace('"ada"', '"ada", "sub": "eve"').encode(),
        RSA,
        "RS256",
        headers={"kid": "r"},
    ),
    "a header twice": lambda: by_hand(b'{"alg": "RS256", "alg": "none", "kid": "r"}', key=SECRET),
    "a claim twice inside": lambda: jwt.api_jws.encode(
        json.dumps(claims()).replace('{"roles"', '{"roles": ["admin"], "roles"').encode(),
        RSA,
        "RS256",
        headers={"kid": "r"},
    ),
    "a payload that is no object": lambda: jwt.api_jws.encode(b'["a"]', RSA, "RS256", headers={"kid": "r"}),
    "a payload that is no JSON": lambda: jwt.api_jws.encode(b"x", RSA, "RS256", headers={"kid": "r"}),
    "two segments": lambda: signed().rsplit(".", 1)[0],
    "four segments": lambda: signed() + ".x",
    "five segments, as of an encrypted one": lambda: ".".join(["x"] * 5),
    "line ends in it": lambda: signed().replace(".", "\n."),
    "padding": lambda: signed() + "=",
    "nested deeply": lambda: by_hand(
        b'{"alg": "RS256", "a": ' + b"[" * 5000 + b"]" * 5000 + b"}", key=SECRET
    ),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_is_refused(checked: JwtTokens, attack: Callable[[], str]) -> None:
    token = attack()
    with pytest.raises(Unauthenticated) as caught:
        checked.principal(token)
    assert token[:20] not in caught.value.message


def test_one_secret_takes_its_own_tokens_and_no_others(by_secret: JwtTokens) -> None:
    assert by_secret.principal(signed(SECRET, "HS256", None))[0].user == "ada"
    for token in (signed(SECRET, "HS512", None), signed(), by_hand({"alg": "none"}, signature="")):
        with pytest.raises(Unauthenticated):
            by_secret.principal(token)


# -- the issuer's keys -------------------------------------------------------------------------------------------------


def test_keys_are_fetched_once_for_many_tokens(checked: JwtTokens, issuer: Issuer) -> None:
    for _ in range(5):
        checked.principal(signed())
    assert issuer.fetched == 1


def test_a_new_key_is_learnt_when_it_is_first_used(
    checked: JwtTokens, issuer: Issuer, clock: ManualClock
) -> None:
    checked.principal(signed())
    issuer.keys.append(public(STRANGER, "RS256", kid="new"))
    clock.sleep(tokens.KEYS_REST_S)
    assert checked.principal(signed(STRANGER, kid="new"))[0].user == "ada"


def test_unknown_keys_do_not_make_us_ask_again_and_again(
    checked: JwtTokens, issuer: Issuer, clock: ManualClock
) -> None:
    checked.principal(signed())
    for number in range(50):
        clock.sleep(1.0)
        with pytest.raises(Unauthenticated):
            checked.principal(signed(kid=f"k{number}"))
    assert issuer.fetched <= 6


def test_a_key_that_is_withdrawn_does_not_count_after_its_life(
    checked: JwtTokens, issuer: Issuer, clock: ManualClock
) -> None:
    checked.principal(signed())
    issuer.keys = issuer.keys[1:]
    clock.sleep(tokens.KEYS_LIFE_S)
    with pytest.raises(Unauthenticated):
        checked.principal(signed())


def test_while_the_issuer_is_away_its_keys_count_for_an_hour(
    checked: JwtTokens, issuer: Issuer, clock: ManualClock
) -> None:
    checked.principal(signed())
    issuer.away = True
    clock.sleep(tokens.KEYS_GRACE_S - 1)
    assert checked.principal(signed())[0].user == "ada"
    clock.sleep(tokens.KEYS_REST_S)
    with pytest.raises(Unavailable):
        checked.principal(signed())
    with pytest.raises(Unavailable):
        checked.principal(signed())


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": [1, {}, {"kty": "RSA"}]}']
)
def test_a_document_without_keys_lets_nobody_in(clock: ManualClock, document: bytes) -> None:
    keys = Keys(lambda: document, clock)
    checked = JwtTokens(published(keys), ("RS256",), "https://login.example/", "knowalledge", 30.0, CLAIMS)
    with pytest.raises((Unauthenticated, Unavailable)):
        checked.principal(signed())


def test_a_short_key_is_not_believed(clock: ManualClock) -> None:
    short = rsa.generate_private_key(65537, 1024)
    document = json.dumps({"keys": [public(short, "RS256", kid="r")]}).encode()
    keys = Keys(lambda: document, clock)
    checked = JwtTokens(published(keys), ("RS256",), "https://login.example/", "knowalledge", 30.0, CLAIMS)
    with warnings.catch_warnings(action="ignore"):
        token = signed(short)
    with pytest.raises(Unauthenticated):
        checked.principal(token)


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def options(**more: object) -> dict[str, object]:
    named = {
        "issuer": "https://login.example/",
        "audience": "knowalledge",
        "roles_claim": "realm_access.roles",
    }
    return {f"auth.jwt.{name}": value for name, value in (named | more).items()}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: float(NOW))


@pytest.mark.usefixtures("served")
def test_a_token_is_a_key_like_any_other_until_it_expires(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = house.gateway(values=options(secret=SECRET.decode()))
    token = signed(SECRET, "HS256", None)
    assert client.get("/v1/models", headers=bearer(token)).status_code == 200
    assert client.get("/v1/models", headers=bearer(house.key())).status_code == 200
    assert client.get("/api/v1/admin/keys", headers=bearer(token)).status_code == 403
    assert client.get("/v1/models", headers=bearer(token[:-2] + "AA")).status_code == 401
    monkeypatch.setattr("time.time", lambda: NOW + 600 + 30.5)
    assert client.get("/v1/models", headers=bearer(token)).status_code == 401


@pytest.mark.usefixtures("served")
def test_published_keys_are_fetched_where_the_settings_say(house: House, issuer: Issuer) -> None:
    server = Loopback(replies(issuer.fetch()))
    client = house.gateway(values=options(jwks_url=f"{server.url}/.well-known/jwks.json"))
    assert client.get("/v1/models", headers=bearer(signed())).status_code == 200
    server.stop()
    assert client.get("/v1/models", headers=bearer(signed(EC, "ES256", "e"))).status_code == 200


@pytest.mark.usefixtures("served")
def test_an_issuer_that_is_away_is_not_the_callers_fault(house: House) -> None:
    client = house.gateway(values=options(jwks_url="http://127.0.0.1:1/jwks.json"))
    assert client.get("/v1/models", headers=bearer(signed())).status_code == 503


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"auth.jwt.secret": "s" * 32}, "auth.jwt.issuer"),
        ({"auth.jwt.secret": "s" * 32, "auth.jwt.issuer": "i"}, "auth.jwt.audience"),
        (options(secret="s" * 32, jwks_url="https://a.example/k"), "auth.jwt.secret"),
        (options(secret="short"), "auth.jwt.secret"),
        (options(algorithms="HS256"), "auth.jwt.algorithms"),
        (options(algorithms="none"), "auth.jwt.algorithms"),
        ({"database_url": "postgresql://db/k"}, "auth.secret"),
    ],
)
def test_settings_that_would_let_anybody_in_are_faults(values: dict[str, object], key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({"auth.mode": "required", **values}, environ={})
    assert key in [it.key for it in caught.value.faults]
