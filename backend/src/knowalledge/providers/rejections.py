"""When a provider's 4xx is about the request, and what the caller may read of it."""

import re

from knowalledge.core.errors import ProviderRejected

# Statuses that say that the request is at fault. The other 4xx are about the connection, the address or the account.
REQUEST_FAULTS = frozenset((400, 404, 409, 411, 413, 414, 415, 416, 422, 424, 431, 451))
# The longest reason that is passed on, in characters.
MAX_REASON = 300
CONTEXT_TOO_LONG = "context_length_exceeded"

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
_PARAM = re.compile(r"[\w.\[\]$-]{1,200}", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
# What the operator keeps to himself: keys and tokens, addresses, the project behind a resource name.
_SECRETS = re.compile(
    r"\b(?:sk-|AIza|ya29\.|gsk_|xai-)[\w.-]{6,}|\bBearer\s+\S+|https?://\S+|\bprojects/[^/\s`'\"]+",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context[ _](?:length|window|size)|maximum (?:context|number of tokens)|too many (?:input )?tokens"
    r"|prompt is too long",
    re.IGNORECASE,
)
_TOO_LONG_CODES = frozenset((CONTEXT_TOO_LONG, "exceed_context_size_error", "string_above_max_length"))


def is_request_fault(status: int) -> bool:
    """Whether a status says that the request is at fault, and neither the provider nor the account."""
    return status in REQUEST_FAULTS


def rejection(status: int, message: object, code: object = "", param: object = "") -> ProviderRejected:
    """The error of a request that the provider does not take. The arguments are as the provider wrote them.

    The reason is bounded, printable, and without keys, addresses and projects. A context that is too long has one code,
    however the provider words it.
    """
    reason = reason_of(message)
    name = code if isinstance(code, str) and _CODE.fullmatch(code) else ""
    if name.endswith("_error") and name not in _TOO_LONG_CODES:
        name = ""  # OpenAI's types of errors are no codes
    if name in _TOO_LONG_CODES or _TOO_LONG.search(reason):
        name = CONTEXT_TOO_LONG
    text = f"the provider rejected the request ({status})"
    return ProviderRejected(
        f"{text}: {reason}" if reason else text,
        status=status,
        provider_code=name,
        param=param if isinstance(param, str) and _PARAM.fullmatch(param) else "",
    )


def reason_of(message: object) -> str:
    """A provider's message as the caller may read it; empty if it is none."""
    if not isinstance(message, str):
        return ""
    text = _SECRETS.sub("...", _UNPRINTABLE.sub(" ", message[: 4 * MAX_REASON])).strip()
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."
