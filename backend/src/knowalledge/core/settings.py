"""How a capability declares its settings: a frozen dataclass, each field with a parser, a default and a description.

    @dataclass(frozen=True)
    class QueueSettings:
        capacity: int = setting(non_negative, 100, "Requests that may wait for one quota.")

``config/settings.py`` composes the sections: this field is ``settings.queue.capacity`` in the code, ``queue.capacity``
in a file. Sections are dataclasses because the fields of a Struct carry no metadata.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from difflib import get_close_matches
from enum import StrEnum
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from knowalledge.core.parsers import NotValid, written

T = TypeVar("T")
_METADATA = "setting"
# How alike two names must be for one to count as a misspelling of the other: `rqm` and `rpm`, `modles` and `models`.
_ALIKE = 0.6


class Edit(StrEnum):
    """How a cure is pasted."""

    WRITE = "write"  # this pair, in place of the key and its value
    ADD = "add"  # this pair, below the parent of the key, which is missing
    RENAME = "rename"  # the key to this name
    REMOVE = "remove"  # the key and its value
    RUN = "run"  # this command, in the shell


class Step(NamedTuple):
    """One step of a cure. ``text`` is what to paste; empty for ``REMOVE``."""

    edit: Edit
    text: str = ""
    key: str = ""  # of what is written, renamed or removed


class Fault(NamedTuple):
    """One mistake in the configuration, with its cure: a sentence, and what to paste."""

    key: str
    wrong: str
    cure: str
    steps: tuple[Step, ...] = ()
    file: str = ""  # where the mistake is: a file's name, or `environment`
    line: int = 0  # of the file, from 1; 0: unknown


def write(*pairs: str) -> tuple[Step, ...]:
    """A cure of pairs such as ``capacity: 100``, each to be written, or added where the key is missing."""
    return tuple(Step(Edit.WRITE, it) for it in pairs)


REMOVE = (Step(Edit.REMOVE),)


def nearest(word: str, known: list[str]) -> str:
    """The cure of an unknown name: the known one whose spelling is closest."""
    near = get_close_matches(word[:100], known, n=1, cutoff=0.0)
    return f"the nearest known one is {near[0]!r}" if near else "there is none"


def misspelt(word: str, known: Iterable[str]) -> str:
    """The known name that a word is probably a misspelling of; empty if there is none."""
    near = get_close_matches(word[:100], list(known), n=1, cutoff=_ALIKE)
    return near[0] if near else ""


class Setting(NamedTuple):
    """A declared setting. ``key`` is its path from the root, such as ``queue.capacity``."""

    key: str
    parse: Callable[[object], Any]  # raises ValueError with the cure
    default: Any
    description: str
    secret: bool  # masked wherever settings are shown

    @property
    def example(self) -> str:
        """A value as YAML: the default, or one that the parser names where the default is empty."""
        if not self.default:
            try:
                self.parse("?")
            except NotValid as error:
                if error.example:
                    return error.example
            except ValueError:
                pass
        return written(self.parse, self.default)

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
