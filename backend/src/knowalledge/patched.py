"""gevent's patch of the standard library, by being imported: before anything else, and only by ``cli`` and ``wsgi``."""

from importlib import metadata

from gevent import monkey

# For each module that gevent patches it looks for plug-ins twice, and each look reads the metadata of every installed
# distribution: a good part of the command's start. One look gives the same.
_entry_points = metadata.entry_points
metadata.entry_points = metadata.entry_points().select
try:
    monkey.patch_all()
finally:
    metadata.entry_points = _entry_points
