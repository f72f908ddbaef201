"""The parts of the benchmarks: load generator, quantiles, document, steal time."""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench import steal
from bench.__main__ import CASES
from bench.load import Load, quantile
from bench.order import inversions
from bench.report import ORDER, Row, merge
from bench.wire import Channel, Exchange, Pool
from knowalledge.core.context import Priority
from knowalledge.quota.domain.queue import Waiter
from knowalledge.quota.domain.window import TokenCost
from knowalledge_simulator.knobs import Knobs, patched
from knowalledge_simulator.provider import Provider
from knowalledge_simulator.server import serve


def test_a_section_is_replaced_in_place_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "b.md"
    merge("room", "Room", "why", "cmd", [Row("a", "1")], path)
    merge("overhead", "Overhead", "why", "cmd", [Row("b", "2", "<= 3")], path)
    merge("overhead", "Overhead", "why", "cmd", [Row("b", "4", "<= 3")], path)
    text = path.read_text()
    assert text.count("## Overhead") == 1
    assert "| b | 4 | <= 3 | **no** |" in text
    assert text.index("## Overhead") < text.index("## Room")
    assert "| a | 1 |" in text


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0, 2.0], 0.99) == 2.0
    assert quantile([], 0.5) == 0.0


def test_rounds_with_steal_time_are_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Times(NamedTuple):
        user: float
        steal: float
        guest: float  # a part of user: not counted twice

    def counted(*stolen: float) -> list[int]:
        """The rounds that count if these shares are stolen; each round is a second on one processor."""
        at = [Times(0.0, 0.0, 0.0)]
        monkeypatch.setattr("bench.steal.psutil.cpu_times", lambda: at[-1])

        def measure(round_: int) -> int:
            user, lost, guest = at[-1]
            at.append(Times(user + 1 - stolen[round_], lost + stolen[round_], guest + 0.5))
            return round_

        return list(steal.undisturbed(2, measure).results)

    assert counted(0.0, 0.03) == [0, 1]
    assert counted(0.0, 0.04, 0.5, 0.01) == [0, 3]
    # If all rounds are disturbed, the number of attempts is bounded and the least disturbed rounds count.
    assert counted(0.9, 0.3, 0.8, 0.5, 0.7, 0.2, 0.6, 0.4) == [5, 1]


def test_an_inversion_is_a_later_arrival_served_first_within_a_tenant_and_level() -> None:
    a, b, c = (Waiter(str(at), Priority.LOW, "t", TokenCost(1, 0), at) for at in range(3))
    other = [
        Waiter("9", level, tenant, TokenCost(1, 0), 0)
        for level, tenant in ((Priority.LOW, "u"), (Priority.HIGH, "t"))
    ]
    assert list(inversions([a, b, *other, c])) == []
    assert list(inversions([a, c, b])) == [(c, b)]
    assert list(inversions([a, a])) == [(a, a)]  # served twice


def test_a_token_split_between_two_reads_is_counted_once() -> None:
    exchange = Exchange(lambda _: None, b"event: delta")
    channel = Channel(Pool.__new__(Pool))
    channel._exchange = exchange
    for part in (b"HTTP/1.1 200 OK\r\n\r\nevent: del", b"ta\n\nevent: delta", b"\n\n"):
        channel.data_received(part)
    assert len(exchange.tokens) == 2


@pytest.mark.parametrize(
    "mode",
    [
        {"mode": "closed", "concurrency": 4, "seconds": 0.1},
        {"mode": "open", "rate": 200, "seconds": 0.1},
        {"mode": "burst", "count": 20, "ramp_s": 0.02},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_every_response_of_a_load_is_counted_with_its_tokens(mode: dict[str, Any], stream: bool) -> None:
    async def run() -> tuple[dict[str, Any], Provider]:
        loop = asyncio.get_running_loop()
        provider = Provider(patched(Knobs(), {"output_tokens": 5}), loop.time)
        server = await serve(provider, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        pool = Pool("127.0.0.1", port)
        path = "/v1beta/models/m:" + ("streamGenerateContent?alt=sse" if stream else "generateContent")
        job = mode | {"path": path, "body": '{"contents":[{"parts":[{"text":"hi"}]}]}'}
        result = await Load(job | ({"token": 'data: {"cand'} if stream else {}), pool).run()
        pool.close()
        server.close()
        await asyncio.sleep(0.01)
        return result, provider

    result, provider = asyncio.run(run())
    accepted = provider.stats()["accepted"]
    assert result["statuses"] == {"200": accepted}
    assert result["unanswered"] == 0
    assert accepted > 5
    if stream:
        assert result["tokens"] == {"5": accepted}


def test_every_case_has_a_place_in_the_document() -> None:
    assert {name.partition("-")[0] for name in CASES} == set(ORDER)
