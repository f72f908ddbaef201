"""The ``models`` section: what clients may name, and the targets that serve it.

What is wrong is added to ``faults`` with its key and its cure; nothing here raises.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from knowalledge.config.sources import unabridged
from knowalledge.config.windows import parse_quota
from knowalledge.core.parsers import is_http, non_negative, one_of, text
from knowalledge.core.settings import REMOVE, Edit, Fault, Step, misspelt, nearest, write
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
# Values of a target's keys for cures, in YAML.
EXAMPLES = {
    "api_key": '"${GOOGLE_API_KEY}"',
    "base_url": "http://127.0.0.1:8000",
    "client": "rest",
    "credentials": "adc",
    "limit": "60",
    "name": "main",
    "provider": "openai",
    "rpd": "1000",
    "rpm": "60",
    "tier": "0",
    "tpd": "1000000",
    "tpm": "60000",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# What a cure writes where a target is missing.
_TARGET = '{name: main, provider: gemini, api_key: "${GOOGLE_API_KEY}"}'
_TARGETS = write(f"targets: [{_TARGET}]")
_MODELS = write(f"models: {{gemini-2.5-flash: {{targets: [{_TARGET}]}}}}")


def embedded_model() -> tuple[ModelSettings, ...]:
    """The models of a configuration that names none: a small one that runs in a process of its own."""
    target = TargetSettings("embedded", ProviderSpec(EMBEDDED.name, MODEL))
    return (ModelSettings(MODEL, (target,)),)


def parse_models(written: Any, faults: list[Fault]) -> tuple[ModelSettings, ...]:
    """Every model of the section, in its order."""
    if not isinstance(written, dict) or not written:
        faults.append(Fault("models", "names no model", "write models: {NAME: {targets: [...]}}", _MODELS))
        return ()
    models, names = [], [str(it) for it in written]
    for name, body in written.items():
        key = f"models.{name}"
        if not (str(name).strip() and len(str(name)) <= MAX_NAME and str(name).isprintable()):
            wrong, cure = f"{str(name)[:80]!r} is no name", "write the name that clients ask for"
            faults.append(Fault(key, wrong, cure, (Step(Edit.RENAME, "my-model"),)))
        if not isinstance(body, dict):
            cure = "write targets: [...] below it"
            pair = f"{name}: {{targets: [{_TARGET}]}}"
            faults.append(Fault(key, "is not a mapping", cure, write(pair)))
            continue
        body = dict(unabridged(key, body, list(MODEL_KEYS), faults))
        targets = _targets(str(name), key, body.get("targets"), faults)
        fallback = _fallback(str(name), f"{key}.fallback", body.get("fallback") or [], names, faults)
        price = _price(f"{key}.price", body.get("price"), faults)
        models.append(ModelSettings(str(name), targets, fallback, price))
    faults.extend(_repeated_names(models))
    return tuple(models)


def _repeated_names(models: Sequence[ModelSettings]) -> Iterator[Fault]:
    taken = set[str]()
    for model in models:
        for index, target in enumerate(model.targets):
            if target.name and target.name in taken:
                free = next(it for n in range(2, 10**6) if (it := f"{target.name[:50]}-{n}") not in taken)
                wrong, key = (
                    f"two targets are named {target.name!r}",
                    f"models.{model.name}.targets[{index}].name",
                )
                yield Fault(key, wrong, "rename one", write(f"name: {free}"))
                taken.add(free)
            taken.add(target.name)


def _fallback(
    model: str, key: str, written: Any, names: Sequence[str], faults: list[Fault]
) -> tuple[str, ...]:
    if not isinstance(written, list):
        faults.append(Fault(key, "is not a list", "write [other-model]", write(f"fallback: [{written}]")))
        return ()
    others = [it for it in names if it != model]
    for index, other in enumerate(written):
        item = f"{key}[{index}]"
        if str(other) == model:
            faults.append(Fault(item, "names the model itself", "remove it, or name another", REMOVE))
        elif str(other) not in names:
            meant = misspelt(str(other), [it for it in others if it not in written])
            cure = nearest(str(other), list(names))
            faults.append(Fault(item, f"no model {other!r}", cure, write(meant) if meant else REMOVE))
    return tuple(map(str, written))


def _price(key: str, written: Any, faults: list[Fault]) -> tuple[float, float] | None:
    if written is None:
        return None
    if (
        not isinstance(written, dict)
        or set(written) != {"input", "output"}
        or not all(type(it) in (int, float) and 0 <= it < 1e6 for it in written.values())
    ):
        pair = "price: {input: 0.30, output: 2.50}"
        faults.append(Fault(key, "is not a price", "write {input: 0.30, output: 2.50}", write(pair)))
        return None
    return float(written["input"]), float(written["output"])


def _targets(model: str, key: str, written: Any, faults: list[Fault]) -> tuple[TargetSettings, ...]:
    key = f"{key}.targets"
    if isinstance(written, dict) and written:
        cure = "it is a list: begin each target with a dash, as in `- name: main`"
        faults.append(Fault(key, "is not a list", cure, _TARGETS))
        return ()
    if not isinstance(written, list) or not written:
        faults.append(Fault(key, "has no target", "write a list with at least one", _TARGETS))
        return ()
    targets = (_target(model, f"{key}[{index}]", target, faults) for index, target in enumerate(written))
    return tuple(targets)


def _target(model: str, key: str, written: Any, faults: list[Fault]) -> TargetSettings:
    if not isinstance(written, dict):
        cure = "write name, provider and the rest below it"
        faults.append(Fault(key, "is not a mapping", cure, write(_TARGET)))
        return TargetSettings("", ProviderSpec(model=model))
    own_faults: list[Fault] = []
    written = dict(unabridged(key, written, list(TARGET_KEYS), own_faults))

    def get(name: str, parse: Callable[[object], Any], default: Any) -> Any:
        if written.get(name) is None:
            return default
        try:
            return parse(written[name])
        except ValueError as error:
            secret = name == "api_key" or "@" in str(written[name])
            shown = "the value" if secret else repr(written[name])[:80]
            pair = f"{name}: {getattr(error, 'example', '') or EXAMPLES.get(name) or f'my-{name}'}"
            own_faults.append(Fault(f"{key}.{name}", f"{shown} is not valid", str(error), write(pair)))
            return default

    parsers = dict.fromkeys(providers.TARGET_KEYS, text) | {
        "provider": one_of(*providers.PROVIDERS),
        "client": one_of(*providers.CLIENTS),
    }
    name, spec = get("name", text, ""), ProviderSpec(model=model)
    given = {it: get(it, parse, getattr(spec, it)) for it, parse in parsers.items()}
    spec = msgspec.structs.replace(spec, **given)
    target = TargetSettings(
        name=name,
        spec=spec,
        tier=get("tier", non_negative, 0),
        windows=parse_quota(f"{key}.quota", written.get("quota"), str(written.get("provider")), own_faults),
    )
    own_faults.extend(_target_faults(target, key, written, {it.key for it in (*faults, *own_faults)}))
    faults.extend(own_faults)
    return target


def _target_faults(
    target: TargetSettings, key: str, written: dict[str, Any], faulty: set[str]
) -> Iterator[Fault]:
    """What a target lacks, and which of its values do not fit each other. ``faulty``: keys with a fault already."""
    spec = target.spec
    if f"{key}.name" not in faulty and not _NAME.fullmatch(target.name):
        proposal = re.sub(r"[^A-Za-z0-9._-]+|^[^A-Za-z0-9]+", "-", target.name or spec.model).strip("-._")[
            :50
        ]
        pair = f"name: {proposal or 'main'}"
        cure = "use up to 63 letters, digits, dots, dashes"
        yield Fault(f"{key}.name", "is missing or odd", cure, write(pair))
    if not spec.provider and "provider" not in written:
        cure = f"choose {providers.listed(providers.PROVIDERS, 'or')}"
        yield Fault(f"{key}.provider", "is missing", cure, _provider_of(spec))
    if f"{key}.base_url" not in faulty and spec.base_url and not is_http(spec.base_url):
        full = f"http://{spec.base_url}"
        usable = is_http(full) and "@" not in full and "//" not in spec.base_url
        steps = write(f'base_url: "{full}"') if usable else REMOVE
        yield Fault(f"{key}.base_url", "is not an address", "write http://... or https://...", steps)
        return  # whatever depends on it would be told twice
    faulty = {it for it in faulty if it.startswith(f"{key}.")}
    for fault in providers.faults(spec):
        own = f"{key}.{fault.key}" if fault.key else key
        # A value that is wrong, or a variable that is not set, is not missing as well.
        if own not in faulty and (fault.key or not faulty):
            yield fault._replace(key=own)


def _provider_of(spec: ProviderSpec) -> tuple[Step, ...]:
    """The provider that the other keys of a target belong to."""
    if spec.project or spec.location:
        return write("provider: vertex")
    if spec.base_url:
        return write("provider: openai")
    if spec.api_key or spec.credentials:
        return write("provider: gemini")
    return write("provider: gemini", 'api_key: "${GOOGLE_API_KEY}"')
