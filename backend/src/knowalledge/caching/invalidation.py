"""Invalidation everywhere: every replica, then the CDN, and a line in the audit log."""

from collections.abc import Callable

from msgspec import Struct

from knowalledge.caching.domain import parse_pattern
from knowalledge.caching.layers import Layers
from knowalledge.caching.ports import Purger
from knowalledge.core.errors import Unavailable


class InvalidationResult(Struct, frozen=True):
    """``removed``: entries. ``cdn``: purged, failed (try again), or none where no CDN is configured."""

    removed: int
    cdn: str


class Invalidator(Struct, frozen=True):
    """The use case of an operator who knows that an answer is wrong."""

    layers: Layers
    purger: Purger | None
    audit: Callable[[str, dict[str, object]], None]

    def __call__(self, pattern: str, by: str, request_id: str) -> InvalidationResult:
        """Invalidate by name, tag or pattern, for the audit log in the name of ``by``.

        Raises ``InvalidRequest``, or ``Unavailable`` if other replicas were not reached. Our layers come first: a CDN
        purged before them would fetch the old answer again.
        """
        invalidation = parse_pattern(pattern)
        removed = self.layers.invalidate(pattern, by)
        cdn = "none"
        if self.purger is not None:
            try:
                # A CDN cannot match globs: the whole kind is purged.
                self.purger.purge((invalidation.index_tag,))
                cdn = "purged"
            except Unavailable:
                cdn = "failed"
        self.audit(
            "cache_invalidated",
            {
                "pattern": invalidation.pattern,
                "removed": removed,
                "cdn": cdn,
                "by": by,
                "request_id": request_id,
            },
        )
        return InvalidationResult(removed, cdn)
