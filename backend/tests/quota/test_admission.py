"""The wait queue: which waiter is next, and that none is lost or granted twice."""

import random
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bench.order import inversions
from knowalledge.core.context import Priority
from knowalledge.quota.domain.admission import AdmissionController, Admitted, Enqueued, Rejected
from knowalledge.quota.domain.calendar import moment_of
from knowalledge.quota.domain.ledger import Charge
from knowalledge.quota.domain.queue import QueueOutcome, QueueRules, Waiter, WaitQueue
from knowalledge.quota.domain.window import SECOND, Count, LevelPolicy, Moment, TokenCost, Window
from tests.support.properties import examples

RPM = Window("rpm", Count.REQUESTS, 5, 60)
TPM = Window("tpm", Count.TOKENS, 500, 60)
ONE = TokenCost(1, 0)


def waiter(
    number: int, level: Priority = Priority.MEDIUM, tenant: str = "", cost: TokenCost = ONE, at: float = 0
) -> Waiter:
    return Waiter(f"{number:07}", level, tenant, cost, int(at * SECOND))


def grant_next(queue: WaitQueue, number: int, now: float = 0) -> list[str]:
    tenants = []
    for _ in range(number):
        head = queue.next(int(now * SECOND))
        assert head is not None
        queue.record_grant(int(now * SECOND), head)
        tenants.append(head.tenant)
    return tenants


def test_tenants_get_equal_tokens_while_both_have_work() -> None:
    queue = WaitQueue(QueueRules(capacity=10_000))
    for number in range(1000):
        queue.enter(waiter(number, tenant="many", cost=TokenCost(10, 0), at=number))
    for number in range(1000, 1100):
        queue.enter(waiter(number, tenant="few", cost=TokenCost(30, 0), at=number))
    tokens: Counter[str] = Counter()
    for tenant in grant_next(queue, 300):
        tokens[tenant] += 10 if tenant == "many" else 30
    assert tokens["few"] == pytest.approx(tokens["many"], rel=0.05)


def test_a_weight_of_two_is_served_twice_the_tokens() -> None:
    queue = WaitQueue(QueueRules(capacity=1000, weights={"paying": 2.0}))
    for number in range(600):
        queue.enter(waiter(number, tenant=("paying", "free")[number % 2], cost=TokenCost(10, 0)))
    assert Counter(grant_next(queue, 90)) == {"paying": 60, "free": 30}


def test_a_tenant_that_comes_back_has_no_credit_for_having_been_away() -> None:
    queue = WaitQueue(QueueRules(capacity=1000))
    queue.enter(waiter(0, tenant="away"))
    grant_next(queue, 1)
    for number in range(1, 101):
        queue.enter(waiter(number, tenant="busy", cost=TokenCost(100, 0)))
    grant_next(queue, 50)
    for number in range(200, 300):
        queue.enter(waiter(number, tenant="away", cost=TokenCost(100, 0)))
    assert Counter(grant_next(queue, 20)) == {"away": 10, "busy": 10}


def test_no_inversion_within_a_tenant_and_level_over_a_hundred_thousand_operations() -> None:
    rng = random.Random(7)
    controller = AdmissionController(
        (Window("rpm", Count.REQUESTS, 50, 60), TPM), QueueRules(capacity=40, aging_s=3.0)
    )
    now, log, live = 0.0, [], []
    arrived: dict[str, Waiter] = {}
    for number in range(100_000):
        now += rng.expovariate(2.0)
        at = moment_of(controller.ledger.windows, int(now * SECOND))
        kind = rng.random()
        if kind < 0.6:
            level, tenant = Priority(rng.randrange(4)), rng.choice("abc")
            request = waiter(number, level, tenant, TokenCost(rng.randrange(1, 40), rng.randrange(20)), now)
            reply = controller.admit(at, request, 1e9)
            if isinstance(reply, Admitted):
                log.append(request)
                live.append(reply.charge)
            elif isinstance(reply, Enqueued):
                arrived[request.id] = request
                if reply.shed is not None:
                    del arrived[reply.shed.id]
        elif kind < 0.7 and arrived:
            key = rng.choice(list(arrived))
            del arrived[key]
            assert controller.queue.leave(key, QueueOutcome.CANCELLED) is not None
        elif live:
            charge = live.pop(rng.randrange(len(live)))
            controller.ledger.settle(at, charge, charge.cost)
        for request, charge in controller.dispatch(at)[0]:
            del arrived[request.id]
            log.append(request)
            live.append(charge)
    assert list(inversions(log)) == []
    assert len(log) > 10_000


@pytest.mark.parametrize("level", [Priority.MEDIUM, Priority.LOW])
def test_the_time_told_on_entering_is_the_time_waited_though_answers_give_back_half(level: Priority) -> None:
    """Twice as much is asked for as there is; a hundred tokens of output are held for an answer of forty."""
    policies = {Priority.LOW: LevelPolicy(0.998, 1 / 24)}
    controller = AdmissionController(
        (Window("tpm", Count.TOKENS, 6000, 60),), QueueRules(capacity=1000, policies=policies)
    )
    promised_s: dict[str, float] = {}
    live: list[tuple[int, Charge]] = []
    ratios = []
    for tick in range(2000):
        now = tick * SECOND // 10
        at = moment_of(controller.ledger.windows, now)
        while live and live[0][0] <= now:
            controller.ledger.settle(at, live.pop(0)[1], TokenCost(60, 40))
        if tick % 5 == 0:
            request = Waiter(f"{tick:05}", level, "", TokenCost(60, 100), now)
            reply = controller.admit(at, request, 30.0)
            if isinstance(reply, Admitted):
                live.append((now + 2 * SECOND, reply.charge))
            elif isinstance(reply, Enqueued):
                promised_s[request.id] = reply.eta_s
        for request, charge in controller.dispatch(at)[0]:
            live.append((now + 2 * SECOND, charge))
            if promised_s[request.id] > 3:
                ratios.append((now - request.arrived) / SECOND / promised_s[request.id])
    assert len(ratios) > 100
    assert sum(0.8 <= ratio <= 1.25 for ratio in ratios) > 0.9 * len(ratios)


class RoomMachine(RuleBasedStateMachine):
    """Everybody who asks ends in exactly one way."""

    @initialize(capacity=st.integers(1, 6))
    def open(self, capacity: int) -> None:
        self.controller = AdmissionController((RPM, TPM), QueueRules(capacity=capacity, aging_s=5.0))
        self.now, self.number = 10**6 * SECOND, 0
        self.waiting: dict[str, Waiter] = {}
        self.ended: Counter[str] = Counter()
        self.live: list[Charge] = []

    def at(self) -> Moment:
        return moment_of(self.controller.ledger.windows, self.now)

    @rule(seconds=st.integers(0, 70_000).map(lambda ms: ms * 1000))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([0.05, 20, 299, 301, 3600]))
    def the_clock_steps_back(self, seconds: float) -> None:
        self.now -= int(seconds * SECOND)

    @rule(
        level=st.sampled_from(Priority),
        tenant=st.sampled_from("ab"),
        cost=st.builds(TokenCost, st.integers(1, 300), st.integers(0, 150)),
        patience=st.sampled_from([0.0, 10.0, 1000.0]),
    )
    def arrive(self, level: Priority, tenant: str, cost: TokenCost, patience: float) -> None:
        self.number += 1
        request = Waiter(f"{self.number:05}", level, tenant, cost, self.now)
        reply = self.controller.admit(self.at(), request, patience)
        if isinstance(reply, Admitted):
            self.ended[request.id] += 1
            self.live.append(reply.charge)
        elif isinstance(reply, Rejected):
            self.ended[request.id] += 1
            assert reply.wait_s > 0 or reply.reason
        else:
            if reply.shed is not None:
                self.may_be_shed_for(request, self.waiting.pop(reply.shed.id))
                self.ended[reply.shed.id] += 1
            self.waiting[request.id] = request

    def may_be_shed_for(self, newcomer: Waiter, shed: Waiter) -> None:
        """The newest of the lowest level below the newcomer, else the newest of whoever has more of its level."""
        others = [*self.waiting.values(), shed]
        assert len(others) == self.controller.queue.rules.capacity
        if shed.level > newcomer.level:
            assert shed == max(
                (request for request in others if request.level == max(o.level for o in others)),
                key=lambda request: request.id,
            )
            return
        assert max(request.level for request in others) == shed.level == newcomer.level
        places = Counter(request.tenant for request in others if request.level == shed.level)
        assert places[shed.tenant] == max(places.values()) > places[newcomer.tenant] + 1
        assert shed.id == max(
            request.id for request in others if request.level == shed.level and request.tenant == shed.tenant
        )

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), ending=st.sampled_from(QueueOutcome))
    def leave(self, data: st.DataObject, ending: QueueOutcome) -> None:
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.controller.queue.leave(key, ending) is not None
        assert self.controller.queue.leave(key, ending) is None
        del self.waiting[key]
        self.ended[key] += 1

    @precondition(lambda self: self.live)
    @rule(more=st.integers(0, 50))
    def complete(self, more: int) -> None:
        charge = self.live.pop()
        self.controller.ledger.settle(
            self.at(), charge, TokenCost(charge.cost.input, min(charge.cost.output, more))
        )

    @rule()
    def dispatch(self) -> None:
        granted, wait = self.controller.dispatch(self.at())
        for request, charge in granted:
            del self.waiting[request.id]
            self.ended[request.id] += 1
            self.live.append(charge)
        assert (wait > 0) == bool(self.waiting)

    @invariant()
    def everybody_waits_or_has_ended_once(self) -> None:
        if hasattr(self, "controller"):
            assert set(self.controller.queue.positions()) == set(self.waiting)
            assert len(self.controller.queue) == len(self.waiting) <= self.controller.queue.rules.capacity
            assert all(count == 1 for count in self.ended.values())
            assert not self.waiting.keys() & set(self.ended)
            assert len(self.waiting) + len(self.ended) == self.number
            assert sorted(self.controller.queue.positions().values()) == list(range(1, len(self.waiting) + 1))


TestNobodyIsLostOrServedTwice = RoomMachine.TestCase
TestNobodyIsLostOrServedTwice.settings = examples(80, stateful_step_count=40)
