"""Reading request bodies: bounded bytes, and JSON as a typed value."""

import json
import re
from typing import Any

import msgspec
from flask import Request

from knowalledge.core.errors import InvalidRequest, PayloadTooLarge
from knowalledge.web.wording import explained, not_json


def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body, which is UTF-8.

    Raises ``PayloadTooLarge`` beyond ``max_bytes`` and ``InvalidRequest`` if it ends early or is not UTF-8.
    """
    length = request.environ.get("CONTENT_LENGTH") or ""
    try:
        if length.isdecimal():
            if int(length) > max_bytes:
                raise _too_large(max_bytes)
            body: bytes = request.environ["wsgi.input"].read(int(length))
        else:  # in chunks or absent; the framework knows which
            body = request.stream.read(max_bytes + 1)
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
    except OSError as error:
        raise InvalidRequest("the body ended early, or its chunks are malformed") from error
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is not UTF-8") from error
    return body


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {max_bytes} bytes")


# The escape of a UTF-16 surrogate, which is half a character.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")


def _lone_surrogate(body: bytes) -> str:
    """The place of the first text with a lone surrogate, as ``messages[0].content``; empty if there is none."""
    try:
        stack: list[tuple[str, Any]] = [("", json.loads(body))]
    except (ValueError, RecursionError):
        return ""
    while stack:
        place, value = stack.pop()
        if isinstance(value, str) and _HALF.search(value):
            return place
        if isinstance(value, dict):
            if any(map(_HALF.search, value)):
                return place or "the body"
            stack += reversed([(f"{place}.{name}".lstrip("."), it) for name, it in value.items()])
        elif isinstance(value, list):
            stack += reversed([(f"{place}[{index}]", it) for index, it in enumerate(value)])
    return ""


def decode(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    """A JSON body as the decoder's type. Raises ``InvalidRequest`` that names the field, never its value."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        sentence, param = explained(error, decoder.type)
        raise InvalidRequest(sentence, param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _SURROGATE.search(body) and (place := _lone_surrogate(body)):
            raise InvalidRequest("half of a surrogate pair is no character", param=place) from error
        raise InvalidRequest(not_json(error, body)) from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
