"""Failures as bytes, so that the followers of a flight in other processes fail in the same way as its leader."""

import msgspec

from knowalledge.core.errors import KnowalledgeError


def _tree(kind: type[KnowalledgeError]) -> list[type[KnowalledgeError]]:
    return [kind] + [it for child in kind.__subclasses__() for it in _tree(child)]


_BY_CODE = {kind.code: kind for kind in _tree(KnowalledgeError)}
_decode = msgspec.msgpack.Decoder(tuple[str, str, float | None, str, str]).decode
_encode = msgspec.msgpack.Encoder().encode


def failure_bytes(error: BaseException) -> bytes:
    """What a caller may know of a failure; of the gateway's own faults only that there was one."""
    if not isinstance(error, KnowalledgeError):
        return _encode(("internal", "something went wrong on our side", None, "", ""))
    return _encode(
        (error.code, error.message, error.retry_after, error.param, getattr(error, "quota_id", ""))
    )


def failure_of(data: bytes) -> KnowalledgeError:
    """The failure as an instance of its class; of the base class if its code is unknown or it cannot be read."""
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
