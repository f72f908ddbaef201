"""How a capability declares its settings: a frozen dataclass, each field with a parser, a default and a description.

    @dataclass(frozen=True)
    class QueueSettings:
        capacity: int = setting(non_negative, 100, "Requests that may wait for one quota.")

``config/settings.py`` composes the sections: this field is ``settings.queue.capacity`` in the code, ``queue.capacity``
in a file. Sections are dataclasses because the fields of a Struct carry no metadata.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from difflib import get_close_matches
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
_METADATA = "setting"


class Fault(NamedTuple):
    """One mistake in the configuration, with its cure."""

    key: str
    wrong: str
    cure: str


def nearest(word: str, known: list[str]) -> str:
    """The cure of an unknown name: the known one whose spelling is closest."""
    near = get_close_matches(word[:100], known, n=1, cutoff=0.0)
    return f"the nearest known one is {near[0]!r}" if near else "there is none"


class Setting(NamedTuple):
    """A declared setting. ``key`` is its path from the root, such as ``queue.capacity``."""

    key: str
    parse: Callable[[object], Any]  # raises ValueError with the cure
    default: Any
    description: str
    secret: bool  # masked wherever settings are shown

    def value_in(self, settings: object) -> Any:
        """The value in composed settings."""
        return attrgetter(self.key)(settings)


def setting(parse: Callable[[object], T], default: T, description: str, *, secret: bool = False) -> T:
    """Declare one field of a section.

    ``parse`` turns text or a YAML value into the field's type, and raises ValueError with the cure. mypy holds that
    field, parser and default agree.
    """
    declared: T = field(
        default_factory=lambda: default,
        metadata={_METADATA: Setting("", parse, default, description, secret)},
    )
    return declared


def declared_in(section: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a section and of the sections within it, in order of declaration."""
    for it in fields(section):
        if _METADATA in it.metadata:
            yield it.metadata[_METADATA]._replace(key=prefix + it.name)
        elif is_dataclass(it.type):
            yield from declared_in(it.type, f"{prefix}{it.name}.")


def compose(section: Callable[..., T], values: Mapping[str, Any], prefix: str = "", **others: Any) -> T:
    """A section with its values, by key. ``others`` are its fields that are no settings."""
    for it in fields(section):  # type: ignore[arg-type]
        if _METADATA in it.metadata:
            others[it.name] = values[prefix + it.name]
        elif is_dataclass(it.type):
            others[it.name] = compose(it.type, values, f"{prefix}{it.name}.")  # type: ignore[arg-type]
    return section(**others)
