"""The caches in the OpenAPI document."""

from knowalledge.caching.stats import CacheStats
from knowalledge.caching.web import InvalidateBody, Invalidated
from knowalledge.core.access import Access
from knowalledge.core.openapi import Answer, Operation

OPERATIONS = (
    Operation(
        rank=92,
        method="get",
        path="/api/cache/stats",
        tag="operations",
        name="cache_stats",
        summary="What each cache layer does, holds and saves",
        answer=Answer(CacheStats, headers=()),
        errors=None,
        access=Access.OPERATE,
    ),
    Operation(
        rank=95,
        method="post",
        path="/api/cache/invalidate",
        tag="operations",
        name="cache_invalidate",
        summary="Take answers back in every replica and CDN: by pattern, tag or key",
        body=InvalidateBody,
        answer=Answer(Invalidated),
        errors=None,
        access=Access.OPERATE,
    ),
)
