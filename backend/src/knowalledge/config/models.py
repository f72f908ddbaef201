"""The models of the configuration: their targets, and what each provider allows.

Read from the ``models`` section; every fault is collected with its key and its cure.
"""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from knowalledge.core.parsers import duration_or_zero, is_http, non_negative, one_of, positive, text
from knowalledge.core.settings import Fault, nearest
from knowalledge.providers import registry as providers
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.providers.embedded.provider import EMBEDDED, MODEL
from knowalledge.providers.settings import ModelSettings, TargetSettings
from knowalledge.quota.domain.window import Count, Window

DAY = 86_400
LONGEST_NAME = 200
MOST_WINDOWS = 16

TARGET_KEYS = {
    "name": "Unique over all models; the label in answers, metrics and stats.",
    **providers.TARGET_KEYS,
    "tier": "Lower tiers are tried first; default 0.",
    "quota": "What the provider allows: {rpm, tpm, rpd, tpd}, a list of windows, learn, or absent: unlimited. "
    f"tpm and tpd count input and output tokens{providers.QUOTA_NOTES}.",
}
MODEL_KEYS = {
    "targets": "The endpoints that serve the model.",
    "fallback": "Other models, when no target can take a request in time.",
    "price": "USD per million tokens, {input, output}; with it, cache statistics show the money saved.",
}
WINDOW_KEYS = ("count", "limit", "window", "resets_at")


def embedded() -> tuple[ModelSettings, ...]:
    target = TargetSettings("embedded", ProviderSpec(EMBEDDED.name, MODEL))
    return (ModelSettings(MODEL, (target,)),)


def models_of(found: Any, faults: list[Fault]) -> tuple[ModelSettings, ...]:
    if not isinstance(found, dict) or not found:
        faults.append(Fault("models", "names no model", "write models: {NAME: {targets: [...]}}"))
        return ()
    models, seen, names = [], set[str](), [str(it) for it in found]
    for name, body in found.items():
        key = f"models.{name}"
        if not (str(name).strip() and len(str(name)) <= LONGEST_NAME and str(name).isprintable()):
            faults.append(
                Fault("models", f"{str(name)[:80]!r} is no name", "write the name that clients ask for")
            )
        if not isinstance(body, dict):
            faults.append(Fault(key, "is not a mapping", "write targets: [...] below it"))
            continue
        for unknown in set(body) - set(MODEL_KEYS):
            faults.append(Fault(f"{key}.{unknown}", "no such key", nearest(str(unknown), list(MODEL_KEYS))))
        targets = body.get("targets")
        if not isinstance(targets, list) or not targets:
            faults.append(Fault(f"{key}.targets", "has no target", "write a list with at least one"))
            targets = []
        built = [
            _target(str(name), f"{key}.targets[{index}]", target, faults)
            for index, target in enumerate(targets)
        ]
        for target in built:
            if target.name in seen:
                faults.append(Fault(f"{key}.targets", f"two targets are named {target.name!r}", "rename one"))
            seen.add(target.name)
        fallback = body.get("fallback") or []
        if not isinstance(fallback, list):
            faults.append(Fault(f"{key}.fallback", "is not a list", "write [other-model]"))
            fallback = []
        for other in fallback:
            if str(other) not in names:
                faults.append(Fault(f"{key}.fallback", f"no model {other!r}", nearest(str(other), names)))
            elif str(other) == str(name):
                faults.append(Fault(f"{key}.fallback", "names the model itself", "name another"))
        price = _price(f"{key}.price", body.get("price"), faults)
        models.append(ModelSettings(str(name), tuple(built), tuple(map(str, fallback)), price))
    return tuple(models)


def _price(key: str, found: Any, faults: list[Fault]) -> tuple[float, float] | None:
    if found is None:
        return None
    if (
        not isinstance(found, dict)
        or set(found) != {"input", "output"}
        or not all(type(it) in (int, float) and 0 <= it < 1e6 for it in found.values())
    ):
        faults.append(Fault(key, "is not a price", "write {input: 0.30, output: 2.50}"))
        return None
    return float(found["input"]), float(found["output"])


def _target(model: str, key: str, found: Any, faults: list[Fault]) -> TargetSettings:
    if not isinstance(found, dict):
        faults.append(Fault(key, "is not a mapping", "write name, provider and the rest below it"))
        return TargetSettings("", ProviderSpec(model=model))
    for unknown in set(found) - set(TARGET_KEYS):
        faults.append(Fault(f"{key}.{unknown}", "no such key", nearest(str(unknown), list(TARGET_KEYS))))

    def get(name: str, parse: Callable[[object], Any], default: Any) -> Any:
        if found.get(name) is None:
            return default
        try:
            return parse(found[name])
        except ValueError as error:
            secret = name == "api_key" or "@" in str(found[name])
            shown = "the value" if secret else repr(found[name])[:80]
            faults.append(Fault(f"{key}.{name}", f"{shown} is not valid", str(error)))
            return default

    parsers = dict.fromkeys(providers.TARGET_KEYS, text) | {
        "provider": one_of(*providers.PROVIDERS),
        "client": one_of(*providers.CLIENTS),
    }
    name = get("name", text, "")
    spec = ProviderSpec(model=model)
    given = {key: get(key, parse, getattr(spec, key)) for key, parse in parsers.items()}
    spec = msgspec.structs.replace(spec, **given)
    target = TargetSettings(
        name=name,
        spec=spec,
        tier=get("tier", non_negative, 0),
        windows=_quota(f"{key}.quota", found.get("quota"), str(found.get("provider")), faults),
    )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", target.name):
        faults.append(Fault(f"{key}.name", "is missing or odd", "use up to 63 letters, digits, dots, dashes"))
    if not spec.provider and "provider" not in found:
        faults.append(
            Fault(f"{key}.provider", "is missing", f"choose {providers.listed(providers.PROVIDERS, 'or')}")
        )
    if spec.base_url and not is_http(spec.base_url):
        faults.append(Fault(f"{key}.base_url", "is not an address", "write http://... or https://..."))
    for fault in providers.faults(spec):
        faults.append(fault._replace(key=f"{key}.{fault.key}" if fault.key else key))
    return target


_SHORT = {
    "rpm": (Count.REQUESTS, 60),
    "tpm": (Count.TOKENS, 60),
    "rpd": (Count.REQUESTS, DAY),
    "tpd": (Count.TOKENS, DAY),
}
_PACIFIC = "America/Los_Angeles"


# Where a search for an unpublished limit begins.
_FIRST_RPM = 60


def _quota(key: str, found: Any, provider: str, faults: list[Fault]) -> tuple[Window, ...]:
    if found is None:
        return ()
    if found == "learn":
        return (Window("learnt", Count.REQUESTS, _FIRST_RPM, 60, learn=True),)
    if isinstance(found, dict | list) and not 1 <= len(found) <= MOST_WINDOWS:
        cure = f"write 1 to {MOST_WINDOWS}, or leave quota out: unlimited"
        faults.append(Fault(key, f"has {len(found)} windows", cure))
        return ()
    if isinstance(found, dict):
        return tuple(_short(key, name, limit, provider, faults) for name, limit in found.items())
    if isinstance(found, list):
        windows = tuple(_window(f"{key}[{index}]", entry, faults) for index, entry in enumerate(found))
        if len({it.name for it in windows}) < len(windows):
            faults.append(Fault(key, "has the same window twice", "keep the one with the lower limit"))
        return windows
    faults.append(
        Fault(key, "is neither a mapping nor a list", "write quota: {rpm: 120, tpm: 60000}, or quota: learn")
    )
    return ()


def _limit(key: str, value: object, faults: list[Fault]) -> int:
    try:
        return positive(value)
    except ValueError as error:
        faults.append(Fault(key, f"{value!r} is not a limit", str(error)))
        return 1


def _short(key: str, name: str, limit: object, provider: str, faults: list[Fault]) -> Window:
    if name not in _SHORT:
        faults.append(Fault(f"{key}.{name}", "no such window", nearest(str(name), list(_SHORT))))
        return Window(str(name), Count.REQUESTS, 1, 60)
    count, span = _SHORT[name]
    descriptor = providers.PROVIDERS.get(provider)
    if descriptor and count is Count.TOKENS:
        count = descriptor.tokens
    zone = descriptor.day_zone if descriptor and span == DAY else ""
    return Window(name, count, _limit(f"{key}.{name}", limit, faults), span, zone)


def _window(key: str, found: Any, faults: list[Fault]) -> Window:
    if not isinstance(found, dict):
        faults.append(Fault(key, "is not a mapping", "write {count: requests, limit: 120, window: 60s}"))
        return Window("", Count.REQUESTS, 1, 60)
    for unknown in set(found) - set(WINDOW_KEYS):
        faults.append(Fault(f"{key}.{unknown}", "no such key", nearest(str(unknown), list(WINDOW_KEYS))))
    try:
        count = Count(found.get("count", ""))
    except ValueError:
        faults.append(Fault(f"{key}.count", "is not a count", f"choose one of {', '.join(Count)}"))
        count = Count.REQUESTS
    limit = _limit(f"{key}.limit", found.get("limit"), faults)
    span = found.get("window")
    zone, reset = "", 0
    if span == "day":
        zone, reset = _reset(f"{key}.resets_at", found.get("resets_at", f"00:00 {_PACIFIC}"), faults)
        seconds = DAY
    else:
        try:
            length = duration_or_zero(span)
        except ValueError as error:
            faults.append(Fault(f"{key}.window", f"{span!r} is not a window", f"{error}, or day"))
            length = 60
        seconds = int(length)
        if seconds < 1 or seconds != length:  # rounded down it would allow more than it says
            faults.append(Fault(f"{key}.window", f"{span!r} is not whole seconds", "write 1s or more"))
            seconds = 60
        if "resets_at" in found:
            faults.append(Fault(f"{key}.resets_at", "is for window: day", "drop it, or write window: day"))
    return Window(f"{count.value}-{span}", count, limit, seconds, zone, reset)


def _reset(key: str, found: object, faults: list[Fault]) -> tuple[str, int]:
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d) ([A-Za-z_/+0-9-]{1,64})", str(found))
    if match:
        try:
            ZoneInfo(match[3])
        except (ValueError, OSError, KeyError):
            faults.append(
                Fault(key, f"no zone {match[3]!r}", "write an IANA zone such as America/Los_Angeles")
            )
            return "UTC", 0
        return match[3], int(timedelta(hours=int(match[1]), minutes=int(match[2])).total_seconds())
    faults.append(Fault(key, f"{found!r} is not a time in a zone", 'write "00:00 America/Los_Angeles"'))
    return "UTC", 0
