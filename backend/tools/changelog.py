"""Move the fragments of ``changelog.d/`` into the section of the current version: ``make changelog``.

A fragment is ``changelog.d/NAME.KIND.md``; its text becomes one item. The kinds are those of keepachangelog.com.
"""

import re
import sys
from datetime import UTC, date, datetime
from pathlib import Path

from knowalledge import __version__

ROOT = Path(__file__).parents[2]
KINDS = ("added", "changed", "deprecated", "removed", "fixed", "security")


def fragments(folder: Path) -> dict[Path, str]:
    """Fragments and their kinds, by name. Raises ValueError for a name that is not ``NAME.KIND.md``."""
    kinds = {}
    for path in sorted(folder.glob("*")):
        name, *kind = path.name.removesuffix(".md").split(".")
        if path.name == "README.md":
            continue
        if path.suffix != ".md" or not name or len(kind) != 1 or kind[0] not in KINDS:
            raise ValueError(f"{path.name}: a fragment is NAME.KIND.md, and KIND one of {', '.join(KINDS)}")
        kinds[path] = kind[0]
    return kinds


def merge(changelog: str, version: str, day: date, items: dict[str, list[str]]) -> str:
    """The changelog with ``items`` (by kind) in the section of ``version``, which is made if it is not there."""
    intro, *sections = re.split(r"(?m)^(?=## )", changelog)
    old = next((it for it in sections if it.split()[1] == version), "")
    known = dict.fromkeys(KINDS, "")
    for kind, text in re.findall(r"(?ms)^### (\w+)\n\n(.*?)\n*(?=^### |\Z)", old):
        known[kind.lower()] = text + "\n"
    lines = [f"## {version} - {day.isoformat()}\n"]
    for kind in KINDS:
        text = known[kind] + "".join(
            "- " + it.strip().replace("\n", "\n  ") + "\n" for it in items.get(kind, [])
        )
        if text:
            lines.append(f"### {kind.title()}\n\n{text}")
    others = [it for it in sections if it != old]
    return intro + "\n".join(["\n".join(lines), *others])


def main() -> int:
    """Exit 2 for a fragment that cannot be placed; the changelog is then as it was."""
    log, folder = ROOT / "CHANGELOG.md", ROOT / "changelog.d"
    try:
        found = fragments(folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    items: dict[str, list[str]] = {}
    for path, kind in found.items():
        items.setdefault(kind, []).append(path.read_text())
    log.write_text(merge(log.read_text(), __version__, datetime.now(UTC).date(), items))
    for path in found:
        path.unlink()
    print(f"{len(found)} fragments are now in the notes of {__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
