"""Errors at the HTTP edge: one table from class to status, and a body in the asking dialect's own form."""

from math import ceil
from typing import Any

import msgspec
from flask import Response

from knowalledge.domain import errors as e

_encode = msgspec.json.Encoder().encode

# First match wins: the narrow before the wide.
STATUS: tuple[tuple[type[e.KnowalledgeError], int], ...] = (
    (e.PayloadTooLarge, 413),
    (e.UnknownModel, 404),
    (e.InvalidRequest, 400),
    (e.Unauthenticated, 401),
    (e.Forbidden, 403),
    (e.NotFound, 404),
    (e.IdempotencyConflict, 409),
    (e.IdempotencyMismatch, 422),
    (e.Limited, 429),
    (e.Unavailable, 503),
    (e.ProviderRateLimited, 429),
    (e.ProviderTimeout, 504),
    (e.ProviderError, 502),
)
TITLES = {
    400: "Invalid request",
    401: "Not authenticated",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Too large",
    422: "Unprocessable",
    429: "Too many requests",
    500: "Internal error",
    502: "The provider failed",
    503: "Unavailable",
    504: "The provider timed out",
}
_GOOGLE_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    502: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_OPENAI_TYPE = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# A refusal always says when to come back; one that does not know says this.
DEFAULT_RETRY_S = 1.0


def status_of(error: BaseException) -> int:
    """The HTTP status of a failure; 500 for what is our own fault."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def retry_after(error: BaseException, status: int) -> int | None:
    """Whole seconds, rounded up, for answers that invite another try."""
    if status not in (429, 503):
        return None
    found = getattr(error, "retry_after", None)
    return max(1, ceil(min(DEFAULT_RETRY_S if found is None else found, 86_400)))


def problem(error: BaseException, request_id: str) -> dict[str, Any]:
    """RFC 9457 problem details."""
    status = status_of(error)
    code = getattr(error, "code", "internal")
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
    if getattr(error, "param", ""):
        found["param"] = error.param  # type: ignore[attr-defined]
    return found


def message(error: BaseException) -> str:
    """What the caller may read; of our own faults nothing."""
    return error.message if isinstance(error, e.KnowalledgeError) else "something went wrong on our side"


def openai_body(error: BaseException, request_id: str) -> dict[str, Any]:
    status = status_of(error)
    kind = _OPENAI_TYPE.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {
        "error": {
            "message": message(error),
            "type": kind,
            "param": getattr(error, "param", "") or None,
            "code": getattr(error, "code", "internal"),
            "request_id": request_id,
        }
    }


def google_body(error: BaseException, request_id: str) -> dict[str, Any]:
    status = status_of(error)
    details: list[dict[str, Any]] = [
        {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": request_id}
    ]
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


def response(error: BaseException, request_id: str, path: str) -> Response:
    """The answer to a failed request, in the dialect of its path."""
    status = status_of(error)
    kind = "application/json"
    if (path.startswith(("/v1beta", "/v1/projects", "/v1/models/")) and ":" in path) or path.startswith(
        "/v1beta"
    ):
        body = google_body(error, request_id)
    elif path.startswith("/v1/"):
        body = openai_body(error, request_id)
    else:
        body, kind = problem(error, request_id), "application/problem+json"
    answer = Response(_encode(body), status, content_type=kind)
    answer.headers["X-Request-ID"] = request_id
    answer.headers["Cache-Control"] = "no-store"
    after = retry_after(error, status)
    if after is not None:
        answer.headers["Retry-After"] = str(after)
    return answer
