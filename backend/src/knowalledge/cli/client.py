"""Talking to a gateway: one question, its answer as a stream of events.

With the standard library alone, because a command that asks should start at once.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

import click

F = TypeVar("F", bound=Callable[..., object])
DEFAULT_SERVER = "http://127.0.0.1:8080"
# The gateway sends a sign of life every few seconds; a connection that is silent for so long is dead.
SILENCE_S = 120.0
_CURES = {
    401: "give a key: --key KEY, or KNOWALLEDGE_KEY",
    403: "ask with a key that may do this",
    404: "is this the address of a gateway? Name another with --server",
    429: "try again later, or with --priority high",
}


class Event(NamedTuple):
    """One event of an answer: ``queued``, ``started``, ``delta``, ``done`` or ``error``, with its data."""

    name: str
    data: Mapping[str, Any]


class AskError(click.ClickException):
    """Why there is no answer, and what to do about it."""

    def __init__(self, wrong: str, cure: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(wrong)
        self.cure = cure
        self.problem = problem or {"code": "no_gateway", "detail": wrong}

    def show(self, file: Any = None) -> None:
        click.echo(f"{click.style('no answer:', fg='red')} {self.message}", file=file, err=True)
        click.echo(f"    {click.style('cure:', fg='green')} {self.cure}", file=file, err=True)


def server_options(command: F) -> F:
    """The options of every command that talks to a gateway."""
    for option in (
        click.option("--key", envvar="KNOWALLEDGE_KEY", default="", help="Your API key (KNOWALLEDGE_KEY)."),
        click.option(
            "--server",
            envvar="KNOWALLEDGE_SERVER",
            default=DEFAULT_SERVER,
            show_default=True,
            metavar="URL",
            help="The gateway (KNOWALLEDGE_SERVER).",
        ),
    ):
        command = option(command)
    return command


def question_options(command: F) -> F:
    """The options of every command that asks a model."""
    for option in (
        click.option("--timeout", type=click.FloatRange(0.1), help="Seconds that you will wait."),
        click.option(
            "--priority",
            type=click.Choice(["critical", "high", "medium", "low"]),
            help="Who goes first when the quota is full.",
        ),
        click.option("--system", default="", metavar="TEXT", help="How the model should answer."),
        click.option("--model", "-m", default="", help="The model; default: the gateway's own."),
    ):
        command = option(command)
    return server_options(command)


def ask(server: str, key: str, body: Mapping[str, object]) -> Iterator[Event]:
    """The events of one answer. Raises ``AskError``, also for an ``error`` event."""
    connection, path = _connect(server)
    headers = {"content-type": "application/json", "accept": "text/event-stream"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    try:
        given = {name: value for name, value in body.items() if value not in ("", None)}
        connection.request("POST", f"{path}/api/v1/generate", json.dumps(given | {"stream": True}), headers)
        response = connection.getresponse()
        if response.status != 200:
            _refused(response)
        for event in _events(response):
            if event.name == "error":
                raise _problem(event.data)
            yield event
            if event.name == "done":
                return
        raise AskError("the answer ended early", "ask again; the gateway's log says more")
    except (OSError, HTTPException, ValueError) as error:
        raise _unreachable(server, error) from None
    finally:
        connection.close()


def _connect(server: str) -> tuple[HTTPConnection, str]:
    try:
        parts = urlsplit(server if "://" in server else f"http://{server}")
        kind = {"http": HTTPConnection, "https": HTTPSConnection}[parts.scheme]
        return kind(parts.hostname or "", parts.port, timeout=SILENCE_S), parts.path.rstrip("/")
    except (ValueError, KeyError):
        raise click.BadParameter("write http://HOST:PORT", param_hint="--server") from None


def _events(response: HTTPResponse) -> Iterator[Event]:
    """Server-sent events, without comments."""
    name, data = "", ""
    for raw in response:
        field, _, value = raw.decode().rstrip("\r\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data += value
        elif not field and name:
            yield Event(name, json.loads(data))
            name, data = "", ""


def _refused(response: HTTPResponse) -> NoReturn:
    try:
        problem = json.loads(response.read(1_000_000))
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        wrong = f"status {response.status}, and not in a gateway's words"
        raise AskError(wrong, "is this the address of a gateway? Name another with --server")
    raise _problem({"status": response.status} | problem)


def _problem(problem: Mapping[str, Any]) -> AskError:
    """A problem (RFC 9457) as an error with a cure."""
    wrong = f"{problem.get('detail') or problem.get('title')} ({problem.get('code')})"
    again = problem.get("retry_after_s")
    fallback = f"the gateway's log has more: request {problem.get('request_id')}"
    if problem.get("code") == "unknown_model":
        fallback = "leave --model out, or see which there are: GET /v1/models"
    cure = f"try again in {again:g} s" if again else _CURES.get(int(problem.get("status", 0)), fallback)
    return AskError(wrong, cure, problem)


def _unreachable(server: str, error: Exception) -> AskError:
    if isinstance(error, ConnectionRefusedError):
        cure = "start one (knowalledge serve, or make run), or name another with --server"
        return AskError(f"nothing listens at {server}", cure)
    if isinstance(error, TimeoutError):
        return AskError(f"{server} is silent", "look at the gateway's log")
    why = (
        os.strerror(error.errno)
        if isinstance(error, OSError) and error.errno and error.errno > 0
        else str(error)
    )
    return AskError(
        f"the connection to {server} failed ({why or type(error).__name__})", "name another with --server"
    )
