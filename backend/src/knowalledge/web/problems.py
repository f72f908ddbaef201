"""Failures at the HTTP edge: the status of each class of error, and the response that tells of one.

The body is RFC 9457 problem details, unless the API that was called brings an ``ErrorForm`` of its own.
"""

from html import escape
from math import ceil
from pathlib import Path
from typing import Any

import msgspec
from flask import Response
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace
from werkzeug.exceptions import HTTPException

from knowalledge.core import errors
from knowalledge.core.openapi import ErrorForm
from knowalledge.web.headers import rate_limit

_encode = msgspec.json.Encoder().encode


class WrongMethod(errors.InvalidRequest):
    """The route exists, but not with this method; ``allowed`` lists those that it takes."""

    code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"this route takes {allowed}")
        self.allowed = allowed


class Problem(Struct, frozen=True):
    """A failure (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retry_after_s: int | UnsetType = UNSET
    param: str | UnsetType = UNSET


# A class that is not listed has the status of its nearest listed base; what has none is 500, our own fault.
_STATUS: dict[type[BaseException], int] = {
    errors.InvalidRequest: 400,
    errors.UnknownModel: 404,
    errors.PayloadTooLarge: 413,
    WrongMethod: 405,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.Limited: 429,
    errors.Unavailable: 503,
    errors.ClientGone: 499,  # for the metrics: no client is left to read the response
    errors.ProviderError: 502,
    errors.ProviderRateLimited: 429,
    errors.ProviderTimeout: 504,
}
TITLES = {
    400: "Invalid request",
    401: "Not authenticated",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported media",
    422: "Cannot be processed",
    429: "Too many requests",
    499: "The client left",
    500: "Internal error",
    502: "The provider failed",
    503: "Unavailable",
    504: "The provider timed out",
}
# Retry-After of a refusal that does not know when to come back, in seconds.
DEFAULT_RETRY_S = 1.0
# The longest Retry-After, in seconds: a day.
MAX_RETRY_S = 86_400
# Longer messages are cut, in characters: they quote names that a caller chose.
MAX_MESSAGE = 400


def status_of_kind(kind: type[BaseException]) -> int:
    """The HTTP status of a class of errors; 500 for our own faults."""
    return next((_STATUS[base] for base in kind.__mro__ if base in _STATUS), 500)


def status_of(error: BaseException) -> int:
    """The HTTP status of a failure; the provider's where it does not take the request; 500 for our own faults."""
    return error.status if isinstance(error, errors.ProviderRejected) else status_of_kind(type(error))


def retry_after(error: BaseException, status: int) -> int | None:
    """Retry-After in whole seconds, rounded up, for 429 and 503; None for all others."""
    if status not in (429, 503):
        return None
    seconds: float | None = getattr(error, "retry_after", None)
    return max(1, ceil(min(DEFAULT_RETRY_S if seconds is None else seconds, MAX_RETRY_S)))


def code_of(error: BaseException) -> str:
    """The stable, documented name of a failure; ``internal`` for our own faults."""
    return error.code if isinstance(error, errors.KnowalledgeError) else errors.KnowalledgeError.code


def message_of(error: BaseException) -> str:
    """What the caller may read of a failure; of our own faults only that there was one."""
    if isinstance(error, errors.KnowalledgeError):
        return error.message[:MAX_MESSAGE]
    return "something went wrong on our side"


def param_of(error: BaseException) -> str:
    """The field or header at fault; empty if there is none."""
    return error.param if isinstance(error, errors.KnowalledgeError) else ""


def problem(error: BaseException, request_id: str) -> dict[str, Any]:
    """Problem details (RFC 9457), with our ``code``, ``request_id``, ``retry_after_s`` and ``param``."""
    status, code = status_of(error), code_of(error)
    body: dict[str, Any] = {
        "type": f"urn:knowalledge:error:{code}",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": message_of(error),
        "code": code,
        "request_id": request_id,
    }
    seconds = retry_after(error, status)
    if seconds is not None:
        body["retry_after_s"] = seconds
    if param := param_of(error):
        body["param"] = param
    return body


PROBLEM = ErrorForm("native", Problem, problem, "application/problem+json")


def response(error: BaseException, request_id: str, form: ErrorForm = PROBLEM) -> Response:
    """The response to a failed request."""
    status = status_of(error)
    headers = [("X-Request-ID", request_id), ("Cache-Control", "no-store")]
    seconds = retry_after(error, status)
    if seconds is not None:
        headers.append(("Retry-After", str(seconds)))
        if isinstance(error, errors.Limited):
            # Quota is free for this request after Retry-After, so no window may name a later time.
            capped = (replace(it, resets_s=min(it.resets_s, seconds)) for it in error.allowances)
            headers += rate_limit(tuple(capped))
    if isinstance(error, errors.Unauthenticated):
        headers.append(("WWW-Authenticate", 'Bearer realm="knowalledge"'))
    if isinstance(error, WrongMethod):
        headers.append(("Allow", error.allowed))
    body = _encode(form.body(error, request_id))
    return Response(body, status, headers, content_type=form.media_type)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{status} {title}</title></head>
<body><h1>{title}</h1><p>{detail}.</p>
<p><a href="/api/docs">What there is</a></p><p>Request {request_id}</p></body></html>
"""


def page(error: BaseException, request_id: str) -> Response:
    """The response to a person at a browser who asks for what is not there."""
    status = status_of(error)
    words = {"title": TITLES.get(status, "Error"), "detail": message_of(error), "request_id": request_id}
    body = _PAGE.format(status=status, **{name: escape(text) for name, text in words.items()})
    headers = [("X-Request-ID", request_id), ("Cache-Control", "no-store"), ("Vary", "Accept")]
    headers += [
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if isinstance(error, WrongMethod):
        headers.append(("Allow", error.allowed))
    return Response(body, status, headers, content_type="text/html; charset=utf-8")


def from_http_exception(error: HTTPException) -> errors.KnowalledgeError:
    """One of our own errors for what the framework itself refuses."""
    if error.code == 404:
        return errors.NotFound("there is nothing at this address")
    if error.code == 405:
        return WrongMethod(", ".join(sorted(getattr(error, "valid_methods", None) or ())))
    if error.code == 413:
        return errors.PayloadTooLarge("the body is too large")
    return errors.InvalidRequest("the request cannot be understood")


def source_of(error: BaseException) -> str:
    """Where an error was raised, as ``file:line`` for the log; never its message, which may quote a prompt."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown"
