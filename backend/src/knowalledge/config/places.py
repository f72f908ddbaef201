"""Where the mistakes of a configuration are: each fault once, with its file and line, in the order of the file."""

from collections.abc import Mapping

from knowalledge.config.sources import ENVIRONMENT, missing_variables
from knowalledge.core.settings import Edit, Fault, Step


def located(faults: list[Fault], path: str, lines: Mapping[str, int], env: Mapping[str, str]) -> list[Fault]:
    """The faults with what is known of their places.

    A key is told once: what was found first. Pasted cures that name a variable also say how to set it.
    """
    renamed = {
        f"{it.key.rpartition('.')[0]}.{step.text}".lstrip("."): it.key
        for it in faults
        for step in it.steps
        if step.edit is Edit.RENAME
    }
    told: dict[tuple[str, bool], Fault] = {}
    for fault in faults:
        line = fault.line or (
            0 if fault.file == ENVIRONMENT else line_of(_as_written(fault.key, renamed), lines)
        )
        steps = tuple(_placed(fault.key, it, lines, renamed) for it in fault.steps)
        steps += missing_variables(steps, env)
        file = fault.file or (path if line else "")
        told.setdefault((fault.key, file == ENVIRONMENT), fault._replace(file=file, line=line, steps=steps))
    return sorted(told.values(), key=lambda it: it.line)


def _placed(key: str, step: Step, lines: Mapping[str, int], renamed: Mapping[str, str]) -> Step:
    """The step with the key that it is about: the fault's own, or one beside or below it that the step names."""
    if step.edit is Edit.RUN:
        return step
    name, colon, _ = step.text.partition(": ")
    named = step.edit is Edit.WRITE and colon and not name.startswith("{")
    if named and not f".{key}".endswith(f".{name}"):
        holds_pairs = key.endswith("]") or "." not in key
        key = f"{key if holds_pairs else key.rpartition('.')[0]}.{name}"
    there = _as_written(key, renamed) in lines
    return Step(step.edit if there or step.edit is not Edit.WRITE else Edit.ADD, step.text, key)


def _as_written(key: str, renamed: Mapping[str, str]) -> str:
    """A key as the file has it, where it or a parent is misspelt."""
    for meant, written in renamed.items():
        if key == meant or key.startswith((f"{meant}.", f"{meant}[")):
            return written + key[len(meant) :]
    return key


def line_of(key: str, lines: Mapping[str, int]) -> int:
    """The line of a key, or of its nearest parent that the file has; 0 if it has none."""
    known = [it for it in lines if key == it or key.startswith((f"{it}.", f"{it}["))]
    return lines[max(known, key=len)] if known else 0
