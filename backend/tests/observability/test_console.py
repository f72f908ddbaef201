"""The log for people: one line a request, and nothing of what a caller chose."""

import logging

import pytest
from structlog import DropEvent

from knowalledge.observability.console import _MAX_PENDING, Console, shortened


def request(**more: object) -> dict[str, object]:
    event = {"event": "request", "level": "debug", "request_id": "r", "model": "fast", "outcome": "ok"}
    return event | {"input_tokens": 7, "output_tokens": 9, "waited_s": 0.0, "error": ""} | more


def line(*events: dict[str, object], status: str = "200 OK", colours: bool = False) -> str:
    written: list[bytes] = []
    console = Console(written.append, colours=colours)
    for event in events:
        with pytest.raises(DropEvent):
            console.renderer(logging.INFO)(None, "", event)
    console.responded("POST", "/api/v1/generate", status, 1.5, "r")
    (only,) = written
    return only.decode()


def test_a_request_is_one_line_with_what_both_sides_know() -> None:
    said = line(request(outcome="refused", waited_s=2.25, error="queue_full"), status="429 TOO MANY")
    assert "429  POST /api/v1/generate" in said
    assert said.endswith("1.500 s  fast, 7 + 9 tokens, refused, waited 2.2 s, queue_full")


def test_a_response_that_no_model_gave_has_its_line_too() -> None:
    assert line().endswith("200  POST /api/v1/generate               1.500 s")


def test_colours_say_how_it_ended() -> None:
    assert [line(status=it, colours=True)[:5] for it in ("200", "404", "502")] == [
        "\x1b[32m",
        "\x1b[33m",
        "\x1b[31m",
    ]


def test_other_events_are_lines_from_their_level_on() -> None:
    render = Console(lambda _: None, colours=False).renderer(logging.WARNING)
    said = render(None, "", {"event": "redis is gone", "level": "warning", "timestamp": "t", "host": "h"})
    assert said.decode().endswith("warning: redis is gone host=h")
    with pytest.raises(DropEvent):
        render(None, "", {"event": "quiet", "level": "info"})


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/api/v1/topics/my%20secret?q=1", "/api/v1/topics/..."),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/\x1b[31mred\r\n", "/31mred"),
        ("", ""),
    ],
)
def test_a_path_shows_nothing_that_a_caller_chose(path: str, shown: str) -> None:
    assert shortened(path) == shown


def test_requests_whose_response_never_ends_are_forgotten() -> None:
    console = Console(lambda _: None)
    for number in range(_MAX_PENDING + 5):
        with pytest.raises(DropEvent):
            console.renderer(logging.INFO)(None, "", request(request_id=str(number)))
    assert len(console._pending) == _MAX_PENDING
