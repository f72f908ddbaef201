"""Reading request bodies: bounded bytes, and JSON as a typed value."""

import re
from typing import Any

import msgspec
from flask import Request

from knowalledge.core.errors import InvalidRequest, PayloadTooLarge


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


def decode(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    """A JSON body as the decoder's type. Raises ``InvalidRequest`` that names the field, never its value."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        # It ends in a path or a field's name; for the body as a whole, in the name of a type.
        param = text.rsplit("`", 2)[1] if re.search("(?: - at|field) `[^`]*`$", text) else ""
        raise InvalidRequest(text, param=param.removeprefix("$.").removeprefix("$")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest("the body is not JSON") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
