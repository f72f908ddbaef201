"""Errors at the HTTP edge: one table from class to status, and a body in the asking dialect's own form."""

import re
from math import ceil
from pathlib import Path
from typing import Any

import msgspec
from flask import Response
from msgspec.structs import replace
from werkzeug.exceptions import HTTPException

from knowalledge.core import errors as e
from knowalledge.web.headers import rate_limit

_encode = msgspec.json.Encoder().encode


class WrongMethod(e.InvalidRequest):
    """The route exists, but not with this method; ``allowed`` says which it takes."""

    code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"this route takes {allowed}")
        self.allowed = allowed


# First match wins: the narrow before the wide.
STATUS: tuple[tuple[type[e.KnowalledgeError], int], ...] = (
    (WrongMethod, 405),
    (e.PayloadTooLarge, 413),
    (e.UnknownModel, 404),
    (e.InvalidRequest, 400),
    (e.NotFound, 404),
    (e.Limited, 429),
    (e.Unavailable, 503),
    (e.ClientGone, 499),  # seen by metrics only: nobody reads the answer
    (e.ProviderRateLimited, 429),
    (e.ProviderTimeout, 504),
    (e.ProviderError, 502),
)
TITLES = {
    400: "Invalid request",
    404: "Not found",
    405: "Method not allowed",
    413: "Too large",
    429: "Too many requests",
    499: "The client left",
    500: "Internal error",
    502: "The provider failed",
    503: "Unavailable",
    504: "The provider timed out",
}
_GOOGLE_STATUS = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_OPENAI_TYPE = {
    404: "not_found_error",
    429: "rate_limit_error",
}
# A refusal always says when to come back; one that does not know says this.
DEFAULT_RETRY_S = 1.0
# The longest time that we send anyone away for.
MAX_RETRY_S = 86_400
# Longer messages are cut: they quote names that a caller chose.
MAX_MESSAGE = 400


def status_of(error: BaseException) -> int:
    """The HTTP status of a failure; 500 for what is our own fault."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def retry_after(error: BaseException, status: int) -> int | None:
    """Whole seconds, rounded up, for answers that invite another try."""
    if status not in (429, 503):
        return None
    found = getattr(error, "retry_after", None)
    return max(1, ceil(min(DEFAULT_RETRY_S if found is None else found, MAX_RETRY_S)))


def code_of(error: BaseException) -> str:
    """The stable name of a failure."""
    return error.code if isinstance(error, e.KnowalledgeError) else "internal"


def message(error: BaseException) -> str:
    """What the caller may read; of our own faults nothing."""
    if isinstance(error, e.KnowalledgeError):
        return error.message[:MAX_MESSAGE]
    return "something went wrong on our side"


def _param(error: BaseException) -> str:
    return error.param if isinstance(error, e.KnowalledgeError) else ""


def problem(error: BaseException, request_id: str) -> dict[str, Any]:
    """RFC 9457 problem details."""
    status = status_of(error)
    code = code_of(error)
    found: dict[str, Any] = {
        "type": f"urn:knowalledge:error:{code}",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": message(error),
        "code": code,
        "request_id": request_id,
    }
    after = retry_after(error, status)
    if after is not None:
        found["retry_after_s"] = after
    if _param(error):
        found["param"] = _param(error)
    return found


def openai_body(error: BaseException, request_id: str) -> dict[str, Any]:
    """The error object that the ``openai`` SDKs turn into their own exceptions."""
    status = status_of(error)
    kind = _OPENAI_TYPE.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {
        "error": {
            "message": message(error),
            "type": kind,
            "param": _param(error) or None,
            "code": code_of(error),
            "request_id": request_id,
        }
    }


def google_body(error: BaseException, request_id: str) -> dict[str, Any]:
    """google.rpc.Status as Google's REST APIs render it; a 429 carries RetryInfo."""
    status = status_of(error)
    details: list[dict[str, Any]] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": code_of(error).upper(),
            "domain": "knowalledge",
        },
        {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": request_id},
    ]
    if status == 400 and _param(error):
        violation = {"field": _param(error), "description": message(error)}
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]})
    after = retry_after(error, status)
    if after is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{after}s"})
    return {
        "error": {
            "code": status,
            "message": message(error),
            "status": _GOOGLE_STATUS.get(status, "INTERNAL"),
            "details": details,
        }
    }


_BODIES = {"openai": openai_body, "gemini": google_body}


def dialect(blueprint: str | None, path: str, google: bool) -> str:
    """Whose form an error takes: that of the blueprint that was asked, else the one its path looks like.

    ``google`` says that a client of Google's asks, which settles the addresses that both dialects have.
    """
    if google and path.startswith("/v1"):
        return "gemini"
    if blueprint is not None:
        return blueprint
    if path.startswith(("/v1beta/", "/v1beta1/", "/v1/projects/", "/v1/publishers/")) or _METHOD.search(path):
        return "gemini"
    return "openai" if path.startswith("/v1/") else "native"


# A method of Google's at the end of a path.
_METHOD = re.compile(r"^/v1/models/.+:[A-Za-z]+$")


def of_http(error: HTTPException) -> e.KnowalledgeError:
    """What the framework itself refuses, as one of our own errors."""
    if error.code == 404:
        return e.NotFound("there is nothing at this address")
    if error.code == 405:
        return WrongMethod(", ".join(sorted(getattr(error, "valid_methods", None) or ())))
    if error.code == 413:
        return e.PayloadTooLarge("the body is too large")
    return e.InvalidRequest("the request cannot be understood")


def response(error: BaseException, request_id: str, form: str) -> Response:
    """The answer to a failed request, in the form of a dialect."""
    status = status_of(error)
    body = _BODIES.get(form, problem)(error, request_id)
    kind = "application/json" if form in _BODIES else "application/problem+json"
    headers = [("X-Request-ID", request_id), ("Cache-Control", "no-store")]
    after = retry_after(error, status)
    if after is not None:
        headers.append(("Retry-After", str(after)))
        if isinstance(error, e.Limited):
            # Room comes for this request after so long, so the fields may not send it away for longer.
            left = (replace(it, resets_s=min(it.resets_s, after)) for it in error.allowances)
            headers += rate_limit(tuple(left))
    if isinstance(error, WrongMethod):
        headers.append(("Allow", error.allowed))
    return Response(_encode(body), status, headers, content_type=kind)


def place(error: BaseException) -> str:
    """Where an error arose, for the log: file and line, never its message, which may quote what a caller sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown"
