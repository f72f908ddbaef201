"""What is wrong with a body is said in words for the person who wrote it, and never quotes a value."""

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from knowalledge.core.context import Priority
from knowalledge.core.errors import InvalidRequest
from knowalledge.web.bodies import decode


class Cat(Struct, tag="cat"):
    lives: int


class Dog(Struct, tag="dog"):
    name: Annotated[str, Meta(min_length=2, pattern="^[a-z]+$")]


class Body(Struct, forbid_unknown_fields=True, rename="camel"):
    prompt: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    stream: bool = False
    cache: Literal["default", "bypass"] = "default"
    pets: Annotated[list[Cat | Dog], Meta(max_length=2)] = []
    scores: dict[str, int] = {}
    stop: str | list[str] | None = None


DECODER = msgspec.json.Decoder(Body)


@pytest.mark.parametrize(
    ("body", "sentence", "param"),
    [
        ('{"prompt": 1}', "`prompt` must be a text, not a whole number", "prompt"),
        ('{"stop": 1}', "`stop` must be a text or a list, not a whole number", "stop"),
        ('{"stop": [1]}', "`stop[0]` must be a text, not a whole number", "stop[0]"),
        ('{"stream": "hunter2"}', "`stream` must be true or false, not a text", "stream"),
        ('{"temperature": 9}', "`temperature` must be at most 2", "temperature"),
        ('{"maxOutputTokens": 0}', "`maxOutputTokens` must be at least 1", "maxOutputTokens"),
        (
            '{"maxOutputToken": 5}',
            "there is no field `maxOutputToken`; is `maxOutputTokens` meant?",
            "maxOutputToken",
        ),
        ('{"xyz": 5}', "there is no field `xyz`", "xyz"),
        ('{"cache": "hunter2"}', "`cache` has no such value: choose from bypass, default", "cache"),
        ('{"pets": {}}', "`pets` must be a list, not an object", "pets"),
        (
            '{"pets": [{"type": "hunter2"}]}',
            "`pets[0].type` has no such value: choose from cat, dog",
            "pets[0].type",
        ),
        ('{"pets": [{"type": "cat"}]}', "`pets[0].lives` is missing", "pets[0].lives"),
        (
            '{"pets": [{"type": "dog", "name": "a"}]}',
            "`pets[0].name` must have at least 2 characters",
            "pets[0].name",
        ),
        (
            '{"pets": [{"type": "dog", "name": "A9"}]}',
            "`pets[0].name` has a value that cannot be read",
            "pets[0].name",
        ),
        ('{"scores": {"hunter2": "x"}}', "`scores[...]` must be a whole number, not a text", "scores[...]"),
        ("[]", "the body must be an object, not a list", ""),
        ("null", "the body must be an object, not null", ""),
        ("", "the body is empty: send JSON", ""),
        ('{"prompt": "hunter2"', "the body is not JSON: it ends early", ""),
        ('{"prompt": "x",}', "the body is not JSON: look at byte 15", ""),
    ],
)
def test_a_mistake_names_the_field_and_what_it_may_be(body: str, sentence: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode(DECODER, body.encode())
    assert (raised.value.message, raised.value.param) == (sentence, param)
    assert "hunter2" not in sentence


def test_the_members_of_an_enumeration_are_its_choices() -> None:
    class Ranked(Struct):
        level: Priority

    with pytest.raises(InvalidRequest) as raised:
        decode(msgspec.json.Decoder(Ranked), b'{"level": 9}')
    assert raised.value.message == "`level` has no such value: choose from 0, 1, 2, 3"
