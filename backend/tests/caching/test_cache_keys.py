"""Keys, what may be shared and kept, and how patterns are read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowalledge.caching.domain import (
    CacheEntry,
    Generations,
    answer_key,
    etag_of,
    may_cache,
    may_store,
    pack,
    parse_pattern,
    slug,
    unpack,
)
from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.domain.answer import Finish
from knowalledge.gateway.domain.prompt import FileRef, Message, Prompt, Text, Tool
from knowalledge.gateway.domain.request import CacheMode


def prompt(text: str = "hi", **more: Any) -> Prompt:
    return Prompt((Message("user", (Text(text),)),), **more)


def test_the_key_of_an_answer_holds_everything_that_changes_it() -> None:
    keys = [
        answer_key("a", "m", prompt()),
        answer_key("b", "m", prompt()),
        answer_key("a", "n", prompt()),
        answer_key("am", "", prompt()),
        answer_key("a", "m", prompt("ho")),
        answer_key("a", "m", prompt(system="s")),
        answer_key("a", "m", prompt(temperature=0.0)),
        answer_key("a", "m", prompt(seed=1)),
        answer_key("a", "m", prompt(stop=("x",))),
        answer_key("a", "m", prompt(tools=(Tool("t"),))),
        answer_key("a", "m", prompt(json_schema="{}")),
        answer_key("a", "m", prompt(safety="[]")),
        answer_key("a", "m", Prompt((Message("assistant", (Text("hi"),)),))),
        answer_key("a", "m", Prompt((Message("user", (Text("h"), Text("i"))),))),
    ]
    assert len({key.name for key in keys}) == len(keys)
    assert answer_key("a", "m", prompt()) == keys[0]


def test_a_key_never_tells_the_prompt_and_names_its_tenant() -> None:
    key = answer_key("acme", "m", prompt("my secret"))
    assert "secret" not in repr(key)
    assert "tenant:acme" in key.tags


@pytest.mark.parametrize(
    ("mode", "temperature", "shared"),
    [
        (None, 0.0, True),
        (None, None, False),
        (None, 0.7, False),
        (CacheMode.DEFAULT, 0.7, True),
        (CacheMode.ONLY, None, True),
        (CacheMode.BYPASS, 0.0, False),
    ],
)
def test_only_what_is_the_same_twice_or_was_asked_for_is_shared(
    mode: CacheMode | None, temperature: float | None, shared: bool
) -> None:
    assert may_cache(prompt(temperature=temperature), mode) is shared


def test_media_behind_an_address_are_not_shared_unless_asked() -> None:
    linked = Prompt((Message("user", (FileRef("https://x/y.png"),)),), temperature=0)
    assert not may_cache(linked, None)
    assert may_cache(linked, CacheMode.DEFAULT)


def test_only_whole_answers_are_kept() -> None:
    assert [finish for finish in Finish if may_store(finish)] == [Finish.STOP, Finish.TOOL_CALLS]


@pytest.mark.parametrize(
    ("pattern", "kind", "what", "family"),
    [
        ("*", "tag", "*", "*"),
        ("topic:*", "tag", "topic", "topic"),
        ("topic:black holes", "tag", "topic:black%20holes", "topic:black%20holes"),
        ("topic:black holes:*", "tag", "topic:black%20holes", "topic:black%20holes"),
        ("topic:black*", "glob", "topic:black*", "topic"),
        ("topic:Black  HOLES", "tag", "topic:black%20holes", "topic:black%20holes"),
        ("topic:Cafe\u0301*", "glob", "topic:caf%C3%A9*", "topic"),
        ("topic:TCP%2fIP", "tag", "topic:tcp%2Fip", "topic:tcp%2Fip"),
        ("model:Qwen", "tag", "model:Qwen", "model:Qwen"),
        ("to*:x", "glob", "to*:x", "*"),
    ],
)
def test_patterns_are_tags_where_they_can_be(pattern: str, kind: str, what: str, family: str) -> None:
    take = parse_pattern(pattern)
    assert (take.kind, take.pattern, take.index_tag) == (kind, what, family)


@pytest.mark.parametrize("pattern", ["", "  ", "a\nb", "x" * 501, "\x00"])
def test_an_odd_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_pattern(pattern)


@given(st.text(max_size=500))
def test_a_slug_is_one_safe_word(text: str) -> None:
    word = slug(text.encode(errors="ignore").decode())
    assert word.isascii()
    assert len(word) <= 96
    assert not set(word) & set(' ,:*?[]"\r\n')


def test_long_texts_with_one_beginning_have_different_slugs() -> None:
    assert slug("a" * 300) != slug("a" * 301)


@given(st.binary(max_size=3000), st.integers(0, 2**53))
def test_a_packed_entry_unpacks_to_itself(body: bytes, generation: int) -> None:
    entry = CacheEntry(body, etag_of(body), 1.5, generation)
    assert unpack(pack(entry)) == entry


@given(st.binary(max_size=200))
def test_bytes_that_are_no_entry_are_none(data: bytes) -> None:
    assert unpack(data) is None
    assert unpack(b"kn1z" + data) is None
    assert unpack(b"kn1r" + data) is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=60))
def test_generations_forget_only_on_the_safe_side(steps: list[tuple[str, bool]]) -> None:
    small, whole = Generations(max_tags=3), Generations()
    for tag, take in steps:
        if take:
            assert small.invalidate(tag) == whole.invalidate(tag)
        for generation in range(whole.now + 1):
            assert not small.is_valid([tag], generation) or whole.is_valid([tag], generation)
        assert small.is_valid([tag], small.now)
