"""Links between the pages lead somewhere, anchors included; so do the pages that code and settings name."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def tracked(*patterns: str) -> list[Path]:
    """The files of the checkout that match, new ones included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        pytest.skip("this is not a git checkout", allow_module_level=True)
    return sorted(file for line in done.stdout.splitlines() if (file := ROOT / line).is_file())


PAGES = tracked("*.md")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    made = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(page), re.M):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        made.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda it: str(it.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_that_a_file_names_exists() -> None:
    named = {
        (str(file.relative_to(ROOT)), name)
        for file in tracked()
        if file.suffix not in {".gz", ".png", ".jpg", ".lock"}
        for name in re.findall(r"(?<![\w./-])docs/[\w/-]+\.(?:md|json)", file.read_text(errors="replace"))
    }
    assert len(named) > 20
    assert [(file, name) for file, name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_index_names_every_page_of_the_documentation() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / it).resolve() for it in re.findall(r"\]\(([^)#\s]+)", index.read_text())}
    missing = {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - linked - {index}
    assert {str(it.relative_to(ROOT)) for it in missing if it.parent.name != "adr"} == set()
