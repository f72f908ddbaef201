"""Who may call, and how often one client may, as features."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from secrets import token_bytes
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from redis import Redis

from knowalledge.core.access import Access
from knowalledge.core.clock import Clock
from knowalledge.core.errors import DatabaseUnavailable, ProviderError, Unavailable
from knowalledge.core.feature import Feature, Task
from knowalledge.core.settings import Fault
from knowalledge.identity import guard, web
from knowalledge.identity.client_address import believing_proxies
from knowalledge.identity.client_limit import ClientRate, blueprint
from knowalledge.identity.cors import Cors
from knowalledge.identity.domain.claims import Claims
from knowalledge.identity.domain.rates import rates_of
from knowalledge.identity.middleware import Authenticate
from knowalledge.identity.ports import Directory, Tokens
from knowalledge.identity.redis import RedisCounts
from knowalledge.identity.secret import keyring
from knowalledge.identity.service.administration import Administration
from knowalledge.identity.service.limiter import TELL_S, Limiter
from knowalledge.identity.service.verifier import POLL_S, Verifier
from knowalledge.identity.settings import (
    AuthSettings,
    ClientSettings,
    CorsSettings,
    JwtSettings,
    LimitSettings,
)
from knowalledge.net.http.client import HttpClient
from knowalledge.net.http.connection import header_lines
from knowalledge.net.redis.connection import RedisConnection
from knowalledge.web.context import WebContext

if TYPE_CHECKING:
    from knowalledge.net.sql.database import Database

# How often it is written when keys were last used, in seconds.
USED_S = 10.0
_FETCH_S = 5.0
_NO_KEYS = "the issuer of tokens does not publish its keys"
_AWAY = "the database is away: keys that were used within the last hour still count"


class IdentityFeature(Feature, frozen=True, kw_only=True):
    """``weights``: of the tenants that have called, where they are not 1; they change as admins change them."""

    weights: Mapping[str, float]


def build_authentication(
    settings: AuthSettings,
    limits: LimitSettings,
    database_url: str,
    redis: RedisConnection | None,
    web_context: WebContext,
    clock: Clock,
) -> IdentityFeature:
    """Who calls, and whether they may. With ``auth.mode: none`` nothing is in the way of any request.

    Its middleware belongs before that of every capability that serves callers.
    """
    if settings.mode == "none":
        closed = web.blueprint(web_context, web.closed)
        return IdentityFeature(blueprints=(closed,), operations=web.OPERATIONS, weights={})
    database = open_database(database_url)
    directory, secret = make_directory(database), cache(partial(keyring, settings.secret, database_url))
    verifier = Verifier(directory, secret, make_tokens(settings.jwt, clock), clock)
    administration = Administration(directory, secret, clock.now, token_bytes)
    limiter = make_limiter(limits, redis, clock)

    def stop() -> None:
        limiter.tell()
        verifier.flush_used()
        database.close()

    return IdentityFeature(
        weights=verifier.weights,
        blueprints=(guard.blueprint(limiter), web.blueprint(web_context, lambda: administration)),
        middleware=lambda inner: Authenticate(inner, verifier.verify),
        operations=web.OPERATIONS,
        tasks=(
            Task("identity.limits", TELL_S, limiter.tell),
            Task("identity.poll", POLL_S, verifier.poll),
            Task("identity.used", USED_S, verifier.flush_used),
        ),
        start=partial(prepare, database),
        stop=stop,
        notes=lambda: () if verifier.database_up else (_AWAY,),
    )


def open_administration(settings: AuthSettings, database: "Database", clock: Clock) -> Administration:
    """The use cases of admins over a database, as the command line needs them."""
    secret = partial(keyring, settings.secret, database.url)
    return Administration(make_directory(database), secret, clock.now, token_bytes)


def open_database(url: str) -> "Database":
    """The database of ``database_url``; connects at the first use."""
    from knowalledge.net.sql.database import connect  # noqa: PLC0415 - only who authenticates pays for SQLAlchemy

    return connect(url)


def make_directory(database: "Database") -> Directory:
    """The directory in a database."""
    from knowalledge.identity.sql import SqlDirectory  # noqa: PLC0415 - as above

    return SqlDirectory(database)


def upgrade(database: "Database") -> str:
    """Make or change this capability's tables; returns their revision. Raises ``SchemaError``."""
    from knowalledge.identity.sql import SCHEMA  # noqa: PLC0415 - as above

    return SCHEMA.upgrade(database)


def prepare(database: "Database") -> None:
    """Before a process serves: a file of SQLite gets its tables, a server must have them. Raises ``SchemaError``."""
    from knowalledge.identity.sql import SCHEMA  # noqa: PLC0415 - as above

    if database.kind == "sqlite":
        SCHEMA.upgrade(database)
    else:
        SCHEMA.check(database)


def unprepared(settings: AuthSettings, database_url: str) -> Fault | None:
    """The fault of a database without which nobody can be authenticated; its tables are made where they may be."""
    if settings.mode == "none":
        return None
    from knowalledge.net.sql.schema import SchemaError  # noqa: PLC0415 - as above

    database = open_database(database_url)
    try:
        prepare(database)
    except SchemaError as error:
        return Fault("database_url", error.wrong, error.cure)
    except DatabaseUnavailable as error:
        return Fault("database_url", error.message, "start it, or correct its address")
    finally:
        database.close()  # before the process forks
    return None


def make_tokens(settings: JwtSettings, clock: Clock) -> Tokens | None:
    """What checks tokens; None where none are taken."""
    if not settings.on:
        return None
    from knowalledge.identity.jwt import JwtTokens, Keys, published  # noqa: PLC0415 - only who takes tokens pays

    claims = Claims(settings.tenant_claim, settings.user_claim, settings.roles_claim, settings.default_role)
    rules = (settings.issuer, settings.audience, settings.leeway, claims)
    if settings.secret:
        secret = settings.secret.encode()
        return JwtTokens(lambda _: secret, ("HS256",), *rules)
    parts = urlsplit(settings.jwks_url)

    def fetch() -> bytes:
        http = HttpClient(f"{parts.scheme}://{parts.netloc}", clock)
        try:
            response = http.get(parts.path or "/", header_lines({"accept": "application/json"}), _FETCH_S)
        except ProviderError as error:
            raise Unavailable(_NO_KEYS) from error
        finally:
            http.close()
        if response.status != 200:
            raise Unavailable(_NO_KEYS)
        return response.body

    return JwtTokens(published(Keys(fetch, clock)), settings.algorithms, *rules)


def build_cors(settings: CorsSettings) -> Feature:
    """Which web pages may call from a browser. Its middleware belongs outside of that which answers or refuses."""
    origins = settings.origins
    return Feature(middleware=(lambda inner: Cors(inner, origins)) if origins else None)


def make_limiter(settings: LimitSettings, redis: RedisConnection | None, clock: Clock) -> Limiter:
    """What counts how often users ask."""
    written = {
        Access.PUBLIC: settings.anonymous,
        Access.READ: settings.read,
        Access.GENERATE: settings.generate,
        Access.OPERATE: settings.admin,
        Access.ADMINISTER: settings.admin,
    }
    shared = RedisCounts(redis.commands, redis.breaker) if redis else None
    return Limiter({access: rates_of(text) for access, text in written.items()}, shared, clock.now)


def build(
    settings: ClientSettings,
    tenant_header: str,
    features: Sequence[Feature],
    redis: Redis | None,
    now: Callable[[], float],
    prefix: str = "",
) -> Feature:
    """Limits the requests to the features that say so. Nothing without ``clients.rate``. ``prefix``: of every key."""
    if not settings.rate:
        return Feature()
    names = frozenset(it.name for feature in features if feature.client_limited for it in feature.blueprints)
    # A Cluster has a pool per node, which the library cannot use: there each replica counts alone.
    pool = getattr(redis, "connection_pool", None)
    rate = ClientRate(settings.rate, tenant_header, settings.proxies > 0, pool, prefix)
    return Feature(
        blueprints=(blueprint(rate, names, now),),
        middleware=(lambda inner: believing_proxies(inner, settings.proxies, settings.forwarded_header))
        if settings.proxies
        else None,
    )
