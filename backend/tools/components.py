"""Draw the packages and who imports whom into ``docs/architecture.md``: part of ``make reference``.

The arrows are those of the import graph (grimp, the library under import-linter), imports for types included.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/architecture.md"
BEGIN = "<!-- components: made by `make reference`; do not edit -->"
END = "<!-- end of components -->"
PACKAGE = "knowalledge"

Graph = dict[str, set[str]]  # a part, and the parts that it imports


def imports() -> Graph:
    """The packages and modules right below ``knowalledge``, and what each imports of the others."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    parts = {it.rpartition(".")[2]: it for it in graph.find_children(PACKAGE)}
    return {
        name: {
            other
            for other, imported in parts.items()
            if other != name
            and graph.direct_import_exists(importer=part, imported=imported, as_packages=True)
        }
        for name, part in sorted(parts.items())
    }


def reachable(graph: Graph, start: str) -> set[str]:
    """Every part that can be reached over at least one arrow."""
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        part = ahead.pop()
        if part not in seen:
            seen.add(part)
            ahead += graph[part]
    return seen


def reduced(graph: Graph) -> Graph:
    """The same graph without the arrows that others imply: its transitive reduction. Circles keep theirs."""
    below = {part: reachable(graph, part) for part in graph}

    def implied(part: str, target: str) -> bool:
        between = graph[part] - {target}
        return any(
            target in below[it] and part not in below[it] and it not in below[target] for it in between
        )

    return {part: {it for it in targets if not implied(part, it)} for part, targets in graph.items()}


def meaning(part: str) -> str:
    """The first paragraph of a part's docstring. Raises FileNotFoundError or ValueError for a part without one."""
    folder = ROOT / "backend/src" / PACKAGE / part
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text()))
    if not text:
        raise ValueError(f"{path} says in no docstring what it is")
    return " ".join(text.partition("\n\n")[0].split()).replace("``", "`")


def drawn(graph: Graph) -> Iterator[str]:
    """The lines between the two marks: a Mermaid diagram of the arrows, and a table of what each part is."""
    yield from (BEGIN, "", "```mermaid", "flowchart TD")
    yield from (f"    {part}" for part in graph)
    for part, targets in reduced(graph).items():
        yield from (f"    {part} --> {target}" for target in sorted(targets))
    yield from ("```", "", "| part | what it is |", "| --- | --- |")
    yield from (f"| `{part}` | {meaning(part)} |" for part in graph)
    yield from ("", END)


def rendered(page: str) -> str:
    """The page with the current picture. Raises ValueError for a page without the two marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no line {BEGIN!r} with {END!r} after it")
    return before + "\n".join(drawn(imports())) + after


def main() -> int:
    PAGE.write_text(rendered(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
