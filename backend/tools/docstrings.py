"""Draw public docstrings at random for a review: ``make docstrings``, ``make docstrings SEED=7 COUNT=5``.

A reader who has not seen the code should understand each without opening another file.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random, SystemRandom

from msgspec import Struct

SOURCE = Path(__file__).parents[1] / "src/knowalledge"


class Docstring(Struct, frozen=True):
    """A public name, where it is, its first line of code, and what is said of it."""

    place: str  # path:line, from the folder of the sources
    code: str
    text: str


def public(source: Path = SOURCE) -> Iterator[Docstring]:
    """Every docstring of a public module, class, function or method, in the order of the files."""
    for path in sorted(source.rglob("*.py")):
        name = str(path.relative_to(source))
        tree = ast.parse(path.read_text())
        if text := ast.get_docstring(tree):
            yield Docstring(f"{name}:1", f"module {name}", text)
        yield from _within(tree, name)


def _within(node: ast.Module | ast.ClassDef, file: str) -> Iterator[Docstring]:
    for child in node.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef) or child.name.startswith("_"):
            continue
        if text := ast.get_docstring(child):
            yield Docstring(f"{file}:{child.lineno}", _head(child, node), text)
        if isinstance(child, ast.ClassDef):
            yield from _within(child, file)


def _head(node: ast.ClassDef | ast.FunctionDef, parent: ast.Module | ast.ClassDef) -> str:
    """``class Ring`` or ``def Ring.add(self, now: int) -> None``."""
    owner = f"{parent.name}." if isinstance(parent, ast.ClassDef) else ""
    if isinstance(node, ast.ClassDef):
        return f"class {owner}{node.name}"
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {owner}{node.name}({ast.unparse(node.args)}){result}"


def drawn(every: list[Docstring], count: int, seed: int) -> list[Docstring]:
    """``count`` of them, or all if there are fewer; the same for the same seed and sources."""
    return Random(seed).sample(every, min(count, len(every)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="docstrings", description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    every = list(public())
    print(f"{asked.count} of {len(every)} public docstrings, seed {asked.seed}\n")
    for number, it in enumerate(drawn(every, asked.count, asked.seed), 1):
        text = it.text.replace("\n", "\n    ")
        print(f"{number}. {it.place}\n    {it.code}\n    {text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
