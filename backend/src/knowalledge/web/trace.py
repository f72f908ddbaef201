"""Where a request keeps its trace."""

from typing import TYPE_CHECKING, Any

from knowalledge.core.trace_context import UNTRACED, Trace

if TYPE_CHECKING:
    pass

# Where a request keeps its trace.
TRACE = "knowalledge.trace"


def trace_of(environ: dict[str, Any]) -> Trace:
    """The trace of a request; one that listens to nothing if it is not traced."""
    found: Trace = environ.get(TRACE, UNTRACED)
    return found
