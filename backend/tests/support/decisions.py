"""What a test expects of a quota's decision."""

import pytest

from knowalledge.quota.ports import Decision, Granted, Queued, Refused, Reservation, Ticket


def granted(decision: Decision) -> Reservation:
    assert isinstance(decision, Granted), decision
    return decision.reservation


def queued(decision: Decision) -> Ticket:
    assert isinstance(decision, Queued), decision
    return decision.ticket


def refused(decision: Decision) -> Refused:
    assert isinstance(decision, Refused), decision
    return decision


def assert_equal(one: Decision, other: Decision) -> None:
    """Two stores decide the same; times agree to 10 us."""
    assert type(one) is type(other)
    assert one.window_status == other.window_status
    if isinstance(one, Refused) and isinstance(other, Refused):
        assert (one.reason, one.window) == (other.reason, other.window)
        assert one.wait_s == pytest.approx(other.wait_s, abs=1e-5)
    if isinstance(one, Queued) and isinstance(other, Queued):
        assert one.ticket.position == other.ticket.position
        assert one.ticket.eta_s == pytest.approx(other.ticket.eta_s, abs=1e-5)
