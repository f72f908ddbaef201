"""``knowalledge doctor``: whether everything that the gateway needs can be used from here."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import gevent
import msgspec
from msgspec import Struct
from redis import Redis
from redis.exceptions import NoPermissionError

from knowalledge.cli.common import columns, config_option, load_settings
from knowalledge.cli.manners import example, json_option
from knowalledge.config.settings import Settings
from knowalledge.core.clock import Clock, SystemClock
from knowalledge.core.errors import (
    KnowalledgeError,
    ProviderAuth,
    ProviderGarbage,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    Unavailable,
)
from knowalledge.identity.feature import unprepared
from knowalledge.net.redis.client import any_node, make_client
from knowalledge.net.redis.errors import REDIS_ERRORS, reason
from knowalledge.net.redis.probe import try_write
from knowalledge.net.redis.version import CURE_OLD, is_too_old
from knowalledge.providers.settings import TargetSettings
from knowalledge.providers.targets import make_provider

# Google refuses signed requests for a token that are five minutes off; long before that, something is wrong.
MAX_SKEW_S = 5.0
# Workers write heartbeats and metrics here; a day of them takes a few MiB.
MIN_FREE = 64 * 1024**2

_CURE_REDIS = "start Redis, or correct redis_url; without redis_url one process works alone"


class Finding(Struct, frozen=True):
    """The result of one check."""

    name: str
    ok: bool
    note: str
    latency_ms: float | None = None
    cure: str = ""  # of what is down


@example("knowalledge doctor --config gateway.yaml")
@click.command()
@config_option
@click.option(
    "--timeout",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0.1, 600.0),
    help="Seconds a check may take.",
)
@json_option
def doctor(config: str, timeout: float, as_json: bool) -> None:
    """Check Redis, database, clock, disk, trace collector and every provider target; exit 1 if any is down."""
    findings = examine(load_settings(config, as_json=as_json), SystemClock(), timeout)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(findings), indent=1))
    else:
        for line in table(findings):
            click.echo(line)
    sys.exit(0 if all(it.ok for it in findings) else 1)


def examine(settings: Settings, clock: Clock, timeout: float) -> tuple[Finding, ...]:
    """Every check, those of providers at the same time; none takes much longer than ``timeout`` seconds or raises."""
    targets = [gevent.spawn(_target, target, settings, clock, timeout) for target in settings.targets]
    return (
        *_redis(settings, clock),
        *_database(settings, clock),
        _disk(Path(tempfile.gettempdir())),
        *_tracing(settings, clock, timeout),
        *(it.get() for it in targets),
    )


def table(findings: tuple[Finding, ...]) -> Iterator[str]:
    """The findings as lines of text, below each that is down its cure."""
    rows = []
    for it in findings:
        latency = "" if it.latency_ms is None else f"{it.latency_ms:.1f} ms"
        state = click.style("ok  ", fg="green") if it.ok else click.style("DOWN", fg="red")
        rows.append((it.name, state, f"{latency:>10}", it.note))
    for it, line in zip(findings, columns(rows), strict=True):
        yield line
        if it.cure and not it.ok:
            yield f"    {click.style('cure:', fg='green')} {it.cure}"


def _redis(settings: Settings, clock: Clock) -> Iterator[Finding]:
    if not settings.redis_url:
        yield Finding("redis", True, "not configured: everything is in process")
        return
    began, started = clock.monotonic(), clock.now()
    try:
        # A Cluster is asked for its nodes at once.
        client = make_client(settings.redis_url, settings.redis.timeout, settings.server.connections)
        with any_node(client) as redis:
            seconds, micros = redis.time()
            took = clock.monotonic() - began
            version, policy = _version_and_policy(redis)
        try_write(client, settings.redis.prefix)
    except REDIS_ERRORS as error:
        yield Finding("redis", False, f"no write ({reason(error)})", cure=_CURE_REDIS)
        return
    if is_too_old(version):
        yield Finding("redis", False, f"Redis {version} is too old", took * 1000, CURE_OLD)
        return
    # What Redis evicts is quota that was spent: it would be spent twice.
    evicts = policy not in ("", "noeviction")
    note = f"Redis {version}" + (f"; set maxmemory-policy noeviction, not {policy}" if evicts else "")
    cure = "redis-cli CONFIG SET maxmemory-policy noeviction" if evicts else ""
    yield Finding("redis", not evicts, note, took * 1000, cure)
    # Its clock was read somewhere within the call.
    skew = seconds + micros / 1e6 - (started + took / 2)
    note = f"{skew:+.3f} s against Redis, known to {took / 2:.3f} s"
    cure = "set this machine's clock and Redis' by NTP, such as with chrony"
    yield Finding("clock", abs(skew) - took / 2 <= MAX_SKEW_S, note, cure=cure)


def _version_and_policy(redis: Redis) -> tuple[str, str]:
    """The server's version and its maxmemory-policy; empty where it may not say, as with many a hosted one."""
    try:
        version = redis.info("server").get("redis_version", "of unknown version")
        return version, redis.config_get("maxmemory-policy").get("maxmemory-policy") or ""
    except NoPermissionError:
        return "that may not say its maxmemory-policy: it must be noeviction", ""


def _tracing(settings: Settings, clock: Clock, timeout: float) -> Iterator[Finding]:
    if not settings.tracing.endpoint:
        return
    from knowalledge.observability.otlp import Collector  # noqa: PLC0415 - only who traces pays for the SDK

    began = clock.monotonic()
    timeout = min(timeout, settings.tracing.timeout)
    try:
        Collector(settings.tracing.endpoint, timeout).ping()
    except Unavailable as error:
        cure = "start the collector, correct tracing.endpoint, or leave it out: nothing is traced then"
        yield Finding("tracing", False, error.message, cure=cure)
    else:
        yield Finding("tracing", True, "takes spans", (clock.monotonic() - began) * 1000)


def _database(settings: Settings, clock: Clock) -> Iterator[Finding]:
    if settings.auth.mode == "none":
        return
    began = clock.monotonic()
    fault = unprepared(settings.auth, settings.database_url)
    if fault is not None:
        yield Finding("database", False, fault.wrong, cure=fault.cure)
    else:
        yield Finding("database", True, "has the newest tables", (clock.monotonic() - began) * 1000)


def _disk(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        note, cure = (
            f"{folder} cannot be written ({type(error).__name__})",
            "name another folder: export TMPDIR=FOLDER",
        )
        return Finding("disk", False, note, cure=cure)
    cure = f"free {MIN_FREE // 1024**2} MiB there, or name another folder: export TMPDIR=FOLDER"
    return Finding("disk", free >= MIN_FREE, f"{free // 1024**2} MiB free in {folder}", cure=cure)


def _target(target: TargetSettings, settings: Settings, clock: Clock, timeout: float) -> Finding:
    name, spec = f"target {target.name}", target.spec
    began = clock.monotonic()
    try:
        provider = make_provider(target, settings.provider.proxy, clock)
        try:
            provider.ping(timeout)
        finally:
            provider.close()
    except KnowalledgeError as error:
        return Finding(name, False, f"{error.code}: {error.message}", cure=_cure(error, target))
    except ValueError as error:
        return Finding(name, False, str(error), cure="correct the target; `knowalledge config show` has it")
    return Finding(name, True, f"{spec.provider}:{spec.model}", (clock.monotonic() - began) * 1000)


def _cure(error: KnowalledgeError, target: TargetSettings) -> str:
    """What to do about a target that does not answer as it should."""
    spec = target.spec
    match error:
        case ProviderAuth():
            held = "api_key" if spec.api_key or not spec.credentials else f"credentials ({spec.credentials})"
            return f"give {held} of a project that may use {spec.model}; spaces around a key count"
        case ProviderUnavailable() | ProviderTimeout():
            where = spec.base_url and "start what base_url names, or correct it"
            return where or "look at the network and provider.proxy; --timeout gives it longer"
        case ProviderRateLimited():
            return "the key works and its quota is spent: wait, or ask the provider for more"
        case ProviderRejected():
            return f"correct the target's model ({spec.model}), project and location"
        case ProviderGarbage():
            return f"base_url is no API of {spec.provider}: correct it, or the provider"
        case _:
            return "correct the target; `knowalledge config show` has it"
