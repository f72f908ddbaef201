"""Every setting, once: its key, its type, its default and why it exists. The only place that reads the environment.

Precedence: command line, environment, YAML file, default. ``KNOWALLEDGE_QUEUE__CAPACITY=50`` sets ``queue.capacity``;
each variable also takes a ``_FILE`` form that names a file holding the value. All faults are found at once; each
names its key, what is wrong and the cure.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml
from msgspec import Struct

from knowalledge.config.models import Fault, ModelSettings, embedded, models_of, nearest
from knowalledge.config.parsers import (
    address,
    boolean,
    duration,
    header_name,
    http_address,
    is_http,
    level,
    natural,
    one_of,
    positive,
    rate,
    room,
    share,
    shares,
    size,
    span,
    text,
)
from knowalledge.core.context import Priority

MAX_FILE = 1024 * 1024  # a configuration larger than this is a mistake
PREFIX = "KNOWALLEDGE_"
# Variables of ours that are no settings: where the file is, and a caller's own key.
_OTHERS = (f"{PREFIX}CONFIG", f"{PREFIX}KEY")


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
    Setting("redis.timeout", span, 1.0, "A Redis that does not answer within this counts as gone."),
    Setting("default_model", text, "", "The model of requests that name none; empty: the first one."),
    Setting("request.timeout", span, 60.0, "The patience for one request when the caller names none."),
    Setting("request.max_timeout", span, 600.0, "The longest patience that a caller may name."),
    Setting("provider.proxy", PROXY, "", "The way to providers that are not on this machine.", True),
    Setting("server.max_body", room, 8 * 1024**2, "The largest request body."),
    Setting(
        "server.heartbeat", span, 15.0, "A silent stream gets a comment this often: proxies keep it open."
    ),
    Setting("server.drain", duration, 30.0, "Running streams may take this long to finish after SIGTERM."),
    Setting("server.connections", positive, 4000, "Concurrent connections of one worker."),
    Setting("queue.capacity", natural, 100, "Places in the waiting room of one quota."),
    Setting("queue.timeout", duration, 30.0, "The longest wait for quota."),
    Setting(
        "queue.aging",
        span,
        15.0,
        "A lower level that waited this long gets one grant in twenty, if it had no other.",
    ),
    Setting(
        "queue.holdback",
        shares,
        {Priority.LOW: 0.998},
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
        "clients.rate",
        rate,
        "",
        "How often one client (a tenant, else an address) may ask, such as 600/minute; empty: as often as it likes.",
    ),
    Setting(
        "clients.proxies",
        natural,
        0,
        "How many proxies in front are trusted to say in X-Forwarded-For who asks.",
    ),
    Setting(
        "auth.tenant_header",
        header_name,
        "",
        "The header in which a trusted front names the tenant; empty: all callers are one tenant.",
    ),
    Setting(
        "auth.mode",
        one_of("none", "required"),
        "none",
        "required: a front lets in only who says who it is, so no cache outside may share its answers.",
    ),
    Setting(
        "tracing.endpoint",
        http_address,
        "",
        "Where spans go, by OTLP over HTTP in JSON, such as http://collector:4318; empty: nothing is traced.",
    ),
    Setting(
        "tracing.sample",
        share,
        0.1,
        "The share of requests that are traced, of those whose caller's traceparent does not say.",
    ),
    Setting("tracing.timeout", span, 5.0, "A store of traces that does not answer within this is away."),
    Setting(
        "log.level", one_of("debug", "info", "warning", "error"), "info", "The least level that is logged."
    ),
)
_BY_KEY = {setting.key: setting for setting in TABLE}


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
        models = models_of(document.get("models"), faults) if "models" in document else embedded()
        default = values["default_model"].value
        if default and models and default not in {model.name for model in models}:
            faults.append(
                Fault("default_model", f"no model {default!r}", nearest(default, [m.name for m in models]))
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
        if not is_http(url):
            yield Fault("cdn.url", "is not an address", "write http://... or https://...")
    if kind in ("cloudflare", "fastly"):
        for name in ("zone", "token"):
            if not cdn[f"cdn.{name}"]:
                yield Fault(f"cdn.{name}", "is missing", f"{kind} needs it to purge")
        if not re.fullmatch(r"[A-Za-z0-9_-]*", cdn["cdn.zone"]):
            yield Fault("cdn.zone", "is odd", "copy it from the CDN's console")


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
    # With an @ an address may have a password, wherever one was not asked for.
    return "the value" if setting.secret or "@" in str(value) else repr(value)[:80]


def _from_environment(env: Mapping[str, str], faults: list[Fault]) -> Iterator[tuple[str, object]]:
    names = {PREFIX + setting.key.upper().replace(".", "__"): setting.key for setting in TABLE}
    for name, value in env.items():
        if not name.startswith(PREFIX) or name in _OTHERS:
            continue
        if name in names:
            yield names[name], value
        elif name.endswith("_FILE") and name[:-5] in env and name[:-5] in names:
            faults.append(Fault(name, f"{name[:-5]} is set too", "set one of the two"))
        elif name.endswith("_FILE") and name[:-5] in names:
            try:
                yield names[name[:-5]], Path(value).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                faults.append(
                    Fault(name, f"the file cannot be read ({type(error).__name__})", "name a readable file")
                )
        else:
            faults.append(Fault(name, "no such setting", nearest(name, list(names))))


class _Strict(yaml.SafeLoader):
    """YAML without aliases: they have no use here, and nested they fill the memory. Keys that come twice are noted."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.twice: list[tuple[str, int]] = []  # and the line of the second

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                self.twice.append((name, key.start_mark.line + 1))
            seen.add(name)
        return super().construct_mapping(node, deep)

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
        loader = _Strict(raw)
        found = loader.get_single_data()
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        faults.append(Fault(path, f"cannot be read: {str(error)[:200]}", "give a YAML file"))
        return {}
    for name, line in loader.twice:
        faults.append(Fault(name, f"comes twice, again in line {line}", "keep one of the two"))
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
                    faults.append(Fault(key, "no such setting", nearest(key, list(_BY_KEY))))
        elif name in _BY_KEY:
            yield name, value
        else:
            faults.append(Fault(name, "no such setting", nearest(name, [*_BY_KEY, *sections, "models"])))
