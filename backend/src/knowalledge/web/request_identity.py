"""Who asks, how urgently, and under which request id."""

import re
from collections.abc import Callable
from typing import Any

from flask import Request

from knowalledge.core.context import Principal, Priority
from knowalledge.core.errors import InvalidRequest

PRIORITIES = {level.label: level for level in Priority}
_KNOWN = "critical, high, medium, low"
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_URGENCY = re.compile(r"(?:^|,)\s*u\s*=\s*([^,;\s]*)")
# Where a request keeps its id, so that its answer, its error and its log line bear the same one.
_KEY = "knowalledge.request_id"


def request_id(request: Request, new_id: Callable[[], str]) -> str:
    """The caller's id if it is safe to repeat, else a new one; the same one however often it is asked for."""
    return request_id_of(request.environ, new_id)


def request_id_of(environ: dict[str, Any], new_id: Callable[[], str]) -> str:
    """The same, where there is no request object."""
    found: str | None = environ.get(_KEY)
    if found is None:
        found = environ.get("HTTP_X_REQUEST_ID", "")
        if not _SAFE_ID.fullmatch(found):
            found = new_id()
        environ[_KEY] = found
    return found


def tenant(name: str | None, principal: Principal) -> Principal:
    """The principal in the tenant of this name. Raises ``InvalidRequest`` for one that is not fit to be a label."""
    if name is None:
        return principal
    if not _SAFE_ID.fullmatch(name):
        raise InvalidRequest("a tenant's name is up to 128 letters, digits, dots, colons, dashes")
    return Principal(name, principal.max_priority)


def priority(request: Request, body: str | None) -> Priority:
    """The priority asked for in the body, ``X-Priority`` or ``Priority`` (RFC 9218 urgency).

    ``RequestContext`` lowers one that the principal may not claim; the answer's ``X-Priority`` states what is in force.
    Raises ``InvalidRequest`` for an unknown name.
    """
    environ = request.environ
    name = body or environ.get("HTTP_X_PRIORITY")
    if name:
        level = PRIORITIES.get(name.strip().lower())
        if level is None:
            raise InvalidRequest(f"unknown priority; the levels are {_KNOWN}", param="priority")
        return level
    return _from_urgency(environ.get("HTTP_PRIORITY"))


def _from_urgency(field: str | None) -> Priority:
    urgencies = _URGENCY.findall(field) if field else ()
    if not urgencies:
        return Priority.MEDIUM
    if not re.fullmatch(r"[0-7]", urgencies[-1]):  # of a repeated key the last one counts (RFC 9651)
        raise InvalidRequest(
            f"unknown priority; u is 0 to 7, two for each of {_KNOWN}, the most urgent first",
            param="Priority",
        )
    return Priority(int(urgencies[-1]) // 2)
