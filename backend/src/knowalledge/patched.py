"""gevent's patch of the standard library, by being imported: before anything else, and only by ``cli`` and ``wsgi``."""

import sys
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

# redis-py imports OpenTelemetry's SDK wherever it is installed, for metrics that nobody asks it for: 0.1 s and 3 MB.
# None makes the import an ImportError, which redis-py takes for "not installed".
_imported: object = sys.modules.setdefault("opentelemetry", None)  # type: ignore[arg-type]
try:
    import redis  # noqa: F401
finally:
    if _imported is None:
        del sys.modules["opentelemetry"]
