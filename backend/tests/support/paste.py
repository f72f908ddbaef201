"""Pastes the cure of a fault into a configuration, as the person would who reads it."""

import os
import subprocess
from collections.abc import Iterator

import yaml

from knowalledge.core.settings import Edit, Fault


def paste(text: str, fault: Fault, environ: dict[str, str]) -> str:
    """The file after each step of the cure; ``environ`` changes as the shell's would."""
    for step in fault.steps:
        if step.edit is Edit.RUN:
            _run(step.text, environ)
        else:
            text = _edited(text, step.key, fault.line, step.edit, step.text)
    return text


def _run(command: str, environ: dict[str, str]) -> None:
    """In a shell that has these variables."""
    own = {"PATH": os.environ["PATH"]}
    shell = ["sh", "-c", f"{command}\nenv -0"]
    done = subprocess.run(shell, env=own | environ, capture_output=True, text=True, timeout=60, check=True)
    pairs = (it.partition("=") for it in done.stdout.split("\0") if it)
    environ.clear()
    environ.update(
        {name: value for name, _, value in pairs if name not in ("PATH", "PWD", "SHLVL", "_", "OLDPWD")}
    )


def _edited(text: str, key: str, line: int, edit: Edit, new: str) -> str:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert node is not None
    places = [it for it in _places(node, "") if it[0] == key]
    if not places:
        assert edit is Edit.ADD
        return _added(text, key, node, new)
    _, key_node, value = next(
        (it for it in places if (it[1] or it[2]).start_mark.line + 1 == line), places[-1]
    )
    named = key_node or value
    begin = (key_node or value).start_mark.index
    end = value.end_mark.index
    match edit:
        case Edit.RENAME:
            return text[:begin] + new + text[named.end_mark.index :]
        case Edit.WRITE:
            # A mapping or list without brackets ends where the next line begins to differ.
            block = isinstance(value, yaml.CollectionNode) and not value.flow_style
            return (
                text[:begin]
                + new
                + ("\n" + " " * (text[:end][::-1].index("\n")) if block else "")
                + text[end:]
            )
        case _:
            before, after = text[:begin], text[end:]
            if key_node is None and before.endswith(
                "- "
            ):  # an item of a list without brackets, in a line of its own
                return before.removesuffix("- ").rstrip(" ") + after.removeprefix("\n")
            if before.rstrip(" ").endswith(","):
                return before.rstrip(" ")[:-1] + after
            return before + after.lstrip(" ").removeprefix(",")


def _added(text: str, key: str, root: yaml.Node, new: str) -> str:
    """Below the nearest parent that there is."""
    mappings = {path: value for path, _, value in _places(root, "") if isinstance(value, yaml.MappingNode)}
    parents = [it for it in mappings if key == it or key.startswith(f"{it}.")]
    parent = mappings[max(parents, key=len)] if parents else root
    assert isinstance(parent, yaml.MappingNode)
    if parent.flow_style:
        end = parent.end_mark.index - 1
        return text[:end] + (", " if parent.value else "") + new + text[end:]
    at = parent.start_mark.index
    return text[:at] + new + os.linesep + " " * parent.start_mark.column + text[at:]


def _places(node: yaml.Node, path: str) -> Iterator[tuple[str, yaml.Node | None, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            yield inner, key, value
            yield from _places(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield f"{path}[{index}]", None, value
            yield from _places(value, f"{path}[{index}]")
