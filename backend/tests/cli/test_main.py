"""The table of commands, and that a command loads only what it needs.

In processes of their own: the command line patches the process that imports it.
"""

import json
import subprocess
import sys
from typing import Any


def run(code: str) -> Any:
    """What the code prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_every_row_names_a_command_that_says_what_it_does() -> None:
    found = run("""
import json, click
from knowalledge.cli.main import COMMANDS, main
context = click.Context(main)
commands = {name: main.get_command(context, name) for name in [*COMMANDS, "common", "nonsense"]}
print(json.dumps({name: it and [it.name, it.get_short_help_str(200)] for name, it in commands.items()}))
""")
    assert (found.pop("common"), found.pop("nonsense")) == (None, None)
    assert {"serve", "provider-sim", "config"} <= set(found)
    assert all(name == key and summary for key, (name, summary) in found.items())


def test_the_help_lists_every_command_and_loads_none() -> None:
    missing, loaded = run("""
import json, sys
from click.testing import CliRunner
from knowalledge.cli.main import COMMANDS, main
shown = CliRunner().invoke(main, ["--help"]).output
heavy = [it for it in sys.modules if it.split(".")[0] in ("flask", "redis", "gunicorn", "requests")]
print(json.dumps([[name for name in COMMANDS if f"\\n  {name} " not in shown], heavy]))
""")
    assert missing == []
    assert loaded == []
