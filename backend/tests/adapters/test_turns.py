"""Who is resumed first when many wait for a provider at once."""

import gevent
from gevent.hub import Waiter
from gevent.socket import socketpair

from knowalledge.adapters.providers import wire

S = 20.0
SHORT = 0.05


def test_of_many_that_have_news_a_few_are_resumed_before_somebody_new_is_heard() -> None:
    turns = wire._Turns(gevent.get_hub())
    waiters: list[Waiter[None]] = []
    order: list[str] = []

    def stream() -> None:
        waiter: Waiter[None] = Waiter()
        waiters.append(waiter)
        waiter.get()
        order.append("stream")

    def newcomer() -> None:
        ours.recv(1)
        order.append("new")

    ours, theirs = socketpair()
    try:
        greenlets = [gevent.spawn(stream) for _ in range(10 * wire.AT_ONCE)] + [gevent.spawn(newcomer)]
        gevent.sleep(SHORT)
        theirs.send(b"?")
        for waiter in waiters:
            turns.add(waiter)
        gevent.joinall(greenlets, timeout=S, raise_error=True)
    finally:
        ours.close()
        theirs.close()
    assert order.index("new") <= 2 * wire.AT_ONCE
    assert order.count("stream") == len(waiters)
