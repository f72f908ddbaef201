"""Whose request it is, as the trusted proxies in front say: one name for each client, however it is spelled."""

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# A provider of internet access gives a customer a whole network of this size.
IPV6_CLIENT_BITS = 64
_FOR = re.compile(r'(?:^|[;,])\s*for\s*=\s*(?:"([^"]*)"|([^;,\s"]*))', re.IGNORECASE)


def normalized(text: str) -> str | None:
    """An address without port, brackets and zone; IPv4 in IPv6 as IPv4, IPv6 by its /64; None if it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address, IPV6_CLIENT_BITS), strict=False))
    return str(address)


def forwarded_client(field: str, proxies: int, standard: bool) -> str | None:
    """The client that the first of ``proxies`` trusted ones has seen; None if it did not say.

    ``field`` is X-Forwarded-For, or Forwarded (RFC 7239) if ``standard``; several lines are joined by commas. What is
    left of the trusted entries was sent by the client, and is not believed.
    """
    entries = [quoted or plain for quoted, plain in _FOR.findall(field)] if standard else field.split(",")
    return normalized(entries[-proxies]) if len(entries) >= proxies else None


def believing_proxies(inner: "WSGIApplication", proxies: int, header: str) -> "WSGIApplication":
    """Sets REMOTE_ADDR to the client's address; to that of the connection where the proxies name none."""
    key, standard = f"HTTP_{header.upper().replace('-', '_')}", header.lower() == "forwarded"

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        field = environ.get(key)
        if field:
            client = forwarded_client(field, proxies, standard)
            if client is not None:
                environ["REMOTE_ADDR"] = client
        return inner(environ, start_response)

    return application
