"""Failures as google.rpc.Status, the form of Google's REST APIs.

Source: google.aip.dev/193; cloud.google.com/apis/design/errors for the canonical names of statuses.
"""

from typing import Any

from knowalledge.core.openapi import ErrorForm
from knowalledge.gateway.api.gemini.schemas import StatusBody
from knowalledge.web.problems import code_of, message_of, param_of, retry_after, status_of

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPE = "type.googleapis.com/google.rpc."


def error_body(error: BaseException, request_id: str) -> dict[str, Any]:
    """The document ``{"error": {...}}``; a 429 or 503 carries RetryInfo, a 400 the field at fault."""
    status, message, param = status_of(error), message_of(error), param_of(error)
    details: list[dict[str, Any]] = [
        {"@type": f"{_TYPE}ErrorInfo", "reason": code_of(error).upper(), "domain": "knowalledge"},
        {"@type": f"{_TYPE}RequestInfo", "requestId": request_id},
    ]
    if status == 400 and param:
        violation = {"field": param, "description": message}
        details.append({"@type": f"{_TYPE}BadRequest", "fieldViolations": [violation]})
    seconds = retry_after(error, status)
    if seconds is not None:
        details.append({"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{seconds}s"})
    return {
        "error": {
            "code": status,
            "message": message,
            "status": _STATUSES.get(status, "INVALID_ARGUMENT" if 400 <= status < 500 else "INTERNAL"),
            "details": details,
        }
    }


FORM = ErrorForm("gemini", StatusBody, error_body)
