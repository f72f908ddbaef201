"""``knowalledge serve``."""

import errno
import json
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click

from knowalledge.cli.common import config_option, fail, load_settings, report
from knowalledge.cli.manners import example, is_terminal
from knowalledge.config.notes import notes
from knowalledge.config.settings import Settings
from knowalledge.identity.exposure import exposed, is_local
from knowalledge.identity.feature import unprepared
from knowalledge.net.redis.version import unsupported
from knowalledge.providers.embedded.provider import EMBEDDED
from knowalledge.server import Server

HOST, PORT = "127.0.0.1", 8080
_BIND = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:/\s]*)(:(?P<port>\d{1,5}))?")
QUESTION = "What is a glacier?"


@example("knowalledge serve", "knowalledge serve --config gateway.yaml --bind 0.0.0.0:8080 --workers 2")
@click.command()
@config_option
@click.option("--bind", default=HOST, metavar="HOST:PORT", help=f"Where to listen; default: {HOST}:{PORT}.")
@click.option("--port", default="", help="The port, where --bind names none.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
@click.option("--hints/--no-hints", default=None, help="Print what to try next; default: on a terminal.")
def serve(config: str, bind: str, port: str, workers: int, hints: bool | None) -> None:
    """Serve; prints one line when ready."""
    settings = load_settings(config)
    if workers > 1 and not settings.redis_url:
        fail("--workers", "more than one worker needs redis_url", "set it, or --workers 1")
        sys.exit(2)
    bind = _address(bind, port)
    fault = (
        exposed(settings.auth, bind)
        or unprepared(settings.auth, settings.database_url)
        or unsupported(settings.redis_url, settings.redis.timeout)
    )
    if fault is not None:
        report([fault])
        sys.exit(2)
    _require_free(bind)
    shown = is_terminal() if hints is None else hints

    def tell(url: str) -> None:
        for name, line in _hints(settings, url, bind):
            click.echo(f"  {click.style(f'{name:<6}', bold=True)} {line}")
        sys.stdout.flush()

    if shown:
        report(notes(settings), "yellow")
    Server(settings, bind, workers, tell if shown else lambda _: None).run()


def _address(bind: str, port: str) -> str:
    """HOST:PORT of what the options say. Exits with 2 if it is none."""
    if bind.startswith(("unix:", "fd://")):
        return bind
    text = f":{bind}" if bind.isdecimal() else bind.removeprefix("http://").rstrip("/")
    match = _BIND.fullmatch(text)
    chosen = (match["port"] if match else None) or port or str(PORT)
    if not match or not chosen.isdecimal() or int(chosen) > 65535:
        wrong = f"{bind!r} is no address" if not match else f"{chosen!r} is no port"
        fail("--bind" if not match else "--port", wrong, f"write HOST:PORT, such as {HOST}:{PORT}")
        sys.exit(2)
    return f"{match['host'] or HOST}:{chosen}"


def _require_free(bind: str) -> None:
    """Exits with 2 if the address cannot be listened on."""
    if bind.startswith(("unix:", "fd://")):
        return
    host, _, number = bind.rpartition(":")
    try:
        _try(host.strip("[]"), int(number))
    except OSError as error:
        wrong = f"{bind} cannot be used ({error.strerror or error})"
        fail("--bind", wrong, _cure(error, host, int(number)))
        sys.exit(2)


def _cure(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            other = f"{host}:{_next_free(host.strip('[]'), port)}"
            return f"end what listens there, or choose another: --bind {other}, make run BIND={other}"
        case errno.EACCES:
            return f"ports below 1024 are the administrator's; choose another: --bind {host}:{PORT}"
        case _:
            return f"choose an address of this machine: --bind {HOST}:{port}"


def _try(host: str, port: int) -> None:
    """Listen for a moment, as the server will. Raises OSError."""
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
        probe.listen(1)


def _next_free(host: str, port: int) -> int:
    lowest = max(port, 1024) + 1
    for other in range(lowest, lowest + 50):
        with suppress(OSError):
            _try(host, other)
            return other
    return PORT


def _hints(settings: Settings, url: str, bind: str) -> Iterator[tuple[str, str]]:
    """What a person needs next: names and lines."""
    embedded = {it.name for it in settings.models if it.targets[0].spec.provider == EMBEDDED.name}
    note = (
        ": built in and small, for a first try; it is fluent and often wrong"
        if settings.default.name in embedded
        else ""
    )
    yield "model", settings.default.name + note
    others = [it.name for it in settings.models if it is not settings.default]
    if others:
        yield "also", ", ".join(others)
    if url.startswith("http"):
        body = shlex.quote(json.dumps({"prompt": QUESTION}))
        # What curl would send to a proxy does not come here.
        direct = (
            "--noproxy '*' "
            if any(os.environ.get(it) for it in ("http_proxy", "all_proxy", "ALL_PROXY"))
            else ""
        )
        yield "try", f"curl {direct}{url}/api/v1/generate -d {body}"
        elsewhere = "" if url == f"http://{HOST}:{PORT}" else f" --server {url}"
        yield "or", f'{_program()} ask "{QUESTION}"{elsewhere}'
        yield "docs", f"{url}/api/docs"
    if settings.auth.mode == "none" and not is_local(bind):
        yield "open", "every machine that reaches this one may ask: put a proxy with authentication in front"
    yield "stop", "Ctrl-C"


def _program() -> str:
    """The command as it was typed, if it can be typed again."""
    typed = Path(sys.argv[0])
    return sys.argv[0] if typed.name == "knowalledge" and not typed.is_absolute() else "knowalledge"
