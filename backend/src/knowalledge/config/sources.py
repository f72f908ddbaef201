"""Where values come from: the environment, files that hold one value, and the YAML file.

``KNOWALLEDGE_QUEUE__CAPACITY=50`` sets ``queue.capacity``; each variable also takes a ``_FILE`` form, which names
a file that holds the value. What is wrong is added to ``faults``; nothing here raises.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from knowalledge.config.strict_yaml import BadYaml, Document, parse_yaml
from knowalledge.core.settings import REMOVE, Edit, Fault, Setting, Step, misspelt, nearest, write

PREFIX = "KNOWALLEDGE_"
ENVIRONMENT = "environment"
# Variables of ours that are no settings: of the command line, of docker-compose.yml, and of the scripts in deploy/.
OTHERS = frozenset(
    PREFIX + it
    for it in (
        "CONFIG",
        "ENGINE",
        "GATEWAY",
        "IMAGE",
        "K8S",
        "KEY",
        "LOCAL_ENGINE",
        "NET",
        "PORT",
        "SERVER",
        "TLS_PORT",
        "TRACING_ENDPOINT",
        "TRACING_SAMPLE",
    )
)
# What Kubernetes and Docker put into the environment for a Service or a link that is named knowalledge.
_LINK = re.compile(
    PREFIX + r"([A-Z0-9]+_)*(PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?|SERVICE_(HOST|PORT)(_\w+)?)"
)
_MAX_FILE = 1024 * 1024  # a larger file is no configuration
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_EMPTY = Document({}, {}, ())

Layer = tuple[str, Mapping[str, object]]  # a source's name, and its values by key


def variable(key: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + key.upper().replace(".", "__")


def from_environment(
    env: Mapping[str, str], settings: tuple[Setting, ...], faults: list[Fault]
) -> Iterator[tuple[str, object]]:
    """Keys and values that environment variables set."""
    keys = {variable(it.key): it.key for it in settings}
    for name, value in env.items():
        target = name.removesuffix("_FILE")
        if name in keys:
            yield keys[name], value
        elif target in keys and target not in env:
            secret = _read_secret(value)
            if isinstance(secret, str):
                yield keys[target], secret
            else:
                wrong = f"the file cannot be read ({type(secret).__name__})"
                faults.append(_in_environment(name, wrong, "name a readable file"))
        elif target in keys:
            faults.append(_in_environment(name, f"{target} is set too", "set one of the two"))
        elif name.startswith(PREFIX) and name not in OTHERS and not _LINK.fullmatch(name):
            faults.append(_in_environment(name, "no such setting", nearest(name, list(keys))))


def _in_environment(name: str, wrong: str, cure: str) -> Fault:
    return Fault(name, wrong, cure, (Step(Edit.RUN, f"unset {name}"),), ENVIRONMENT)


def _read_secret(path: str) -> str | OSError | UnicodeDecodeError:
    """The value in a file, such as a mounted secret."""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        return error


def read_document(
    path: str, env: Mapping[str, str], example_of: Callable[[str], str], faults: list[Fault]
) -> Document:
    """The YAML file, each ``${NAME}`` replaced by its variable. ``example_of``: a value of a key for a cure."""
    start = (Step(Edit.RUN, f"knowalledge init --output {path} --force"),)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_FILE + 1)
        if len(raw) > _MAX_FILE:
            raise BadYaml("larger than 1 MiB", "give a YAML file", 0)
        document = parse_yaml(raw)
    except OSError as error:
        wrong = f"cannot be read: {error.strerror or type(error).__name__}"
        steps = (Step(Edit.RUN, f"knowalledge init --output {path}"),) if not Path(path).exists() else ()
        faults.append(Fault(path, wrong, "name a file that you may read, or make one", steps, path))
        return _EMPTY
    except BadYaml as error:
        faults.append(Fault(path, f"cannot be read: {error}", error.cure, (), path, error.line))
        return _EMPTY
    for name, number in document.repeated:
        faults.append(Fault(name, "comes twice", "keep one of the two", REMOVE, path, number))
    value = {} if document.value is None else document.value
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        cure = "begin with lines such as `redis_url: ...`"
        faults.append(Fault(path, "is not a mapping of settings", cure, start, path, 1))
        return _EMPTY
    fill = partial(_interpolate, env, example_of, faults)
    return document._replace(value={name: fill(name, inner) for name, inner in value.items()})


def _interpolate(
    env: Mapping[str, str], example_of: Callable[[str], str], faults: list[Fault], key: str, value: Any
) -> Any:
    fill = partial(_interpolate, env, example_of, faults)
    if isinstance(value, dict):
        return {name: fill(f"{key}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [fill(f"{key}[{index}]", inner) for index, inner in enumerate(value)]
    if isinstance(value, str):
        example = example_of(key) if _VARIABLE.fullmatch(value) else ""
        return _VARIABLE.sub(lambda match: _expand(match[1], env, faults, key, example), value)
    return value


def _expand(name: str, env: Mapping[str, str], faults: list[Fault], key: str, example: str) -> str:
    """The value of ``${NAME}``: the variable's, else that of the file which ``NAME_FILE`` names."""
    if name in env:
        return env[name]
    secret = _read_secret(env[f"{name}_FILE"]) if f"{name}_FILE" in env else None
    if isinstance(secret, str):
        return secret
    if secret is None:
        wrong, cure = f"the variable {name} is not set", f"set {name}, or write the value"
    else:
        wrong = f"the file of {name}_FILE cannot be read ({type(secret).__name__})"
        cure = "name a readable file"
    faults.append(Fault(key, wrong, cure, (_export(name, example),)))
    return ""


def _export(name: str, example: str = "") -> Step:
    return Step(Edit.RUN, f"export {name}={shlex.quote(example or f'YOUR_{name}')}")


def missing_variables(steps: tuple[Step, ...], env: Mapping[str, str]) -> tuple[Step, ...]:
    """The steps that set what pasted pairs name and the environment does not have."""
    names = dict.fromkeys(name for it in steps for name in _VARIABLE.findall(it.text))
    return tuple(_export(it) for it in names if not env.get(it) and f"{it}_FILE" not in env)


def from_document(
    document: Mapping[str, Any], settings: tuple[Setting, ...], faults: list[Fault]
) -> Iterator[tuple[str, object]]:
    """Keys and values of the YAML file, without ``models``. A key may be nested or have dots: ``queue.capacity``."""
    rows = {it.key: it for it in settings}
    seen: set[str] = set()
    for key, value in _leaves("", {k: v for k, v in document.items() if k != "models"}, rows, faults):
        if key in seen:
            faults.append(Fault(key, "comes twice", "keep one of the two", REMOVE))
        seen.add(key)
        yield key, value


def _leaves(
    section: str, written: Mapping[str, Any], rows: Mapping[str, Setting], faults: list[Fault]
) -> Iterator[tuple[str, object]]:
    """Every setting in a section, with its whole key."""
    inner = [key.removeprefix(section) for key in rows if key.startswith(section)]
    for name, value in unabridged(section.rstrip("."), written, names_within(inner), faults):
        key, below = f"{section}{name}", f"{section}{name}."
        if key in rows:
            yield key, value
        elif isinstance(value, dict):
            yield from _leaves(below, value, rows, faults)
        elif value is not None:
            first = next(it for it in rows.values() if it.key.startswith(below))
            pair = f"{name}: {{{first.key.removeprefix(below)}: {first.example}}}"
            cure = f"write its keys below it, such as {pair}"
            faults.append(Fault(key, "is a section", cure, write(pair)))


def names_within(keys: Iterable[str]) -> list[str]:
    """What may be written in a section with these keys: each whole, and each of its beginnings."""
    names: dict[str, None] = {}
    for key in keys:
        parts = key.split(".")
        names.update(dict.fromkeys(".".join(parts[: count + 1]) for count in reversed(range(len(parts)))))
    return list(names)


def unabridged(
    parent: str, written: Mapping[Any, Any], known: list[str], faults: list[Fault]
) -> Iterator[tuple[str, Any]]:
    """The pairs of a mapping with known keys. A misspelt key is a fault, and counts as the one that is meant."""
    for name, value in written.items():
        if name in known:
            yield str(name), value
            continue
        key = f"{parent}.{name}" if parent else str(name)
        meant = misspelt(str(name), known)
        if meant and meant not in written:
            steps = (Step(Edit.RENAME, meant),)
            faults.append(Fault(key, "no such setting", f"the nearest known one is {meant!r}", steps))
            yield meant, value
        else:
            cure = f"remove it; {nearest(str(name), known)}"
            faults.append(Fault(key, "no such setting", cure, REMOVE))
