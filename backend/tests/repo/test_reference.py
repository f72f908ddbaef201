"""The reference pages say what the code says."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "docs" / "reference"


def test_the_pages_say_what_the_code_says(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "knowalledge.cli", "reference", str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    made = {it.name: it.read_text() for it in tmp_path.iterdir()}
    assert {it.name: it.read_text() for it in FOLDER.iterdir()} == made, "run: make reference"
