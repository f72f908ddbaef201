"""A failure as bytes, so that those who share a flight in another process fail the same way."""

import msgspec

from knowalledge.core.errors import KnowalledgeError


def _tree(kind: type[KnowalledgeError]) -> list[type[KnowalledgeError]]:
    return [kind] + [found for child in kind.__subclasses__() for found in _tree(child)]


_BY_CODE = {kind.code: kind for kind in _tree(KnowalledgeError)}
_decode = msgspec.msgpack.Decoder(tuple[str, str, float | None, str, str]).decode
_encode = msgspec.msgpack.Encoder().encode


def failure_bytes(error: BaseException) -> bytes:
    """What the caller may know of a failure; of our own faults only that there was one."""
    if not isinstance(error, KnowalledgeError):
        return _encode(("internal", "something went wrong on our side", None, "", ""))
    return _encode(
        (error.code, error.message, error.retry_after, error.param, getattr(error, "quota_id", ""))
    )


def failure_of(data: bytes) -> KnowalledgeError:
    """The failure again, as its own class; of an unknown kind, or unreadable, the base class."""
    try:
        code, message, retry_after, param, quota_id = _decode(data)
    except msgspec.MsgspecError:
        return KnowalledgeError("another replica failed")
    kind = _BY_CODE.get(code, KnowalledgeError)
    error = kind.__new__(kind)
    KnowalledgeError.__init__(error, message, retry_after=retry_after, param=param)
    if quota_id:
        vars(error)["quota_id"] = quota_id
    return error
