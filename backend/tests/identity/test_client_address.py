"""A client is one client however its address is written, and cannot pass for another."""

from typing import Any

import pytest

from knowalledge.identity.client_address import believing_proxies, forwarded_client, normalized


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7:4711 ", "192.0.2.7"),
        ("[2001:db8::1]", "2001:db8::/64"),
        ("[2001:db8::1]:4711", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::9", "2001:db8::/64"),
        ("2001:db8:0:1::9", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:80", "192.0.2.7"),
        ("unknown", None),
        ("_hidden", None),
        ("", None),
        ("192.0.2", None),
        ("a.example:80", None),
    ],
)
def test_every_spelling_of_an_address_is_one_client(text: str, name: str | None) -> None:
    assert normalized(text) == name


@pytest.mark.parametrize(
    ("field", "proxies", "client"),
    [
        ("192.0.2.7", 1, "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7", 1, "192.0.2.7"),
        ("6.6.6.6,192.0.2.7:9,10.0.0.1", 2, "192.0.2.7"),
        ("192.0.2.7", 2, None),
        ("6.6.6.6, unknown", 1, None),
    ],
)
def test_only_what_trusted_proxies_added_is_believed(field: str, proxies: int, client: str | None) -> None:
    assert forwarded_client(field, proxies, standard=False) == client


@pytest.mark.parametrize(
    ("field", "client"),
    [
        ("for=192.0.2.7", "192.0.2.7"),
        ('for=6.6.6.6, For="[2001:db8::1]:4711";proto=https;by=203.0.113.43', "2001:db8::/64"),
        ("proto=http;for=192.0.2.7;by=_x", "192.0.2.7"),
        ("for=unknown", None),
        ('by="for=6.6.6.6"', None),
    ],
)
def test_the_standard_header_is_read_as_well(field: str, client: str | None) -> None:
    assert forwarded_client(field, 1, standard=True) == client


@pytest.mark.parametrize(
    ("header", "environ", "address"),
    [
        ("X-Forwarded-For", {"HTTP_X_FORWARDED_FOR": "192.0.2.7:1"}, "192.0.2.7"),
        ("X-Forwarded-For", {"HTTP_FORWARDED": "for=192.0.2.7"}, "10.0.0.1"),
        ("Forwarded", {"HTTP_FORWARDED": "for=192.0.2.7", "HTTP_X_FORWARDED_FOR": "6.6.6.6"}, "192.0.2.7"),
        ("X-Forwarded-For", {"HTTP_X_FORWARDED_FOR": "unknown"}, "10.0.0.1"),
        ("X-Forwarded-For", {}, "10.0.0.1"),
    ],
)
def test_the_other_header_is_the_clients_own(header: str, environ: dict[str, Any], address: str) -> None:
    seen: list[str] = []

    def app(environ: dict[str, Any], _: Any) -> list[bytes]:
        seen.append(environ["REMOTE_ADDR"])
        return []

    assert believing_proxies(app, 1, header)({"REMOTE_ADDR": "10.0.0.1", **environ}, lambda *_: None) == []  # type: ignore[arg-type]
    assert seen == [address]
