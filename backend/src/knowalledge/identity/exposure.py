"""Whether other machines can reach an address that a server listens on."""

from ipaddress import ip_address

from knowalledge.core.settings import Fault
from knowalledge.identity.settings import AuthSettings

_CURE = (
    "set auth.mode: required and make keys (knowalledge keys create), or listen on 127.0.0.1, or set "
    "auth.allow_anonymous: true where a network policy or a proxy lets nobody else in"
)


def is_local(bind: str) -> bool:
    """Whether only this machine can connect to ``HOST:PORT`` or ``unix:PATH``. Names other than localhost may not."""
    if bind.startswith(("unix:", "fd://")):
        return True
    host = bind.rpartition(":")[0].strip("[]").lower()
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def exposed(settings: AuthSettings, bind: str) -> Fault | None:
    """The fault of serving everybody who can connect, unless a setting says so."""
    if settings.mode != "none" or settings.allow_anonymous or is_local(bind):
        return None
    return Fault("--bind", f"{bind} serves other machines, and auth.mode is none", _CURE)
