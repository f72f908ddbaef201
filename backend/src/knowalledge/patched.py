"""gevent's patch of the standard library, by being imported: before anything else, and only by ``cli`` and ``wsgi``."""

from importlib import metadata

from gevent import monkey

# For each module that it patches, gevent looks for plug-ins twice, and each look reads what every installed
# distribution says of itself: a good part of the time that the command needs to start. One look finds the same.
_every_time = metadata.entry_points
metadata.entry_points = metadata.entry_points().select
try:
    monkey.patch_all()
finally:
    metadata.entry_points = _every_time
