"""Logs on standard error: one JSON object a line, or lines for people. Never a prompt, an answer or a secret."""

import logging
import sys
from typing import Any

import msgspec
import structlog

from knowalledge.observability.console import Console

_encode = msgspec.json.Encoder().encode


def _render(_: Any, __: str, event: Any) -> bytes:
    return _encode(event)


def for_people(form: str) -> bool:
    """Whether the log is lines for people. ``form`` is text, json, or auto: text on a terminal."""
    return form == "text" or (form == "auto" and sys.stderr is not None and sys.stderr.isatty())


def configure(level: str, form: str = "json") -> None:
    """Set up structlog, once per process. ``level`` is debug, info, warning or error; ``form`` as in ``for_people``."""
    number, text = getattr(logging, level.upper()), for_people(form)
    # A person wants to see every request; its line waits in the console for the response, and comes below no level.
    render = CONSOLE.renderer(number) if text else _render
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if text else number),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    # Its SDK has a line for each message that fails and each span that is dropped; otlp.py logs changes of state.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)


def audit(event: str, fields: dict[str, object]) -> None:
    """Log what an operator did, for the audit trail."""
    structlog.get_logger().warning(event, audit=True, **fields)


def _write(line: bytes) -> None:
    sys.stderr.buffer.write(line + b"\n")
    sys.stderr.buffer.flush()


CONSOLE = Console(_write)
