"""Well-formed heads are parsed; heads that two parsers could read differently are rejected."""

from io import BytesIO

import pytest

from knowalledge.net.wsgi_head import MAX_FIELDS, MAX_HEAD, RequestHead


def head(text: bytes) -> RequestHead:
    return RequestHead(BytesIO(text))


def test_fields_are_looked_up_in_any_case_and_the_body_is_not_read() -> None:
    stream = BytesIO(b"Host: a\r\nX-Two:  b c \t\r\nx-two:d\r\nEmpty:\r\nContent-Length: 4\r\n\r\nbody")
    parsed = RequestHead(stream)
    assert (parsed.get("HOST"), parsed.get("x-two"), parsed.get("empty")) == ("a", "b c", "")
    assert parsed.get("missing", "none") == "none"
    assert stream.read() == b"body"
    assert list(parsed.environ()) == [
        ("HTTP_HOST", "a"),
        ("HTTP_X_TWO", "b c"),
        ("HTTP_X_TWO", "d"),
        ("HTTP_EMPTY", ""),
    ]


def test_bytes_above_ascii_are_decoded_as_latin_1() -> None:
    assert head(b"X: \xc3\xa9\n\n").get("x") == "\xc3\xa9"


def test_a_name_with_an_underscore_cannot_pass_for_one_with_a_hyphen() -> None:
    assert list(head(b"X_Priority: critical\r\n\r\n").environ()) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"Host: a",
        b"Host: a\r\n",
        b"no colon\r\n\r\n",
        b": no name\r\n\r\n",
        b"Host : a\r\n\r\n",
        b"A: b\r\n folded\r\n\r\n",
        b" Host: a\r\n\r\n",
        b"A: b\rX: c\r\n\r\n",
        b"A: b\x00\r\n\r\n",
        b"A\xe9: b\r\n\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n",
        b"Content-Length: +4\r\n\r\n",
        b"Content-Length: -4\r\n\r\n",
        b"Content-Length: 1_0\r\n\r\n",
        b"Content-Length: 4, 4\r\n\r\n",
        b"Content-Length: \xb2\r\n\r\n",
        b"Content-Length:\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n\r\n",
        b"Host: a\r\nHost: b\r\n\r\n",
        b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n",
        b"A: " + b"b" * MAX_HEAD + b"\r\n\r\n",
    ],
)
def test_a_malformed_or_ambiguous_head_is_rejected(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"head|field|twice|ends|length"):
        head(text)


def test_a_long_run_of_spaces_is_parsed_in_linear_time() -> None:
    assert head(b"A:" + b" " * 60_000 + b"b\r\n\r\n").get("a") == "b"
