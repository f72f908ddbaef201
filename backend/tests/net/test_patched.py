"""The standard library is gevent's, and becomes so quickly."""

import subprocess
import sys

SEEN = """
from importlib import metadata

looks, heard = [], []
plug_in = metadata.EntryPoint("it", "__main__:heard.append", "gevent.plugins.monkey.did_patch_all")

def listed(**which):
    looks.append(which)
    return metadata.EntryPoints([plug_in]).select(**which)

metadata.entry_points = listed
import knowalledge.patched
from gevent import monkey

assert all(map(monkey.is_module_patched, ("socket", "ssl", "threading", "time")))
assert looks == [{}], looks
assert len(heard) == 1, heard
assert metadata.entry_points is listed
"""


def test_all_is_patched_after_one_look_for_plug_ins_which_are_told_as_ever() -> None:
    ended = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
