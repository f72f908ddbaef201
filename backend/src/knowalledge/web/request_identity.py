"""Who calls, how urgently, for how long, and under which request id, as a request's headers say."""

import re
from collections.abc import Callable
from typing import Any

from knowalledge.core.context import Principal, Priority
from knowalledge.core.errors import Forbidden, InvalidRequest

_PRIORITIES = {level.label: level for level in Priority}
_LABELS = ", ".join(_PRIORITIES)
_SAFE_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_URGENCY = re.compile(r"(?:^|,)\s*u\s*=\s*([^,;\s]*)")
_SECONDS = re.compile(r"\d{1,6}(?:\.\d{1,3})?")
# Where a request keeps its id, so that its response, its errors and its log lines carry the same one.
_REQUEST_ID = "knowalledge.request_id"


def request_id(environ: dict[str, Any], new_id: Callable[[], str]) -> str:
    """``X-Request-ID`` if it is safe to repeat, else a new id; the same each time for one request."""
    known: str | None = environ.get(_REQUEST_ID)
    if known is not None:
        return known
    given: str = environ.get("HTTP_X_REQUEST_ID", "")
    chosen = given if _SAFE_NAME.fullmatch(given) else new_id()
    environ[_REQUEST_ID] = chosen
    return chosen


def tenant(name: str | None, principal: Principal) -> Principal:
    """The principal, in the named tenant if there is one. Raises ``InvalidRequest`` for a name unfit as a label."""
    if name is None:
        return principal
    if not _SAFE_NAME.fullmatch(name):
        raise InvalidRequest("a tenant's name is up to 128 letters, digits, dots, colons, dashes")
    if name == principal.tenant:
        raise InvalidRequest("this tenant's name stands for callers without one")
    return Principal(name, principal.max_priority)


def priority(environ: dict[str, Any], body: str | None) -> Priority:
    """The priority that the body, ``X-Priority`` or ``Priority`` (RFC 9218 urgency) names, in this order.

    ``RequestContext`` lowers one that the principal may not claim. Raises ``InvalidRequest`` for an unknown name.
    """
    name = body or environ.get("HTTP_X_PRIORITY")
    if name:
        level = _PRIORITIES.get(name.strip().lower())
        if level is None:
            raise InvalidRequest(f"unknown priority; the levels are {_LABELS}", param="priority")
        return level
    return _from_urgency(environ.get("HTTP_PRIORITY"))


def _from_urgency(field: str | None) -> Priority:
    urgencies = _URGENCY.findall(field) if field else ()
    if not urgencies:
        return Priority.MEDIUM
    if not re.fullmatch(r"[0-7]", urgencies[-1]):  # the last of a repeated key counts (RFC 9651)
        raise InvalidRequest(
            f"unknown priority; u is 0 to 7, two for each of {_LABELS}, the most urgent first",
            param="Priority",
        )
    return Priority(int(urgencies[-1]) // 2)


def require_own_origin(environ: dict[str, Any]) -> None:
    """Refuse what another site's page makes a browser send: a form, or a request with that site's Origin.

    Raises ``Forbidden``. Programs send no Origin, and JSON or no Content-Type.
    """
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if kind not in ("", "application/json"):
        raise Forbidden("this route takes application/json alone")
    origin = environ.get("HTTP_ORIGIN")
    foreign = (
        origin is not None and origin.lower().partition("://")[2] != environ.get("HTTP_HOST", "").lower()
    )
    if foreign or environ.get("HTTP_SEC_FETCH_SITE", "none").lower() not in ("none", "same-origin"):
        raise Forbidden("this route is not for pages of other origins")


def server_timeout(field: str | None) -> float | None:
    """``X-Server-Timeout`` in seconds, as Google's SDKs send it; None if it is absent, malformed or zero."""
    if field is None or not _SECONDS.fullmatch(field):
        return None
    return float(field) or None
