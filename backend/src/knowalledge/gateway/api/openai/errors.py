"""Failures in OpenAI's form, which the ``openai`` SDKs turn into their own exceptions.

Source: platform.openai.com/docs/guides/error-codes/api-errors.
"""

from typing import Any

from knowalledge.core.errors import ProviderRejected
from knowalledge.core.openapi import ErrorForm
from knowalledge.gateway.api.openai.schemas import FaultBody
from knowalledge.web.problems import code_of, message_of, param_of, status_of

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(error: BaseException, request_id: str) -> dict[str, Any]:
    """The document ``{"error": {...}}``."""
    status = status_of(error)
    return {
        "error": {
            "message": message_of(error),
            "type": _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
            "param": param_of(error) or None,
            "code": (isinstance(error, ProviderRejected) and error.provider_code) or code_of(error),
            "request_id": request_id,
        }
    }


FORM = ErrorForm("openai", FaultBody, error_body)
