"""Where a request keeps its trace."""

from typing import Any

from knowalledge.core.trace_context import UNTRACED, Trace

TRACE = "knowalledge.trace"


def trace_of(environ: dict[str, Any]) -> Trace:
    """The request's trace; ``UNTRACED`` if it has none."""
    trace: Trace = environ.get(TRACE, UNTRACED)
    return trace
