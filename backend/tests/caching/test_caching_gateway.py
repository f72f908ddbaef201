"""Answers from the nearest place: cached, shared, stale, or passed through untouched."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from knowalledge.caching import read_through
from knowalledge.caching.domain import Lifetimes
from knowalledge.caching.layers import Layer, Layers
from knowalledge.caching.memory import MemoryResponseCache
from knowalledge.caching.read_through import ReadThrough
from knowalledge.caching.replay import ReplayCursor
from knowalledge.caching.service import CachingGateway
from knowalledge.caching.singleflight.memory import MemoryFlights
from knowalledge.core import errors as e
from knowalledge.core.context import Principal, RequestContext
from knowalledge.gateway.domain.answer import Answer, CacheInfo, Completion, Finish, Usage
from knowalledge.gateway.domain.events import Delta, Done, Event, Started
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.domain.prompt import Message, Prompt, Text, ToolCall
from knowalledge.gateway.domain.request import CacheMode, Request
from tests.support.doubles import ManualClock, RecordingTelemetry


class Models:
    """A completer that says its calls' number, when it is told to go on."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = Signal()
        self.go.set()
        self.error: Exception | None = None
        self.early = False  # whether a stream fails before it says anything
        self.finish = Finish.STOP
        self.answering = "m"
        self.parts: tuple[Any, ...] | None = None
        self.contexts: list[RequestContext] = []

    def model(self, name: str) -> str:
        if name not in ("", "m"):
            raise e.UnknownModel("unknown model")
        return "m"

    def _answer(self, context: RequestContext, request: Request) -> Answer:
        parts = self.parts or (Text(f"answer {self.calls}"),)
        usage = Usage(7, 90)
        passed = CacheInfo("bypass" if request.cache is CacheMode.BYPASS else "miss")
        return Answer(
            context.request_id, self.answering, "t", Completion(parts, self.finish, usage), usage, passed
        )

    def complete(self, context: RequestContext, request: Request) -> Answer:
        self.calls += 1
        self.contexts.append(context)
        self.go.wait()
        if self.error:
            raise self.error
        return self._answer(context, request)

    def stream(self, context: RequestContext, request: Request) -> Iterator[list[Event]]:
        self.calls += 1
        self.contexts.append(context)
        answer = self._answer(context, request)
        yield [Started(self.answering, "t")]
        if self.error and self.early:
            raise self.error
        for word in answer.completion.text.split(" "):
            yield [Delta(word if word == "answer" else " " + word)]
            self.go.wait()
            if self.error:
                raise self.error
        yield [Done(answer)]


class World:
    def __init__(self) -> None:
        self.clock, self.models, self.told = ManualClock(), Models(), RecordingTelemetry()
        memory = MemoryResponseCache(1024**2, self.clock)
        layers = Layers((Layer("memory", memory),), Lifetimes(600, 600, 3600), self.clock, self.told)
        self.layers = layers
        self.answers = CachingGateway(
            self.models,  # type: ignore[arg-type]
            ReadThrough(layers, MemoryFlights(self.clock), self.clock),
            self.clock,
            self.told,
            self.told,
            60.0,
        )

    def ask(self, text: str = "hi", tenant: str = "a", **more: Any) -> Answer:
        return self.answers.complete(caller(tenant), question(text, **more))

    def follow(self, text: str = "hi", **more: Any) -> list[Event]:
        return list(chain.from_iterable(self.answers.stream(caller("a"), question(text, **more))))


def caller(tenant: str = "a", timeout_s: float | None = None) -> RequestContext:
    return RequestContext("id", Principal(tenant), timeout_s=timeout_s)


def question(
    text: str = "hi",
    temperature: float | None = 0.0,
    cache: CacheMode | None = None,
    model: str = "m",
) -> Request:
    prompt = Prompt((Message("user", (Text(text),)),), temperature=temperature)
    return Request(model, prompt, cache)


@pytest.fixture
def world() -> World:
    return World()


def text_of(events: list[Event]) -> str:
    return "".join(it.text for it in events if isinstance(it, Delta))


def test_the_same_question_at_temperature_0_is_answered_once(world: World) -> None:
    first, second = world.ask(), world.ask()
    assert (first.cache.status, second.cache.status, second.cache.layer) == ("miss", "hit", "memory")
    assert second.completion == first.completion
    assert second.usage == first.usage
    assert world.models.calls == 1
    assert world.told.records[-1].outcome is Outcome.CACHED
    assert world.told.records[-1].usage == Usage()


def test_the_default_model_and_its_name_are_one(world: World) -> None:
    world.ask(model="")
    assert world.ask(model="m").cache.status == "hit"


@pytest.mark.parametrize(
    ("more", "calls"),
    [
        ({"temperature": None}, 2),
        ({"temperature": 0.3}, 2),
        ({"temperature": 0.3, "cache": CacheMode.DEFAULT}, 1),
        ({"cache": CacheMode.BYPASS}, 2),
    ],
)
def test_only_what_is_safe_or_asked_for_is_cached(world: World, more: dict[str, Any], calls: int) -> None:
    world.ask(**more)
    again = world.ask(**more)
    assert world.models.calls == calls
    assert (again.cache.status == "bypass") == (more.get("cache") is CacheMode.BYPASS)


def test_another_tenant_never_gets_the_answer_and_never_shares_the_flight(world: World) -> None:
    world.models.go.clear()
    asked = [gevent.spawn(world.ask, tenant=tenant) for tenant in ("a", "a", "b")]
    gevent.sleep(0.01)
    assert world.models.calls == 2
    world.models.go.set()
    gevent.joinall(asked, timeout=5)
    assert sorted(it.get().cache.status for it in asked) == ["miss", "miss", "shared"]
    world.ask(tenant="c")
    assert world.models.calls == 3


def test_only_cached_is_refused_when_there_is_nothing_fresh(world: World) -> None:
    with pytest.raises(e.CacheMiss):
        world.ask(cache=CacheMode.ONLY)
    assert world.told.records[-1].outcome is Outcome.UNAVAILABLE
    world.ask()
    assert world.ask(cache=CacheMode.ONLY).cache.status == "hit"
    assert world.models.calls == 1


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.SAFETY, Finish.OTHER])
def test_an_answer_that_was_cut_off_is_not_kept(world: World, finish: Finish) -> None:
    world.models.finish = finish
    world.ask()
    world.follow()
    assert world.models.calls == 2


def test_a_fallback_models_answer_is_not_kept_under_the_name_of_another(world: World) -> None:
    world.models.answering = "fallback"
    world.ask()
    assert world.ask().cache.status == "miss"


def test_an_error_is_not_kept(world: World) -> None:
    world.models.error = e.ProviderUnavailable("x")
    with pytest.raises(e.ProviderUnavailable):
        world.ask()
    world.models.error = None
    assert world.ask().cache.status == "miss"


def test_a_stream_that_broke_is_not_kept_and_its_failure_is_an_error(world: World) -> None:
    world.models.error = e.ProviderUnavailable("x")
    with pytest.raises(e.ProviderUnavailable):
        world.follow()
    world.models.error = None
    assert text_of(world.follow()) == "answer 2"


def test_a_stream_fills_the_cache_for_both_forms_and_is_replayed_whole(world: World) -> None:
    live = world.follow()
    replayed = world.follow()
    assert text_of(live) == text_of(replayed) == "answer 1"
    assert [type(it) for it in replayed] == [Started, Delta, Done]
    done = replayed[-1]
    assert isinstance(done, Done)
    assert (done.answer.cache.status, done.answer.usage) == ("hit", Usage(7, 90))
    assert world.ask().cache.status == "hit"
    assert world.models.calls == 1


def test_streams_share_a_flight_replay_what_was_said_and_then_follow_live(world: World) -> None:
    world.models.go.clear()
    first = world.answers.stream(caller(), question())
    assert isinstance(next(first)[0], Started)
    late: list[Event] = []
    follower = gevent.spawn(
        lambda: late.extend(chain.from_iterable(world.answers.stream(caller(), question())))
    )
    unary = gevent.spawn(world.ask)
    gevent.sleep(0.01)
    assert text_of(late) == "answer"
    first.close()
    world.models.go.set()
    follower.join(5)
    unary.join(5)
    assert text_of(late) == "answer 1"
    assert unary.get().completion.text == "answer 1"
    assert unary.get().cache.status == "shared"
    assert world.models.calls == 1
    assert [it.outcome for it in world.told.records] == [Outcome.SHARED, Outcome.SHARED]


def test_a_stream_that_follows_a_unary_run_gets_the_whole_at_once(world: World) -> None:
    world.models.go.clear()
    leader = gevent.spawn(world.ask)
    gevent.sleep(0)
    follower = gevent.spawn(world.follow)
    gevent.sleep(0.01)
    world.models.go.set()
    leader.join(5)
    follower.join(5)
    assert [type(it) for it in follower.get()] == [Started, Delta, Done]
    assert text_of(follower.get()) == "answer 1"
    assert world.models.calls == 1


def test_tool_calls_come_back_from_the_cache(world: World) -> None:
    world.models.parts = (ToolCall("f", "{}", "1"),)
    world.models.finish = Finish.TOOL_CALLS
    world.ask()
    events = world.follow()
    assert [it.tool_calls for it in events if isinstance(it, Delta)] == [(ToolCall("f", "{}", "1"),)]
    assert world.ask().completion.tool_calls == (ToolCall("f", "{}", "1"),)
    assert world.models.calls == 1


@pytest.mark.parametrize("error", [e.QuotaExhausted("x"), e.ProviderUnavailable("x"), e.CircuitOpen("x")])
def test_what_is_stale_serves_when_no_model_can_be_asked(world: World, error: Exception) -> None:
    world.ask()
    world.clock.sleep(700)
    world.models.error, world.models.early = error, True
    stale = world.ask()
    assert (stale.cache.status, stale.cache.age_s, stale.degraded) == ("stale", 700, True)
    assert [type(it) for it in world.follow()] == [Started, Delta, Done]
    world.clock.sleep(3600)
    with pytest.raises(type(error)):
        world.ask()


def test_a_question_that_is_wrong_itself_gets_no_stale_answer(world: World) -> None:
    world.ask()
    world.clock.sleep(700)
    world.models.error = e.ContentBlocked("x")
    with pytest.raises(e.ContentBlocked):
        world.ask()


def test_a_stream_that_has_begun_is_not_mixed_with_what_is_stale(world: World) -> None:
    world.ask()
    world.clock.sleep(700)
    world.models.go.clear()
    events = world.answers.stream(caller(), question())
    assert isinstance(next(events)[0], Started)
    assert isinstance(next(events)[0], Delta)
    world.models.error = e.ProviderUnavailable("x")
    world.models.go.set()
    with pytest.raises(e.ProviderUnavailable):
        list(events)


def test_a_leader_of_little_patience_works_with_the_usual_one(world: World) -> None:
    world.answers.complete(caller(timeout_s=0.5), question())
    assert world.models.contexts[0].timeout_s == 60.0


def test_with_a_stale_answer_at_hand_nobody_waits_long_for_the_first_word(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_through, "STALE_PATIENCE_S", 0.05)
    world.ask()
    world.clock.sleep(601)
    world.models.go.clear()

    def stalled(*_: object) -> Iterator[list[Event]]:
        world.models.go.wait()
        return iter(())

    monkeypatch.setattr(world.models, "stream", stalled)
    with gevent.Timeout(5):
        events = world.follow()
    world.models.go.set()
    assert isinstance(events[-1], Done)
    assert (events[-1].answer.cache.status, text_of(events)) == ("stale", "answer 1")


def test_an_answer_that_has_begun_is_waited_for_though_a_stale_one_is_at_hand(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_through, "STALE_PATIENCE_S", 0.05)
    world.ask()
    world.clock.sleep(601)
    world.models.go.clear()
    gevent.spawn_later(0.2, world.models.go.set)
    with gevent.Timeout(5):
        events = world.follow()
    assert isinstance(events[-1], Done)
    assert (events[-1].answer.cache.status, text_of(events)) == ("miss", "answer 2")
    assert [type(it) for it in events].count(Started) == 1


def test_an_unknown_model_is_the_models_to_refuse(world: World) -> None:
    world.models.error = e.UnknownModel("x")
    with pytest.raises(e.UnknownModel):
        world.ask(model="nope")
    assert world.models.calls == 1


def test_invalidating_a_tenants_tag_takes_back_its_answers_only(world: World) -> None:
    world.ask(tenant="a")
    world.ask(tenant="b")
    assert world.layers.invalidate("tenant:a", "test") == 1
    assert (world.ask(tenant="a").cache.status, world.ask(tenant="b").cache.status) == ("miss", "hit")


# -- a run that begins again ---------------------------------------------------------------------------


def shown(cursor: ReplayCursor, *events: Event) -> str:
    return text_of([it for event in events for it in cursor.advance(event)])


def done(text: str) -> Done:
    return Done(Answer("", "m", "t", Completion((Text(text),), Finish.STOP), Usage()))


def test_after_a_restart_only_what_is_new_is_shown() -> None:
    cursor = ReplayCursor()
    assert shown(cursor, Started("m", "t"), Delta("ab"), Delta("cd")) == "abcd"
    cursor.restart()
    assert shown(cursor, Started("m", "t"), Delta("abc"), Delta("def"), done("abcdef")) == "ef"


def test_after_a_restart_a_shorter_or_unary_run_completes_the_text() -> None:
    cursor = ReplayCursor()
    shown(cursor, Started("m", "t"), Delta("ab"))
    cursor.restart()
    assert shown(cursor, done("abcd")) == "cd"


def test_after_a_restart_another_answer_is_a_failure_not_a_mixture() -> None:
    cursor = ReplayCursor()
    shown(cursor, Started("m", "t"), Delta("ab"))
    cursor.restart()
    with pytest.raises(e.ProviderUnavailable):
        shown(cursor, Delta("xy"))
