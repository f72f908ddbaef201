"""Where values come from: the environment, files that hold one value, and the YAML file.

``KNOWALLEDGE_QUEUE__CAPACITY=50`` sets ``queue.capacity``; each variable also takes a ``_FILE`` form, which names
a file that holds the value. What is wrong is added to ``faults``; nothing here raises.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from knowalledge.config.strict_yaml import parse_yaml
from knowalledge.core.settings import Fault, Setting, nearest

PREFIX = "KNOWALLEDGE_"
# Variables of ours that are no settings: where the file is, and the key that client commands send.
_OTHERS = (f"{PREFIX}CONFIG", f"{PREFIX}KEY")
_MAX_FILE = 1024 * 1024  # a larger file is no configuration
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

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
        if not name.startswith(PREFIX) or name in _OTHERS:
            continue
        target = name.removesuffix("_FILE")
        if name in keys:
            yield keys[name], value
        elif target not in keys:
            faults.append(Fault(name, "no such setting", nearest(name, list(keys))))
        elif target in env:
            faults.append(Fault(name, f"{target} is set too", "set one of the two"))
        else:
            secret = _read_secret(value)
            if isinstance(secret, OSError | UnicodeDecodeError):
                wrong = f"the file cannot be read ({type(secret).__name__})"
                faults.append(Fault(name, wrong, "name a readable file"))
            else:
                yield keys[target], secret


def _read_secret(path: str) -> str | OSError | UnicodeDecodeError:
    """The value in a file, such as a mounted secret."""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        return error


def read_document(path: str, env: Mapping[str, str], faults: list[Fault]) -> dict[str, Any]:
    """The YAML file, each ``${NAME}`` replaced by its variable."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_FILE + 1)
        if len(raw) > _MAX_FILE:
            raise ValueError("larger than 1 MiB")
        document, repeated = parse_yaml(raw)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        faults.append(Fault(path, f"cannot be read: {str(error)[:200]}", "give a YAML file"))
        return {}
    for name, number in repeated:
        faults.append(Fault(name, f"comes twice, again in line {number}", "keep one of the two"))
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        faults.append(
            Fault(path, "is not a mapping of settings", "begin with lines such as `redis_url: ...`")
        )
        return {}
    return {name: _interpolate(value, env, faults, name) for name, value in document.items()}


def _interpolate(value: Any, env: Mapping[str, str], faults: list[Fault], key: str) -> Any:
    if isinstance(value, dict):
        return {name: _interpolate(inner, env, faults, f"{key}.{name}") for name, inner in value.items()}
    if isinstance(value, list):
        return [_interpolate(inner, env, faults, f"{key}[{index}]") for index, inner in enumerate(value)]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _expand(match[1], env, faults, key), value)
    return value


def _expand(name: str, env: Mapping[str, str], faults: list[Fault], key: str) -> str:
    """The value of ``${NAME}``: the variable's, else that of the file which ``NAME_FILE`` names."""
    if name in env:
        return env[name]
    if f"{name}_FILE" not in env:
        faults.append(Fault(key, f"the variable {name} is not set", f"set {name}, or write the value"))
        return ""
    secret = _read_secret(env[f"{name}_FILE"])
    if isinstance(secret, str):
        return secret
    wrong = f"the file of {name}_FILE cannot be read ({type(secret).__name__})"
    faults.append(Fault(key, wrong, "name a readable file"))
    return ""


def from_document(
    document: dict[str, Any], settings: tuple[Setting, ...], faults: list[Fault]
) -> Iterator[tuple[str, object]]:
    """Keys and values of the YAML file, without ``models``."""
    known = [it.key for it in settings]
    keys, sections = set(known), dict.fromkeys(key.split(".")[0] for key in known if "." in key)
    for name, value in document.items():
        if name == "models":
            continue
        if name in keys:
            yield name, value
        elif name not in sections:
            faults.append(Fault(name, "no such setting", nearest(name, [*known, *sections, "models"])))
        elif not isinstance(value, dict):
            faults.append(Fault(name, "is a section", f"write its keys below it, such as {name}: {{...}}"))
        else:
            for inner, written in value.items():
                key = f"{name}.{inner}"
                if key in keys:
                    yield key, written
                else:
                    faults.append(Fault(key, "no such setting", nearest(key, known)))
