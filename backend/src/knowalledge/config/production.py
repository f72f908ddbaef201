"""What ``profile: production`` refuses to start with. Every fault is named at once, with its cure."""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from urllib.parse import parse_qs, unquote, urlsplit

from knowalledge.core.settings import Fault
from knowalledge.identity.settings import AuthSettings, CorsSettings

PROFILES = ("development", "production")
# A secret of fewer different characters, or with one of these words in it, was typed and not drawn.
_VARIETY = 8
_PLACEHOLDER = re.compile(
    r"change.?me|example|placeholder|replace|secret|passw|your[-_ ]|default|dummy",
    re.I,
)
_DRAW = "draw one: openssl rand -hex 32"
_TLS_MODES = ("verify-full", "verify-ca", "require")


def production_faults(
    auth: AuthSettings, log_level: str, redis_url: str, database_url: str, cdn_token: str, cors: CorsSettings
) -> Iterator[Fault]:
    """Everything that must not be so where strangers may call."""
    if auth.mode == "none" and not auth.allow_anonymous:
        yield Fault("auth.mode", "nobody is asked for a key", "set auth.mode: required")
    if log_level == "debug":
        yield Fault("log.level", "debug is for development", "set log.level: info")
    if urlsplit(auth.jwt.jwks_url).scheme == "http" and not _is_local(auth.jwt.jwks_url):
        yield Fault("auth.jwt.jwks_url", "whoever is on the way can put a key of theirs there", "use https")
    for origin in cors.origins:
        if origin == "*" or _is_local(origin):
            yield Fault("cors.origins", f"{origin} is for development", "name the pages that may call")
    yield from _secrets(auth, redis_url, database_url, cdn_token)
    yield from _server("redis_url", redis_url, encrypted=_is_encrypted_redis, how="use rediss://")
    yield from _server(
        "database_url",
        database_url if not database_url.startswith("sqlite") else "",
        encrypted=_is_encrypted_postgres,
        how="add ?sslmode=verify-full",
    )


def _secrets(auth: AuthSettings, redis_url: str, database_url: str, cdn_token: str) -> Iterator[Fault]:
    """Secrets that were typed, and secrets that are used twice."""
    given = {
        "auth.secret": auth.secret,
        "auth.jwt.secret": auth.jwt.secret,
        "redis_url": _password(redis_url),
        "database_url": _password(database_url),
        "cdn.token": cdn_token,
    }
    seen: dict[str, str] = {}
    for key, secret in given.items():
        if not secret:
            continue
        if len(set(secret)) < _VARIETY or _PLACEHOLDER.search(secret):
            yield Fault(key, "the secret looks like a placeholder", _DRAW)
        if secret in seen:
            yield Fault(key, f"it is the same secret as that of {seen[secret]}", _DRAW)
        seen.setdefault(secret, key)


def _server(key: str, url: str, *, encrypted: Callable[[str], bool], how: str) -> Iterator[Fault]:
    """A server of ours on another machine has a password, and is reached by TLS."""
    if not url or _is_local(url):
        return
    if not _password(url):
        yield Fault(key, "everybody in its network may use it", "give it a password")
    if not encrypted(url):
        yield Fault(key, "what is said to it can be read and changed on the way", how)


def _is_encrypted_redis(url: str) -> bool:
    return urlsplit(url).scheme == "rediss"


def _is_encrypted_postgres(url: str) -> bool:
    return parse_qs(urlsplit(url).query).get("sslmode", [""])[-1] in _TLS_MODES


def _password(url: str) -> str:
    login, at, _ = urlsplit(url).netloc.rpartition("@")
    return unquote(login.partition(":")[2]) if at else ""


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    hosts = [it.rpartition(":")[0] or it for it in parts.netloc.rpartition("@")[2].split(",")]
    return parts.scheme == "unix" or all(map(_is_loopback, hosts))


def _is_loopback(host: str) -> bool:
    host = host.strip("[]")
    try:
        return host in ("", "localhost") or ip_address(host).is_loopback
    except ValueError:
        return False
