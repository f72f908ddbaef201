"""Settings of authentication and of each client's request rate."""

from dataclasses import dataclass

from knowalledge.core.parsers import header_name, non_negative, one_of, request_rate
from knowalledge.core.settings import setting


@dataclass(frozen=True)
class ClientSettings:
    """``clients.*``"""

    rate: str = setting(
        request_rate,
        "",
        "Requests that one client (a tenant, else an address) may send, such as 600/minute; empty: no limit.",
    )
    proxies: int = setting(
        non_negative,
        0,
        "Trusted proxies in front of the gateway, whose entries in X-Forwarded-For are believed.",
    )


@dataclass(frozen=True)
class AuthSettings:
    """``auth.*``"""

    tenant_header: str = setting(
        header_name,
        "",
        "The header in which a trusted proxy names the tenant; empty: all callers are one tenant.",
    )
    mode: str = setting(
        one_of("none", "required"),
        "none",
        "`required`: callers authenticate, so answers are `private` and CDNs must not store them.",
    )
