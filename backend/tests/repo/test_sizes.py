"""Files and functions stay short enough to be read in one go."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "knowalledge_simulator", "tests", "bench", "tools")
FILE, FUNCTION = 600, 55  # lines


def test_no_file_is_longer_than_a_reader_s_patience() -> None:
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > FILE} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {}
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION:
                    long[f"{file.relative_to(ROOT)}: {node.name}"] = lines
    assert long == {}


def test_the_wiring_stays_short() -> None:
    assert len((ROOT / "src/knowalledge/app.py").read_text().splitlines()) <= 120
