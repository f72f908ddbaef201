"""The settings of the process: every section of every capability, composed.

A capability declares its section in its own ``settings.py``; a line in ``Settings`` adds it here. Precedence: command
line, environment, YAML file, default.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Self

from knowalledge.caching.settings import CacheSettings, CdnSettings
from knowalledge.config.models import EXAMPLES, embedded_model, parse_models
from knowalledge.config.places import located
from knowalledge.config.production import PROFILES, production_faults
from knowalledge.config.sources import (
    ENVIRONMENT,
    PREFIX,
    Layer,
    from_document,
    from_environment,
    names_within,
    read_document,
    unabridged,
    variable,
)
from knowalledge.core.parsers import one_of, text
from knowalledge.core.settings import (
    Edit,
    Fault,
    Setting,
    Step,
    compose,
    declared_in,
    nearest,
    setting,
    write,
)
from knowalledge.gateway.settings import RequestSettings
from knowalledge.identity.settings import AuthSettings, ClientSettings, CorsSettings, LimitSettings
from knowalledge.net.redis.settings import RedisSettings, redis_address
from knowalledge.net.sql.settings import database_address
from knowalledge.observability.settings import LogSettings, TracingSettings
from knowalledge.providers.settings import ModelSettings, ProviderSettings, TargetSettings
from knowalledge.quota.settings import QueueSettings
from knowalledge.web.settings import ServerSettings


class SettingsError(Exception):
    """Every fault of a configuration."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(f"{it.key}: {it.wrong}; {it.cure}" for it in faults))
        self.faults = faults


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is in force.

    ``origins`` names the source of each value, by key, and of ``models``.
    ``lines`` has the line of each key of ``file``.
    """

    models: tuple[ModelSettings, ...]
    origins: Mapping[str, str]
    file: str  # empty: none was given
    lines: Mapping[str, int]
    profile: str = setting(
        one_of(*PROFILES),
        "development",
        "`production`: refuse to start with weak or equal secrets, without keys, or with servers that anybody may use.",
    )
    redis_url: str = setting(
        redis_address,
        "",
        "The Redis that replicas share (also redis+sentinel://, redis+cluster://); empty: state stays in process.",
        secret=True,
    )
    redis: RedisSettings
    database_url: str = setting(
        database_address,
        "",
        "The database of tenants, users and keys, such as postgresql://HOST/NAME; empty: a file in .run of SQLite.",
        secret=True,
    )
    default_model: str = setting(
        text, "", "The model of requests that name none; empty: the first of `models`."
    )
    request: RequestSettings
    provider: ProviderSettings
    server: ServerSettings
    queue: QueueSettings
    cache: CacheSettings
    cdn: CdnSettings
    clients: ClientSettings
    limits: LimitSettings
    cors: CorsSettings
    auth: AuthSettings
    tracing: TracingSettings
    log: LogSettings

    @property
    def default(self) -> ModelSettings:
        """The model of requests that name none."""
        return next((it for it in self.models if it.name == self.default_model), self.models[0])

    @property
    def targets(self) -> tuple[TargetSettings, ...]:
        """Those of all models."""
        return tuple(target for model in self.models for target in model.targets)

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        config: str = "",
    ) -> Self:
        """Read every source; ``overrides`` are the command line's, by key. Raises ``SettingsError`` with all faults."""
        env = os.environ if environ is None else environ
        faults: list[Fault] = []
        path = config or env.get(f"{PREFIX}CONFIG", "")
        document, lines, _ = read_document(path, env, _example_of, faults) if path else ({}, {}, ())
        document = dict(unabridged("", document, TOP_LEVEL, faults))
        layers: tuple[Layer, ...] = (
            ("command line", overrides or {}),
            (ENVIRONMENT, dict(from_environment(env, SETTINGS, faults))),
            (path, dict(from_document(document, SETTINGS, faults))),
        )
        chosen = {it.key: _choose(it, layers, faults) for it in SETTINGS}
        models = parse_models(document.get("models"), faults) if "models" in document else embedded_model()
        origins = {key: origin for key, (_, origin) in chosen.items()}
        origins["models"] = path if "models" in document else "default"
        values = {key: value for key, (value, _) in chosen.items()}
        settings = compose(cls, values, models=models, origins=origins, file=path, lines=lines)
        faults.extend(settings._faults())
        if faults:
            raise SettingsError(located(faults, path, lines, env))
        return settings

    def _faults(self) -> Iterator[Fault]:
        """Rules over several settings."""
        names = [it.name for it in self.models]
        if self.default_model and names and self.default_model not in names:
            near = get_close_matches(self.default_model[:100], names, n=1, cutoff=0.0)[0]
            steps = write(f"default_model: {json.dumps(near)}")
            cure = nearest(self.default_model, names)
            yield Fault("default_model", f"no model {self.default_model!r}", cure, steps)
        yield from self.cdn.faults()
        yield from self.auth.faults(self.database_url)
        if self.profile == "production":
            yield from production_faults(
                self.auth, self.log.level, self.redis_url, self.database_url, self.cdn.token, self.cors
            )


# Every setting, in the order of the reference.
SETTINGS: tuple[Setting, ...] = tuple(declared_in(Settings))
# What may stand at the left of the file.
TOP_LEVEL = [*names_within(it.key for it in SETTINGS), "models"]


def _example_of(key: str) -> str:
    """A valid value of a key of the file, in YAML; empty: any text will do."""
    row = next((it for it in SETTINGS if it.key == key), None)
    return row.example if row else EXAMPLES.get(key.rpartition(".")[2], "")


def _choose(row: Setting, layers: tuple[Layer, ...], faults: list[Fault]) -> tuple[Any, str]:
    """The value of the first layer that has a valid one, else the default; and its origin."""
    for origin, layer in layers:
        if row.key in layer:
            written = layer[row.key]
            try:
                return row.parse(written), origin
            except ValueError as error:
                faults.append(_not_valid(row, written, origin, error))
    return row.default, "default"


def _not_valid(row: Setting, written: object, origin: str, error: ValueError) -> Fault:
    # With an @ an address may hold a password, whatever the setting is.
    shown = "the value" if row.secret or "@" in str(written) else repr(written)[:80]
    wrong = "has no value" if written is None else f"{shown} is not valid"
    if origin == ENVIRONMENT:
        name = variable(row.key)
        steps = (Step(Edit.RUN, f"unset {name}_FILE; export {name}={shlex.quote(row.example)}"),)
        return Fault(row.key, wrong, str(error), steps, ENVIRONMENT)
    return Fault(row.key, wrong, str(error), write(f"{row.key.rpartition('.')[2]}: {row.example}"))
