"""The ``models`` section: what clients may name, and the targets that serve it.

What is wrong is added to ``faults`` with its key and its cure; nothing here raises.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from knowalledge.config.windows import parse_quota
from knowalledge.core.parsers import is_http, non_negative, one_of, text
from knowalledge.core.settings import Fault, nearest
from knowalledge.providers import registry as providers
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.providers.embedded.provider import EMBEDDED, MODEL
from knowalledge.providers.settings import ModelSettings, TargetSettings

MAX_NAME = 200  # characters of a model's name

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


def embedded_model() -> tuple[ModelSettings, ...]:
    """The models of a configuration that names none: a small one that runs in a process of its own."""
    target = TargetSettings("embedded", ProviderSpec(EMBEDDED.name, MODEL))
    return (ModelSettings(MODEL, (target,)),)


def parse_models(written: Any, faults: list[Fault]) -> tuple[ModelSettings, ...]:
    """Every model of the section, in its order."""
    if not isinstance(written, dict) or not written:
        faults.append(Fault("models", "names no model", "write models: {NAME: {targets: [...]}}"))
        return ()
    models, taken, names = [], set[str](), [str(it) for it in written]
    for name, body in written.items():
        if not (str(name).strip() and len(str(name)) <= MAX_NAME and str(name).isprintable()):
            wrong = f"{str(name)[:80]!r} is no name"
            faults.append(Fault("models", wrong, "write the name that clients ask for"))
        key = f"models.{name}"
        if not isinstance(body, dict):
            faults.append(Fault(key, "is not a mapping", "write targets: [...] below it"))
            continue
        _unknown(key, body, MODEL_KEYS, faults)
        targets = _targets(str(name), key, body.get("targets"), faults)
        for target in targets:
            if target.name in taken:
                faults.append(Fault(f"{key}.targets", f"two targets are named {target.name!r}", "rename one"))
            taken.add(target.name)
        fallback = _fallback(str(name), f"{key}.fallback", body.get("fallback") or [], names, faults)
        price = _price(f"{key}.price", body.get("price"), faults)
        models.append(ModelSettings(str(name), targets, fallback, price))
    return tuple(models)


def _unknown(key: str, written: dict[Any, Any], known: dict[str, str], faults: list[Fault]) -> None:
    for name in written:
        if name not in known:
            faults.append(Fault(f"{key}.{name}", "no such key", nearest(str(name), list(known))))


def _fallback(
    model: str, key: str, written: Any, names: Sequence[str], faults: list[Fault]
) -> tuple[str, ...]:
    if not isinstance(written, list):
        faults.append(Fault(key, "is not a list", "write [other-model]"))
        return ()
    for other in written:
        if str(other) not in names:
            faults.append(Fault(key, f"no model {other!r}", nearest(str(other), list(names))))
        elif str(other) == model:
            faults.append(Fault(key, "names the model itself", "name another"))
    return tuple(map(str, written))


def _price(key: str, written: Any, faults: list[Fault]) -> tuple[float, float] | None:
    if written is None:
        return None
    if (
        not isinstance(written, dict)
        or set(written) != {"input", "output"}
        or not all(type(it) in (int, float) and 0 <= it < 1e6 for it in written.values())
    ):
        faults.append(Fault(key, "is not a price", "write {input: 0.30, output: 2.50}"))
        return None
    return float(written["input"]), float(written["output"])


def _targets(model: str, key: str, written: Any, faults: list[Fault]) -> tuple[TargetSettings, ...]:
    if not isinstance(written, list) or not written:
        faults.append(Fault(f"{key}.targets", "has no target", "write a list with at least one"))
        return ()
    return tuple(
        _target(model, f"{key}.targets[{index}]", target, faults) for index, target in enumerate(written)
    )


def _target(model: str, key: str, written: Any, faults: list[Fault]) -> TargetSettings:
    if not isinstance(written, dict):
        faults.append(Fault(key, "is not a mapping", "write name, provider and the rest below it"))
        return TargetSettings("", ProviderSpec(model=model))
    _unknown(key, written, TARGET_KEYS, faults)

    def get(name: str, parse: Callable[[object], Any], default: Any) -> Any:
        if written.get(name) is None:
            return default
        try:
            return parse(written[name])
        except ValueError as error:
            secret = name == "api_key" or "@" in str(written[name])
            shown = "the value" if secret else repr(written[name])[:80]
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
        windows=parse_quota(f"{key}.quota", written.get("quota"), str(written.get("provider")), faults),
    )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", target.name):
        faults.append(Fault(f"{key}.name", "is missing or odd", "use up to 63 letters, digits, dots, dashes"))
    if not spec.provider and "provider" not in written:
        faults.append(
            Fault(f"{key}.provider", "is missing", f"choose {providers.listed(providers.PROVIDERS, 'or')}")
        )
    if spec.base_url and not is_http(spec.base_url):
        faults.append(Fault(f"{key}.base_url", "is not an address", "write http://... or https://..."))
    for fault in providers.faults(spec):
        faults.append(fault._replace(key=f"{key}.{fault.key}" if fault.key else key))
    return target
