"""Addresses of Redis, of every kind: one parser for the settings and for every client.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]     one server; rediss:// with TLS
    unix://[USER:PASSWORD@]/PATH                 one server behind a socket of this machine
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/MASTER[/DB]
    redis+cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]

``rediss+sentinel`` and ``rediss+cluster`` speak TLS, with the Sentinels too. An IPv6 address stands in brackets. After
a question mark may stand ssl=true|false, db, username, password, sentinel_username and sentinel_password. Whatever else
does is refused, because a wish that is ignored may be one for secrecy.
"""

import re
from enum import Enum
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

EXAMPLE = "redis://127.0.0.1:6379/0"
_OPTIONS = ("ssl", "db", "username", "password", "sentinel_username", "sentinel_password")
_HOST = re.compile(r"(?:\[(?P<ip6>[0-9A-Fa-f:.%]+)\]|(?P<name>[A-Za-z0-9._-]*))(?::(?P<port>\d{1,5}))?")


class RedisKind(Enum):
    """What an address names."""

    SERVER = "redis"
    UNIX = "unix"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


class RedisAddress(Struct, frozen=True):
    """A parsed address. Passwords are in it: it is never logged."""

    kind: RedisKind
    hosts: tuple[tuple[str, int], ...] = ()
    tls: bool = False
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    master: str = ""  # the name that the Sentinels know
    db: int = 0
    path: str = ""  # of a Unix socket


def parse_redis_address(text: str) -> RedisAddress:
    """Raises ``ValueError`` with the cure, in which nothing of the text is repeated."""
    try:
        if "://" not in text:
            raise ValueError
        parts = urlsplit(text.strip())
        scheme, tls = parts.scheme.replace("rediss", "redis"), parts.scheme.startswith("rediss")
        kind = RedisKind(scheme)
    except ValueError:
        raise ValueError(f"write an address such as {EXAMPLE}") from None
    if parts.fragment or "#" in text:
        raise ValueError("write an address without #; in a password it is %23")
    options = _options(parts.query)
    tls = _tls(kind, tls, options.pop("ssl", None))
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    path = unquote(parts.path)
    address = RedisAddress(
        kind,
        tls=tls,
        username=options.get("username") or unquote(user) or None,
        password=options.get("password") or unquote(password) or None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
    )
    return _with_place(address, hosts, path, options.get("db"))


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ValueError(
                f"write only {', '.join(_OPTIONS)} after the question mark; in a password it is %3F"
            )
        if name in options:
            raise ValueError(f"write {name} once")
        options[name] = value
    return options


def _tls(kind: RedisKind, scheme_says: bool, option: str | None) -> bool:
    if option is None:
        return scheme_says
    if option.lower() not in ("true", "false"):
        raise ValueError("write ssl=true or ssl=false")
    wanted = option.lower() == "true"
    if (scheme_says and not wanted) or (wanted and kind is RedisKind.UNIX):
        raise ValueError("write a scheme and ssl that agree, such as rediss:// alone")
    return wanted


def _with_place(address: RedisAddress, hosts: str, path: str, db: str | None) -> RedisAddress:
    """The address with hosts or path, and what else its kind has."""
    kind = address.kind
    sentinels_login = address.sentinel_username or address.sentinel_password
    if sentinels_login and kind is not RedisKind.SENTINEL:
        raise ValueError("write sentinel_username and sentinel_password for Sentinels only")
    if kind is RedisKind.UNIX:
        if hosts or len(path) < 2:
            raise ValueError("write the path of a socket such as unix:///run/redis.sock")
        return replace(address, path=path, db=_database(db or ""))
    port = 26379 if kind is RedisKind.SENTINEL else 6379
    places = tuple(_host(it.strip(), port) for it in hosts.split(","))
    first, *rest = [it for it in path.split("/") if it] or [""]
    match kind:
        case RedisKind.SERVER:
            if len(places) != 1:
                raise ValueError("write one host, or a scheme with +sentinel or +cluster")
            if rest:
                raise ValueError("write a number of a database after the host")
            return replace(address, hosts=places, db=_database(first, db))
        case RedisKind.SENTINEL:
            if not first or len(rest) > 1:
                raise ValueError(
                    "write the master's name, such as redis+sentinel://10.0.0.1:26379/mymaster/0"
                )
            return replace(address, hosts=places, master=first, db=_database("".join(rest), db))
        case RedisKind.CLUSTER:
            if rest or _database(first, db):
                raise ValueError("write no database: a Cluster has only one")
            return replace(address, hosts=places)


def _database(*numbers: str | None) -> int:
    """The number of a database that is written in one place at most."""
    given = [it for it in numbers if it]
    if len(given) > 1 or not all(it.isdecimal() and it.isascii() and len(it) < 6 for it in given):
        raise ValueError("write a database as a number, such as /0")
    return int(given[0]) if given else 0


def _host(text: str, default_port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(
            f"write an address such as {EXAMPLE}; IPv6 stands in brackets, "
            "and @ : / ? # in a password as %40 %3A %2F %3F %23"
        )
    port = int(match["port"] or default_port)
    if not 0 < port < 65536:
        raise ValueError(f"write an address such as {EXAMPLE}, with a port from 1 to 65535")
    return match["ip6"] or match["name"] or "localhost", port
