"""The waiting room: who is next, and that nobody is lost or served twice."""

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


def served(room: WaitQueue, number: int, now: float = 0) -> list[str]:
    found = []
    for _ in range(number):
        head = room.next(int(now * SECOND))
        assert head is not None
        room.record_grant(int(now * SECOND), head)
        found.append(head.tenant)
    return found


def test_tenants_get_equal_tokens_while_both_have_work() -> None:
    room = WaitQueue(QueueRules(capacity=10_000))
    for number in range(1000):
        room.enter(waiter(number, tenant="many", cost=TokenCost(10, 0), at=number))
    for number in range(1000, 1100):
        room.enter(waiter(number, tenant="few", cost=TokenCost(30, 0), at=number))
    tokens: Counter[str] = Counter()
    for tenant in served(room, 300):
        tokens[tenant] += 10 if tenant == "many" else 30
    assert tokens["few"] == pytest.approx(tokens["many"], rel=0.05)


def test_a_weight_of_two_is_served_twice_the_tokens() -> None:
    room = WaitQueue(QueueRules(capacity=1000, weights={"paying": 2.0}))
    for number in range(600):
        room.enter(waiter(number, tenant=("paying", "free")[number % 2], cost=TokenCost(10, 0)))
    assert Counter(served(room, 90)) == {"paying": 60, "free": 30}


def test_a_tenant_that_comes_back_has_no_credit_for_having_been_away() -> None:
    room = WaitQueue(QueueRules(capacity=1000))
    room.enter(waiter(0, tenant="away"))
    served(room, 1)
    for number in range(1, 101):
        room.enter(waiter(number, tenant="busy", cost=TokenCost(100, 0)))
    served(room, 50)
    for number in range(200, 300):
        room.enter(waiter(number, tenant="away", cost=TokenCost(100, 0)))
    assert Counter(served(room, 20)) == {"away": 10, "busy": 10}


def test_no_inversion_within_a_tenant_and_level_over_a_hundred_thousand_operations() -> None:
    draw = random.Random(7)
    desk = AdmissionController(
        (Window("rpm", Count.REQUESTS, 50, 60), TPM), QueueRules(capacity=40, aging_s=3.0)
    )
    now, log, live = 0.0, [], []
    arrived: dict[str, Waiter] = {}
    for number in range(100_000):
        now += draw.expovariate(2.0)
        at = moment_of(desk.ledger.windows, int(now * SECOND))
        kind = draw.random()
        if kind < 0.6:
            level, tenant = Priority(draw.randrange(4)), draw.choice("abc")
            it = waiter(number, level, tenant, TokenCost(draw.randrange(1, 40), draw.randrange(20)), now)
            reply = desk.admit(at, it, 1e9)
            if isinstance(reply, Admitted):
                log.append(it)
                live.append(reply.charge)
            elif isinstance(reply, Enqueued):
                arrived[it.id] = it
                if reply.shed is not None:
                    del arrived[reply.shed.id]
        elif kind < 0.7 and arrived:
            key = draw.choice(list(arrived))
            del arrived[key]
            assert desk.queue.leave(key, QueueOutcome.CANCELLED) is not None
        elif live:
            entry = live.pop(draw.randrange(len(live)))
            desk.ledger.settle(at, entry, entry.cost)
        for it, entry in desk.dispatch(at)[0]:
            del arrived[it.id]
            log.append(it)
            live.append(entry)
    assert list(inversions(log)) == []
    assert len(log) > 10_000


@pytest.mark.parametrize("level", [Priority.MEDIUM, Priority.LOW])
def test_the_time_told_on_entering_is_the_time_waited_though_answers_give_back_half(level: Priority) -> None:
    """Twice as much is asked for as there is; a hundred tokens of output are held for an answer of forty."""
    policies = {Priority.LOW: LevelPolicy(0.998, 1 / 24)}
    desk = AdmissionController(
        (Window("tpm", Count.TOKENS, 6000, 60),), QueueRules(capacity=1000, policies=policies)
    )
    told: dict[str, float] = {}
    live: list[tuple[int, Charge]] = []
    ratios = []
    for tick in range(2000):
        now = tick * SECOND // 10
        at = moment_of(desk.ledger.windows, now)
        while live and live[0][0] <= now:
            desk.ledger.settle(at, live.pop(0)[1], TokenCost(60, 40))
        if tick % 5 == 0:
            it = Waiter(f"{tick:05}", level, "", TokenCost(60, 100), now)
            reply = desk.admit(at, it, 30.0)
            if isinstance(reply, Admitted):
                live.append((now + 2 * SECOND, reply.charge))
            elif isinstance(reply, Enqueued):
                told[it.id] = reply.eta_s
        for it, entry in desk.dispatch(at)[0]:
            live.append((now + 2 * SECOND, entry))
            if told[it.id] > 3:
                ratios.append((now - it.arrived) / SECOND / told[it.id])
    assert len(ratios) > 100
    assert sum(0.8 <= it <= 1.25 for it in ratios) > 0.9 * len(ratios)


class RoomMachine(RuleBasedStateMachine):
    """Everybody who asks ends in exactly one way."""

    @initialize(capacity=st.integers(1, 6))
    def open(self, capacity: int) -> None:
        self.desk = AdmissionController((RPM, TPM), QueueRules(capacity=capacity, aging_s=5.0))
        self.now, self.number = 10**6 * SECOND, 0
        self.waiting: dict[str, Waiter] = {}
        self.ended: Counter[str] = Counter()
        self.live: list[Charge] = []

    def at(self) -> Moment:
        return moment_of(self.desk.ledger.windows, self.now)

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
    def ask(self, level: Priority, tenant: str, cost: TokenCost, patience: float) -> None:
        self.number += 1
        it = Waiter(f"{self.number:05}", level, tenant, cost, self.now)
        reply = self.desk.admit(self.at(), it, patience)
        if isinstance(reply, Admitted):
            self.ended[it.id] += 1
            self.live.append(reply.charge)
        elif isinstance(reply, Rejected):
            self.ended[it.id] += 1
            assert reply.wait_s > 0 or reply.reason
        else:
            if reply.shed is not None:
                self.may_be_shed_for(it, self.waiting.pop(reply.shed.id))
                self.ended[reply.shed.id] += 1
            self.waiting[it.id] = it

    def may_be_shed_for(self, newcomer: Waiter, shed: Waiter) -> None:
        """The newest of the lowest level below the newcomer, else the newest of whoever has more of its level."""
        others = [*self.waiting.values(), shed]
        assert len(others) == self.desk.queue.rules.capacity
        if shed.level > newcomer.level:
            assert shed == max(
                (it for it in others if it.level == max(o.level for o in others)), key=lambda it: it.id
            )
            return
        assert max(it.level for it in others) == shed.level == newcomer.level
        places = Counter(it.tenant for it in others if it.level == shed.level)
        assert places[shed.tenant] == max(places.values()) > places[newcomer.tenant] + 1
        assert shed.id == max(it.id for it in others if it.level == shed.level and it.tenant == shed.tenant)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), ending=st.sampled_from(QueueOutcome))
    def leave(self, data: st.DataObject, ending: QueueOutcome) -> None:
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.desk.queue.leave(key, ending) is not None
        assert self.desk.queue.leave(key, ending) is None
        del self.waiting[key]
        self.ended[key] += 1

    @precondition(lambda self: self.live)
    @rule(more=st.integers(0, 50))
    def complete(self, more: int) -> None:
        entry = self.live.pop()
        self.desk.ledger.settle(self.at(), entry, TokenCost(entry.cost.input, min(entry.cost.output, more)))

    @rule()
    def dispatch(self) -> None:
        granted, wait = self.desk.dispatch(self.at())
        for it, entry in granted:
            del self.waiting[it.id]
            self.ended[it.id] += 1
            self.live.append(entry)
        assert (wait > 0) == bool(self.waiting)

    @invariant()
    def everybody_waits_or_has_ended_once(self) -> None:
        if hasattr(self, "desk"):
            assert set(self.desk.queue.positions()) == set(self.waiting)
            assert len(self.desk.queue) == len(self.waiting) <= self.desk.queue.rules.capacity
            assert all(count == 1 for count in self.ended.values())
            assert not self.waiting.keys() & set(self.ended)
            assert len(self.waiting) + len(self.ended) == self.number
            assert sorted(self.desk.queue.positions().values()) == list(range(1, len(self.waiting) + 1))


TestNobodyIsLostOrServedTwice = RoomMachine.TestCase
TestNobodyIsLostOrServedTwice.settings = examples(80, stateful_step_count=40)
