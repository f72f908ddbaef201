"""A line of the log is bounded, never waits, and never fails what it tells of."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from knowalledge.observability import logging as ours
from knowalledge.observability.logging import MAX_LINES, WINDOW_S, LibraryLines, RateLimit, place_of, render
from knowalledge.observability.metrics import _SeriesByLabels
from knowalledge.observability.stderr import MAX_LINE, LineWriter


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "x" * 10**6},
        {f"field{number}": "y" * 300 for number in range(100)},
        {"list": list(range(10_000))},
    ],
)
def test_a_line_is_never_longer_than_a_pipe_takes_at_once(fields: dict[str, Any]) -> None:
    line = render(None, "info", {"event": "e", "level": "info", "timestamp": "t", **fields})
    assert len(line) <= MAX_LINE
    assert json.loads(line)["truncated"] is True
    assert json.loads(line)["event"] == "e"


def test_a_value_of_any_kind_can_be_logged() -> None:
    assert json.loads(render(None, "info", {"event": "e", "what": ValueError("v")}))["what"] == "v"


def test_of_an_event_that_comes_too_often_the_next_window_says_how_many_were_left_out() -> None:
    time = [0.0]
    limit = RateLimit(lambda: time[0])
    for _ in range(MAX_LINES):
        limit(None, "warning", {"event": "e"})
    for _ in range(3):
        with pytest.raises(structlog.DropEvent):
            limit(None, "warning", {"event": "e"})
    assert limit(None, "warning", {"event": "other"}) == {"event": "other"}
    assert limit(None, "info", {"event": "e"}) == {"event": "e"}
    assert limit(None, "warning", {"event": "e", "audit": True})
    time[0] = WINDOW_S
    assert limit(None, "warning", {"event": "e"}) == {"event": "e", "suppressed": 3}


def test_a_pipe_that_nobody_reads_takes_what_it_can_and_the_rest_is_counted() -> None:
    reader, writer = os.pipe()
    write, line = LineWriter(writer), b"x" * 99 + b"\n"
    for _ in range(2000):
        write(line)
    os.close(writer)
    assert 0 < write.dropped < 2000
    os.set_blocking(reader, False)
    assert len(os.read(reader, 10**6)) == (2000 - write.dropped) * 100
    os.close(reader)
    assert os.get_blocking(2)


def test_a_closed_descriptor_counts_every_line() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    write = LineWriter(writer)
    write(b"x\n")
    assert write.dropped == 1


@pytest.fixture
def written() -> Iterator[list[dict[str, Any]]]:
    before = structlog.get_config()
    lines: list[dict[str, Any]] = []
    ours.configure("info", "json", lambda line: lines.append(json.loads(line)))
    yield lines
    structlog.configure(**before)


def test_what_a_library_logs_has_no_value_in_it(written: list[dict[str, Any]]) -> None:
    log = logging.Logger("library")
    log.addHandler(LibraryLines())
    log.warning("a prompt was %s", "a secret")
    try:
        raise ValueError("a secret")
    except ValueError:
        log.exception("it failed")
    assert [it["event"] for it in written] == ["a prompt was %s", "it failed"]
    assert written[1]["error"] == "ValueError"
    assert "secret" not in json.dumps(written)


def test_the_place_of_an_error_is_its_innermost_line() -> None:
    try:
        raise ValueError
    except ValueError:
        assert place_of(sys.exc_info()[2]).startswith("test_logging.py:")
    assert place_of(None) == "unknown"


def test_a_series_that_cannot_be_kept_fails_nobody() -> None:
    class Full:
        def labels(self, *_: str) -> Any:
            raise OSError(28, "no space left")

    series = _SeriesByLabels(Full())
    series["a"].inc()
    series["a"].observe(1.0)
    assert "a" not in series
