"""Structured logs: one JSON object per line on standard error. Never a prompt, an answer or a secret."""

import logging
import sys
from typing import Any

import msgspec
import structlog

_encode = msgspec.json.Encoder().encode


def _render(_: Any, __: str, event: Any) -> bytes:
    return _encode(event)


def configure(level: str) -> None:
    """Set up structlog, once per process. ``level`` is debug, info, warning or error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    # Its SDK has a line for each message that fails and each span that is dropped; otlp.py logs changes of state.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)


def audit(event: str, fields: dict[str, object]) -> None:
    """Log what an operator did, for the audit trail."""
    structlog.get_logger().warning(event, audit=True, **fields)
