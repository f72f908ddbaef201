"""Settings of traces and logs."""

from dataclasses import dataclass

from knowalledge.core.parsers import duration, fraction, http_address, one_of
from knowalledge.core.settings import setting


@dataclass(frozen=True)
class TracingSettings:
    """``tracing.*``"""

    endpoint: str = setting(
        http_address,
        "",
        "Where spans go, by OTLP over HTTP in protobuf, such as http://collector:4318; empty: nothing is traced.",
    )
    sample: float = setting(
        fraction,
        0.1,
        "The share of requests that are traced, of those whose caller's traceparent does not say.",
    )
    timeout: float = setting(duration, 5.0, "A store of traces that does not answer within this is away.")


@dataclass(frozen=True)
class LogSettings:
    """``log.*``"""

    level: str = setting(
        one_of("debug", "info", "warning", "error"), "info", "The lowest level that is logged."
    )
    format: str = setting(
        one_of("auto", "text", "json"),
        "auto",
        "`text` is for people, with a line for each request; `json` for programs; `auto`: text on a terminal.",
    )
