"""Logs on standard error: one bounded JSON object a line, or lines for people. Never a prompt, an answer or a secret.

``configure`` serves our own events. ``take_over`` makes lines of everything else that a serving process writes to
standard error: the libraries' logs, warnings, and tracebacks of the event loop. Of those only the kind and the place
are logged, because their texts may quote what a caller has sent.
"""

import io
import logging
import os
import resource
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

import gevent
import msgspec
import structlog

from knowalledge.observability.console import Console
from knowalledge.observability.stderr import MAX_LINE, LineWriter

_encode = msgspec.json.Encoder(enc_hook=str).encode
MAX_VALUE = 200  # characters of each text in a line that would be too long
# Of one event above info so many lines are written in a window; the next one says how many were not.
MAX_LINES, WINDOW_S = 50, 10.0

stderr = LineWriter(2)


class RateLimit:
    """Drops lines of an event that comes too often. Levels up to info pass: there is one line a request."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._windows: dict[str, tuple[float, int]] = {}  # by event: its window's start, and the lines in it
        self.suppressed = 0

    def __call__(self, _: Any, level: str, event: Any) -> Any:
        if level in ("info", "debug") or event.get("audit"):
            return event
        now, name = self._now(), event["event"]
        start, lines = self._windows.get(name, (now, 0))
        if now - start >= WINDOW_S:
            if lines > MAX_LINES:
                event["suppressed"] = lines - MAX_LINES
            start, lines = now, 0
        self._windows[name] = (start, lines + 1)
        if lines >= MAX_LINES:
            self.suppressed += 1
            raise structlog.DropEvent
        return event


def for_people(form: str) -> bool:
    """Whether the log is lines for people. ``form`` is text, json, or auto: text on a terminal."""
    return form == "text" or (form == "auto" and sys.stderr is not None and sys.stderr.isatty())


def render(_: Any, __: str, event: Any) -> bytes:
    """One line of at most ``MAX_LINE`` bytes."""
    line = _encode(event) + b"\n"
    if len(line) <= MAX_LINE:
        return line
    short = {name: value[:MAX_VALUE] if isinstance(value, str) else value for name, value in event.items()}
    line = _encode({**short, "truncated": True}) + b"\n"
    if len(line) <= MAX_LINE:
        return line
    kept = {name: short[name] for name in ("event", "level", "timestamp") if name in short}
    return _encode({**kept, "truncated": True}) + b"\n"


def _with_newline(renderer: Callable[[Any, str, Any], bytes]) -> Callable[[Any, str, Any], bytes]:
    # A person wants to see every request; its line waits in the console for the response, and comes below no level.
    return lambda log, name, event: renderer(log, name, event) + b"\n"


class _LineLogger:
    """What structlog calls with each line."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = write


def configure(level: str, form: str = "json", write: Callable[[bytes], object] = stderr) -> None:
    """Set up structlog, once per process. ``level`` is debug, info, warning or error; ``form`` as in ``for_people``."""
    number, text = getattr(logging, level.upper()), for_people(form)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            RateLimit(monotonic),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_newline(CONSOLE.renderer(number)) if text else render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if text else number),
        logger_factory=lambda *_: _LineLogger(write),
        cache_logger_on_first_use=True,
    )
    # Its SDK has a line for each message that fails and each span that is dropped; otlp.py logs changes of state.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)


def audit(event: str, fields: dict[str, object]) -> None:
    """Log what an operator did, for the audit trail."""
    structlog.get_logger().warning(event, audit=True, **fields)


CONSOLE = Console(lambda line: stderr(line + b"\n"))


class LibraryLines(logging.Handler):
    """The standard library's logging as our lines. gunicorn's messages hold processes and addresses, no request's."""

    def emit(self, record: logging.LogRecord) -> None:
        whole = record.name == "gunicorn.error" and not record.exc_info
        fields: dict[str, object] = {"logger": record.name, "where": f"{record.filename}:{record.lineno}"}
        if record.exc_info and record.exc_info[0]:
            fields["error"] = record.exc_info[0].__name__
            fields["where"] = place_of(record.exc_info[2])
        text = (
            record.getMessage() if whole else str(record.msg) if record.name != "py.warnings" else "warning"
        )
        log = structlog.get_logger()
        (log.error if record.levelno >= logging.ERROR else log.warning)(text[:MAX_VALUE], **fields)


class _Complaints(io.TextIOBase):
    """``sys.stderr`` of a serving process: who writes to it past the logs has a line, without the text."""

    def write(self, text: str) -> int:
        if text.strip():
            structlog.get_logger().error("text on standard error", characters=len(text))
        return len(text)

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)


def place_of(trace: TracebackType | None) -> str:
    """Where an error was raised, as ``file:line``."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown"


def _report(kind: type[BaseException] | None, trace: TracebackType | None, where: str) -> None:
    if kind is not None and issubclass(kind, SystemExit | KeyboardInterrupt | gevent.GreenletExit):
        return  # an end that was asked for
    name = kind.__name__ if kind else "unknown"
    structlog.get_logger().error("unhandled", error=name, where=place_of(trace), context=where)


def take_over() -> None:
    """Make one line of whatever else this process would write to standard error."""
    stderr.reopen()
    root = logging.getLogger()
    root.handlers[:] = [LibraryLines(logging.WARNING)]
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    sys.stderr = _Complaints()
    sys.excepthook = lambda kind, _, trace: _report(kind, trace, "process")
    sys.unraisablehook = lambda it: _report(it.exc_type, it.exc_traceback, "destructor")
    threading.excepthook = lambda it: _report(it.exc_type, it.exc_traceback, "thread")
    hub: Any = gevent.get_hub()
    hub.print_exception = lambda _, kind, __, trace: _report(kind, trace, "greenlet")


def no_core_dump() -> None:
    """A dump of this process would hold prompts and keys."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
