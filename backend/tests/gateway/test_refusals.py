"""Every way in which the quota says no has its own error; a new one without an error fails here."""

import pytest

from knowalledge.core import errors
from knowalledge.gateway.domain.outcomes import Outcome, outcome_of
from knowalledge.gateway.service.refusals import LOST_PLACES, REFUSALS, refusal_error
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.domain.window import Count, Window, WindowStatus
from knowalledge.quota.ports import Refused


def test_every_reason_for_a_refusal_has_an_error() -> None:
    assert set(REFUSALS) == set(RefusalReason)


def test_every_queue_outcome_but_the_grant_has_an_error() -> None:
    assert set(LOST_PLACES) == set(QueueOutcome) - {QueueOutcome.GRANTED}


@pytest.mark.parametrize("outcome", LOST_PLACES)
def test_a_lost_place_has_an_outcome_of_its_own_and_says_when_to_come_back(outcome: QueueOutcome) -> None:
    error = LOST_PLACES[outcome](2.5)
    assert outcome_of(error) is not Outcome.INTERNAL
    assert error.retry_after or isinstance(error, errors.ClientGone)


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_refusal_names_its_window_and_says_when_to_come_back(reason: RefusalReason) -> None:
    windows = (WindowStatus(Window("rpm", Count.REQUESTS, 10, 60), used=12, held=0, resets_s=7.9, limit=10),)
    error = refusal_error(Refused(reason, 2.5, "rpm", windows))
    assert error.message.endswith(": rpm")
    assert error.retry_after == 2.5
    assert [(it.name, it.remaining, it.resets_s) for it in error.allowances] == [("rpm", 0, 7)]


def test_a_refusal_by_a_closed_gate_that_names_no_window_says_who_closed_it() -> None:
    assert refusal_error(Refused(RefusalReason.QUOTA, 1.0, "")).message.endswith("closed by the provider")
