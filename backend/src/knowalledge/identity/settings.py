"""Settings of who may ask, and how often."""

from dataclasses import dataclass

from knowalledge.core.parsers import header_name, non_negative, one_of, request_rate
from knowalledge.core.settings import setting


@dataclass(frozen=True)
class ClientSettings:
    """``clients.*``"""

    rate: str = setting(
        request_rate,
        "",
        "How often one client (a tenant, else an address) may ask, such as 600/minute; empty: as often as it likes.",
    )
    proxies: int = setting(
        non_negative, 0, "How many proxies in front are trusted to say in X-Forwarded-For who asks."
    )


@dataclass(frozen=True)
class AuthSettings:
    """``auth.*``"""

    tenant_header: str = setting(
        header_name,
        "",
        "The header in which a trusted front names the tenant; empty: all callers are one tenant.",
    )
    mode: str = setting(
        one_of("none", "required"),
        "none",
        "required: a front lets in only who says who it is, so no cache outside may share its answers.",
    )
