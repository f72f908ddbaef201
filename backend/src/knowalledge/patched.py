"""gevent's patch of the standard library, by being imported: before anything else, and only by ``cli`` and ``wsgi``."""

import sys
from importlib import metadata
from importlib.abc import MetaPathFinder

from gevent import monkey

# For each module that gevent patches it looks for plug-ins twice, and each look reads the metadata of every installed
# distribution: a good part of the command's start. One look gives the same.
_entry_points = metadata.entry_points
metadata.entry_points = metadata.entry_points().select
try:
    monkey.patch_all()
finally:
    metadata.entry_points = _entry_points


class _HiddenFromRedis(MetaPathFinder):
    """Keeps redis-py from importing OpenTelemetry's SDK, for metrics that nobody asks it for: 0.1 s and 3 MB.

    While redis-py is being imported, OpenTelemetry counts as not installed.
    """

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:  # noqa: ARG002 - the protocol's
        redis = getattr(sys.modules.get("redis"), "__spec__", None)
        if fullname.partition(".")[0] == "opentelemetry" and getattr(redis, "_initializing", False):
            raise ModuleNotFoundError(f"{fullname} is hidden from redis", name=fullname)


sys.meta_path.insert(0, _HiddenFromRedis())
