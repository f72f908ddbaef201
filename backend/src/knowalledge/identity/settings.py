"""Settings of authentication and of each client's request rate."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from knowalledge.core.parsers import (
    NotValid,
    boolean,
    duration_or_zero,
    header_name,
    http_address,
    is_http,
    non_negative,
    one_of,
    request_rate,
    request_rates,
    text,
)
from knowalledge.core.settings import REMOVE, Edit, Fault, Step, setting, write
from knowalledge.net.sql.settings import is_sqlite

# Shorter secrets can be guessed, in characters.
MIN_SECRET = 32
ASYMMETRIC = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "EdDSA")


def _algorithms(value: object) -> tuple[str, ...]:
    """Names of algorithms with a public key: a list, or text with commas."""
    names = tuple(map(str, value)) if isinstance(value, list) else tuple(text(value).split(","))
    chosen = tuple(it.strip() for it in names if it.strip())
    if not chosen or not set(chosen) <= set(ASYMMETRIC):
        raise ValueError(f"choose from {', '.join(ASYMMETRIC)}")
    return chosen


def _secret(value: object) -> str:
    given = text(value)
    if given and len(given) < MIN_SECRET:
        cure = f"give at least {MIN_SECRET} random characters, such as from: openssl rand -hex 32"
        raise NotValid(cure, '""')
    return given


@dataclass(frozen=True)
class ClientSettings:
    """``clients.*``"""

    rate: str = setting(
        request_rate,
        "",
        "Requests that one client (a tenant, else an address) may send, such as 600/minute; empty: no limit.",
    )
    proxies: int = setting(
        non_negative,
        0,
        "Trusted proxies in front of the gateway, whose entries in clients.forwarded_header are believed.",
    )
    forwarded_header: str = setting(
        one_of("X-Forwarded-For", "Forwarded"),
        "X-Forwarded-For",
        "The header in which these proxies name the client; the other one is the client's own.",
    )


def _origins(value: object) -> tuple[str, ...]:
    """Origins of web pages: a list, or text with commas."""
    names = tuple(map(str, value)) if isinstance(value, list) else tuple(text(value).split(","))
    given = tuple(it.strip().rstrip("/") for it in names if it.strip())
    for it in given:
        parts = urlsplit(it)
        if it != "*" and not (is_http(it) and f"{parts.scheme}://{parts.netloc}" == it and "@" not in it):
            raise ValueError("write origins such as https://app.example, or *")
    return given


@dataclass(frozen=True)
class CorsSettings:
    """``cors.*``"""

    origins: tuple[str, ...] = setting(
        _origins, (), "Web pages that may call from a browser, such as https://app.example; `*`: all."
    )


@dataclass(frozen=True)
class LimitSettings:
    """``limits.*``"""

    generate: str = setting(
        request_rates,
        "20/minute;100/hour;500/day",
        "With `auth.mode: required`: how often one user may ask models, in windows with semicolons; empty: no limit.",
    )
    read: str = setting(request_rates, "100/minute", "The same, for models and topics.")
    admin: str = setting(request_rates, "60/minute", "The same, for statistics and what only staff may call.")
    anonymous: str = setting(
        request_rates,
        "10/minute;100/hour;500/day",
        "With `auth.mode: required`: what one address without a key may ask, where topics are public.",
    )


@dataclass(frozen=True)
class JwtSettings:
    """``auth.jwt.*``"""

    jwks_url: str = setting(
        http_address, "", "Where the issuer publishes its public keys (JWKS); empty: no tokens by public key."
    )
    secret: str = setting(
        _secret, "", "The one secret of HS256 tokens, in place of `auth.jwt.jwks_url`.", secret=True
    )
    algorithms: tuple[str, ...] = setting(
        _algorithms,
        ("RS256", "ES256", "EdDSA"),
        "The algorithms that tokens by public key may be signed with.",
    )
    issuer: str = setting(text, "", "The `iss` that tokens must have.")
    audience: str = setting(text, "", "The `aud` that tokens must have.")
    leeway: float = setting(duration_or_zero, 30.0, "How far the issuer's clock may be off.")
    tenant_claim: str = setting(text, "tenant", "The claim with the tenant; dots lead into objects.")
    user_claim: str = setting(text, "sub", "The claim with the user.")
    roles_claim: str = setting(
        text, "roles", "The claim with the roles: a text or a list; the highest counts."
    )
    default_role: str = setting(
        one_of("", "readonly", "user"),
        "",
        "The role of tokens that name none of ours; empty: they are refused.",
    )

    @property
    def on(self) -> bool:
        """Whether tokens are taken at all."""
        return bool(self.jwks_url or self.secret)

    def faults(self) -> Iterator[Fault]:
        """Rules over several settings."""
        if self.jwks_url and self.secret:
            yield Fault("auth.jwt.secret", "auth.jwt.jwks_url is set too", "set one of the two", REMOVE)
        if self.on:
            for name in ("issuer", "audience"):
                if not getattr(self, name):
                    steps = write(f"{name}: https://example.com/{name}")
                    yield Fault(f"auth.jwt.{name}", "tokens of anybody would count", "name yours", steps)


@dataclass(frozen=True)
class AuthSettings:
    """``auth.*``"""

    jwt: JwtSettings
    tenant_header: str = setting(
        header_name,
        "",
        "The header in which a trusted proxy names the tenant, with `auth.mode: none`; empty: all are one tenant.",
    )
    mode: str = setting(
        one_of("none", "required"),
        "none",
        "`required`: callers need a key or token. `none`: anybody may call, from this machine only.",
    )
    allow_anonymous: bool = setting(
        boolean,
        False,
        "With `auth.mode: none`, serve other machines too: for a gateway that a network policy or proxy guards.",
    )
    secret: str = setting(
        _secret,
        "",
        "What stored keys are hashed with; empty: made beside the SQLite file. It cannot be changed without new keys.",
        secret=True,
    )
    public_topics: bool = setting(
        boolean, False, "With `auth.mode: required`, topics need no key and may be kept by CDNs all the same."
    )

    @property
    def topics_are_public(self) -> bool:
        """Whether a topic's documents are the same for everybody, so that caches outside may share them."""
        return self.mode == "none" or self.public_topics

    def faults(self, database_url: str) -> Iterator[Fault]:
        """Rules over several settings."""
        if self.mode == "none":
            return
        if not self.secret and not is_sqlite(database_url):
            steps = (Step(Edit.RUN, 'export KNOWALLEDGE_AUTH__SECRET="$(openssl rand -hex 32)"'),)
            wrong, cure = "replicas that share a database need one", "give it: openssl rand -hex 32"
            yield Fault("auth.secret", wrong, cure, steps)
        if self.tenant_header:
            wrong = "with auth.mode required the key names the tenant"
            yield Fault("auth.tenant_header", wrong, "remove it", REMOVE)
        yield from self.jwt.faults()
