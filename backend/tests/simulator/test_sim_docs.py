"""The simulator's page names everything that it can do."""

from pathlib import Path

import msgspec

from knowalledge_simulator.knobs import FAULTS, Knobs

PAGE = (Path(__file__).parents[3] / "docs/reference/simulator.md").read_text()


def test_every_knob_has_its_line() -> None:
    table = PAGE.partition("## Knobs")[2].partition("## Faults")[0]
    assert [it.name for it in msgspec.structs.fields(Knobs) if f"`{it.name}`" not in table] == []


def test_every_fault_has_its_line_and_its_words() -> None:
    assert [name for name, why in FAULTS.items() if f"| `{name}` | {why} |" not in PAGE] == []
