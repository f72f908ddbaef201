"""The simulator's reference page lists every knob and fault."""

from pathlib import Path

import msgspec

from knowalledge_simulator.knobs import FAULTS, Knobs

PAGE = (Path(__file__).parents[3] / "docs/reference/simulator.md").read_text()


def test_every_knob_is_in_the_table() -> None:
    table = PAGE.partition("## Knobs")[2].partition("## Faults")[0]
    assert [it.name for it in msgspec.structs.fields(Knobs) if f"`{it.name}`" not in table] == []


def test_every_fault_is_in_the_table_with_its_description() -> None:
    assert [it for it in FAULTS.items() if "| `{}` | {} |".format(*it) not in PAGE] == []
