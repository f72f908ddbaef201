"""Failures as bytes, so that the followers of a flight in other processes fail in the same way as its leader."""

import msgspec
from msgspec import Struct

from knowalledge.core.errors import ContentBlocked, KnowalledgeError, ProviderRejected


def _tree(kind: type[KnowalledgeError]) -> list[type[KnowalledgeError]]:
    return [kind] + [it for child in kind.__subclasses__() for it in _tree(child)]


class _Failure(Struct, frozen=True, array_like=True):
    code: str
    message: str
    retry_after: float | None
    param: str
    quota_id: str
    # Written only where they are not these: replicas of earlier versions read five fields.
    status: int = 400
    provider_code: str = ""  # or the reason of blocked content


_BY_CODE = {kind.code: kind for kind in _tree(KnowalledgeError)}
_decode = msgspec.msgpack.Decoder(_Failure).decode
_encode = msgspec.msgpack.Encoder().encode


def failure_bytes(error: BaseException) -> bytes:
    """What a caller may know of a failure; of the gateway's own faults only that there was one."""
    if not isinstance(error, KnowalledgeError):
        return _encode(("internal", "something went wrong on our side", None, "", ""))
    fields = (error.code, error.message, error.retry_after, error.param, getattr(error, "quota_id", ""))
    if isinstance(error, ProviderRejected):
        return _encode((*fields, error.status, error.provider_code))
    if isinstance(error, ContentBlocked) and error.reason:
        return _encode((*fields, 400, error.reason))
    return _encode(fields)


def failure_of(data: bytes) -> KnowalledgeError:
    """The failure as an instance of its class; of the base class if its code is unknown or it cannot be read."""
    try:
        failure = _decode(data)
    except msgspec.MsgspecError:
        return KnowalledgeError("another replica failed")
    kind = _BY_CODE.get(failure.code, KnowalledgeError)
    error = kind.__new__(kind)
    KnowalledgeError.__init__(error, failure.message, retry_after=failure.retry_after, param=failure.param)
    if failure.quota_id:
        vars(error)["quota_id"] = failure.quota_id
    if isinstance(error, ProviderRejected):
        error.status, error.provider_code = failure.status, failure.provider_code
    elif isinstance(error, ContentBlocked) and failure.provider_code:
        error.reason = failure.provider_code
    return error
