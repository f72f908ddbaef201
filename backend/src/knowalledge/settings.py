"""Every setting, once: its key, its type, its default and why it exists. The only place that reads the environment.

Precedence: command line, environment, YAML file, default. ``KNOWALLEDGE_QUEUE__CAPACITY=50`` sets ``queue.capacity``;
each variable also takes a ``_FILE`` form that names a file holding the value. All faults are found at once; each
names its key, what is wrong and the cure.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import yaml
from msgspec import Struct

from knowalledge.domain.model import Priority
from knowalledge.domain.quota import Count, Window
from knowalledge.parsers import (
    DAY,
    address,
    boolean,
    duration,
    header_name,
    level,
    natural,
    one_of,
    positive,
    shares,
    size,
    text,
)

MAX_FILE = 1024 * 1024  # a configuration larger than this is a mistake
PREFIX = "KNOWALLEDGE_"
EMBEDDED_MODEL = "smollm2-135m-instruct"


class Fault(NamedTuple):
    """One mistake, with its cure."""

    key: str
    wrong: str
    cure: str


class SettingsError(Exception):
    """All mistakes of a configuration, at once."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(f"{it.key}: {it.wrong}; {it.cure}" for it in faults))
        self.faults = faults


SENTINEL, CLUSTER = "redis+sentinel", "redis+cluster"
REDIS = address("redis://127.0.0.1:6379/0", "redis", "rediss", "unix", SENTINEL, CLUSTER)
PROXY = address("http://user:password@host:3128", "http")


class Setting(NamedTuple):
    """One row of the table."""

    key: str
    parse: Callable[[object], Any]
    default: Any
    why: str
    secret: bool = False


TABLE: tuple[Setting, ...] = (
    Setting(
        "redis_url",
        REDIS,
        "",
        "The Redis that replicas share (also redis+sentinel://, redis+cluster://); empty: everything in process.",
        True,
    ),
    Setting("redis.timeout", duration, 1.0, "A Redis that does not answer within this counts as gone."),
    Setting("default_model", text, "", "The model of requests that name none; empty: the first one."),
    Setting("request.timeout", duration, 60.0, "The patience for one request when the caller names none."),
    Setting("request.max_timeout", duration, 600.0, "The longest patience that a caller may name."),
    Setting("provider.proxy", PROXY, "", "The way to providers that are not on this machine.", True),
    Setting("server.max_body", size, 8 * 1024**2, "The largest request body."),
    Setting(
        "server.heartbeat", duration, 15.0, "A silent stream gets a comment this often: proxies keep it open."
    ),
    Setting("server.drain", duration, 30.0, "Running streams may take this long to finish after SIGTERM."),
    Setting("server.connections", positive, 4000, "Concurrent connections of one worker."),
    Setting("queue.capacity", natural, 100, "Places in the waiting room of one quota."),
    Setting("queue.timeout", duration, 30.0, "The longest wait for quota."),
    Setting("queue.aging", duration, 15.0, "A lower level that waited this long gets one grant in twenty."),
    Setting(
        "queue.holdback",
        shares,
        {Priority.LOW: 0.995},
        "The share of each limit that a level may use; it is also paced, so that the urgent always find room.",
    ),
    Setting(
        "queue.max_level_anonymous", level, Priority.HIGH, "The most urgent level of an anonymous caller."
    ),
    Setting("cache.browser_ttl", duration, 300.0, "Freshness of knowledge answers in browsers."),
    Setting("cache.cdn_ttl", duration, 1800.0, "Freshness of knowledge answers in a CDN."),
    Setting("cache.redis_ttl", duration, 3600.0, "Freshness of answers in Redis."),
    Setting(
        "cache.redis_bytes",
        size,
        128 * 1024**2,
        "Memory for answers in Redis, all together; the quota in the same Redis must keep its room.",
    ),
    Setting("cache.memory_ttl", duration, 600.0, "Freshness of answers in a worker's memory."),
    Setting("cache.memory_bytes", size, 64 * 1024**2, "Memory for answers, per worker."),
    Setting("cache.stale_ttl", duration, 3600.0, "How long past its life an answer may serve as a fallback."),
    Setting(
        "cache.keep_warm",
        boolean,
        True,
        "Whether popular topics are answered anew before their answer ends, with quota to spare.",
    ),
    Setting(
        "cdn.kind",
        one_of("none", "varnish", "cloudflare", "fastly"),
        "none",
        "What keeps public answers outside, to be purged by tag.",
    ),
    Setting(
        "cdn.url", text, "", "Varnish: its addresses, commas between; others: in place of their own API."
    ),
    Setting(
        "cdn.soft",
        boolean,
        False,
        "Varnish, Fastly: what is purged still serves while it is fetched anew, or if that fails.",
    ),
    Setting("cdn.zone", text, "", "Cloudflare's zone, or Fastly's service."),
    Setting("cdn.token", text, "", "The key of the CDN's API.", True),
    Setting(
        "auth.tenant_header",
        header_name,
        "",
        "The header in which a trusted front names the tenant; empty: all callers are one tenant.",
    ),
    Setting("auth.mode", one_of("none", "required"), "none", "Whether callers must say who they are."),
    Setting(
        "log.level", one_of("debug", "info", "warning", "error"), "info", "The least level that is logged."
    ),
)
_BY_KEY = {setting.key: setting for setting in TABLE}

TARGET_KEYS = {
    "name": "Unique over all models; the label in answers, metrics and stats.",
    "provider": "vertex, gemini, openai or embedded.",
    "model": "The provider's name for the model; default: the client's name.",
    "project": "Vertex: the Google Cloud project.",
    "location": "Vertex: the region, or global.",
    "base_url": "The address; default: the provider's own endpoint.",
    "api_key": "The provider's key.",
    "client": "Vertex: rest (the default), or aiplatform: Google's own, of the extra knowalledge[aiplatform].",
    "credentials": "adc, anonymous (loopback only), or the path of a key file.",
    "tier": "Lower tiers are asked first; default 0.",
    "quota": "What the provider allows: {rpm, tpm, rpd, tpd}, a list of windows, learn, or absent: unlimited.",
}
MODEL_KEYS = {
    "targets": "Where the model can be asked.",
    "fallback": "Models to ask when no target has room.",
    "price": "USD for a million tokens, {input, output}: what the caches save is told in money.",
}
WINDOW_KEYS = ("count", "limit", "window", "resets_at")


class TargetSettings(Struct, frozen=True):
    """One place where a model can be asked."""

    name: str
    provider: str
    model: str
    project: str = ""
    location: str = ""
    base_url: str = ""
    api_key: str = ""
    credentials: str = ""
    client: str = "rest"
    tier: int = 0
    windows: tuple[Window, ...] = ()


class ModelSettings(Struct, frozen=True):
    """A model that clients may name."""

    name: str
    targets: tuple[TargetSettings, ...]
    fallback: tuple[str, ...] = ()
    price: tuple[float, float] | None = None  # USD for a million tokens, input and output


class Value(NamedTuple):
    """A setting's value and where it came from."""

    value: Any
    origin: str


class Settings(Struct, frozen=True):
    """What is in force. ``settings["queue.capacity"]`` reads a row of the table."""

    values: Mapping[str, Value]
    models: tuple[ModelSettings, ...]
    models_origin: str

    def __getitem__(self, key: str) -> Any:
        return self.values[key].value

    @property
    def default_model(self) -> str:
        return self["default_model"] or self.models[0].name

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        config: str = "",
    ) -> Self:
        """Read every source. Raises ``SettingsError`` with all faults."""
        env = os.environ if environ is None else environ
        faults: list[Fault] = []
        path = config or env.get(f"{PREFIX}CONFIG", "")
        document = _read_yaml(path, env, faults) if path else {}
        layers = (
            ("command line", dict(overrides or {})),
            ("environment", dict(_from_environment(env, faults))),
            (path, dict(_flat(document, faults))),
        )
        values = {setting.key: _value(setting, layers, faults) for setting in TABLE}
        models = _models(document.get("models"), faults) if "models" in document else _embedded()
        default = values["default_model"].value
        if default and models and default not in {model.name for model in models}:
            faults.append(
                Fault("default_model", f"no model {default!r}", _nearest(default, [m.name for m in models]))
            )
        faults.extend(_cdn_faults({key: it.value for key, it in values.items() if key.startswith("cdn.")}))
        if faults:
            raise SettingsError(faults)
        return cls(values, models, path if "models" in document else "default")


def _cdn_faults(cdn: Mapping[str, str]) -> Iterator[Fault]:
    kind = cdn["cdn.kind"]
    urls = [it.strip() for it in cdn["cdn.url"].split(",") if it.strip()]
    if kind == "varnish" and not urls:
        yield Fault("cdn.url", "is missing", "name every Varnish, such as http://varnish:6081")
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            yield Fault("cdn.url", "is not an address", "write http://... or https://...")
    if kind in ("cloudflare", "fastly"):
        for name in ("zone", "token"):
            if not cdn[f"cdn.{name}"]:
                yield Fault(f"cdn.{name}", "is missing", f"{kind} needs it to purge")
        if not re.fullmatch(r"[A-Za-z0-9_-]*", cdn["cdn.zone"]):
            yield Fault("cdn.zone", "is odd", "copy it from the CDN's console")


def _embedded() -> tuple[ModelSettings, ...]:
    target = TargetSettings("embedded", "embedded", EMBEDDED_MODEL)
    return (ModelSettings(EMBEDDED_MODEL, (target,)),)


def _nearest(word: str, known: list[str]) -> str:
    near = get_close_matches(word[:100], known, n=1, cutoff=0.0)
    return f"the nearest known one is {near[0]!r}" if near else "there is none"


def _value(setting: Setting, layers: tuple[tuple[str, dict[str, object]], ...], faults: list[Fault]) -> Value:
    for origin, layer in layers:
        if setting.key in layer:
            try:
                return Value(setting.parse(layer[setting.key]), origin)
            except ValueError as error:
                faults.append(
                    Fault(setting.key, f"{_shown(setting, layer[setting.key])} is not valid", str(error))
                )
    return Value(setting.default, "default")


def _shown(setting: Setting, value: object) -> str:
    return "the value" if setting.secret else repr(value)[:80]


def _from_environment(env: Mapping[str, str], faults: list[Fault]) -> Iterator[tuple[str, object]]:
    names = {PREFIX + setting.key.upper().replace(".", "__"): setting.key for setting in TABLE}
    for name, value in env.items():
        if not name.startswith(PREFIX) or name == f"{PREFIX}CONFIG":
            continue
        if name in names:
            yield names[name], value
        elif name.endswith("_FILE") and name[:-5] in names:
            try:
                yield names[name[:-5]], Path(value).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                faults.append(
                    Fault(name, f"the file cannot be read ({type(error).__name__})", "name a readable file")
                )
        else:
            faults.append(Fault(name, "no such setting", _nearest(name, list(names))))


class _NoAliases(yaml.SafeLoader):
    """YAML without aliases: they have no use here, and nested they fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _read_yaml(path: str, env: Mapping[str, str], faults: list[Fault]) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_FILE + 1)
        if len(raw) > MAX_FILE:
            raise ValueError("larger than 1 MiB")
        found = yaml.load(raw, _NoAliases)  # nosec B506 - a SafeLoader
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        faults.append(Fault(path, f"cannot be read: {str(error)[:200]}", "give a YAML file"))
        return {}
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        faults.append(
            Fault(path, "is not a mapping of settings", "begin with lines such as `redis_url: ...`")
        )
        return {}
    return _interpolated(found, env, faults, "")  # type: ignore[no-any-return]


def _interpolated(value: Any, env: Mapping[str, str], faults: list[Fault], key: str) -> Any:
    if isinstance(value, dict):
        return {
            name: _interpolated(it, env, faults, f"{key}.{name}".lstrip(".")) for name, it in value.items()
        }
    if isinstance(value, list):
        return [_interpolated(it, env, faults, f"{key}[{index}]") for index, it in enumerate(value)]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match[1], env, faults, key), value)
    return value


def _variable(name: str, env: Mapping[str, str], faults: list[Fault], key: str) -> str:
    """What ``${NAME}`` stands for: the variable, else the file that ``NAME_FILE`` names (a mounted secret)."""
    if name in env:
        return env[name]
    if f"{name}_FILE" not in env:
        faults.append(Fault(key, f"the variable {name} is not set", f"set {name}, or write the value"))
        return ""
    try:
        return Path(env[f"{name}_FILE"]).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        wrong = f"the file of {name}_FILE cannot be read ({type(error).__name__})"
        faults.append(Fault(key, wrong, "name a readable file"))
        return ""


def _flat(document: dict[str, Any], faults: list[Fault]) -> Iterator[tuple[str, object]]:
    sections = {key.split(".")[0] for key in _BY_KEY if "." in key}
    for name, value in document.items():
        if name == "models":
            continue
        if name in sections:
            if not isinstance(value, dict):
                faults.append(
                    Fault(name, "is a section", f"write its keys below it, such as {name}: {{...}}")
                )
                continue
            for inner, found in value.items():
                key = f"{name}.{inner}"
                if key in _BY_KEY:
                    yield key, found
                else:
                    faults.append(Fault(key, "no such setting", _nearest(key, list(_BY_KEY))))
        elif name in _BY_KEY:
            yield name, value
        else:
            faults.append(Fault(name, "no such setting", _nearest(name, [*_BY_KEY, *sections, "models"])))


# -- models -----------------------------------------------------------------------------------------------------------


def _models(found: Any, faults: list[Fault]) -> tuple[ModelSettings, ...]:
    if not isinstance(found, dict) or not found:
        faults.append(Fault("models", "names no model", "write models: {NAME: {targets: [...]}}"))
        return ()
    models, seen = [], set[str]()
    for name, body in found.items():
        key = f"models.{name}"
        if not isinstance(body, dict):
            faults.append(Fault(key, "is not a mapping", "write targets: [...] below it"))
            continue
        for unknown in set(body) - set(MODEL_KEYS):
            faults.append(Fault(f"{key}.{unknown}", "no such key", _nearest(str(unknown), list(MODEL_KEYS))))
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
            if other not in found:
                faults.append(
                    Fault(f"{key}.fallback", f"no model {other!r}", _nearest(str(other), list(found)))
                )
            elif other == name:
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
        return TargetSettings("", "", model)
    for unknown in set(found) - set(TARGET_KEYS):
        faults.append(Fault(f"{key}.{unknown}", "no such key", _nearest(str(unknown), list(TARGET_KEYS))))

    def get(name: str, parse: Callable[[object], Any], default: Any) -> Any:
        if found.get(name) is None:
            return default
        try:
            return parse(found[name])
        except ValueError as error:
            shown = "the value" if name == "api_key" else repr(found[name])[:80]
            faults.append(Fault(f"{key}.{name}", f"{shown} is not valid", str(error)))
            return default

    target = TargetSettings(
        name=get("name", text, ""),
        provider=get("provider", one_of("vertex", "gemini", "openai", "embedded"), ""),
        model=get("model", text, model),
        project=get("project", text, ""),
        location=get("location", text, ""),
        base_url=get("base_url", text, ""),
        api_key=get("api_key", text, ""),
        credentials=get("credentials", text, ""),
        client=get("client", one_of("rest", "aiplatform"), "rest"),
        tier=get("tier", natural, 0),
        windows=_quota(f"{key}.quota", found.get("quota"), str(found.get("provider")), faults),
    )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", target.name):
        faults.append(Fault(f"{key}.name", "is missing or odd", "use up to 63 letters, digits, dots, dashes"))
    if not target.provider and "provider" not in found:
        faults.append(Fault(f"{key}.provider", "is missing", "choose vertex, gemini, openai or embedded"))
    if target.base_url and urlsplit(target.base_url).scheme not in ("http", "https"):
        faults.append(Fault(f"{key}.base_url", "is not an address", "write http://... or https://..."))
    if target.credentials == "anonymous" and not _loopback(target.base_url):
        faults.append(
            Fault(f"{key}.credentials", "anonymous is for loopback only", "set a loopback base_url")
        )
    if target.provider == "vertex" and not target.api_key and not (target.project and target.location):
        faults.append(
            Fault(key, "vertex needs project and location", "set both, or an api_key for express mode")
        )
    if target.client == "aiplatform" and target.provider != "vertex":
        faults.append(Fault(f"{key}.client", "aiplatform is for vertex only", "drop it, or write rest"))
    elif target.client == "aiplatform" and not _installed("google.cloud.aiplatform_v1"):
        faults.append(
            Fault(f"{key}.client", "is not installed", "pip install 'knowalledge[aiplatform]', or write rest")
        )
    if target.provider == "gemini" and not target.api_key and not target.credentials:
        faults.append(Fault(f"{key}.api_key", "is missing", "set api_key: ${GOOGLE_API_KEY}"))
    return target


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


_SHORT = {
    "rpm": (Count.REQUESTS, 60),
    "tpm": (Count.TOKENS, 60),
    "rpd": (Count.REQUESTS, DAY),
    "tpd": (Count.TOKENS, DAY),
}
# The Gemini API counts input tokens, and its day ends at midnight Pacific (ai.google.dev/gemini-api/docs/rate-limits).
_PACIFIC = "America/Los_Angeles"


# Where a search for an unpublished limit begins.
_FIRST_RPM = 60


def _quota(key: str, found: Any, provider: str, faults: list[Fault]) -> tuple[Window, ...]:
    if found is None:
        return ()
    if found == "learn":
        return (Window("learnt", Count.REQUESTS, _FIRST_RPM, 60, learn=True),)
    if isinstance(found, dict):
        return tuple(_short(key, name, limit, provider, faults) for name, limit in found.items())
    if isinstance(found, list):
        return tuple(_window(f"{key}[{index}]", entry, faults) for index, entry in enumerate(found[:16]))
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
        faults.append(Fault(f"{key}.{name}", "no such window", _nearest(str(name), list(_SHORT))))
        return Window(str(name), Count.REQUESTS, 1, 60)
    count, span = _SHORT[name]
    gemini = provider == "gemini"
    if gemini and count is Count.TOKENS:
        count = Count.INPUT
    return Window(
        name, count, _limit(f"{key}.{name}", limit, faults), span, _PACIFIC if gemini and span == DAY else ""
    )


def _window(key: str, found: Any, faults: list[Fault]) -> Window:
    if not isinstance(found, dict):
        faults.append(Fault(key, "is not a mapping", "write {count: requests, limit: 120, window: 60s}"))
        return Window("", Count.REQUESTS, 1, 60)
    for unknown in set(found) - set(WINDOW_KEYS):
        faults.append(Fault(f"{key}.{unknown}", "no such key", _nearest(str(unknown), list(WINDOW_KEYS))))
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
            seconds = int(duration(span))
        except ValueError as error:
            faults.append(Fault(f"{key}.window", f"{span!r} is not a window", f"{error}, or day"))
            seconds = 60
        if seconds < 1:
            faults.append(Fault(f"{key}.window", "is shorter than a second", "write 1s or more"))
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
