"""Who asks, how urgently, and under which request id."""

import re
from collections.abc import Callable

from flask import Request

from knowalledge.domain.errors import InvalidRequest
from knowalledge.domain.model import Principal, Priority
from knowalledge.web.schemas import PRIORITIES

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_URGENCY = re.compile(r"(?:^|,)\s*u\s*=\s*([^,;\s]*)")


def request_id(request: Request, new_id: Callable[[], str]) -> str:
    """The caller's id if it is safe to repeat, else a new one."""
    found = request.headers.get("X-Request-ID", "")
    return found if _SAFE_ID.fullmatch(found) else new_id()


def priority(request: Request, body: str | None, principal: Principal) -> Priority:
    """The level from the body, X-Priority or Priority (RFC 9218 urgency); never above what the principal may claim."""
    name = body or request.headers.get("X-Priority")
    if name is not None:
        level = PRIORITIES.get(name.strip().lower())
        if level is None:
            raise InvalidRequest("unknown priority; choose critical, high, medium or low", param="priority")
    else:
        level = _from_urgency(request.headers.get("Priority"))
    return max(level, principal.max_priority)


def _from_urgency(field: str | None) -> Priority:
    match = _URGENCY.search(field) if field else None
    if match is None:
        return Priority.MEDIUM
    if not re.fullmatch(r"[0-7]", match[1]):
        raise InvalidRequest(
            "unknown priority; u is 0 to 7: 0-1 critical, 2-3 high, 4-5 medium, 6-7 low", param="Priority"
        )
    return Priority(int(match[1]) // 2)
