"""What is in force, as the YAML that a configuration file has."""

import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit, urlunsplit

from knowalledge.config.places import line_of
from knowalledge.config.settings import SETTINGS, Settings
from knowalledge.core.parsers import text, written
from knowalledge.core.settings import Setting
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.providers.settings import TargetSettings
from knowalledge.quota.domain.window import Window

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")


def shown(row: Setting, settings: Settings) -> str:
    """The value of a setting in YAML; of a secret, what may be seen."""
    value = row.value_in(settings)
    if isinstance(value, str) and (row.secret or "://" in value):
        value = masked(value) if row.secret else without_credentials(value)
    return written(row.parse, value)


def origin(key: str, source: str, settings: Settings) -> str:
    """Where a value comes from: ``gateway.yaml:7``, ``environment``, ``command line`` or ``default``."""
    line = line_of(key, settings.lines) if source == settings.file else 0
    return f"{source}:{line}" if line else source


def document(settings: Settings) -> Iterator[str]:
    """The lines of a file with all values in force, each with its origin. A gateway accepts it, but for its secrets."""
    for row in SETTINGS:
        yield f"{row.key}: {shown(row, settings)}    # {origin(row.key, settings.origins[row.key], settings)}"
    yield "models:"
    for model in settings.models:
        source = settings.origins["models"]
        yield f"  {written(text, model.name)}:    # {origin(f'models.{model.name}', source, settings)}"
        yield "    targets:"
        for target in model.targets:
            pairs = [f"{name}: {value}" for name, value in target_keys(target).items()]
            yield from (f"      {'- ' if not index else '  '}{pair}" for index, pair in enumerate(pairs))
        if model.fallback:
            yield f"    fallback: [{', '.join(written(text, it) for it in model.fallback)}]"
        if model.price:
            yield f"    price: {{input: {model.price[0]}, output: {model.price[1]}}}"


def target_keys(target: TargetSettings) -> Mapping[str, str]:
    """The keys of a target and their values in YAML; the key that it sends is masked."""
    spec, unset = target.spec, ProviderSpec()
    keys = {"name": target.name, "provider": spec.provider}
    for name in ("model", "project", "location", "base_url", "credentials", "client"):
        if getattr(spec, name) != getattr(unset, name):
            keys[name] = getattr(spec, name)
    if spec.base_url:
        keys["base_url"] = masked(spec.base_url)
    if spec.api_key:
        keys["api_key"] = masked(spec.api_key)
    shown = {name: written(text, value) for name, value in keys.items()}
    if target.tier:
        shown["tier"] = str(target.tier)
    if target.windows:
        shown["quota"] = quota(target.windows)
    return shown


def quota(windows: tuple[Window, ...]) -> str:
    """Windows as a target's ``quota`` has them."""
    if any(it.learn for it in windows):
        return "learn"
    return f"[{', '.join(map(_window, windows))}]"


def _window(window: Window) -> str:
    if not window.calendar:
        return f"{{count: {window.count}, limit: {window.limit}, window: {window.span_s}s}}"
    hours, minutes = divmod(window.reset_s // 60, 60)
    reset = f'"{hours:02}:{minutes:02} {window.zone}"'
    return f"{{count: {window.count}, limit: {window.limit}, window: day, resets_at: {reset}}}"


def masked(secret: str) -> str:
    """A URL without its credentials and query; nothing of any other secret."""
    if "://" not in secret:
        return "***" if secret else ""
    parts = urlsplit(secret)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"***@{host}" if "@" in parts.netloc else host
    return urlunsplit(parts._replace(netloc=netloc, query="***" if parts.query else ""))


def without_credentials(text: str) -> str:
    """A text without the names and passwords of the addresses in it: any setting that is a URL may have them."""
    return _CREDENTIALS.sub("***@", text)


def as_json(settings: Settings) -> str:
    """The same for programs: each setting by its key, and the models."""
    rows = {
        row.key: {
            "value": shown(row, settings),
            "origin": origin(row.key, settings.origins[row.key], settings),
        }
        for row in SETTINGS
    }
    models = {
        it.name: {"targets": [dict(target_keys(target)) for target in it.targets], "fallback": it.fallback}
        for it in settings.models
    }
    return json.dumps({"settings": rows, "models": models}, indent=1)
