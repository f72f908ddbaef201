"""Draws docs/picture.svg, the picture of README.md: who asks, what the replicas share, and who answers."""

import sys
from collections.abc import Iterator
from pathlib import Path

PICTURE = Path(__file__).parents[2] / "docs/picture.svg"
WIDTH, HEIGHT, BOX = 760, 250, (150, 46)
ASKING = ("web page", "OpenAI SDK", "Gemini SDK")
REPLICAS = ("replica 1", "replica 2", "replica 3")
ANSWERING = ("Gemini API", "Vertex AI", "OpenAI-compatible")
SHARED = "Redis: one quota, one waiting room, one cache"
STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1f2937;text-anchor:middle}"
    "rect{fill:#f3f4f6;stroke:#6b7280}.own rect{fill:#dbeafe;stroke:#1d4ed8}"
    "path{stroke:#6b7280;fill:none;marker-end:url(#tip)}"
    "@media(prefers-color-scheme:dark){text{fill:#e5e7eb}rect{fill:#1f2937}.own rect{fill:#1e3a8a}}"
)


def box(x: int, y: int, text: str, width: int = BOX[0]) -> str:
    rect = f'<rect x="{x}" y="{y}" width="{width}" height="{BOX[1]}" rx="8"/>'
    return f'{rect}<text x="{x + width // 2}" y="{y + 28}">{text}</text>'


def lines() -> Iterator[str]:
    """The picture, line by line."""
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    yield f"<title>Knowalledge</title><style>{STYLE}</style>"
    yield '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
    yield '<path d="M0,0 L8,4 L0,8 z" style="fill:#6b7280;stroke:none;marker-end:none"/></marker></defs>'
    middle = (WIDTH - BOX[0]) // 2
    rows = [10 + 60 * index for index in range(3)]
    for y, left, own, right in zip(rows, ASKING, REPLICAS, ANSWERING, strict=True):
        yield box(5, y, left) + box(WIDTH - BOX[0] - 5, y, right)
        yield f'<g class="own">{box(middle, y, own)}</g>'
        for target in rows:
            yield f'<path d="M{5 + BOX[0]},{y + 23} L{middle - 2},{target + 23}" opacity="0.5"/>'
            yield f'<path d="M{middle + BOX[0]},{y + 23} L{WIDTH - BOX[0] - 7},{target + 23}" opacity="0.5"/>'
    yield f'<path d="M{WIDTH // 2},{rows[-1] + BOX[1]} L{WIDTH // 2},{HEIGHT - 52}"/>'
    yield f'<g class="own">{box((WIDTH - 360) // 2, HEIGHT - 50, SHARED, 360)}</g>'
    yield "</svg>"


def main() -> int:
    PICTURE.write_text("\n".join(lines()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
