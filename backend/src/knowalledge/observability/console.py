"""The log for people: one line a request, with what the gateway and the HTTP server each know of it."""

import logging
import os
import re
import time
from collections.abc import Callable
from typing import Any

from structlog import DropEvent

# Requests whose response has not ended; those of responses that never end are forgotten.
_MAX_PENDING = 1000
# A path is shown without what a caller chose: topics, queries, and characters that a terminal might obey.
_SHOWN_SEGMENTS = 3
_ODD = re.compile(r"[^A-Za-z0-9/_.:-]")
_RED, _GREEN, _YELLOW, _END = b"\x1b[31m", b"\x1b[32m", b"\x1b[33m", b"\x1b[0m"
_STAMPS = ("timestamp", "level", "event")


class Console:
    """Makes lines for a person who watches.

    The gateway logs a request when it ends, and the server when its response has been sent: the second writes the line.
    """

    def __init__(self, write: Callable[[bytes], object], *, colours: bool | None = None) -> None:
        self._write = write
        self._colours = not os.environ.get("NO_COLOR") if colours is None else colours
        self._pending: dict[str, str] = {}  # by request id: what the gateway said of it

    def renderer(self, level: int) -> Callable[[Any, str, Any], bytes]:
        """A processor for structlog that writes events from ``level`` on, and keeps those of requests."""

        def render(_: Any, __: str, event: Any) -> bytes:
            if event["event"] == "request":
                self._keep(event)
                raise DropEvent
            if getattr(logging, event["level"].upper()) < level:
                raise DropEvent
            words = " ".join(f"{name}={value}" for name, value in event.items() if name not in _STAMPS)
            hue = _YELLOW if event["level"] in ("info", "warning", "debug") else _RED
            return self._painted(f"{_clock()}  {event['level']}: {event['event']} {words}".rstrip(), hue)

        return render

    def _keep(self, event: Any) -> None:
        parts = [str(event["model"])]
        if event["output_tokens"] or event["input_tokens"]:
            parts.append(f"{event['input_tokens']} + {event['output_tokens']} tokens")
        if event["outcome"] != "ok":
            parts.append(str(event["outcome"]))
        if event["waited_s"] >= 0.05:
            parts.append(f"waited {event['waited_s']:.1f} s")
        if event.get("error"):
            parts.append(str(event["error"]))
        while len(self._pending) >= _MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        self._pending[str(event["request_id"])] = ", ".join(parts)

    def responded(self, method: str, path: str, status: str, seconds: float, request_id: str) -> None:
        """Write the line of a request whose response has been sent. ``status`` begins with its code."""
        code = status[:3]
        hue = _GREEN if code < "400" else _YELLOW if code < "500" else _RED
        known = self._pending.pop(request_id, "")
        line = f"{_clock()}  {code}  {_ODD.sub('', method)[:10]:<4} {shortened(path):<28} {seconds:7.3f} s  {known}"
        self._write(self._painted(line.rstrip(), hue))

    def _painted(self, line: str, hue: bytes) -> bytes:
        return hue + line.encode() + _END if self._colours else line.encode()


def shortened(path: str) -> str:
    """A path without its query and without what comes after its third segment."""
    segments = _ODD.sub("", path.partition("?")[0]).split("/")
    shown = "/".join(segments[: _SHOWN_SEGMENTS + 1])[:60]
    return f"{shown}/..." if len(segments) > _SHOWN_SEGMENTS + 1 else shown


def _clock() -> str:
    return time.strftime("%H:%M:%S")
