"""Taking answers back, everywhere: every replica, then the caches outside, and a line in the audit log."""

from collections.abc import Callable

from msgspec import Struct

from knowalledge.caching.domain import parse_pattern
from knowalledge.caching.layers import Layers
from knowalledge.caching.ports import Purger
from knowalledge.core.errors import Unavailable


class Taken(Struct, frozen=True):
    """What an invalidation did. ``cdn``: purged, failed (try again), or none where there is none."""

    removed: int
    cdn: str


class Invalidator(Struct, frozen=True):
    """The use case of whoever knows that an answer is not right any more."""

    layers: Layers
    purger: Purger | None
    audit: Callable[[str, dict[str, object]], None]

    def __call__(self, pattern: str, by: str, request_id: str) -> Taken:
        """Take back by name, tag or pattern. Raises ``InvalidRequest``, or ``Unavailable`` if others were not told.

        Ours first: a CDN that is purged before would fetch the old answer again.
        """
        take = parse_pattern(pattern)
        removed = self.layers.invalidate(pattern, by)
        cdn = "none"
        if self.purger is not None:
            try:
                # A pattern that a CDN cannot match is purged with its whole family.
                self.purger.purge((take.family,))
                cdn = "purged"
            except Unavailable:
                cdn = "failed"
        self.audit(
            "cache_invalidated",
            {"pattern": take.what, "removed": removed, "cdn": cdn, "by": by, "request_id": request_id},
        )
        return Taken(removed, cdn)
