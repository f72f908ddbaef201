"""Strict YAML: no aliases, keys that come twice are reported, and each key has its line.

What is wrong with a file is said in our own words: the library's quote the file, which may hold a secret.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

_NO_VALUE = "no value"
# What the library finds, by how its message begins: what is wrong, and the cure. No message is passed on.
_PROBLEMS = (
    (r"found character '\\t'", "a tab indents here", "indent with spaces"),
    (
        r"found character '[@`]'",
        "a value begins with @ or a backtick",
        'put it into quotes: "..."',
    ),
    (r"found character '%'", "a value begins with %", 'put it into quotes: "..."'),
    (
        r"mapping values are not allowed",
        "a second colon in one line, a line above without one, or a line that is indented too far",
        "write `key: value`, put a value with a colon into quotes, and indent keys of one level alike",
    ),
    (
        r"expected ',' or|did not find expected ',' or|expected the node content, but found '([,\]}]|<stream end>)'",
        "a bracket is not closed, or a comma is missing",
        "close { with } and [ with ], and put a comma between two entries",
    ),
    (
        r"found unexpected end of stream|found unexpected document separator",
        "a quote is not closed",
        "end the value with the quote that it begins with",
    ),
    (
        r"could not find expected ':'",
        "a line without a colon",
        "write `key: value`, or put the text into quotes",
    ),
    (
        r"expected <block end>|expected '<document start>'",
        "the indentation differs from that of the lines above",
        "indent keys of one level alike",
    ),
    (r"could not determine a constructor", "a value begins with !", 'put it into quotes: "!..."'),
    (
        r"aliases are not allowed|while scanning an (alias|anchor)|expected alphabetic|found duplicate anchor",
        "a value begins with * or &, which name parts of a file in YAML",
        "put it into quotes, or write the part again",
    ),
    (r"found unknown escape|expected escape", "an unknown escape within double quotes", "use single quotes"),
    (r"found unhashable key", "a key is a list or a mapping", "write a name before the colon"),
    (_NO_VALUE, "a value looks like a number or a date, and is none", 'put it into quotes: "..."'),
    (r"expected a single document", "a second document begins", "remove the line with ---"),
)


class BadYaml(ValueError):
    """A file is not YAML. The message says what is wrong and quotes nothing of it."""

    def __init__(self, wrong: str, cure: str, line: int) -> None:
        super().__init__(wrong)
        self.cure = cure
        self.line = line  # from 1; 0: unknown


class Document(NamedTuple):
    """A parsed file. Keys are paths such as ``models.fast.targets[0].name``."""

    value: Any
    lines: Mapping[str, int]  # the line of each key and each list item
    repeated: tuple[tuple[str, int], ...]  # keys that come again, and the lines of the repetitions


class _StrictLoader(yaml.SafeLoader):
    """Refuses aliases and anchors: a configuration needs none, and nested ones can fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None):  # an alias has its anchor's name
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError):  # a date that no calendar has, a number that is none
            raise yaml.MarkedYAMLError(problem=_NO_VALUE, problem_mark=node.start_mark) from None


def parse_yaml(raw: bytes) -> Document:
    """The document of a file. Raises ``BadYaml``."""
    try:
        loader = _StrictLoader(raw)
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _explained(error) from None
    lines: dict[str, int] = {}
    repeated = []
    for key, line in _places(node, ""):
        if key in lines:
            repeated.append((key, line))
        lines.setdefault(key, line)
    return Document(value, lines, tuple(repeated))


def _places(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """Every key and every list item below a node, with its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            yield inner, key.start_mark.line + 1
            yield from _places(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield f"{path}[{index}]", value.start_mark.line + 1
            yield from _places(value, f"{path}[{index}]")


def _explained(error: Exception) -> BadYaml:
    if isinstance(error, RecursionError):
        return BadYaml("brackets are nested too deeply", "write fewer levels", 0)
    if isinstance(error, yaml.reader.ReaderError):
        return BadYaml("the file is not text in UTF-8", "save it as UTF-8", 0)
    if not isinstance(error, yaml.MarkedYAMLError):
        return BadYaml("the file is not YAML", "compare it with the example in README.md", 0)
    said = " ".join(it for it in (error.problem, error.context) if it)
    known = (it[1:] for it in _PROBLEMS if re.search(it[0], said))
    wrong, cure = next(known, ("the line is not YAML", "compare it with the lines above it"))
    # What is not closed is shown where it begins; all else where it is noticed.
    opened = "not closed" in wrong and error.context_mark
    mark = error.context_mark if opened else error.problem_mark or error.context_mark
    return BadYaml(wrong, cure, mark.line + 1 if mark else 0)
