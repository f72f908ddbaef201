"""Well-formed heads are parsed; heads that two parsers could read differently are rejected."""

from io import BytesIO

import pytest

from knowalledge.net.wsgi_head import (
    MAX_FIELDS,
    MAX_HEAD,
    MalformedRequest,
    RequestHead,
    parse_request_line,
)

HOST = b"Host: a\r\n"


def head(text: bytes, version: str = "HTTP/1.1") -> RequestHead:
    return RequestHead(BytesIO(text), version)


def test_fields_are_looked_up_in_any_case_and_the_body_is_not_read() -> None:
    stream = BytesIO(b"Host: a\r\nX-Two:  b c \t\r\nx-two:d\r\nEmpty:\r\nContent-Length: 4\r\n\r\nbody")
    parsed = RequestHead(stream)
    assert (parsed.get("host"), parsed.get("x-two"), parsed.get("empty")) == ("a", "b c", "")
    assert parsed.get("missing", "none") == "none"
    assert stream.read() == b"body"
    assert list(parsed.environ()) == [
        ("HTTP_HOST", "a"),
        ("HTTP_X_TWO", "b c"),
        ("HTTP_X_TWO", "d"),
        ("HTTP_EMPTY", ""),
    ]


def test_bytes_above_ascii_are_decoded_as_latin_1() -> None:
    assert head(HOST + b"X: \xc3\xa9\r\n\r\n").get("x") == "\xc3\xa9"


def test_a_name_with_an_underscore_cannot_pass_for_one_with_a_hyphen() -> None:
    assert list(head(HOST + b"X_Priority: critical\r\n\r\n").environ()) == [("HTTP_HOST", "a")]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"X: a",
        b"X: a\r\n",
        b"X: a\n\r\n",
        b"X: a\r\n\n",
        b"X: a\r\r\n\r\n",
        b"no colon\r\n\r\n",
        b": no name\r\n\r\n",
        b"X : a\r\n\r\n",
        b"A: b\r\n folded\r\n\r\n",
        b" X: a\r\n\r\n",
        b"A: b\rX: c\r\n\r\n",
        b"A: b\x00\r\n\r\n",
        b"A\xe9: b\r\n\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n",
        b"Content-Length: 4\r\nContent-Length: 4\r\n\r\n",
        b"Content-Length: +4\r\n\r\n",
        b"Content-Length: -4\r\n\r\n",
        b"Content-Length: 0x4\r\n\r\n",
        b"Content-Length: 1_0\r\n\r\n",
        b"Content-Length: 4, 4\r\n\r\n",
        b"Content-Length: \xb2\r\n\r\n",
        b"Content-Length:\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n",
        b"Transfer-Encoding: identity\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n",
        b"Transfer-Encoding:\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n\r\n",
        HOST + b"\r\n",
        b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n",
        b"A: " + b"b" * MAX_HEAD + b"\r\n\r\n",
    ],
)
def test_a_malformed_or_ambiguous_head_is_rejected(text: bytes) -> None:
    with pytest.raises(MalformedRequest):
        head(HOST + text)
    head(HOST + b"X: a\r\n\r\n")


@pytest.mark.parametrize(
    "host", [b"", b"Host: a/b\r\n", b"Host: a b\r\n", b"Host: a@b\r\n", b"Host: [::1\r\n"]
)
def test_a_request_without_a_proper_host_is_rejected(host: bytes) -> None:
    with pytest.raises(MalformedRequest, match="Host"):
        head(host + b"X: a\r\n\r\n")


def test_http_1_0_needs_no_host_and_has_no_codings() -> None:
    assert head(b"X: a\r\n\r\n", "HTTP/1.0").get("host") is None
    with pytest.raises(MalformedRequest, match="ambiguous"):
        head(HOST + b"Transfer-Encoding: chunked\r\n\r\n", "HTTP/1.0")


@pytest.mark.parametrize("host", [b"", b"a.example:80", b"[::1]:8080", b"10.0.0.1", b"a_b"])
def test_a_host_may_be_a_name_or_an_address_or_empty(host: bytes) -> None:
    assert head(b"Host: " + host + b"\r\n\r\n").get("host") == host.decode()


@pytest.mark.parametrize(
    ("version", "field", "keeps"),
    [
        ("HTTP/1.1", b"", True),
        ("HTTP/1.1", b"Connection: close\r\n", False),
        ("HTTP/1.1", b"Connection: X-A, Close\r\n", False),
        ("HTTP/1.1", b"Connection: upgrade\r\n", True),
        ("HTTP/1.0", b"", False),
        ("HTTP/1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_the_client_says_whether_its_connection_lives_on(version: str, field: bytes, keeps: bool) -> None:
    assert head(HOST + field + b"\r\n", version).keeps_alive(version) is keeps


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        (b"GET /a?b=c HTTP/1.1\r\n", ("GET", "/a?b=c", "HTTP/1.1", None)),
        (b"POST /a HTTP/1.0\r\n", ("POST", "/a", "HTTP/1.0", None)),
        (b"GET http://x.example:8/a?b HTTP/1.1\r\n", ("GET", "/a?b", "HTTP/1.1", "x.example:8")),
        (b"GET HTTPS://x HTTP/1.1\r\n", ("GET", "/", "HTTP/1.1", "x")),
        (b"GET http://x?b HTTP/1.1\r\n", ("GET", "/?b", "HTTP/1.1", "x")),
        (b"OPTIONS * HTTP/1.1\r\n", ("OPTIONS", "*", "HTTP/1.1", None)),
        (b"OPTIONS http://x HTTP/1.1\r\n", ("OPTIONS", "*", "HTTP/1.1", "x")),
    ],
)
def test_a_request_line_names_a_path_or_a_url_or_the_server(line: bytes, parsed: tuple[object, ...]) -> None:
    assert parse_request_line(line) == parsed


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1 \r\n",
        b"GET  / HTTP/1.1\r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET\t/ HTTP/1.1\r\n",
        b"GET / http/1.1\r\n",
        b"GET / HTTP/1.01\r\n",
        b"GET / HTTP/1.2\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET /\r\n",
        b"GET /a b HTTP/1.1\r\n",
        b"GET /a#b HTTP/1.1\r\n",
        b"GET /\x00 HTTP/1.1\r\n",
        b"GET a HTTP/1.1\r\n",
        b"GET * HTTP/1.1\r\n",
        b"GET http:///a HTTP/1.1\r\n",
        b"GET http://u@x/a HTTP/1.1\r\n",
        b"GET ftp://x/a HTTP/1.1\r\n",
        b"CONNECT x:443 HTTP/1.1\r\n",
        b"G(T / HTTP/1.1\r\n",
        b"\r\n",
    ],
)
def test_any_other_request_line_is_rejected(line: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_request_line(line)


def test_a_long_run_of_spaces_is_parsed_in_linear_time() -> None:
    assert head(HOST + b"A:" + b" " * 60_000 + b"b\r\n\r\n").get("a") == "b"
