"""The registry that every capability's metrics are kept in."""

import pytest

from knowalledge.core.metrics import Metric
from knowalledge.observability.metrics import PrometheusMetrics

HITS = Metric("hits_total", "counter", ("layer", "result"), "Hits.")
SIZE = Metric("size", "gauge", (), "Size.")
SECONDS = Metric("seconds", "histogram", ("layer",), "Time.")


def test_series_are_counted_by_their_labels_and_rendered() -> None:
    metrics = PrometheusMetrics()
    hits, size, seconds = (metrics.family(it) for it in (HITS, SIZE, SECONDS))
    hits["memory", "hit"].inc()
    hits["memory", "hit"].inc(2)
    hits["redis", "miss"].inc()
    size[()].set(7)
    seconds["memory"].observe(0.2)
    assert metrics.totals(HITS) == {("memory", "hit"): 3, ("redis", "miss"): 1}
    assert metrics.totals(SIZE) == {(): 7}
    lines = metrics.render().decode().splitlines()
    assert 'hits_total{layer="memory",result="hit"} 3.0' in lines
    assert 'seconds_bucket{layer="memory",le="0.25"} 1.0' in lines
    assert "# HELP hits_total Hits." in lines


def test_a_series_is_looked_up_in_the_library_once() -> None:
    hits = PrometheusMetrics().family(HITS)
    assert hits["memory", "hit"] is hits["memory", "hit"]
    assert hits["memory", "hit"] is not hits["memory", "miss"]


def test_a_metric_has_one_owner() -> None:
    metrics = PrometheusMetrics()
    metrics.family(HITS)
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.family(HITS)
    assert metrics.registered == [HITS]


def test_registries_do_not_share_what_they_count() -> None:
    first, second = PrometheusMetrics(), PrometheusMetrics()
    first.family(HITS)["memory", "hit"].inc()
    second.family(HITS)
    assert second.totals(HITS) == {}
