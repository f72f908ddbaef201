"""Each failure of Redis in the docs names a test that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECTION = (ROOT / "docs/operations/failures.md").read_text().split("## Redis\n")[1].split("\n## ")[0]
ROWS = [line for line in SECTION.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("row", ROWS)
def test_a_failure_of_redis_names_a_test_that_exists(row: str) -> None:
    file, _, name = row.rstrip("| ").rpartition("| ")[2].strip("`").partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / "backend/tests" / file).read_text(), re.M)
