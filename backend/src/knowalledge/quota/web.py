"""The routes that show quotas and queues."""

from flask import Blueprint, Response

from knowalledge.core.access import Access
from knowalledge.core.openapi import Answer, Operation
from knowalledge.quota.stats import QueueStats, QuotaStats, Statistics
from knowalledge.web.responses import NO_STORE, json_response

OPERATIONS = (
    Operation(
        rank=91,
        method="get",
        path="/api/quota/stats",
        tag="operations",
        name="quota_stats",
        summary="What of each quota is used",
        answer=Answer(QuotaStats, headers=()),
        errors=None,
        access=Access.OPERATE,
    ),
    Operation(
        rank=91,
        method="get",
        path="/api/queue/stats",
        tag="operations",
        name="queue_stats",
        summary="Who waits",
        answer=Answer(QueueStats, headers=()),
        errors=None,
        access=Access.OPERATE,
    ),
)


def blueprint(statistics: Statistics) -> Blueprint:
    routes = Blueprint("quota", __name__)

    @routes.get("/api/quota/stats")
    def quota_stats() -> Response:
        return json_response(statistics.quota(), NO_STORE)

    @routes.get("/api/queue/stats")
    def queue_stats() -> Response:
        return json_response(statistics.queue(), NO_STORE)

    return routes
