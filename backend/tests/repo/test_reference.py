"""The generated reference pages say what the code says."""

import ast
import subprocess
import sys
from pathlib import Path

from knowalledge.cli.reference import MADE

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs/reference"


def test_the_generated_pages_are_those_that_the_code_makes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "knowalledge.cli", "reference", str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    made = {it.name: it.read_text() for it in tmp_path.iterdir()}
    kept = {it.name: it.read_text() for it in FOLDER.iterdir() if MADE in it.read_text()}
    assert kept == made, "run: make reference"


def test_every_error_code_of_the_source_has_its_row() -> None:
    codes = {
        line.value.value
        for file in (ROOT / "backend/src").rglob("*.py")
        for kind in ast.walk(ast.parse(file.read_text()))
        if isinstance(kind, ast.ClassDef)
        for line in kind.body
        if isinstance(line, ast.Assign)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
        and [ast.unparse(it) for it in line.targets] == ["code"]
    }
    assert {"internal", "method_not_allowed", "provider_auth"} <= codes
    page = (FOLDER / "errors.md").read_text()
    assert {code for code in codes if f"| `{code}` |" not in page} == set()
