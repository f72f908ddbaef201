"""The topic API with a demonstration model: whatever it says within its schema is an answer."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowalledge.topics import prompt_files
from knowalledge.topics.demonstration import MOST, fitted
from knowalledge.topics.domain import COUNTS, TopicQuery, View, parse_query, read
from tests.support.doubles import ManualClock
from tests.support.fake_provider import FakeProvider
from tests.support.properties import examples
from tests.topics.conftest import build

PROMPTS = prompt_files.load(small=True)
SMALL = "models: {s: {targets: [{name: t, provider: embedded}]}}\n"


def query_of(view: View, topic: str, count: int) -> TopicQuery:
    names = {"subtopics": ",".join(f"part {it}" for it in range(count))} if view == "explanations" else {}
    counted = {} if view == "explanations" else {"count": str(min(count, COUNTS[view][1]))}
    return fitted(parse_query(view, topic, names | counted))


def answers(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Every value that fits a schema of the kind that is given to the sampler."""
    match schema["type"]:
        case "object":
            return st.fixed_dictionaries({name: answers(it) for name, it in schema["properties"].items()})
        case "array":
            return st.tuples(*map(answers, schema["prefixItems"]))
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case _:
            return texts(schema["pattern"])


# ^FIRST(PLAIN){LEAST,MOST}END$
PARTS = re.compile(r"\^(?P<first>.+?)\((?P<plain>.+)\)\{(?P<least>\d+),\d+\}(?P<end>.*)\$")


def texts(pattern: str) -> st.SearchStrategy[str]:
    """Some texts that match a pattern; short ones, because long ones take Hypothesis long."""
    parts = PARTS.fullmatch(pattern)
    assert parts is not None
    first = st.from_regex(parts["first"], fullmatch=True)
    middle = st.text("aBc ,'()-", min_size=int(parts["least"]), max_size=int(parts["least"]) + 4)
    ends = parts["end"].strip("[]")
    return (
        st.tuples(first, middle).map("".join).map(lambda it: it + ends).filter(re.compile(pattern).fullmatch)
    )


@pytest.mark.parametrize("view", list(MOST))
@examples(20)
@given(data=st.data(), count=st.integers(1, 30), topic=st.sampled_from(["light", "earth", "東京"]))
def test_whatever_fits_the_schema_is_an_answer(
    view: View, data: st.DataObject, count: int, topic: str
) -> None:
    query = query_of(view, topic, count)
    prompt = PROMPTS[view].for_query(query)
    text = data.draw(answers(msgspec.json.decode(prompt.json_schema)).map(msgspec.json.encode))
    fields = read(query, text.decode())
    (items,) = (it for it in fields.values() if isinstance(it, list))
    assert len(items) == (query.count or len(query.subtopics)) == min(count, MOST[view])


def test_the_topic_itself_is_not_near_to_itself() -> None:
    query = query_of("related", "earth", 1)
    said = b'{"topics": ["Bread and butter", "Earth"]}'
    assert read(query, said.decode()) == {"related": ["Bread and butter"]}
    said = b'{"topics": ["Axis", "Earth"]}'
    assert read(query_of("related", "axis", 1), said.decode()) == {"related": ["Earth"]}


def test_a_demonstration_is_brief_english_and_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, clock: ManualClock
) -> None:
    monkeypatch.setattr("tests.topics.conftest.CONFIG", SMALL)
    provider = FakeProvider()
    sentence = "Light is what the eye sees."
    titles = ("What it is", "How it works", "Why it matters")
    parts = [{"title": it, "explanation": sentence} for it in titles]
    provider.answers = [msgspec.json.encode({"summary": sentence, "subtopics": parts}).decode()]
    client = build(provider, clock, monkeypatch, tmp_path).test_client()

    asked = "/api/v1/topics/light?count=30&lang=de&detail=deep&level=beginner"
    document = client.get(asked).get_json()
    assert document["demonstration"] is True
    assert document["degraded"] is False
    assert len(document["subtopics"]) == MOST["whole"]
    assert (document["lang"], document["detail"], document["level"]) == ("en", "brief", "beginner")
    assert document["prompt"].startswith("demonstration-whole/")

    # What differs only in ways that the model cannot tell apart is one document.
    assert client.get("/api/v1/topics/light?level=beginner").get_json() == document
    assert provider.calls == 1


def test_other_models_are_asked_for_what_the_caller_wants(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, clock: ManualClock
) -> None:
    provider = FakeProvider()
    document = (
        build(provider, clock, monkeypatch, tmp_path).test_client().get("/api/v1/topics/light").get_json()
    )
    assert "demonstration" not in document
    assert len(document["subtopics"]) == COUNTS["whole"][0]


def test_every_small_prompt_has_a_version_of_its_own() -> None:
    large = {it.version for it in prompt_files.load().values()}
    assert {PROMPTS[view].version for view in MOST} & large == set()
