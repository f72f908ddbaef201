"""gevent patches the standard library, and does it quickly."""

import subprocess
import sys

CHECK = """
from importlib import metadata

lookups, calls = [], []
plug_in = metadata.EntryPoint("it", "__main__:calls.append", "gevent.plugins.monkey.did_patch_all")

def listed(**which):
    lookups.append(which)
    return metadata.EntryPoints([plug_in]).select(**which)

metadata.entry_points = listed
import knowalledge.patched
from gevent import monkey

assert all(map(monkey.is_module_patched, ("socket", "ssl", "threading", "time")))
assert lookups == [{}], lookups
assert len(calls) == 1, calls
assert metadata.entry_points is listed
"""


def test_everything_is_patched_after_one_look_for_plug_ins_which_are_called_as_usual() -> None:
    ended = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
